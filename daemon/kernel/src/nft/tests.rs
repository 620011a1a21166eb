//! The network of a session as its processes meet it, each test in a network namespace of its own.

use std::io::{ErrorKind, IoSlice, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nftnl::{Batch, MsgType, ProtoFamily};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use super::*;
use crate::loopback::{self, ADDRESS4, ADDRESS6};
use crate::nflog::{Denied, Nflog};
use crate::resets::{Resets, Syn};
use crate::sock_diag::{Ends, SockDiag};

/// Runs `test` on a thread of its own, in a new network namespace.
pub(super) fn in_new_netns(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        // Past the test harness, which keeps what passing tests print to itself.
        writeln!(std::io::stderr(), "SKIPPED: needs root").unwrap();
        return;
    }
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A session's network: up, with its table and the reader of its denials.
pub(super) fn session() -> (Table, Nflog) {
    let nflog = bare_session();
    (Table::install(&Ruleset::closed()).unwrap(), nflog)
}

/// The same without a table.
pub(super) fn bare_session() -> Nflog {
    loopback::bring_up().unwrap();
    Nflog::open(LOG_GROUP).unwrap()
}

pub(super) fn connect(address: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5))
}

/// A connection that does not pass is refused, once its denial has been read: which it gives back.
pub(super) fn refused(nflog: &mut Nflog, address: &str) -> Denied {
    let to: SocketAddr = address.parse().unwrap();
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    assert_eq!(rustix::net::connect(&socket, &to), Err(rustix::io::Errno::INPROGRESS), "{address}");
    let [denied] = <[Denied; 1]>::try_from(nflog.read(&mut [0; 4096]).unwrap()).unwrap();
    let (from, sequence) = (denied.from.unwrap(), denied.sequence.unwrap());
    let diag = SockDiag::open().unwrap();
    // Until then it is somebody's.
    assert!(diag.inode(&Ends { tcp: true, own: from, far: to }).unwrap().is_some(), "{address}");
    Resets::open().unwrap().refuse(&Syn { from, to, sequence }).unwrap();
    let error = rustix::net::sockopt::socket_error(&socket).unwrap().unwrap_err();
    assert_eq!(error, rustix::io::Errno::CONNREFUSED, "{address}");
    denied
}

/// What a denial says of where the packet was to go.
pub(super) fn target(denied: &Denied) -> (String, String, Option<u16>) {
    (denied.protocol.clone(), denied.address.to_string(), denied.port)
}

pub(super) fn denied(protocol: &str, address: &str, port: Option<u16>) -> (String, String, Option<u16>) {
    (protocol.into(), address.into(), port)
}

#[test]
fn loopback_and_the_own_address_work() {
    in_new_netns(|| {
        let (table, mut nflog) = session();
        for address in ["127.0.0.1", "127.9.9.9", "::1", &ADDRESS4.to_string(), &ADDRESS6.to_string()] {
            let address: IpAddr = address.parse().unwrap();
            let listener = TcpListener::bind(SocketAddr::new(address, 0)).unwrap();
            let to = listener.local_addr().unwrap();
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
            assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
            let udp = UdpSocket::bind(SocketAddr::new(address, 0)).unwrap();
            assert_eq!(udp.send_to(b"x", udp.local_addr().unwrap()).unwrap(), 1);
            assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 1);
            drop(listener);
            let refused = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        assert_eq!(table.denied().unwrap(), 0);
        assert_eq!(nflog.read(&mut [0; 4096]).unwrap(), []);
    });
}

#[test]
fn others_addresses_are_nobodys_to_bind_to() {
    in_new_netns(|| {
        let (_table, _nflog) = session();
        for address in ["192.0.2.1:0", "10.200.0.1:0", "[2001:db8::1]:0", "[::ffff:192.0.2.1]:0"] {
            let tcp = TcpListener::bind(address).unwrap_err();
            let udp = UdpSocket::bind(address).unwrap_err();
            assert_eq!(
                (tcp.kind(), udp.kind()),
                (ErrorKind::AddrNotAvailable, ErrorKind::AddrNotAvailable),
                "{address}"
            );
        }
    });
}

#[test]
fn all_else_is_refused_at_once_told_and_counted() {
    in_new_netns(|| {
        let (table, mut nflog) = session();
        let mut got = Vec::new();
        for address in ["192.0.2.1:80", "169.254.169.254:80", "[2001:db8::1]:443"] {
            got.push(refused(&mut nflog, address));
        }
        for (bind, to) in [("0.0.0.0:0", "192.0.2.2:53"), ("[::]:0", "[2001:db8::2]:53")] {
            let error = UdpSocket::bind(bind).unwrap().send_to(b"query", to).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{to}");
        }
        got.extend(nflog.read(&mut [0; 4096]).unwrap());
        let got: Vec<_> = got.iter().map(target).collect();
        let meant = [
            denied("tcp", "192.0.2.1", Some(80)),
            denied("tcp", "169.254.169.254", Some(80)),
            denied("tcp", "2001:db8::1", Some(443)),
            denied("udp", "192.0.2.2", Some(53)),
            denied("udp", "2001:db8::2", Some(53)),
        ];
        assert_eq!(got, meant);
        assert_eq!((table.denied().unwrap(), nflog.lost()), (5, 0));
        table.verify(&Ruleset::closed()).unwrap();
    });
}

#[test]
fn raw_sockets_get_nowhere_either() {
    in_new_netns(|| {
        let (table, mut nflog) = session();
        let send = |family, protocol, bytes: &[u8], to: &str| {
            let socket = rustix::net::socket(family, SocketType::RAW, Some(protocol)).unwrap();
            let to = SocketAddr::new(to.parse().unwrap(), 0);
            rustix::net::sendto(&socket, bytes, SendFlags::empty(), &to).unwrap_err()
        };
        let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        let perm = rustix::io::Errno::PERM;
        assert_eq!(send(AddressFamily::INET, ipproto::ICMP, &echo, "192.0.2.1"), perm);
        assert_eq!(
            send(AddressFamily::INET6, ipproto::ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0], "2001:db8::1"),
            perm
        );
        assert_eq!(send(AddressFamily::INET, ipproto::GRE, &[0; 8], "192.0.2.1"), perm);
        let sctp = send(AddressFamily::INET, ipproto::SCTP, &[0; 12], "192.0.2.1");
        assert_eq!(sctp, perm);
        let got: Vec<_> = nflog.read(&mut [0; 4096]).unwrap().iter().map(target).collect();
        let meant = [
            denied("icmp", "192.0.2.1", None),
            denied("icmp", "2001:db8::1", None),
            denied("47", "192.0.2.1", None),
            denied("132", "192.0.2.1", None),
        ];
        assert_eq!(got, meant);
        assert_eq!(table.denied().unwrap(), 4);
    });
}

#[test]
fn a_flood_is_counted_to_the_last_packet() {
    in_new_netns(|| {
        const FLOOD: u64 = 20_000;
        let (table, mut nflog) = session();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let flood = || udp.send_to(b"x", "192.0.2.1:9").unwrap_err();
        for _ in 0..FLOOD {
            flood();
        }
        let mut seen = 0;
        let mut drain = |nflog: &mut Nflog| {
            let mut buffer = [0; 4096];
            loop {
                let got = nflog.read(&mut buffer).unwrap();
                seen += got.len() as u64;
                if got.is_empty() {
                    return seen;
                }
            }
        };
        assert!((100..FLOOD).contains(&drain(&mut nflog)));
        flood();
        let seen = drain(&mut nflog);
        assert_eq!(seen + nflog.lost(), FLOOD + 1);
        assert_eq!(table.denied().unwrap(), FLOOD + 1);
    });
}

#[test]
fn a_group_has_one_reader() {
    in_new_netns(|| {
        let _first = Nflog::open(LOG_GROUP).unwrap();
        let error = Nflog::open(LOG_GROUP).unwrap_err().error;
        assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::EBUSY)), "{error}");
    });
}

/// Sends one more batch, as somebody would who steers the table behind our back.
fn tamper(table: &Table, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    fill(&mut batch);
    let batch = batch.finalize();
    table.0.send(&batch.iter().map(IoSlice::new).collect::<Vec<_>>()).unwrap();
    table.0.acknowledged(batch.sequence_numbers().len()).unwrap();
}

fn installed_then(fill: impl FnOnce(&mut Batch) + Send + 'static) {
    in_new_netns(|| {
        let (table, _nflog) = session();
        table.verify(&Ruleset::closed()).unwrap();
        tamper(&table, fill);
        let error = table.verify(&Ruleset::closed()).unwrap_err();
        assert!(matches!(error, NftError::Differs(_)), "{error}");
    });
}

#[test]
fn a_lost_rule_is_found() {
    installed_then(|batch| {
        let table = nftnl::Table::new(c"agentd", ProtoFamily::Inet);
        let chain = nftnl::Chain::new(c"out", &table);
        // Without a handle: all rules of the chain.
        batch.add(&nftnl::Rule::new(&chain), MsgType::Del);
    });
}

#[test]
fn a_rule_too_many_is_found() {
    installed_then(|batch| {
        let table = nftnl::Table::new(c"agentd", ProtoFamily::Inet);
        let chain = nftnl::Chain::new(c"out", &table);
        let mut rule = nftnl::Rule::new(&chain);
        rule.add_expr(&nftnl::expr::Verdict::Accept);
        batch.add(&rule, MsgType::Add);
    });
}

#[test]
fn another_policy_is_found() {
    installed_then(|batch| {
        let table = nftnl::Table::new(c"agentd", ProtoFamily::Inet);
        let mut chain = nftnl::Chain::new(c"out", &table);
        chain.set_policy(nftnl::Policy::Accept);
        batch.add(&chain, MsgType::Add);
    });
}

#[test]
fn another_table_is_found() {
    installed_then(|batch| batch.add(&nftnl::Table::new(c"other", ProtoFamily::Ipv4), MsgType::Add));
}

#[test]
fn every_difference_of_a_ruleset_is_found() {
    in_new_netns(|| {
        let (table, _nflog) = session();
        let closed = Ruleset::closed();
        let count = closed.chains[0].rules.len();
        for index in 0..count {
            let mut other = closed.clone();
            other.chains[0].rules.remove(index);
            assert!(table.verify(&other).is_err(), "without rule {index}");
            let mut other = closed.clone();
            other.chains[0].rules.swap(index, (index + 1) % count);
            assert!(table.verify(&other).is_err(), "with rule {index} moved");
        }
        let change = |change: fn(&mut ChainSpec)| {
            let mut other = closed.clone();
            change(&mut other.chains[0]);
            assert!(table.verify(&other).is_err(), "{other}");
        };
        change(|chain| chain.rules[0].matches = vec![Match::Daddr4([127, 0, 0, 0].into(), 9)]);
        change(|chain| chain.rules[2].matches = vec![Match::Daddr4([10, 200, 0, 3].into(), 32)]);
        change(|chain| {
            chain.rules[6].statements[0] = Statement::Log { prefix: "deny", group: 8, snaplen: 128 }
        });
        change(|chain| {
            chain.rules[6].statements[0] = Statement::Log { prefix: "den", group: 7, snaplen: 128 }
        });
        change(|chain| chain.rules[8].statements = vec![Statement::Accept]);
        change(|chain| chain.base.as_mut().unwrap().priority = 1);
        change(|chain| chain.base.as_mut().unwrap().policy = Policy::Accept);
        change(|chain| chain.base.as_mut().unwrap().hook = Hook::In);
        change(|chain| chain.name = "in");
    });
}

#[test]
fn a_batch_that_fails_makes_nothing() {
    in_new_netns(|| {
        let mut ruleset = Ruleset::closed();
        ruleset.chains[0].rules[7].statements = vec![Statement::Count("missing")];
        let error = Table::install(&ruleset).unwrap_err();
        let text = "nftables: rule `meta l4proto tcp counter name \"missing\"`: ";
        assert!(error.to_string().starts_with(text), "{error}");
        Table::install(&Ruleset::closed()).unwrap();
    });
}

#[test]
fn a_long_ruleset_is_one_batch() {
    in_new_netns(|| {
        let mut ruleset = Ruleset::closed();
        let one = ruleset.chains[0].rules[0].clone();
        ruleset.chains[0].rules.extend(std::iter::repeat_n(one, 3000));
        Table::install(&ruleset).unwrap();
    });
}

#[test]
fn without_it_up_there_is_no_network() {
    in_new_netns(|| {
        assert!(connect("127.0.0.1:1").is_err_and(|e| e.kind() == ErrorKind::NetworkUnreachable));
        loopback::bring_up().unwrap();
        let again = loopback::bring_up().unwrap_err().to_string();
        assert!(again.starts_with("loopback: address add 10.200.0.2/32 dev lo: "), "{again}");
    });
}

#[test]
fn sockets_close_on_exec() {
    in_new_netns(|| {
        let (table, nflog) = session();
        for fd in [table.as_fd(), nflog.as_fd()] {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        let again = Table::from_fd(table.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(again.denied().unwrap(), 0);
        let none = rustix::net::recv(&nflog, &mut [0u8; 16][..], RecvFlags::DONTWAIT).unwrap_err();
        assert_eq!(none, rustix::io::Errno::AGAIN);
    });
}
