//! What the agent is answered: written by hand, since it is little and often.

use std::net::IpAddr;

use hickory_proto::rr::RecordType;

use super::{IN, MAX_DATAGRAM, MIN_DATAGRAM, Query, code, flag};

/// The most bytes of a reason in a reply.
pub const MAX_REASON: usize = 200;
const OPT: u16 = 41;
/// Extended DNS errors (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// A pointer to the question's name, which is behind the header.
const NAME: [u8; 2] = [0xc0, 12];

/// What a query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Addresses, of which those of the type asked for are written; maybe none.
    Addresses(&'a [IpAddr], u32),
    /// Data of the type asked for, each as in a record, and how long it holds.
    Data(&'a [Vec<u8>], u32),
    /// The name is there, and nothing of that type.
    Nothing,
    /// There is no such name.
    NoName,
    /// The rules deny the name: "no such name", and why, as "blocked".
    Denied(&'a str),
    /// This is never answered here: refused, and why, as "prohibited".
    Refused(&'a str),
    /// It could not be found out: "server failed", and why.
    Failed(&'a str),
}

impl Answer<'_> {
    fn code(&self) -> u16 {
        match self {
            Self::Addresses(..) | Self::Data(..) | Self::Nothing => code::NO_ERROR,
            Self::NoName | Self::Denied(_) => code::NO_NAME,
            Self::Refused(_) => code::REFUSED,
            Self::Failed(_) => code::FAILED,
        }
    }

    /// The extended error, by RFC 8914 §4: blocked, prohibited, no reachable authority.
    fn reason(&self) -> Option<(u16, &str)> {
        match self {
            Self::Denied(text) => Some((15, text)),
            Self::Refused(text) => Some((18, text)),
            Self::Failed(text) => Some((22, text)),
            _ => None,
        }
    }
}

/// What an answer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram, as long as the client accepts.
    Udp,
    /// A stream; the length in front is the caller's to write.
    Tcp,
}

impl Query {
    /// The message that answers it. See [`Query::write_answer`].
    pub fn answer(&self, answer: Answer<'_>, transport: Transport) -> Vec<u8> {
        let mut reply = Vec::with_capacity(MIN_DATAGRAM.into());
        self.write_answer(answer, transport, &mut reply);
        reply
    }

    /// Writes the message that answers it, behind what is there. If it would be too long for a datagram, only its TC
    /// bit is set, and the client asks again by TCP.
    pub fn write_answer(&self, answer: Answer<'_>, transport: Transport, out: &mut Vec<u8>) {
        let limit = match transport {
            Transport::Udp => usize::from(self.payload.unwrap_or(MIN_DATAGRAM)),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let begin = out.len();
        out.extend(header(self.id, self.flags, answer.code(), [1, 0, 0, self.payload.is_some().into()]));
        out.extend(self.question());
        let records = out.len();
        let count = self.records(answer, out);
        out[begin + 6..begin + 8].copy_from_slice(&count.to_be_bytes());
        self.option(answer.reason(), out);
        if out.len() - begin > limit {
            out.truncate(records);
            out[begin + 2] |= (flag::TRUNCATED >> 8) as u8;
            out[begin + 6..begin + 8].fill(0);
            self.option(None, out);
        }
    }

    /// Writes the records and counts them.
    fn records(&self, answer: Answer<'_>, reply: &mut Vec<u8>) -> u16 {
        let mut count = 0_u16;
        let kind = u16::from(self.kind).to_be_bytes();
        let mut record = |ttl: u32, data: &[u8]| {
            let Ok(len) = u16::try_from(data.len()) else { return };
            reply.extend(NAME);
            reply.extend(kind);
            reply.extend(IN.to_be_bytes());
            reply.extend(ttl.to_be_bytes());
            reply.extend(len.to_be_bytes());
            reply.extend(data);
            count = count.saturating_add(1);
        };
        match answer {
            Answer::Addresses(addresses, ttl) => {
                for address in addresses {
                    match (address, self.kind) {
                        (IpAddr::V4(address), RecordType::A) => record(ttl, &address.octets()),
                        (IpAddr::V6(address), RecordType::AAAA) => record(ttl, &address.octets()),
                        _ => {}
                    }
                }
            }
            Answer::Data(data, ttl) => data.iter().for_each(|data| record(ttl, data)),
            _ => {}
        }
        count
    }

    /// Writes the OPT record, if the client sent one.
    fn option(&self, reason: Option<(u16, &str)>, reply: &mut Vec<u8>) {
        if self.payload.is_none() {
            return;
        }
        reply.push(0);
        reply.extend(OPT.to_be_bytes());
        reply.extend(MAX_DATAGRAM.to_be_bytes());
        reply.extend([0; 4]);
        let Some((info, text)) = reason else { return reply.extend([0; 2]) };
        let mut cuts = (0..=text.len().min(MAX_REASON)).rev();
        let text = &text[..cuts.find(|cut| text.is_char_boundary(*cut)).unwrap_or(0)];
        let Ok(len) = u16::try_from(2 + text.len()) else { return reply.extend([0; 2]) };
        for word in [4 + len, EXTENDED_ERROR, len, info] {
            reply.extend(word.to_be_bytes());
        }
        reply.extend(text.as_bytes());
    }
}

/// A reply's header: the query's id and what of its flags is repeated, a code below 16, and four counts.
pub(super) fn header(id: u16, flags: u16, code: u16, counts: [u8; 4]) -> [u8; 12] {
    let repeated = flags & (flag::OPCODE | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
    let flags = repeated | flag::RESPONSE | flag::RECURSION_AVAILABLE | code;
    let ([a, b], [c, d], [q, n, s, r]) = (id.to_be_bytes(), flags.to_be_bytes(), counts);
    [a, b, c, d, 0, q, 0, n, 0, s, 0, r]
}
