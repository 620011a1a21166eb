//! Egress of a session as its processes meet it, each test in a network namespace of its own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::tests::{bare_session, connect, denied, in_new_netns, refused, target};
use super::*;
use crate::nflog::{Denied, Nflog};
use crate::transparent;

const MINUTE: Duration = Duration::from_secs(60);
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A session's network egress, its listeners, and the reader of its denials.
struct Session {
    table: Table,
    listeners: [TcpListener; 2],
    nflog: Nflog,
}

fn open(accept_rules: &[AcceptRule]) -> Session {
    let nflog = bare_session();
    let table = Table::install(&Ruleset::open(&[])).unwrap();
    table.plan(&Ruleset::open(accept_rules)).unwrap();
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let listeners = any.map(|any| {
        let listener = TcpListener::from(transparent::listener((any, LISTENER).into(), true).unwrap());
        listener.set_nonblocking(false).unwrap();
        listener
    });
    Session { table, listeners, nflog }
}

fn element(address: &str, protocol: u8, port: Option<u16>) -> Element {
    Element { address: address.parse().unwrap(), protocol, port }
}

impl Session {
    fn pin(&self, address: &str, protocol: u8, port: Option<u16>) {
        self.table.pin(&[(element(address, protocol, port), false)], MINUTE).unwrap();
    }

    fn refused(&mut self, to: &str) -> Denied {
        refused(&mut self.nflog, to)
    }

    /// Connects; the listener was asked for this address, and bytes go both ways.
    fn reaches(&self, to: &str) {
        let to: SocketAddr = to.parse().unwrap();
        let mut client = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        let listener = &self.listeners[usize::from(to.is_ipv6())];
        let (mut server, from) = listener.accept().unwrap();
        assert_eq!((server.local_addr().unwrap(), from), (to, client.local_addr().unwrap()));
        client.write_all(b"question").unwrap();
        let mut bytes = [0; 8];
        server.read_exact(&mut bytes).unwrap();
        server.write_all(&bytes).unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"question");
    }
}

#[test]
fn what_is_pinned_reaches_the_listener_and_nothing_else_does() {
    in_new_netns(|| {
        let mut session = open(&[]);
        session.table.verify(&Ruleset::open(&[])).unwrap();
        for to in ["192.0.2.1:443", "[2001:db8::1]:443"] {
            session.refused(to);
        }
        session.pin("192.0.2.1", TCP, Some(443));
        session.pin("2001:db8::1", TCP, Some(443));
        session.reaches("192.0.2.1:443");
        session.reaches("[2001:db8::1]:443");
        let others = ["192.0.2.1:80", "192.0.2.2:443", "[2001:db8::1]:80", "[2001:db8::2]:443"];
        let reported = others.map(|to| target(&session.refused(to)));
        assert_eq!(reported[0], denied("tcp", "192.0.2.1", Some(80)));
        session.pin("192.0.2.3", TCP, None);
        session.pin("2001:db8::3", TCP, None);
        session.reaches("192.0.2.3:65000");
        session.reaches("[2001:db8::3]:22");
        let udp = |bind: &str, to: &str| UdpSocket::bind(bind).unwrap().send_to(b"x", to).unwrap_err();
        assert_eq!(udp("0.0.0.0:0", "192.0.2.3:443").raw_os_error(), Some(libc::EPERM));
        assert_eq!(session.nflog.read(&mut [0; 4096]).unwrap().len(), 1);
    });
}

#[test]
fn planned_networks_and_the_own_addresses() {
    in_new_netns(|| {
        let net = |address: &str, length, port| AcceptRule {
            address: address.parse().unwrap(),
            length,
            tcp: true,
            port,
        };
        let accept_rules = [net("198.51.100.0", 24, Some(22)), net("2001:db8:1::", 48, None)];
        let mut session = open(&accept_rules);
        session.reaches("198.51.100.77:22");
        session.reaches("[2001:db8:1::7]:8080");
        for to in ["198.51.100.77:23", "198.51.101.1:22", "[2001:db8:2::7]:8080"] {
            session.refused(to);
        }
        // Its own servers are its own, whatever is planned.
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(own.local_addr().unwrap()).unwrap();
        own.accept().unwrap();
        // Replaced while a pin holds.
        session.pin("192.0.2.1", TCP, Some(443));
        let accept_rules = [net("203.0.113.0", 24, Some(22))];
        session.table.plan(&Ruleset::open(&accept_rules)).unwrap();
        session.refused("198.51.100.77:22");
        session.reaches("203.0.113.9:22");
        session.reaches("192.0.2.1:443");
        assert!(session.table.verify(&Ruleset::open(&[])).is_err());
    });
}

#[test]
fn dns_reaches_its_socket_whatever_the_server() {
    use rustix::net::{RecvAncillaryBuffer, RecvFlags};
    in_new_netns(|| {
        let session = open(&[]);
        for (any, from, servers) in [
            ("0.0.0.0:53", "0.0.0.0:0", ["127.0.0.1:53", "192.0.2.53:53"]),
            ("[::]:53", "[::]:0", ["[::1]:53", "[2001:db8::53]:53"]),
        ] {
            let dns = transparent::datagrams(any.parse().unwrap()).unwrap();
            for server in servers {
                let client = UdpSocket::bind(from).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                client.send_to(b"question", server).unwrap();
                let mut bytes = [0; 16];
                let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
                let mut none = RecvAncillaryBuffer::default();
                let got = rustix::net::recvmsg(&dns, &mut slices, &mut none, RecvFlags::empty()).unwrap();
                assert_eq!(got.bytes, 8);
                session.reaches(server);
            }
        }
    });
}

#[test]
fn pins_are_renewed_and_end() {
    in_new_netns(|| {
        let mut session = open(&[]);
        let pins = [element("192.0.2.1", TCP, Some(443)), element("2001:db8::1", UDP, None)];
        let with = |held: bool| pins.map(|pin| (pin, held));
        let table = &session.table;
        table.pin(&with(false), Duration::from_millis(300)).unwrap();
        // Renewed, whether the caller knows that they are there or not.
        table.pin(&with(true), MINUTE).unwrap();
        table.pin(&with(false), MINUTE).unwrap();
        table.pin(&with(true), Duration::from_millis(50)).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while pins.iter().any(|pin| table.holds(pin).unwrap()) {
            assert!(Instant::now() < until);
        }
        session.refused("192.0.2.1:443");
        let table = &session.table;
        table.pin(&with(true), MINUTE).unwrap();
        assert!(pins.iter().all(|pin| table.holds(pin).unwrap()));
        table.unpin(&pins).unwrap();
        table.unpin(&pins).unwrap();
        assert!(!pins.iter().any(|pin| table.holds(pin).unwrap()));
        session.refused("192.0.2.1:443");
    });
}

#[test]
fn a_connection_outlives_its_pin() {
    in_new_netns(|| {
        let mut session = open(&[]);
        session.pin("192.0.2.1", TCP, Some(443));
        let mut client = connect("192.0.2.1:443").unwrap();
        let (mut server, _) = session.listeners[0].accept().unwrap();
        session.table.unpin(&[element("192.0.2.1", TCP, Some(443))]).unwrap();
        session.refused("192.0.2.1:443");
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"y").unwrap();
        client.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn a_full_set_renews_what_it_holds_and_takes_no_more() {
    in_new_netns(|| {
        let session = open(&[]);
        let pin = |number: u32| {
            let address = IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + number));
            Element { address, protocol: TCP, port: Some(443) }
        };
        let all: Vec<_> = (0..MAX_ELEMENTS).map(|number| (pin(number), false)).collect();
        for some in all.chunks(1024) {
            session.table.pin(some, MINUTE).unwrap();
        }
        let more = session.table.pin(&[(pin(MAX_ELEMENTS), false)], MINUTE).unwrap_err();
        assert!(matches!(more, NftError::Refused { .. }), "{more}");
        let held: Vec<_> = all[..512].iter().map(|(pin, _)| (*pin, true)).collect();
        session.table.pin(&held, 2 * MINUTE).unwrap();
        session.table.unpin(&[pin(7)]).unwrap();
        session.table.pin(&[(pin(MAX_ELEMENTS), false)], MINUTE).unwrap();
    });
}
