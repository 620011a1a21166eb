//! Connections in numbers: more than anybody needs, quickly or slowly.

use std::collections::VecDeque;
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use libc::{ECONNREFUSED, ECONNRESET};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::dns::addresses;
use crate::probe::case::{Act, Refused};
use crate::probe::sys::{self, Fork};

/// Threads of a flood.
const THREADS: u32 = 4;
/// Connections of each that are on their way.
const UNDER_WAY: usize = 64;
/// Processes that hold slow connections.
const PROCESSES: u32 = 8;
/// Longer than any of it takes.
const CROWD_TIMEOUT: Duration = Duration::from_secs(60);
/// What makes no beginning of HTTP or of TLS.
const BYTE: &[u8] = b"\0";
const GREETING: usize = 6;

/// What came of connections.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    connected: u32,
    refused: u32,
    others: u32,
    /// The last error but a refusal; 0 if there was none.
    errno: i32,
}

/// `ADDRESS:PORT` and a number: so many connections to it, as fast as it goes. One that comes to be is enough.
pub fn flood(args: &[String]) -> Act {
    let to = args[0].parse().expect("an address and a port");
    let tally = flooded(to, args[1].parse().expect("a number"));
    match tally {
        Tally { connected: 1.., .. } => Ok(format!("{tally:?}")),
        Tally { errno: 0, .. } => Err(Refused::new(ECONNREFUSED, format!("{tally:?}"))),
        Tally { errno, .. } => Err(Refused::new(errno, format!("{tally:?}"))),
    }
}

/// The same to a name, for tests that count: `NAME PORT NUMBER`. A line of JSON. It asks for the name again and again:
/// an address can be reached for no longer than that is valid.
pub fn flood_of_a_name(args: &[String]) {
    const ROUND: u32 = 50_000;
    let (port, count): (u16, u32) = (args[1].parse().expect("a port"), args[2].parse().expect("a number"));
    let mut tally = Tally::default();
    for round in 0..count.div_ceil(ROUND) {
        let found = addresses(&args[0]).expect("a name that may be asked for");
        tally = tally.and(flooded(SocketAddr::new(found[0], port), ROUND.min(count - round * ROUND)));
    }
    let Tally { connected, refused, others, errno } = tally;
    let summary = serde_json::json!({
        "connected": connected, "refused": refused, "others": others, "errno": errno
    });
    println!("{summary}");
}

fn flooded(to: SocketAddr, count: u32) -> Tally {
    let share = |thread| count / THREADS + u32::from(thread < count % THREADS);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || of_a_thread(to, share(thread)))).collect();
        let tallies = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        tallies.fold(Tally::default(), Tally::and)
    })
}

fn of_a_thread(to: SocketAddr, count: u32) -> Tally {
    let mut tally = Tally::default();
    let mut under_way = VecDeque::new();
    for _ in 0..count {
        match begun(to) {
            Ok(socket) => under_way.push_back(socket),
            Err(errno) => tally.add(Err(errno)),
        }
        if under_way.len() > UNDER_WAY {
            tally.add(under_way.pop_front().map_or(Ok(()), |socket| ended(&socket)));
        }
    }
    under_way.iter().for_each(|socket| tally.add(ended(socket)));
    tally
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self {
            connected: self.connected + other.connected,
            refused: self.refused + other.refused,
            others: self.others + other.others,
            errno: if other.errno == 0 { self.errno } else { other.errno },
        }
    }

    fn add(&mut self, one: Result<(), Errno>) {
        match one {
            Ok(()) => self.connected += 1,
            Err(Errno::CONNREFUSED) => self.refused += 1,
            Err(errno) => {
                self.others += 1;
                self.errno = errno.raw_os_error();
            }
        }
    }
}

/// A connection that is being made, and ends by a reset: its port is free again at once.
fn begun(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn ended(socket: &OwnedFd) -> Result<(), Errno> {
    let limit = Timespec { tv_sec: CROWD_TIMEOUT.as_secs().cast_signed(), tv_nsec: 0 };
    if poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&limit))? == 0 {
        return Err(Errno::TIMEDOUT);
    }
    sockopt::socket_error(socket)?
}

/// A name, a port and a number: so many connections at the same time, of several processes, each of which sends one
/// byte and waits. All of them have to be served.
pub fn slow(args: &[String]) -> Act {
    let (held, count) = Crowd::of(args)?.sizes();
    let detail = format!("{held} of {count}");
    if held == count { Ok(detail) } else { Err(Refused::new(ECONNRESET, detail)) }
}

/// The same for tests that look on: says how many are served, holds them until a line comes, lets them go, and then
/// says `again` once another one is served.
pub fn slow_until_told(args: &[String]) {
    let crowd = Crowd::of(args).expect("a name that may be asked for");
    let (held, count) = crowd.sizes();
    println!("{held} of {count}");
    std::io::stdin().lock().read_line(&mut String::new()).expect("a line");
    let to = crowd.to;
    drop(crowd);
    let until = Instant::now() + CROWD_TIMEOUT;
    while !is_served(connected(to).as_ref()) {
        assert!(Instant::now() < until, "no room again");
    }
    println!("again");
}

/// A name, a port and a number: so many connections that are served, a few at a time and as fast as it goes. Says how
/// many were.
pub fn quick(args: &[String]) {
    let (port, count): (u16, u32) = (args[1].parse().expect("a port"), args[2].parse().expect("a number"));
    let to = SocketAddr::new(addresses(&args[0]).expect("a name that may be asked for")[0], port);
    let served = |thread| {
        let share = count / THREADS + u32::from(thread < count % THREADS);
        (0..share).filter(|_| is_served(connected(to).as_ref())).count()
    };
    let served: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || served(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    });
    println!("{served} of {count}");
}

/// Slow connections, for as long as the value lives.
struct Crowd {
    to: SocketAddr,
    held: u32,
    count: u32,
    members: Vec<i32>,
    /// Closed, it ends them.
    hold: Option<std::io::PipeWriter>,
}

impl Crowd {
    fn of(args: &[String]) -> Result<Self, Refused> {
        let (port, count) = (args[1].parse().expect("a port"), args[2].parse().expect("a number"));
        let to = SocketAddr::new(addresses(&args[0])?[0], port);
        let files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
        let (mut decided, decide) = std::io::pipe()?;
        let (held, hold) = std::io::pipe()?;
        let mut members = Vec::new();
        for member in 0..PROCESSES {
            let share = count / PROCESSES + u32::from(member < count % PROCESSES);
            match sys::fork()? {
                Fork::Parent(pid) => members.push(pid),
                Fork::Child => {
                    drop(hold);
                    be_slow(to, share, decide, held);
                    sys::exit(0);
                }
            }
        }
        drop((decide, held));
        let mut numbers = Vec::new();
        decided.read_to_end(&mut numbers)?;
        let numbers =
            numbers.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four")));
        Ok(Self { to, held: numbers.sum(), count, members, hold: Some(hold) })
    }

    fn sizes(&self) -> (u32, u32) {
        (self.held, self.count)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.hold = None;
        for pid in &self.members {
            sys::wait(*pid).ok();
        }
    }
}

/// Makes `count` of them, reports how many are served, and keeps those until nobody holds the other end of `held`.
fn be_slow(to: SocketAddr, count: u32, mut decide: std::io::PipeWriter, mut held: std::io::PipeReader) {
    let all: Vec<_> = (0..count).map(|_| connected(to)).collect();
    let served: Vec<_> = all.into_iter().filter(|stream| is_served(stream.as_ref())).collect();
    let number = u32::try_from(served.len()).unwrap_or(u32::MAX);
    if decide.write_all(&number.to_le_bytes()).is_ok() {
        drop(decide);
        held.read_to_end(&mut Vec::new()).ok();
    }
}

/// A connection with a byte on its way.
fn connected(to: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, CROWD_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(CROWD_TIMEOUT)).ok()?;
    stream.write_all(BYTE).ok()?;
    Some(stream)
}

/// Whether somebody answers there.
fn is_served(stream: Option<&TcpStream>) -> bool {
    stream.is_some_and(|mut stream| stream.read_exact(&mut [0; GREETING]).is_ok())
}
