//! Checks of the HTTP/2 reader.

use super::names::in_form;
use super::splits;
use crate::authority::Host;
use crate::http::Refused;
use crate::http2::{Connection, PREFACE, Step};

/// What a server says first.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The length of a frame's header.
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What was read of a client's bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Where each request's head begins, its length, and its host.
    heads: Vec<(usize, usize, Host)>,
    /// How much went on before the end, if there was one; what is refused depends on no pieces.
    refused: Option<Refused>,
}

/// A client's bytes behind the preface, to a server that speaks HTTP/2: whatever the pieces, the same requests are
/// seen, in the places where a second reader finds frames of heads, and nothing goes on behind a refusal. What the
/// server says may be anything, too: `bytes` again.
pub fn http2(bytes: &[u8]) {
    let [whole, bytewise, pieces] = splits(bytes).map(|pieces| read(bytes, &pieces));
    assert_eq!(bytewise, whole);
    assert_eq!(pieces, whole);
    let frames = heads(bytes);
    for (begin, length, host) in &whole.heads {
        in_form(host);
        assert!(frames.contains(&(*begin, *length)), "{begin} {length}: {frames:?}");
    }
    for pieces in splits(bytes) {
        let mut connection = Connection::default();
        for piece in pieces {
            connection.server(piece);
        }
        let _ = connection.server_left();
    }
}

fn read(bytes: &[u8], pieces: &[&[u8]]) -> Seen {
    let (mut connection, mut seen) = (Connection::default(), Seen::default());
    assert_eq!(connection.client(PREFACE), Ok(Step::Goes(PREFACE.len())));
    connection.server(SETTINGS);
    assert_eq!(connection.server_left(), 0);
    let (mut read, mut sent) = (0, 0);
    for piece in pieces {
        sent += piece.len();
        loop {
            let input = &bytes[read..sent];
            match connection.client(input) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Held) => panic!("the server has spoken"),
                Ok(Step::Goes(length)) => {
                    assert!(length > 0 && length <= input.len());
                    read += length;
                }
                Ok(Step::Head(head)) => {
                    assert!(head.len <= input.len() && head.stream % 2 == 1);
                    seen.heads.push((read, head.len, head.authority.host));
                    read += head.len;
                }
                Err(refused) => {
                    assert_eq!(connection.client(input), Err(Refused::Before));
                    seen.refused = Some(refused);
                    return seen;
                }
            }
        }
    }
    seen
}

/// Where frames of heads begin, and how long they are with what continues them.
fn heads(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut heads, mut open) = (0, Vec::new(), false);
    while let Some([a, b, c, kind, flags, ..]) = bytes.get(at..) {
        let length = HEADER + (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c));
        match (*kind, heads.last_mut()) {
            (HEADERS, _) => heads.push((at, length)),
            (CONTINUATION, Some((_, head))) if open => *head += length,
            _ => {}
        }
        // What continues nothing opens nothing.
        open = (*kind == HEADERS || open && *kind == CONTINUATION) && flags & END_HEADERS == 0;
        at += length;
    }
    heads
}
