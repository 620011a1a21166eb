//! The name in the beginning of a TLS connection (RFC 8446 §4.1.2, §5.1; RFC 6066 §3).
//!
//! [`Reader`] takes the client's first bytes. Its "not TLS" is meant for every server there is: what some server
//! would read as TLS, if with a warning, is [`Progress::Malformed`] and not [`Progress::NotTls`], or it would pass as
//! a protocol without names. [`Reply`] takes the server's first bytes: after a HelloRetryRequest the client sends its
//! name a second time, which [`Reader::after_retry`] reads.

mod client;
mod reply;

pub use client::ClientHello;
pub use reply::{Reply, Turn};

use agentd_policy::hosts::HostError;

/// The longest ClientHello.
pub const MAX_HELLO: usize = 64 << 10;
/// The most bytes that it may take in records of its own choice.
pub const MAX_BYTES: usize = 80 << 10;
/// The most that a record holds before encryption (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;
/// Length of a record's header.
const HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;
const HEARTBEAT: u8 = 24;

/// What is wrong with a ClientHello.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The hello, or the records around it.
    #[error("the ClientHello is longer than {MAX_HELLO} bytes")]
    TooLong,
    /// Empty, too long, or of another type.
    #[error("a record before the end of the ClientHello is malformed")]
    Record,
    /// The first message is another one.
    #[error("the first message is no ClientHello")]
    Message,
    /// A ClientHello in the form of SSL 2.0: it has no name.
    #[error("a ClientHello of SSL 2.0")]
    Ssl2,
    /// A length that does not fit.
    #[error("{0} of the ClientHello is malformed")]
    Form(&'static str),
    /// RFC 8446 §4.2.
    #[error("extension {0} is there twice")]
    Duplicate(u16),
    /// RFC 6066 §3 has one, of one type.
    #[error("server_name holds another number of names than one")]
    Names,
    /// RFC 6066 §3.
    #[error("server_name ends in a dot")]
    TrailingDot,
    /// Not a host's.
    #[error("server_name: {0}")]
    Name(#[from] HostError),
    /// The second ClientHello names another host than the first.
    #[error("server_name changed after a HelloRetryRequest")]
    Changed,
    /// Bytes were fed after the end.
    #[error("read beyond the ClientHello")]
    Ended,
}

/// What is known after some bytes.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet. Who stops waiting here must refuse.
    NeedMore,
    /// The hello, and how many of all bytes that were fed it ends behind.
    Hello(ClientHello, usize),
    /// No server reads this as TLS.
    NotTls,
    /// To be refused.
    Malformed(Why),
}

/// Reads a ClientHello from bytes in any pieces. It keeps what it needs; the caller keeps the bytes to send on.
#[derive(Debug)]
pub struct Reader {
    header: [u8; HEADER],
    header_len: usize,
    /// Payload of the present record that is still to come.
    left: usize,
    message: Vec<u8>,
    taken: usize,
    retry: Option<ClientHello>,
    skip: bool,
    ended: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// For the first bytes of a connection.
    pub fn new() -> Self {
        Self {
            header: [0; HEADER],
            header_len: 0,
            left: 0,
            message: Vec::new(),
            taken: 0,
            retry: None,
            skip: false,
            ended: false,
        }
    }

    /// For what comes after `first`, if the server asked for another: early data and the change of cipher spec are
    /// skipped (RFC 8446 §4.2.10, §D.4), and the name must be the same.
    pub fn after_retry(first: ClientHello) -> Self {
        Self { retry: Some(first), ..Self::new() }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        if self.ended {
            return Progress::Malformed(Why::Ended);
        }
        let progress = self.read(bytes).unwrap_or_else(Progress::Malformed);
        self.ended = progress != Progress::NeedMore;
        progress
    }

    fn read(&mut self, mut bytes: &[u8]) -> Result<Progress, Why> {
        while !bytes.is_empty() {
            if self.taken >= MAX_BYTES {
                return Err(Why::TooLong);
            }
            if self.left == 0 {
                let (first, rest) = bytes.split_at(1);
                self.header[self.header_len] = first[0];
                self.header_len += 1;
                self.taken += 1;
                bytes = rest;
                if !self.header_fits()? {
                    return Ok(Progress::NotTls);
                }
                continue;
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()).min(MAX_BYTES - self.taken));
            self.left -= payload.len();
            self.taken += payload.len();
            bytes = rest;
            if !self.skip {
                self.message.extend_from_slice(payload);
                if let Some(hello) = self.hello()? {
                    return Ok(Progress::Hello(hello, self.taken));
                }
            }
        }
        Ok(Progress::NeedMore)
    }

    /// Judges as much of a header as there is. `false`: not TLS.
    fn header_fits(&mut self) -> Result<bool, Why> {
        let header = &self.header[..self.header_len];
        let first = self.message.is_empty() && self.retry.is_none();
        match *header {
            [HANDSHAKE, ..] | [CHANGE_CIPHER_SPEC | APPLICATION_DATA, ..] if !first => {}
            [HANDSHAKE, ..] => {}
            // Some servers take a warning, and more, before the first message.
            [CHANGE_CIPHER_SPEC..=HEARTBEAT] if first => {}
            [CHANGE_CIPHER_SPEC..=HEARTBEAT, major, ..] if first => {
                return if major == 3 { Err(Why::Record) } else { Ok(false) };
            }
            // A two-byte length with its highest bit set, CLIENT-HELLO, a version (RFC 5246 §E.2).
            [length, ..] if first && length & 0x80 != 0 => {
                return match *header {
                    [_, _, kind, ..] if kind != 1 => Ok(false),
                    [_, _, _, 0 | 2 | 3] => Err(Why::Ssl2),
                    [_, _, _, _] => Ok(false),
                    _ => Ok(true),
                };
            }
            _ if first => return Ok(false),
            _ => return Err(Why::Record),
        }
        if self.header_len < HEADER {
            return Ok(true);
        }
        let [kind, major, _, high, low] = self.header;
        self.left = usize::from(u16::from_be_bytes([high, low]));
        self.skip = kind != HANDSHAKE;
        self.header_len = 0;
        // What is skipped may be encrypted, and longer by 256 bytes; it never interrupts a message.
        let most = if self.skip { MAX_RECORD + 256 } else { MAX_RECORD };
        let whole = !self.skip || self.message.is_empty();
        if major == 3 && (1..=most).contains(&self.left) && whole { Ok(true) } else { Err(Why::Record) }
    }

    /// The hello, if all of it is there.
    fn hello(&mut self) -> Result<Option<ClientHello>, Why> {
        const CLIENT_HELLO: u8 = 1;
        if self.message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Why::Message);
        }
        let [_, a, b, c, body @ ..] = self.message.as_slice() else { return Ok(None) };
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        if length > MAX_HELLO {
            return Err(Why::TooLong);
        }
        // Another message in the same record: none may follow before the server's.
        if body.len() > length || (body.len() == length && self.left > 0) {
            return Err(Why::Message);
        }
        if body.len() < length {
            return Ok(None);
        }
        let hello = ClientHello::read(body)?;
        if self.retry.as_ref().is_some_and(|first| first.name != hello.name) {
            return Err(Why::Changed);
        }
        self.message = Vec::new();
        Ok(Some(hello))
    }
}

#[cfg(test)]
mod tests;
