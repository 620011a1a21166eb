//! The server's first message: whether the client will send its name again.

use super::{ALERT, HANDSHAKE, HEADER};

/// The random of a ServerHello that is a HelloRetryRequest: SHA-256 of that word (RFC 8446 §4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
const SERVER_HELLO: u8 = 2;
/// A message's header, the version, the random.
const ENOUGH: usize = 4 + 2 + RETRY.len();
/// The most records that are looked at: alerts may come first, and a message in pieces.
const MAX_RECORDS: usize = 64;

/// What the server's first bytes mean for the client's next.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Not known yet: what the client sent behind its hello waits.
    NeedMore,
    /// The client's hello was its last.
    Final,
    /// Another follows: [`Reader::after_retry`](super::Reader::after_retry).
    Retry,
    /// The server does not speak TLS.
    NotTls,
}

/// Reads the server's first message from bytes in any pieces. The server is believed: one that lies gains nothing.
#[derive(Debug, Default)]
pub struct Reply {
    header: Vec<u8>,
    left: usize,
    kind: u8,
    records: usize,
    message: Vec<u8>,
}

impl Reply {
    /// For the first bytes of a server's.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. They may go to the client whatever this returns.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Turn {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.header.push(bytes[0]);
                bytes = &bytes[1..];
                if self.header.len() < HEADER {
                    continue;
                }
                self.kind = self.header[0];
                self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.header.clear();
                self.records += 1;
                match self.kind {
                    HANDSHAKE | ALERT if self.records <= MAX_RECORDS => continue,
                    HANDSHAKE | ALERT => return Turn::Final,
                    _ if self.records == 1 => return Turn::NotTls,
                    _ => return Turn::Final,
                }
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= payload.len();
            bytes = rest;
            if self.kind != HANDSHAKE {
                continue;
            }
            self.message.extend_from_slice(&payload[..payload.len().min(ENOUGH - self.message.len())]);
            if self.message[0] != SERVER_HELLO {
                return Turn::Final;
            }
            if self.message.len() == ENOUGH {
                return if self.message.ends_with(&RETRY) { Turn::Retry } else { Turn::Final };
            }
        }
        Turn::NeedMore
    }
}
