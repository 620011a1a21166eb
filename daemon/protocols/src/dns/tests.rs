use super::*;
use std::net::IpAddr;

use agentd_policy::dns_type::DnsType;
use agentd_policy::hosts::{HostError, HostName};
use hickory_proto::op::{Message, Query as Asked, ResponseCode};
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::TXT;
use proptest::prelude::*;

mod replies;

const TTLS: Ttls = Ttls { least: 5, most: 300 };

/// A query as a client writes it.
fn query(labels: &[&[u8]], kind: u16, class: u16, option: &[u8]) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!option.is_empty())];
    for label in labels {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(*label);
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(class.to_be_bytes());
    message.extend(option);
    message
}

fn edns(payload: u16, version: u8, options: &[u8]) -> Vec<u8> {
    let ([a, b], [c, d]) = (payload.to_be_bytes(), u16::try_from(options.len()).unwrap().to_be_bytes());
    [&[0, 0, 41, a, b, 0, version, 0x80, 0, c, d][..], options].concat()
}

fn code(message: &[u8]) -> Option<u16> {
    let reply = match Query::read(message) {
        Err(malformed) => malformed.answer()?,
        Ok(query) => panic!("{query:?}"),
    };
    assert_eq!(reply[..2], message[..2]);
    Some(u16::from(Message::from_vec(&reply).unwrap().metadata.response_code))
}

#[test]
fn a_query_is_read_with_its_case_and_its_size() {
    let message = query(&[b"WwW", b"eXample", b"org"], 28, 1, &edns(4096, 0, &[0, 10, 0, 2, 1, 2]));
    let query = Query::read(&message).unwrap();
    assert_eq!(query.name().unwrap().as_str(), "www.example.org");
    assert_eq!((query.kind, query.shown().as_str()), (RecordType::AAAA, "WwW.eXample.org."));
    let reply = query.answer(Answer::NoName, Transport::Udp);
    assert_eq!(reply[12..33], message[12..33]);
    let read = Message::from_vec(&reply).unwrap();
    assert_eq!(read.metadata.response_code, ResponseCode::NXDomain);
    assert!(read.metadata.recursion_available && read.metadata.recursion_desired);
    assert_eq!(read.edns.unwrap().max_payload(), MAX_DATAGRAM);
}

#[test]
fn messages_that_are_no_query_of_ours() {
    let good = query(&[b"a", b"example"], 1, 1, &[]);
    let with = |place: usize, byte: u8| {
        let mut message = good.clone();
        message[place] = byte;
        code(&message)
    };
    assert_eq!(with(2, 0x81), None);
    assert_eq!(code(&good[..11]), None);
    assert_eq!(with(2, 0x11), Some(code::NOT_IMPLEMENTED));
    assert_eq!(with(2, 0x29), Some(code::NOT_IMPLEMENTED));
    for (place, byte) in [(5, 0), (5, 2), (4, 1), (7, 1), (9, 1), (11, 1), (11, 2), (10, 1), (2, 3)] {
        assert_eq!(with(place, byte), Some(code::FORM), "{place}");
    }
    // A pointer, to itself too; label types that are none; the end in the midst of it.
    for (place, byte) in [(12, 0xc0), (14, 0xc0), (12, 0x40), (12, 0x80), (12, 63)] {
        assert_eq!(with(place, byte), Some(code::FORM), "{place}");
    }
    for end in 12..good.len() {
        assert_eq!(code(&good[..end]), Some(code::FORM));
    }
    assert_eq!(code(&[&good[..], &[0]].concat()), Some(code::FORM));
    assert_eq!(code(&query(&[&[b'a'; 63][..]; 4], 1, 1, &[])), Some(code::FORM));
    assert_eq!(code(&query(&[b"version", b"bind"], 16, 3, &[])), Some(code::REFUSED));
    assert_eq!(code(&query(&[b"a"], 1, 255, &[])), Some(code::REFUSED));
    assert_eq!(code(&query(&[b"a"], 1, 1, &edns(512, 1, &[]))), Some(code::BAD_VERSION));
    for option in [&edns(512, 0, &[0, 1, 0, 9])[..], &edns(512, 0, &[1]), &[1; 11], &edns(512, 0, &[])[..9]] {
        assert_eq!(code(&query(&[b"a"], 1, 1, option)), Some(code::FORM));
    }
    assert_eq!(
        code(&query(&[b"a"], 1, 1, &edns(512, 0, &[&[0, 12, 0x10, 0][..], &[0; 4096]].concat()))),
        Some(code::FORM)
    );
}

#[test]
fn names_that_are_no_hosts_are_known_as_such() {
    let name = |labels: &[&[u8]]| Query::read(&query(labels, 1, 1, &[])).unwrap();
    assert_eq!(name(&[b"a.evil", b"example"]).name(), Err(HostError::Character('.')));
    assert_eq!(name(&[b"a.evil", b"ex\0\xff"]).shown(), "a\\046evil.ex\\000\\255.");
    assert_eq!(name(&[b"127", b"0", b"0", b"1"]).name(), Err(HostError::Address));
    assert_eq!(name(&[b"LOCALHOST"]).name(), Err(HostError::Own));
    assert_eq!(name(&[]).name(), Err(HostError::Empty));
    assert_eq!(name(&[]).shown(), ".");
    assert!(name(&[b"_x", b"a-"]).name().is_ok());
}

#[test]
fn types_are_judged() {
    let listed = [DnsType::Txt, DnsType::Srv];
    let judge = |kind| disposition(kind, &listed);
    assert_eq!(judge(RecordType::A), Disposition::Addresses);
    assert_eq!(judge(RecordType::AAAA), Disposition::Addresses);
    assert_eq!((judge(RecordType::TXT), judge(RecordType::SRV)), (Disposition::Data, Disposition::Data));
    assert_eq!(
        (judge(RecordType::HTTPS), judge(RecordType::SVCB)),
        (Disposition::Nothing, Disposition::Nothing)
    );
    for kind in [0, 5, 10, 15, 41, 249, 250, 251, 252, 253, 254, 255, 65_280] {
        assert_eq!(judge(kind.into()), Disposition::Refused, "{kind}");
    }
    for kind in DnsType::ALL {
        assert_eq!(disposition(kind.number().into(), &DnsType::ALL), Disposition::Data, "{kind}");
        assert_eq!(RecordType::from(kind.number()).to_string(), kind.as_str());
        assert_eq!(disposition(kind.number().into(), &[]), Disposition::Refused, "{kind}");
    }
}

#[test]
fn what_means_the_same_has_the_same_key() {
    let key = |labels: &[&[u8]], kind| Query::read(&query(labels, kind, 1, &[])).unwrap().key();
    let name = HostName::parse("www.a.example").unwrap();
    let one = Key::new(&name, RecordType::A);
    assert_eq!(one.as_bytes(), b"\x03www\x01a\x07example\0\0\x01");
    assert_eq!(key(&[b"WwW", b"a", b"EXAMPLE"], 1).as_bytes(), one.as_bytes());
    for other in [key(&[b"www", b"a", b"example"], 28), key(&[b"www.a", b"example"], 1), key(&[b"www"], 1)] {
        assert_ne!(other.as_bytes(), one.as_bytes());
    }
    let long = vec!["a"; 127].join(".");
    assert_eq!(Key::new(&HostName::parse(&long).unwrap(), RecordType::A).as_bytes().len(), 257);
}

#[test]
fn answers_are_what_a_client_reads() {
    let addresses: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    for (kind, expected) in [(1, "192.0.2.1"), (28, "2001:db8::1")] {
        let query = Query::read(&query(&[b"A", b"example"], kind, 1, &[])).unwrap();
        let reply =
            Message::from_vec(&query.answer(Answer::Addresses(&addresses, 60), Transport::Udp)).unwrap();
        let [record] = reply.answers.as_slice() else { panic!("{reply:?}") };
        assert_eq!((record.name.to_ascii().as_str(), record.ttl), ("A.example.", 60));
        assert_eq!(record.data.to_string(), expected);
        assert!(reply.edns.is_none());
    }
    let query = Query::read(&query(&[b"a"], 16, 1, &[])).unwrap();
    let reply = query.answer(Answer::Data(&[b"\x02hi".to_vec()], 9), Transport::Udp);
    assert_eq!(Message::from_vec(&reply).unwrap().answers[0].data, RData::TXT(TXT::new(vec!["hi".into()])));
}

#[test]
fn a_client_that_speaks_edns_is_told_why() {
    let with = Query::read(&query(&[b"a"], 1, 1, &edns(100, 0, &[]))).unwrap();
    let long = "ü".repeat(300);
    for (answer, rcode, info, text) in [
        (Answer::Denied("no rule"), 3, 15, "no rule".to_owned()),
        (Answer::Refused("type"), 5, 18, "type".to_owned()),
        (Answer::Failed(&long), 2, 22, "ü".repeat(100)),
    ] {
        let reply = with.answer(answer, Transport::Udp);
        assert_eq!(u16::from(reply[3] & 0xf), rcode);
        let tail = [&[0, info][..], text.as_bytes()].concat();
        let head = [0, 15, 0, u8::try_from(tail.len()).unwrap()];
        assert!(reply.ends_with(&[&head[..], &tail].concat()), "{reply:?}");
        Message::from_vec(&reply).unwrap();
    }
    let without = Query::read(&query(&[b"a"], 1, 1, &[])).unwrap();
    assert_eq!(without.answer(Answer::Denied("no rule"), Transport::Udp).len(), 19);
}

#[test]
fn what_does_not_fit_is_asked_for_by_tcp() {
    let addresses: Vec<IpAddr> = (0..80).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    let answer = Answer::Addresses(&addresses, 60);
    for (option, limit) in [(vec![], 512), (edns(100, 0, &[]), 512), (edns(65_535, 0, &[]), 1232)] {
        let query = Query::read(&query(&[b"a", b"example"], 1, 1, &option)).unwrap();
        let cut = query.answer(answer, Transport::Udp);
        let read = Message::from_vec(&cut).unwrap();
        assert!(cut.len() <= limit && read.metadata.truncation && read.answers.is_empty());
        assert_eq!(read.edns.is_some(), !option.is_empty());
        let whole = Message::from_vec(&query.answer(answer, Transport::Tcp)).unwrap();
        assert!(!whole.metadata.truncation && whole.answers.len() == 80);
    }
}

proptest! {
    #[test]
    fn what_we_read_a_library_reads_alike(bytes in prop::collection::vec(any::<u8>(), 0..80), place in 0_usize..40, byte: u8) {
        crate::exercise::dns_query(&bytes);
        crate::exercise::dns_reply(&bytes);
        let mut message = query(&[b"ab", b"Example"], 1, 1, &edns(1400, 0, &[0, 3, 0, 1, 9]));
        if place < message.len() {
            message[place] = byte;
        }
        crate::exercise::dns_query(&message);
        if let Ok(query) = Query::read(&message) {
            let theirs = Message::from_vec(&message).unwrap();
            let asked: &Asked = &theirs.queries[0];
            prop_assert_eq!(asked.query_type(), query.kind);
            if let Ok(name) = query.name() {
                let (asked_for, key) = (query.key(), Key::new(&name, query.kind));
                prop_assert_eq!(asked_for.as_bytes(), key.as_bytes());
                prop_assert_eq!(asked.name().to_ascii().to_lowercase(), format!("{name}."));
            }
        }
    }
}
