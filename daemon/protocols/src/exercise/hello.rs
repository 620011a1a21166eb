//! Checks of the ClientHello reader.

use agentd_policy::hosts::HostName;

use super::splits;
use crate::hello::{ClientHello, MAX_BYTES, Progress, Reader, Reply, Turn, Why};

const HEADER: usize = 5;

/// A client's first bytes, and those after a HelloRetryRequest: whatever the pieces the same is read, nothing is
/// claimed that was not there, and other records around the same message change nothing. And as a server's.
pub fn hello(bytes: &[u8]) {
    let [whole, ..] = splits(bytes).map(|pieces| read(Reader::new(), &pieces));
    same_in_pieces(Reader::new, bytes, &whole);
    if let Progress::Hello(hello, len) = whole {
        assert!(len <= bytes.len() && len <= MAX_BYTES);
        assert_eq!(read(Reader::new(), &[&bytes[..len]]), Progress::Hello(hello.clone(), len));
        assert_eq!(read(Reader::new(), &[&bytes[..len - 1]]), Progress::NeedMore);
        in_form(&hello);
        other_records(&hello, &bytes[..len]);
        second(&hello, &bytes[len..]);
    }
    let [turn, bytewise, pieces] = splits(bytes).map(|pieces| {
        let mut reply = Reply::new();
        let mut turns = pieces.iter().map(|piece| reply.feed(piece));
        turns.find(|turn| *turn != Turn::NeedMore).unwrap_or(Turn::NeedMore)
    });
    assert_eq!([bytewise, pieces], [turn; 2]);
}

fn read(mut reader: Reader, pieces: &[&[u8]]) -> Progress {
    for piece in pieces {
        let progress = reader.feed(piece);
        if progress != Progress::NeedMore {
            assert_eq!(reader.feed(b"x"), Progress::Malformed(Why::Ended));
            return progress;
        }
    }
    Progress::NeedMore
}

fn same_in_pieces(reader: impl Fn() -> Reader, bytes: &[u8], whole: &Progress) {
    for pieces in splits(bytes) {
        assert_eq!(read(reader(), &pieces), *whole);
    }
}

fn in_form(hello: &ClientHello) {
    if let Some(name) = &hello.name {
        assert_eq!(HostName::parse(name.as_str()).as_ref(), Ok(name));
    }
    assert!(hello.protocols.iter().all(|protocol| !protocol.is_empty()));
}

/// The message of `bytes` in records of another length.
fn other_records(hello: &ClientHello, bytes: &[u8]) {
    let (mut message, mut rest) = (Vec::new(), bytes);
    while let [_, _, _, high, low, payload @ ..] = rest {
        let (payload, later) = payload.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend_from_slice(payload);
        rest = later;
    }
    assert!(rest.is_empty());
    for most in [100, 1 << 14] {
        let records: Vec<u8> = message.chunks(most).flat_map(|part| record(22, part)).collect();
        assert_eq!(read(Reader::new(), &[&records]), Progress::Hello(hello.clone(), records.len()));
        // What a client that was asked again sends besides.
        let again = [record(20, &[1]), record(23, &[0; 40]), records].concat();
        let expected = Progress::Hello(hello.clone(), again.len());
        same_in_pieces(|| Reader::after_retry(hello.clone()), &again, &expected);
    }
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[kind, 3, 1, high, low], payload].concat()
}

/// What comes after the first hello, as after a HelloRetryRequest.
fn second(first: &ClientHello, bytes: &[u8]) {
    let whole = read(Reader::after_retry(first.clone()), &[bytes]);
    same_in_pieces(|| Reader::after_retry(first.clone()), bytes, &whole);
    match whole {
        Progress::Hello(hello, len) => {
            assert!(len >= HEADER && len <= bytes.len() && hello.name == first.name);
        }
        // It is TLS, as the first was.
        other => assert_ne!(other, Progress::NotTls),
    }
}
