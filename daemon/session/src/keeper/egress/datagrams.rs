//! Datagrams to the outside. The relay holds no UDP socket of the host's: by `sendto(2)` it could send to any address,
//! whatever the socket is connected to, and no filter sees the address in `sendmsg(2)`. It gets one end of a pair;
//! between the other end and the socket the keeper carries the datagrams, unread.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use agentd_kernel::event_loop::EventFlags;
use agentd_policy::token_bucket::TokenBucket;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

use super::super::source::{Events, Source};

/// The most at a time: the flows of an honest relay, and its questions to resolvers.
const MAX: usize = 512;
/// What one has carried for it before the others have their turn.
const BATCH: usize = 32;
/// The longest datagram.
const LONGEST: usize = 64 << 10;
/// Questions to resolvers at once, and in every second after that.
const QUESTIONS: (u32, u32) = (1024, 512);

#[derive(Debug)]
struct Pair {
    socket: OwnedFd,
    relay: OwnedFd,
    /// Whether it leads to a resolver.
    asks: bool,
}

/// All of a session's.
#[derive(Debug)]
pub struct Datagrams {
    pairs: BTreeMap<u64, Pair>,
    last: u64,
    questions: TokenBucket,
    buffer: Vec<u8>,
}

impl Default for Datagrams {
    fn default() -> Self {
        let (burst, rate) = QUESTIONS;
        Self { pairs: BTreeMap::new(), last: 0, questions: TokenBucket::new(burst, rate), buffer: Vec::new() }
    }
}

impl Datagrams {
    /// The relay's end of a pair, for `socket`, which is connected and does not block.
    ///
    /// # Errors
    /// `EAGAIN` if there are too many; the kernel's own.
    pub fn open(&mut self, socket: OwnedFd, asks: bool, events: &Events) -> Result<OwnedFd, Errno> {
        if self.pairs.len() >= MAX {
            return Err(Errno::AGAIN);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (relay, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        self.last += 1;
        for fd in [&socket, &relay] {
            events.add(fd, Source::Datagrams(self.last), EventFlags::IN)?;
        }
        self.buffer.resize(LONGEST, 0);
        self.pairs.insert(self.last, Pair { socket, relay, asks });
        Ok(theirs)
    }

    /// Carries what is there. One whose other end is gone or says that there is nobody is closed; the relay sees that.
    pub fn carry(&mut self, number: u64, now: Instant) {
        let Some(pair) = self.pairs.get(&number) else { return };
        let questions = &mut self.questions;
        let up = carry(&pair.relay, &pair.socket, &mut self.buffer, || !pair.asks || questions.take(now));
        let down = up.and_then(|()| carry(&pair.socket, &pair.relay, &mut self.buffer, || true));
        if down.is_err() {
            self.pairs.remove(&number);
        }
    }
}

/// That nothing more goes either way.
struct Over;

/// Some datagrams of `from` to `to`. What finds no room is lost, as in a network.
fn carry(from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8], mut may: impl FnMut() -> bool) -> Result<(), Over> {
    for _ in 0..BATCH {
        let length = match rustix::net::recv(from, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) if has_hung_up(from) => return Err(Over),
            Ok((length, _)) => length,
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(_) => return Err(Over),
        };
        if !may() {
            continue;
        }
        match rustix::net::send(to, &buffer[..length], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::MSGSIZE | Errno::NOBUFS) => {}
            Err(_) => return Err(Over),
        }
    }
    Ok(())
}

/// Whether the other end is closed: a datagram may be empty, too.
fn has_hung_up(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // What cannot be asked for is at its end.
    rustix::event::poll(&mut polled, Some(&at_once)).is_err() || polled[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// A server, the pairs, and the relay's end of one that leads to it.
    fn world(asks: bool) -> (UdpSocket, Datagrams, OwnedFd, Events) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let events = Events::new(1).unwrap();
        let mut datagrams = Datagrams::default();
        let relay = datagrams.open(client.into(), asks, &events).unwrap();
        (server, datagrams, relay, events)
    }

    fn wait(events: &Events) -> u64 {
        match events.wait(None).unwrap()[..] {
            [Source::Datagrams(number)] => number,
            ref others => panic!("{others:?}"),
        }
    }

    #[test]
    fn they_go_both_ways_and_empty_ones_too() {
        let (server, mut datagrams, relay, events) = world(false);
        let mut buffer = [0; 16];
        for text in [&b"one"[..], b"", b"three"] {
            rustix::net::send(&relay, text, SendFlags::empty()).unwrap();
            datagrams.carry(wait(&events), Instant::now());
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], text);
            server.send_to(text, from).unwrap();
            datagrams.carry(wait(&events), Instant::now());
            let (length, _) = rustix::net::recv(&relay, &mut buffer, RecvFlags::empty()).unwrap();
            assert_eq!(&buffer[..length], text);
        }
        assert_eq!(datagrams.pairs.len(), 1);
    }

    #[test]
    fn either_end_closes_the_other() {
        let (_server, mut datagrams, relay, events) = world(false);
        drop(relay);
        datagrams.carry(wait(&events), Instant::now());
        assert!(datagrams.pairs.is_empty());

        let (server, mut datagrams, relay, events) = world(false);
        drop(server);
        rustix::net::send(&relay, b"x", SendFlags::empty()).unwrap();
        datagrams.carry(wait(&events), Instant::now());
        // The kernel says by itself that nobody listens.
        while !datagrams.pairs.is_empty() {
            datagrams.carry(wait(&events), Instant::now());
        }
        assert_eq!(rustix::net::recv(&relay, &mut [0; 16][..], RecvFlags::empty()).map(|(n, _)| n), Ok(0));
    }

    #[test]
    fn questions_are_bounded_and_so_are_pairs() {
        let (server, mut datagrams, relay, events) = world(true);
        server.set_nonblocking(true).unwrap();
        let (burst, _) = QUESTIONS;
        let now = Instant::now();
        let mut arrived = 0;
        for _ in 0..burst + 100 {
            rustix::net::send(&relay, b"?", SendFlags::empty()).unwrap();
            datagrams.carry(1, now);
            arrived += u32::from(server.recv(&mut [0; 4]).is_ok());
        }
        assert_eq!(arrived, burst);
        let mut ends = Vec::new();
        loop {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            match datagrams.open(socket.into(), false, &events) {
                Ok(end) => ends.push(end),
                Err(errno) => break assert_eq!((errno, ends.len()), (Errno::AGAIN, MAX - 1)),
            }
        }
    }
}
