//! What is taken of a resolver's reply.

use super::*;
use hickory_proto::op::{MessageType, OpCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
use hickory_proto::rr::{Name, Record};

fn question(kind: RecordType) -> Question {
    Question::new(HostName::parse("www.a.example").unwrap(), kind, 7, [0x55; 32])
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn cname(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 900, RData::CNAME(CNAME(name(target))))
}

fn a(owner: &str, last: u8) -> Record {
    Record::from_rdata(name(owner), 60, RData::A(A::new(192, 0, 2, last)))
}

/// A reply to `question` with these answers.
fn reply(question: &Question, answers: Vec<Record>) -> Message {
    let asked = Message::from_vec(question.message()).unwrap();
    let mut reply = Message::new(7, MessageType::Response, OpCode::Query);
    reply.add_queries(asked.queries.iter().cloned());
    reply.add_answers(answers);
    reply
}

fn read(kind: RecordType, answers: Vec<Record>) -> Result<Outcome, ReplyError> {
    let question = question(kind);
    question.read(&reply(&question, answers).to_vec().unwrap(), TTLS)
}

#[test]
fn a_question_has_the_names_case_from_us() {
    let question = question(RecordType::A);
    let message = Message::from_vec(question.message()).unwrap();
    let asked = &message.queries[0];
    assert_eq!((asked.query_type(), u16::from(asked.query_class())), (RecordType::A, 1));
    assert_eq!(asked.name().to_ascii(), "wWw.a.eXaMpLe.");
    assert!(message.metadata.recursion_desired && message.metadata.id == 7);
    assert_eq!(message.edns.unwrap().max_payload(), MAX_DATAGRAM);
    let lower = Question::new(HostName::parse("WWW.a.example").unwrap(), RecordType::A, 7, [0; 32]);
    assert!(lower.message()[12..].starts_with(b"\x03www\x01a\x07example\0"));
    let long = Question::new(HostName::parse(&["a"; 127].join(".")).unwrap(), RecordType::A, 7, [0xff; 32]);
    assert!(Message::from_vec(long.message()).is_ok());
}

#[test]
fn a_reply_to_another_question_is_none() {
    let question = question(RecordType::A);
    let good = reply(&question, vec![a("www.a.example.", 1)]).to_vec().unwrap();
    assert_eq!(question.read(&good, TTLS).unwrap().addresses, [IpAddr::from([192, 0, 2, 1])]);
    // The id, a query, an update, no question, the case of a letter, another type, another class.
    for (place, byte) in
        [(0, 1), (1, 8), (2, 0), (2, 0xa8), (5, 0), (5, 2), (13, b'W'), (17, b'b'), (28, 28), (30, 3)]
    {
        let mut other = good.clone();
        assert_ne!(other[place], byte, "{place}");
        other[place] = byte;
        assert_eq!(question.read(&other, TTLS), Err(ReplyError::NotOurs), "{place}");
    }
    let mut cut = good.clone();
    cut[2] |= 2;
    assert_eq!(question.read(&cut, TTLS), Err(ReplyError::Truncated));
    for end in 0..31 {
        assert_eq!(question.read(&good[..end], TTLS), Err(ReplyError::NotOurs));
    }
    for end in 31..good.len() {
        assert!(matches!(question.read(&good[..end], TTLS), Err(ReplyError::Form(_))));
    }
    let mut refused = reply(&question, vec![]);
    refused.metadata.response_code = ResponseCode::Refused;
    let refused = question.read(&refused.to_vec().unwrap(), TTLS);
    assert_eq!(refused, Err(ReplyError::Code(ResponseCode::Refused)));
}

#[test]
fn only_what_hangs_on_the_question_is_taken() {
    let outcome = read(
        RecordType::A,
        vec![
            a("evil.example.", 66),
            a("edge.cdn.example.", 1),
            cname("EDGE.a.example.", "Edge.CDN.example."),
            cname("www.a.example.", "edge.a.example."),
            cname("other.example.", "evil.example."),
            a("www.a.example.", 67),
            a("edge.cdn.example.", 1),
            a("edge.cdn.example.", 2),
            Record::from_rdata(
                name("edge.cdn.example."),
                1,
                RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            ),
            Record::from_rdata(name("edge.cdn.example."), 1, RData::TXT(TXT::new(vec!["x".into()]))),
        ],
    )
    .unwrap();
    let chain: Vec<&str> = outcome.chain.iter().map(HostName::as_str).collect();
    assert_eq!(chain, ["www.a.example", "edge.a.example", "edge.cdn.example"]);
    assert_eq!(outcome.addresses, [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
    assert!(outcome.exists && outcome.data.is_empty() && outcome.ttl == 60);
}

#[test]
fn odd_aliases_are_refused() {
    let first = || cname("www.a.example.", "b.example.");
    assert_eq!(
        read(RecordType::A, vec![first(), cname("www.a.example.", "c.example.")]),
        Err(ReplyError::Circle)
    );
    assert_eq!(
        read(RecordType::A, vec![first(), cname("b.example.", "www.a.example.")]),
        Err(ReplyError::Circle)
    );
    assert_eq!(read(RecordType::A, vec![cname("www.a.example.", "WWW.a.example.")]), Err(ReplyError::Circle));
    assert!(read(RecordType::A, vec![first(), first(), a("b.example.", 1)]).is_ok());
    assert_eq!(
        read(RecordType::A, vec![cname("www.a.example.", "localhost.")]),
        Err(ReplyError::Alias(HostError::Own))
    );
    assert_eq!(
        read(RecordType::A, vec![cname("www.a.example.", "127.0.0.1.")]),
        Err(ReplyError::Alias(HostError::Address))
    );
    assert_eq!(
        read(RecordType::A, vec![cname("www.a.example.", ".")]),
        Err(ReplyError::Alias(HostError::Empty))
    );
    let long = |count: usize| {
        let links =
            (1..count).map(|link| cname(&format!("n{link}.example."), &format!("n{}.example.", link + 1)));
        read(RecordType::A, std::iter::once(cname("www.a.example.", "n1.example.")).chain(links).collect())
    };
    assert_eq!(long(11).unwrap().chain.len(), 12);
    assert_eq!(long(12), Err(ReplyError::Chain));
}

#[test]
fn nothing_and_no_name_hold_as_long_as_the_zone_says() {
    let soa = SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, 30);
    for (code, exists) in [(ResponseCode::NoError, true), (ResponseCode::NXDomain, false)] {
        let question = question(RecordType::AAAA);
        let mut reply = reply(&question, vec![cname("www.a.example.", "b.example."), a("b.example.", 1)]);
        reply.metadata.response_code = code;
        let bare = question.read(&reply.to_vec().unwrap(), TTLS).unwrap();
        assert_eq!((bare.exists, bare.addresses.len(), bare.ttl), (exists, 0, TTLS.least));
        reply.add_authority(Record::from_rdata(name("example."), 900, RData::SOA(soa.clone())));
        assert_eq!(question.read(&reply.to_vec().unwrap(), TTLS).unwrap().ttl, 30);
    }
}

#[test]
fn times_are_bounded() {
    for (ttl, bounded) in
        [(0, 5), (5, 5), (299, 299), (86_400, 300), (0x7fff_ffff, 300), (0x8000_0000, 5), (u32::MAX, 5)]
    {
        let record = Record::from_rdata(name("www.a.example."), ttl, RData::A(A::new(192, 0, 2, 1)));
        assert_eq!(read(RecordType::A, vec![record]).unwrap().ttl, bounded, "{ttl}");
    }
}

#[test]
fn listed_types_come_with_their_data_alone() {
    let text = Record::from_rdata(name("www.a.example."), 60, RData::TXT(TXT::new(vec!["hi".into()])));
    assert_eq!(read(RecordType::TXT, vec![text, a("www.a.example.", 1)]).unwrap().data, [b"\x02hi".to_vec()]);
    let mail = Record::from_rdata(name("www.a.example."), 60, RData::MX(MX::new(1, name("www.a.example."))));
    let outcome = read(RecordType::MX, vec![mail]).unwrap();
    assert_eq!(outcome.data, [b"\0\x01\x03www\x01a\x07example\0".to_vec()]);
}

/// A reply to a question of that type, whose records hold these bytes; what of it is taken.
fn taken(kind: u16, data: &[&[u8]]) -> Result<Vec<Vec<u8>>, ReplyError> {
    let question = question(kind.into());
    let mut message = reply(&question, vec![]).to_vec().unwrap();
    message[7] = u8::try_from(data.len()).unwrap();
    for data in data {
        message.extend([&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 60]].concat());
        message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(*data);
    }
    question.read(&message, TTLS).map(|outcome| outcome.data)
}

#[test]
fn data_is_written_anew() {
    // `www.a.example`, which is where the question has it, and `a.example`.
    const LONG: &[u8] = b"\x03www\x01a\x07example\0";
    const SHORT: &[u8] = b"\x01a\x07example\0";
    const SOA: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5];
    for (kind, sent, wanted) in [
        (2, b"\xc0\x0c".to_vec(), LONG.to_vec()),
        (12, b"\x02NS\xc0\x10".to_vec(), [&b"\x02ns"[..], SHORT].concat()),
        (15, b"\0\x05\xc0\x10".to_vec(), [&b"\0\x05"[..], SHORT].concat()),
        (15, b"\0\0\0".to_vec(), b"\0\0\0".to_vec()),
        (33, b"\0\x01\0\x02\x1f\x90\xc0\x0c".to_vec(), [&b"\0\x01\0\x02\x1f\x90"[..], LONG].concat()),
        (6, [&b"\xc0\x0c\x03a.b\xc0\x10"[..], SOA].concat(), [LONG, b"\x03a.b", SHORT, SOA].concat()),
        (
            35,
            b"\0\x01\0\x02\x01u\x03sip\x04!^!x\xc0\x10".to_vec(),
            [&b"\0\x01\0\x02\x01u\x03sip\x04!^!x"[..], SHORT].concat(),
        ),
        (16, b"\x02hi\0\x01\xff".to_vec(), b"\x02hi\0\x01\xff".to_vec()),
        (44, b"\x04\x02abc".to_vec(), b"\x04\x02abc".to_vec()),
        (52, b"\x03\x01\x01abc".to_vec(), b"\x03\x01\x01abc".to_vec()),
        (257, b"\0\x05issueca.example".to_vec(), b"\0\x05issueca.example".to_vec()),
    ] {
        // Each once, and nothing of another class or name is there.
        assert_eq!(taken(kind, &[&sent, &sent]), Ok(vec![wanted]), "{kind}");
    }
}

#[test]
fn data_that_is_none_is_refused() {
    let bad: [(u16, &[u8]); 10] = [
        (15, b"\0\x05"),
        (15, b"\0\x05\xc0\x0c\0"),
        (15, b"\0\x05\xc0\xff"),
        (33, b"\0\x01\0\x02\xc0\x0c"),
        (16, b"\x05hi"),
        (6, b"\xc0\x0c\xc0\x0c"),
        (2, b""),
        (99, b"\x02hi"),
        (10, b"x"),
        (65_280, b"x"),
    ];
    for (kind, data) in bad {
        assert!(matches!(taken(kind, &[data]), Err(ReplyError::Form(_))), "{kind} {data:?}");
    }
    for target in [&b"\x09localhost\0"[..], b"\x03127\x010\x010\x011\0", b"\x03a.b\0", b"\x02a\0\0"] {
        let service = [&b"\0\x01\0\x02\x1f\x90"[..], target].concat();
        assert!(matches!(taken(33, &[&service]), Err(ReplyError::Target(_))), "{target:?}");
        assert!(
            matches!(taken(15, &[&[&b"\0\x05"[..], target].concat()]), Err(ReplyError::Target(_))),
            "{target:?}"
        );
    }
}

#[test]
fn data_is_bounded() {
    let text = |byte: u8| [&[200][..], &[byte; 200]].concat();
    let all: Vec<Vec<u8>> = (0..64).map(text).collect();
    let some = |count: usize| all[..count].iter().map(Vec::as_slice).collect::<Vec<_>>();
    assert_eq!(taken(16, &some(40)).unwrap().len(), 40);
    assert_eq!(taken(16, &some(41)), Err(ReplyError::TooMuch));
}

#[test]
fn a_padded_question_is_as_long_as_another() {
    let padded = |name: &str| {
        let question = Question::new(HostName::parse(name).unwrap(), RecordType::A, 7, [0; 32]).padded();
        let message = Message::from_vec(question.message()).unwrap();
        assert_eq!(message.queries.len(), 1);
        let answer = reply(&question, vec![]).to_vec().unwrap();
        assert!(question.read(&answer, TTLS).is_ok());
        question.message().len()
    };
    assert_eq!((padded("a"), padded("a.rather.long.name.example")), (128, 128));
    assert_eq!(padded(&["a"; 127].join(".")), 384);
}

#[test]
fn compression_that_goes_in_circles_ends() {
    let question = question(RecordType::A);
    let mut message = reply(&question, vec![]).to_vec().unwrap();
    message[7] = 1;
    let begin = u8::try_from(message.len()).unwrap();
    for pointer in [[0xc0, begin], [0xc0, begin + 2], [0xff, 0xff]] {
        let bytes = [&message[..], &pointer, &[0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]].concat();
        assert!(matches!(question.read(&bytes, TTLS), Err(ReplyError::Form(_))), "{pointer:?}");
    }
    // As many records as fit, each with a name of pointers to pointers.
    message[6..8].copy_from_slice(&4000_u16.to_be_bytes());
    for _ in 0..4000 {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
    }
    assert_eq!(question.read(&message, TTLS).unwrap().addresses.len(), 1);
}

proptest! {
    #[test]
    fn replies_with_a_byte_changed(place in 12_usize..200, byte: u8) {
        let question = Question::new(HostName::parse("a.example").unwrap(), RecordType::A, 7, [0; 32]);
        let mut message = reply(&question, vec![cname("a.example.", "b.example."), a("b.example.", 1)]).to_vec().unwrap();
        if place < message.len() {
            message[place] = byte;
        }
        question.read(&message, TTLS).ok();
        crate::exercise::dns_reply(&message[6..]);
    }
}
