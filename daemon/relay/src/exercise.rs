//! Each reader with whatever bytes, for property tests and fuzzers: none may panic, and what each promises of itself is
//! asserted.

use agentd_policy::hosts::HostName;

use crate::dns::{Answer, Query, Question, RecordType, Transport, Ttls};
use crate::hello::{Progress, Reader, Reply};
use crate::http::{Connection, Mode, Step, sniff};
use crate::proxy::Authority;
use crate::socks;

/// TLS: in one piece and byte by byte the same is read; and as a server's reply.
pub fn hello(bytes: &[u8]) {
    let whole = Reader::new().feed(bytes);
    let mut reader = Reader::new();
    let mut steps = bytes.iter().map(|byte| reader.feed(&[*byte]));
    let piecewise = steps.find(|progress| *progress != Progress::NeedMore).unwrap_or(Progress::NeedMore);
    match (whole, piecewise) {
        // In one piece a hello and what follows it in the record are seen at once.
        (Progress::Malformed(_), Progress::Malformed(_)) => {}
        (whole, piecewise) => assert_eq!(whole, piecewise),
    }
    let _ = Reply::new().feed(bytes);
}

/// HTTP, from a client to a server and to a proxy, and from a server.
pub fn http(bytes: &[u8]) {
    let _ = sniff(bytes);
    for mode in [Mode::Origin, Mode::Proxy] {
        let mut connection = Connection::new(mode);
        let mut rest = bytes;
        loop {
            rest = match connection.client(rest) {
                Ok(Step::Head(head)) => &rest[head.len..],
                Ok(Step::Body(len)) => {
                    assert_ne!(len, 0);
                    &rest[len..]
                }
                Ok(Step::NeedMore | Step::Held | Step::Opaque) | Err(_) => break,
            };
        }
        connection.server(bytes);
        let _ = connection.client(rest);
    }
}

/// `host:port` in each place where it can be.
pub fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = Authority::connect(&text);
    if let Ok((_, path)) = Authority::absolute(&text) {
        assert!(path <= text.len());
    }
    if let Ok(authority) = Authority::parse(&text) {
        assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
    }
}

/// SOCKS: what more bytes follow changes nothing of what was read.
pub fn socks(bytes: &[u8]) {
    if let Ok(Some(len)) = socks::greeting(bytes) {
        assert_eq!(socks::greeting(&bytes[..len]), Ok(Some(len)));
    }
    if let Ok(Some((host, port, len))) = socks::request(bytes) {
        assert_eq!(socks::request(&bytes[..len]), Ok(Some((host, port, len))));
    }
}

/// A query, and every answer to it.
pub fn dns_query(bytes: &[u8]) {
    let query = match Query::read(bytes) {
        Ok(query) => query,
        Err(malformed) => {
            assert!(malformed.answer().is_none_or(|reply| reply.len() >= 12));
            return;
        }
    };
    let _ = query.shown();
    let addresses = [[192, 0, 2, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
    for answer in
        [Answer::Addresses(&addresses, 60), Answer::NoName, Answer::Denied("why"), Answer::Failed("")]
    {
        let reply = query.answer(answer, Transport::Udp);
        assert!(reply.len() <= 1232 && reply[..2] == bytes[..2]);
    }
}

/// A resolver's reply to a question that fits it, as far as that can be.
pub fn dns_reply(bytes: &[u8]) {
    const TTLS: Ttls = Ttls { least: 1, most: 60 };
    let Ok(name) = HostName::parse("a.example") else { return };
    for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT] {
        let question = Question::new(name.clone(), kind, 7, [0; 32]);
        let _ = question.read(bytes, TTLS);
        // The same records behind the right question.
        let mut reply = question.message()[..27].to_vec();
        reply[2] |= 0x80;
        for (place, byte) in bytes.iter().take(6).enumerate() {
            reply[6 + place] = *byte & 3;
        }
        reply.extend(bytes.iter().skip(6));
        if let Ok(outcome) = question.read(&reply, TTLS) {
            assert!((1..=60).contains(&outcome.ttl) && outcome.chain.first() == Some(&name));
        }
    }
}
