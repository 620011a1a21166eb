use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};

use super::*;

/// Bound to every address of the loopback, and somebody who sends to it.
fn pair(six: bool) -> (UdpSocket, UdpSocket) {
    let bind = |address: &str| {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    };
    let (server, client) =
        if six { (bind("[::]:0"), bind("[::1]:0")) } else { (bind("0.0.0.0:0"), bind("127.0.0.1:0")) };
    if six {
        setsockopt(&server, Ipv6RecvPacketInfo, &true).unwrap();
    } else {
        setsockopt(&server, Ipv4PacketInfo, &true).unwrap();
    }
    (server, client)
}

#[test]
fn answers_come_from_where_the_questions_went() {
    for (six, to) in [(false, "127.0.0.53"), (true, "::1")] {
        let (server, client) = pair(six);
        let (to, port): (IpAddr, u16) = (to.parse().unwrap(), server.local_addr().unwrap().port());
        let mut received = Received::new(8);
        let nothing = received.take(server.as_fd()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        // More than one call takes; the loopback has delivered them by the time that they are sent.
        for number in 0..BATCH + 8 {
            client.send_to(format!("{number}").as_bytes(), (to, port)).unwrap();
        }
        client.send_to(b"longer than that", (to, port)).unwrap();
        let mut answers = Answers::default();
        let mut seen = Vec::new();
        for count in [BATCH, 9] {
            assert_eq!(received.take(server.as_fd()).unwrap(), count);
            assert_eq!(received.iter().count(), count);
            for (bytes, route) in received.iter() {
                assert_eq!(route, Route { from: client.local_addr().unwrap(), to });
                seen.push(String::from_utf8(bytes.to_vec()).unwrap());
                answers.add(route, |out| out.extend([&b"re "[..], bytes].concat()));
            }
        }
        let mut wanted: Vec<String> = (0..BATCH + 8).map(|number| number.to_string()).collect();
        wanted.push("longer t".into());
        assert_eq!(seen, wanted);
        answers.send(server.as_fd());
        let mut bytes = [0; 64];
        for text in wanted {
            let (length, from) = client.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..length], from.ip()), (format!("re {text}").as_bytes(), to));
        }
    }
}

#[test]
fn what_cannot_go_holds_up_nothing() {
    let (server, client) = pair(false);
    let from = client.local_addr().unwrap();
    let mut answers = Answers::default();
    let good = Route { from, to: Ipv4Addr::LOCALHOST.into() };
    // From an address that is not this host's, to nobody, and far too long.
    answers.add(Route { to: Ipv4Addr::new(192, 0, 2, 1).into(), ..good }, |out| out.extend(b"foreign"));
    answers.add(Route { from: "0.0.0.0:0".parse().unwrap(), ..good }, |out| out.extend(b"nobody"));
    answers.add(good, |out| out.extend([0; 70_000]));
    answers.add(good, |out| out.extend(b"good"));
    answers.send(server.as_fd());
    let mut bytes = [0; 64];
    let length = client.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"good");
    answers.send(server.as_fd());
}

#[test]
fn who_does_not_say_where_it_went_is_left_out() {
    let (server, client) = pair(false);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"x", silent.local_addr().unwrap()).unwrap();
    let mut received = Received::new(8);
    assert_eq!(received.take(silent.as_fd()).unwrap(), 1);
    assert_eq!(received.iter().count(), 0);
    drop(server);
}

#[test]
fn addresses_are_written_as_they_are_read() {
    for text in ["192.0.2.1:53", "[2001:db8::1]:65535"] {
        let (address, mut name) = (text.parse().unwrap(), [0; NAME]);
        let length = write_address(&mut name, address);
        assert_eq!(super::address(&name, length as usize), Some(address));
        assert_eq!(super::address(&name, 2), None);
    }
    assert_eq!(super::address(&[0; NAME], NAME), None);
    assert_eq!(destination(&[0; CONTROL], CONTROL), None);
    assert_eq!(destination(&[], 0), None);
}
