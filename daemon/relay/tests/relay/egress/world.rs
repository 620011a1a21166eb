//! A relay egress into a world of the test's.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use agentd_kernel::memfd::{self, Sealed};
use agentd_kernel::packets::Packets;
use agentd_policy::addresses::Net;
use agentd_policy::blocklist::{self, Compiler, KEY, Label};
use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::event::NetEvent;
use agentd_policy::hosts::{HostName, HostPattern, HostRule, HostRules};
use agentd_policy::protocol::Protocol;
use agentd_policy::resolver::Resolver;
use agentd_policy::wire::{FromRelay, ToRelay, decode, encode};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};

use crate::rig::{self, Pipes, Relay};

/// Nothing here takes that long.
const DEADLINE: Duration = Duration::from_secs(15);

pub struct World {
    pub relay: Relay,
    _pipes: Pipes,
    pub keeper: Arc<Keeper>,
    pub tcp: SocketAddr,
    pub dns: SocketAddr,
    pub proxy: SocketAddr,
    pub local: SocketAddr,
    pub udp: SocketAddr,
}

/// What the keeper and the world behind it do.
pub struct Keeper {
    control: Packets,
    pub zone: Mutex<Zone>,
    said: Mutex<Vec<FromRelay>>,
    changed: Condvar,
}

/// Servers that stand for the internet.
#[derive(Default)]
pub struct Zone {
    /// IPv4 addresses of names; what is not there does not exist.
    pub names: HashMap<String, Vec<Ipv4Addr>>,
    /// What a name is an alias of.
    pub aliases: HashMap<String, String>,
    /// Resolvers say nothing.
    pub dead: bool,
    /// Answers by UDP are cut short.
    pub cut: bool,
    /// Where every connection leads.
    pub server: Option<SocketAddr>,
    /// The error of every dial that is none to a resolver.
    pub errno: Option<i32>,
    /// So many dials are not begun yet.
    pub busy: usize,
    /// Nobody is there.
    pub deserted: Option<IpAddr>,
    /// What comes there is dropped.
    pub silent: Vec<IpAddr>,
    /// What comes there is refused.
    pub refusing: Vec<IpAddr>,
}

impl World {
    pub fn new(egress: Egress) -> Self {
        Self::with_local(egress, |_| {})
    }

    /// Allows `hosts` everything on TCP; each is at 127.0.0.1.
    pub fn of(hosts: &[&str]) -> Self {
        let world = Self::new(egress(hosts));
        let mut zone = world.keeper.zone.lock().unwrap();
        zone.names = hosts.iter().map(|host| ((*host).to_owned(), vec![Ipv4Addr::LOCALHOST])).collect();
        drop(zone);
        world
    }

    /// As `new`; `change` sees the plan once the ports of the sockets are known: that of the local one, and UDP's.
    pub fn with_local(egress: Egress, change: impl FnOnce(&mut Egress)) -> Self {
        Self::start(egress, None, change)
    }

    /// As `new`, on a site that has a blocklist called `ads` of these lines.
    pub fn listing(egress: Egress, lines: &str) -> Self {
        let mut compiler = Compiler::new([7; KEY], vec![Label::parse("ads").unwrap()]);
        blocklist::read(lines.as_bytes(), |scope, name| compiler.add(0, scope, name)).unwrap();
        let memory = memfd::create("test").unwrap();
        let write = |bytes: &[u8]| rustix::io::write(&memory, bytes).map(drop);
        compiler.finish(write).unwrap();
        let sealed = Sealed::seal(memory).unwrap();
        Self::start(egress, Some(sealed.try_clone().unwrap()), |_| {})
    }

    fn start(mut egress: Egress, listed: Option<OwnedFd>, change: impl FnOnce(&mut Egress)) -> Self {
        let four = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let six = || TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let (tcp, dns, proxy, local, udp) = (four(), udp_four(), four(), four(), udp_four());
        let addresses = (tcp.local_addr().unwrap(), dns.local_addr().unwrap(), proxy.local_addr().unwrap());
        let (local_at, udp_at) = (local.local_addr().unwrap(), udp.local_addr().unwrap());
        egress.local = vec![local_at.port()];
        let rule = HostRule {
            host: HostPattern::parse("udp.example").unwrap(),
            ports: vec![udp_at.port()],
            protocol: Protocol::Udp,
            opaque: false,
        };
        egress.hosts.allow.push(rule);
        change(&mut egress);
        let (relay, pipes) = rig::pipes();
        let control = relay.control.as_ref().unwrap().try_clone().unwrap();
        let keeper = Arc::new(Keeper {
            control,
            zone: Mutex::default(),
            said: Mutex::default(),
            changed: Condvar::new(),
        });
        let sockets: [OwnedFd; 10] = [
            tcp.into(),
            six().into(),
            dns.into(),
            udp_six().into(),
            proxy.into(),
            six().into(),
            udp.into(),
            udp_six().into(),
            local.into(),
            six().into(),
        ];
        let blocklist = listed.is_some();
        let descriptors: Vec<OwnedFd> = sockets.into_iter().chain(listed).collect();
        relay.order(&ToRelay::Network { egress: Box::new(egress), blocklist }, &descriptors);
        let playing = keeper.clone();
        std::thread::spawn(move || playing.play());
        let (tcp, dns, proxy) = addresses;
        Self { relay, _pipes: pipes, keeper, tcp, dns, proxy, local: local_at, udp: udp_at }
    }

    /// A server, to which every connection leads from now on.
    pub fn server(&self) -> TcpListener {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        self.keeper.zone.lock().unwrap().server = Some(server.local_addr().unwrap());
        server
    }

    /// Asks for a name's address: code and addresses of the answer.
    pub fn ask(&self, name: &str) -> (u8, Vec<Ipv4Addr>) {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.send_to(&query(name, 1), self.dns).unwrap();
        let mut reply = [0; 2048];
        let (length, from) = client.recv_from(&mut reply).unwrap();
        assert_eq!(from, self.dns);
        answer(&reply[..length])
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.tcp)
    }

    /// The keeper wants a name asked for anew.
    pub fn renew(&self, name: &str) {
        let name = HostName::parse(name).unwrap();
        self.relay.order(&ToRelay::Renew { name, question: 1 }, &[]);
    }

    pub fn policy(&self, egress: Egress) {
        self.relay.order(&ToRelay::Policy { egress: Box::new(egress) }, &[]);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The player reads the end.
        self.relay.child.kill().ok();
    }
}

impl Keeper {
    fn play(&self) {
        while let Ok(Some(packet)) = self.control.receive(64 << 10, 0) {
            let message: FromRelay = decode(&packet.bytes).unwrap();
            self.said.lock().unwrap().push(message.clone());
            match &message {
                FromRelay::Dial { number, purpose, protocol, to, .. } => {
                    let (fd, errno) = self.dial(purpose, *protocol, to.ip());
                    let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
                    self.order(&ToRelay::Dialled { number: *number, errno }, &fds);
                }
                FromRelay::Pin { number, addresses, .. } => {
                    self.order(&ToRelay::Pinned { number: *number, addresses: addresses.clone() }, &[]);
                }
                FromRelay::Event { number: Some(number), .. } => {
                    self.order(&ToRelay::Recorded { number: *number }, &[]);
                }
                _ => {}
            }
            self.changed.notify_all();
        }
    }

    fn order(&self, message: &ToRelay, fds: &[std::os::fd::BorrowedFd<'_>]) {
        // The relay may be gone by the end of a test.
        self.control.send(&encode(message).unwrap(), fds).ok();
    }

    fn dial(&self, purpose: &Purpose, protocol: Protocol, to: IpAddr) -> (Option<OwnedFd>, Option<i32>) {
        let mut zone = self.zone.lock().unwrap();
        match (purpose, protocol) {
            _ if *purpose != Purpose::Resolver && zone.busy > 0 => {
                zone.busy -= 1;
                (None, Some(11))
            }
            (Purpose::Resolver, Protocol::Udp) => {
                let (ours, theirs) = UnixDatagram::pair().unwrap();
                ours.set_read_timeout(Some(DEADLINE)).unwrap();
                let replies = zone.resolver();
                std::thread::spawn(move || {
                    let mut query = [0; 2048];
                    while let Ok(length @ 1..) = ours.recv(&mut query) {
                        for reply in replies(&query[..length], true) {
                            ours.send(&reply).ok();
                        }
                    }
                });
                (Some(theirs.into()), None)
            }
            (Purpose::Resolver, Protocol::Tcp) => {
                let (mut ours, theirs) = UnixStream::pair().unwrap();
                let replies = zone.resolver();
                std::thread::spawn(move || {
                    let mut query = [0; 2048];
                    let length = ours.read(&mut query).unwrap();
                    for reply in replies(&query[2..length], false) {
                        let message =
                            [&u16::try_from(reply.len()).unwrap().to_be_bytes()[..], &reply].concat();
                        ours.write_all(&message).ok();
                    }
                });
                (Some(theirs.into()), None)
            }
            _ if zone.deserted == Some(to) => (None, Some(111)),
            _ if zone.errno.is_some() => (None, zone.errno),
            _ if zone.silent.contains(&to) => (Some(unanswered()), None),
            _ if zone.refusing.contains(&to) => (Some(begun(&closed())), None),
            (_, Protocol::Tcp) => (Some(TcpStream::connect(zone.server.unwrap()).unwrap().into()), None),
            (_, Protocol::Udp) => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                socket.connect(zone.server.unwrap()).unwrap();
                (Some(socket.into()), None)
            }
        }
    }

    /// Waits until the relay has said something of which `pick` makes something.
    pub fn wait_for<T>(&self, pick: impl Fn(&FromRelay) -> Option<T>) -> T {
        let (start, mut said) = (Instant::now(), self.said.lock().unwrap());
        loop {
            if let Some(found) = said.iter().find_map(&pick) {
                return found;
            }
            let left = DEADLINE.checked_sub(start.elapsed());
            let left = left.unwrap_or_else(|| panic!("not said: {said:?}"));
            said = self.changed.wait_timeout(said, left).unwrap().0;
        }
    }

    /// How many of what was said until now `pick` takes.
    pub fn count(&self, pick: impl Fn(&FromRelay) -> bool) -> usize {
        self.all(|message| pick(message).then_some(())).len()
    }

    /// What `pick` makes of all that was said until now.
    pub fn all<T>(&self, pick: impl Fn(&FromRelay) -> Option<T>) -> Vec<T> {
        self.said.lock().unwrap().iter().filter_map(pick).collect()
    }

    /// Waits for the end of a connection by `why`.
    pub fn closed_by(&self, why: &str) {
        self.wait_for(|message| match message {
            FromRelay::Event { event: NetEvent::Closed { reason, .. }, .. } => {
                (reason.to_string() == why).then_some(())
            }
            _ => None,
        });
    }

    /// Waits until the relay has sent events of so many queries, one by one or as a count.
    pub fn heard_questions(&self, wanted: u64) {
        let (start, mut said) = (Instant::now(), self.said.lock().unwrap());
        loop {
            let counts = said.iter().map(|message| match message {
                FromRelay::Event { event: NetEvent::Dns { count, .. }, .. } => *count,
                _ => 0,
            });
            let total: u64 = counts.sum();
            if total == wanted {
                return;
            }
            let left = DEADLINE.checked_sub(start.elapsed());
            let left = left.unwrap_or_else(|| panic!("{total} questions: {said:?}"));
            said = self.changed.wait_timeout(said, left).unwrap().0;
        }
    }

    /// Waits for the end of a connection: bytes sent, received, and why.
    pub fn closed(&self) -> (u64, u64, String) {
        self.wait_for(|message| match message {
            FromRelay::Event { event: NetEvent::Closed { sent, received, reason, .. }, .. } => {
                Some((*sent, *received, reason.to_string()))
            }
            _ => None,
        })
    }

    /// Waits for a refused connection: the name and the rule.
    pub fn denied(&self) -> (Option<String>, String) {
        self.wait_for(|message| match message {
            FromRelay::Event { event: NetEvent::Connect { peer, denied: Some(rule), .. }, .. } => {
                Some((peer.name.clone(), rule.clone()))
            }
            _ => None,
        })
    }
}

impl Zone {
    /// What a resolver answers, now and later.
    fn resolver(&self) -> impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + 'static {
        let (names, aliases) = (self.names.clone(), self.aliases.clone());
        let (dead, cut) = (self.dead, self.cut);
        move |query: &[u8], datagram: bool| {
            if dead {
                return Vec::new();
            }
            let (name, end) = name_of(query);
            let mut reply =
                [&query[..2], &[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0], &query[12..end + 4]].concat();
            if cut && datagram {
                reply[2] |= 2;
                return vec![reply];
            }
            let mut record = |kind: u16, owner: &[u8], data: &[u8]| {
                reply.extend(owner);
                reply.extend([&kind.to_be_bytes()[..], &[0, 1, 0, 0, 0, 60]].concat());
                reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
                reply.extend(data);
                reply[7] += 1;
            };
            let (mut name, mut owner) = (name, vec![0xc0, 12]);
            if let Some(alias) = aliases.get(&name) {
                record(5, &owner, &labels(alias));
                (name, owner) = (alias.clone(), labels(alias));
            }
            match names.get(&name) {
                None => reply[3] |= 3,
                Some(addresses) if query[end + 1] == 1 => {
                    addresses.iter().for_each(|address| record(1, &owner, &address.octets()));
                }
                Some(_) if query[end + 1] == 16 => record(16, &owner, b"\x02hi"),
                Some(_) => {}
            }
            // One that is to another question comes first.
            let mut forged = reply.clone();
            forged[0] ^= 1;
            if datagram { vec![forged, reply] } else { vec![reply] }
        }
    }
}

/// `hosts` may be reached at every port of TCP.
pub fn egress(hosts: &[&str]) -> Egress {
    let rule = |host: &&str| HostRule {
        host: HostPattern::parse(host).unwrap(),
        ports: Vec::new(),
        protocol: Protocol::Tcp,
        opaque: false,
    };
    let allow = hosts.iter().map(rule).collect();
    Egress {
        hosts: HostRules { deny: Vec::new(), allow },
        resolvers: vec![Resolver::plain("192.0.2.53:53".parse().unwrap())],
        allow_private_ranges: vec![Net::parse("127.0.0.0/8").unwrap()],
        wildcard_budget: 3,
        ..Egress::default()
    }
}

/// A connection to `to` that has begun.
fn begun(to: &SocketAddr) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    assert_eq!(connect(&socket, to), Err(rustix::io::Errno::INPROGRESS));
    socket
}

/// A port on which nobody listens.
fn closed() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// A connection that has begun, and on which nothing comes: the queue of its listener is full.
fn unanswered() -> OwnedFd {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let to = listener.local_addr().unwrap();
    let waiting = (begun(&to), begun(&to));
    let unanswered = begun(&to);
    // For as long as the test runs.
    std::mem::forget((listener, waiting));
    unanswered
}

pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

pub fn accept(server: &TcpListener) -> TcpStream {
    server.set_nonblocking(true).unwrap();
    let start = Instant::now();
    let stream = loop {
        let wait = rustix::event::PollFd::new(server, rustix::event::PollFlags::IN);
        let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        rustix::event::poll(&mut [wait], Some(&timeout)).unwrap();
        match server.accept() {
            Ok((stream, _)) => break stream,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        assert!(start.elapsed() < DEADLINE, "nobody connects");
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// The next bytes, as many as `bytes` are, have to be these.
pub fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(bytes));
}

/// All up to the end; `None` if that is a reset.
pub fn rest(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut got = Vec::new();
    match stream.read_to_end(&mut got) {
        Ok(_) => Some(got),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            None
        }
    }
}

fn labels(name: &str) -> Vec<u8> {
    let labels =
        name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let head = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&head[..], &labels(name), &kind.to_be_bytes(), &[0, 1]].concat()
}

/// The question's name, and where it ends.
fn name_of(query: &[u8]) -> (String, usize) {
    let (mut name, mut place) = (Vec::new(), 12);
    while query[place] != 0 {
        let length = usize::from(query[place]);
        name.push(String::from_utf8_lossy(&query[place + 1..place + 1 + length]).to_ascii_lowercase());
        place += 1 + length;
    }
    (name.join("."), place + 1)
}

/// Code and addresses of an answer that is ours.
pub fn answer(reply: &[u8]) -> (u8, Vec<Ipv4Addr>) {
    let (_, end) = name_of(reply);
    let records = reply[end + 4..].chunks_exact(16).take(usize::from(reply[7]));
    let addresses = records.map(|record| Ipv4Addr::new(record[12], record[13], record[14], record[15]));
    (reply[3] & 15, addresses.collect())
}

fn udp_four() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    setsockopt(&socket, Ipv4PacketInfo, &true).unwrap();
    socket
}

fn udp_six() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    setsockopt(&socket, Ipv6RecvPacketInfo, &true).unwrap();
    socket
}
