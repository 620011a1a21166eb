//! Checks of the DNS readers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use agentd_policy::hosts::HostName;
use hickory_proto::op::Message;

use crate::dns::{Answer, Outcome, Query, Question, RecordType, Transport, Ttls};

const TTLS: Ttls = Ttls { least: 1, most: 60 };

/// A query, and every answer to it: what is read here the library reads alike, and it reads what is answered.
pub fn dns_query(bytes: &[u8]) {
    let query = match Query::read(bytes) {
        Ok(query) => query,
        Err(malformed) => {
            if let Some(reply) = malformed.answer() {
                assert!(reply.len() <= bytes.len().max(12 + 11) && reply[..2] == bytes[..2]);
                understood(&reply);
            }
            return;
        }
    };
    // The library reads options that are ours to ignore.
    let theirs = match Message::from_vec(bytes) {
        Ok(theirs) => theirs,
        Err(error) => {
            assert!(bytes[11] == 1, "{error}");
            understood(&query.answer(Answer::Nothing, Transport::Tcp))
        }
    };
    let [asked] = theirs.queries.as_slice() else { panic!("another number of questions") };
    assert_eq!(asked.query_type(), query.kind);
    if let Ok(name) = query.name() {
        assert_eq!(asked.name().to_ascii().to_lowercase(), format!("{name}."));
        assert_eq!(query.shown().to_lowercase(), format!("{name}."));
    }
    let addresses: Vec<IpAddr> = (0..16)
        .flat_map(|last| {
            [IpAddr::from([192, 0, 2, last]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()])]
        })
        .collect();
    for answer in [
        Answer::Addresses(&addresses, 60),
        Answer::Nothing,
        Answer::NoName,
        Answer::Denied("why"),
        Answer::Refused("ü"),
        Answer::Failed(""),
    ] {
        answered(&query, answer, bytes);
    }
}

fn answered(query: &Query, answer: Answer<'_>, asked: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let reply = query.answer(answer, transport);
        assert!(transport == Transport::Tcp || reply.len() <= 1232);
        assert_eq!(reply[..2], asked[..2]);
        let reply = understood(&reply);
        assert_eq!(reply.queries.len(), 1);
        assert!(!reply.metadata.truncation || transport == Transport::Udp);
    }
}

fn understood(message: &[u8]) -> Message {
    Message::from_vec(message).unwrap_or_else(|error| panic!("{error}: {message:?}"))
}

/// A resolver's reply, as it is and behind the header and question that are asked for: what is taken of it is in form
/// and can be answered.
pub fn dns_reply(bytes: &[u8]) {
    let Ok(name) = HostName::parse("a.example") else { return };
    for kind in [1, 28, 16, 2, 12, 15, 33, 6, 35, 43, 44, 48, 52, 64, 65, 99, 257, 65_280] {
        let question = Question::new(name.clone(), RecordType::from(kind), 7, [0; 32]);
        if let Ok(outcome) = question.read(bytes, TTLS) {
            taken(&name, kind, &outcome);
        }
        // The same records behind the right question.
        let mut reply = question.message()[..27].to_vec();
        reply[2] |= 0x80;
        for (place, byte) in bytes.iter().take(6).enumerate() {
            reply[6 + place] = if place % 2 == 0 { 0 } else { *byte };
        }
        reply.extend(bytes.iter().skip(6));
        if let Ok(outcome) = question.read(&reply, TTLS) {
            taken(&name, kind, &outcome);
        }
    }
}

fn taken(name: &HostName, kind: u16, outcome: &Outcome) {
    assert!((1..=60).contains(&outcome.ttl));
    assert_eq!(outcome.chain.first(), Some(name));
    assert_eq!(outcome.chain.iter().collect::<BTreeSet<_>>().len(), outcome.chain.len());
    assert!(outcome.chain.len() <= 12 && outcome.addresses.len() + outcome.data.len() <= 64);
    for name in &outcome.chain {
        assert_eq!(HostName::parse(name.as_str()).as_ref(), Ok(name));
    }
    assert_eq!(outcome.addresses.iter().collect::<BTreeSet<_>>().len(), outcome.addresses.len());
    assert!(outcome.addresses.iter().all(|address| kind == if address.is_ipv4() { 1 } else { 28 }));
    assert!(outcome.exists || (outcome.addresses.is_empty() && outcome.data.is_empty()));
    let asked =
        [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 7][..], b"example\0", &kind.to_be_bytes(), &[0, 1]]
            .concat();
    let Ok(query) = Query::read(&asked) else { panic!("a query that was not read") };
    answered(&query, Answer::Addresses(&outcome.addresses, outcome.ttl), &asked);
    if !outcome.data.is_empty() {
        answered(&query, Answer::Data(&outcome.data, outcome.ttl), &asked);
    }
}
