//! A compromised relay: it asks its keeper for what the plan does not allow. What comes of it goes to the
//! service as if the command had said it. For tests/keeper.

#![allow(clippy::unwrap_used)] // a failure here fails the test that started it

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use agentd_kernel::inherited;
use agentd_kernel::packets::{MAX_DESCRIPTORS, PacketError, Packets};
use agentd_policy::egress::Purpose;
use agentd_policy::event::NetEvent;
use agentd_policy::hosts::HostName;
use agentd_policy::protocol::Protocol;
use agentd_policy::publish::Publish;
use agentd_policy::wire::{FromRelay, MAX_INWARD, MAX_PACKET, ToRelay, decode, encode, frame};
use rustix::net::AddressFamily;

/// The most questions of the flood.
const FLOOD: u32 = 100_000;

struct Played {
    service: UnixStream,
    control: Packets,
    number: u32,
}

fn main() {
    let [service, control] = [3, 4].map(|number| inherited::take(number).unwrap());
    let mut played = Played { service: service.into(), control: Packets::from_fd(control), number: 0 };
    let ToRelay::Network { egress, .. } = played.answer().0 else { panic!("no network") };
    let (ToRelay::Publish { publish }, listeners) = played.answer() else { panic!("nothing published") };
    assert_eq!((publish, listeners.len()), (egress.publish[0], 2));
    let (local, resolver) = (egress.local[0], egress.resolvers[0].address);
    played.pins();
    played.dials(local, resolver);
    played.enters(publish);
    played.flood();
    played.lies();
    played.say("done");
    while played.answer().0 != ToRelay::Over {}
}

impl Played {
    fn say(&mut self, line: &str) {
        let header = frame::header(frame::STDOUT, line.len() + 1).unwrap();
        self.service.write_all(&[&header, line.as_bytes(), b"\n"].concat()).unwrap();
    }

    fn ask(&self, message: &FromRelay) {
        self.control.send(&encode(message).unwrap(), &[]).unwrap();
    }

    fn answer(&self) -> (ToRelay, Vec<OwnedFd>) {
        let packet = self.control.receive(MAX_PACKET, MAX_DESCRIPTORS).unwrap().unwrap();
        (decode(&packet.bytes).unwrap(), packet.descriptors)
    }

    fn pins(&mut self) {
        let addresses =
            ["127.0.0.1", "169.254.169.254", "10.9.9.9", "::ffff:10.1.2.3", "10.1.2.3", "11.22.33.44"];
        let addresses: Vec<IpAddr> = addresses.map(|address| address.parse().unwrap()).into();
        for name in ["allowed.example", "denied.example", "other.example", "listed.example"] {
            self.number += 1;
            let (number, addresses) = (self.number, addresses.clone());
            let name = HostName::parse(name).unwrap();
            self.ask(&FromRelay::Pin {
                number,
                name: name.clone(),
                question: 1,
                addresses,
                ttl: 1,
                client: None,
            });
            let ToRelay::Pinned { addresses, number: same } = self.answer().0 else { panic!("no pin") };
            assert_eq!(number, same);
            self.say(&format!("pin {name}: {addresses:?}"));
        }
    }

    fn dial(&mut self, purpose: Purpose, to: &str, protocol: Protocol) {
        self.number += 1;
        let (number, to) = (self.number, to.parse::<SocketAddr>().unwrap());
        let line = format!("{purpose:?} {to} {protocol:?}");
        self.ask(&FromRelay::Dial { number, purpose, to, protocol, from: to });
        let (ToRelay::Dialled { number: same, errno }, sockets) = self.answer() else { panic!("no dial") };
        assert_eq!((number, sockets.len()), (same, usize::from(errno.is_none())));
        let domain = |socket| rustix::net::sockopt::socket_domain(socket).unwrap();
        self.say(&match errno {
            // By a UDP socket of the host's it could send to any address.
            None if domain(&sockets[0]) == AddressFamily::UNIX => format!("{line}: a pair"),
            None => format!("{line}: dialled"),
            Some(errno) => format!("{line}: {}", std::io::Error::from_raw_os_error(errno)),
        });
    }

    fn dials(&mut self, local: u16, resolver: SocketAddr) {
        let name = |name: &str| Purpose::Name(HostName::parse(name).unwrap());
        for (host, to) in [
            ("allowed.example", "11.22.33.44:443"),
            ("allowed.example", "11.22.33.44:80"),
            ("allowed.example", "11.22.33.45:443"),
            ("allowed.example", "10.1.2.3:443"),
            ("allowed.example", "127.0.0.1:443"),
            ("allowed.example", "169.254.169.254:443"),
            ("denied.example", "11.22.33.44:443"),
            ("other.example", "11.22.33.44:443"),
        ] {
            self.dial(name(host), to, Protocol::Tcp);
        }
        self.dial(name("allowed.example"), "11.22.33.44:443", Protocol::Udp);
        for to in [
            "10.1.2.3:80",
            "10.1.2.3:81",
            "[::ffff:10.1.2.3]:80",
            "127.0.0.1:80",
            "0.0.0.0:80",
            "11.22.33.44:80",
            "20.30.40.50:8000",
            "[2600::1]:80",
        ] {
            self.dial(Purpose::Net, to, Protocol::Tcp);
        }
        self.dial(Purpose::Local, &format!("127.0.0.1:{local}"), Protocol::Tcp);
        self.dial(Purpose::Local, "127.0.0.1:22", Protocol::Tcp);
        self.dial(Purpose::Local, &format!("10.1.2.3:{local}"), Protocol::Tcp);
        self.dial(Purpose::Resolver, &resolver.to_string(), Protocol::Udp);
        self.dial(Purpose::Resolver, "127.0.0.1:22", Protocol::Tcp);
    }

    /// Asks for the session's own ports.
    fn enters(&mut self, publish: Publish) {
        let Publish { host, port } = publish;
        let (four, six) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
        for to in [&four, &six] {
            self.dial(Purpose::Publish(publish), to, Protocol::Tcp);
            self.dial(Purpose::Publish(publish), to, Protocol::Udp);
            self.dial(Purpose::Local, to, Protocol::Tcp);
        }
        for to in [
            &format!("127.0.0.1:{host}"),
            &format!("127.0.0.2:{port}"),
            &format!("10.200.0.2:{port}"),
            &format!("10.1.2.3:{port}"),
            &format!("[::ffff:127.0.0.1]:{port}"),
            "127.0.0.1:22",
        ] {
            self.dial(Purpose::Publish(publish), to, Protocol::Tcp);
        }
        self.dial(Purpose::Publish(Publish { host, port: 22 }), "127.0.0.1:22", Protocol::Tcp);
        self.dial(Purpose::Publish(Publish { host: port, port }), &four, Protocol::Tcp);
        // More than an honest one asks for at once: each has its answer.
        let questions = 4 * MAX_INWARD;
        for _ in 0..questions {
            self.number += 1;
            let (number, purpose, to) = (self.number, Purpose::Publish(publish), four.parse().unwrap());
            self.ask(&FromRelay::Dial { number, purpose, to, protocol: Protocol::Tcp, from: to });
        }
        let mut answers: Vec<u32> = (0..questions).map(|_| self.entered()).collect();
        answers.sort_unstable();
        assert!(answers.windows(2).all(|pair| pair[0] < pair[1]));
        self.say("each has its answer");
    }

    fn entered(&self) -> u32 {
        let (ToRelay::Dialled { number, errno }, sockets) = self.answer() else { panic!("no dial") };
        assert_eq!(sockets.len(), usize::from(errno.is_none()));
        assert!([None, Some(rustix::io::Errno::AGAIN.raw_os_error())].contains(&errno), "{errno:?}");
        number
    }

    /// Asks until nothing more is taken, and only then listens: there is an answer for each question.
    fn flood(&mut self) {
        let name = HostName::parse("allowed.example").unwrap();
        self.control.set_nonblocking(true).unwrap();
        let mut asked = 0;
        while asked < FLOOD {
            let pin = FromRelay::Pin {
                number: asked,
                name: name.clone(),
                question: 1,
                addresses: vec![],
                ttl: 1,
                client: None,
            };
            match self.control.send(&encode(&pin).unwrap(), &[]) {
                Ok(()) => asked += 1,
                Err(PacketError::WouldBlock) => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.control.set_nonblocking(false).unwrap();
        for expected in 0..asked {
            assert!(matches!(self.answer().0, ToRelay::Pinned { number, .. } if number == expected));
        }
        self.say(if asked < FLOOD { "flood: not read" } else { "flood: no end" });
    }

    fn lies(&mut self) {
        let name = "\u{1b}]0;title\u{7}".repeat(40);
        let question = "A".into();
        let event = NetEvent::Dns {
            name,
            question,
            denied: None,
            allowed: None,
            addresses: vec![],
            actor: None,
            count: 0,
        };
        self.ask(&FromRelay::Event { event, client: None, number: None });
    }
}
