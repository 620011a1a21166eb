//! What the agent asks. By hand and in one pass: a name in a question is never compressed, and hardly anything else
//! is allowed in the message.

use agentd_policy::hosts::{HostError, HostName};
use hickory_proto::rr::RecordType;

use super::answer::header;
use super::{HEADER, IN, Key, MAX_DATAGRAM, MAX_WIRE_NAME, MIN_DATAGRAM, code, flag, u16_at};

/// The longest query. They are padded at most (RFC 8467), and hold nothing else that is long.
pub const MAX_QUERY: usize = 4096;
const OPT: u16 = 41;

/// A message that is no query of ours to resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No header, or a response: an answer could be answered again.
    #[error("not a query")]
    Silent,
    /// Out of form, or not spoken here; with the reply's code.
    #[error("a query that is answered with code {code}")]
    Code {
        /// The id of the query.
        id: u16,
        /// The query's flags.
        flags: u16,
        /// FORMERR, NOTIMP, REFUSED or BADVERS.
        code: u16,
    },
}

impl Malformed {
    /// The reply, if there is one to give.
    pub fn answer(&self) -> Option<Vec<u8>> {
        let Self::Code { id, flags, code } = *self else { return None };
        let versions = code == code::BAD_VERSION;
        let mut reply = header(id, flags, code & flag::CODE, [0, 0, 0, versions.into()]).to_vec();
        if versions {
            // The upper bits of the code, and the version that is spoken here (RFC 6891 §6.1.3).
            reply.push(0);
            reply.extend(OPT.to_be_bytes());
            reply.extend(MAX_DATAGRAM.to_be_bytes());
            reply.extend([(code >> 4 & 0xff) as u8, 0, 0, 0, 0, 0]);
        }
        Some(reply)
    }
}

/// A query of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    pub(super) id: u16,
    pub(super) flags: u16,
    /// Name, type and class as they came: the answer repeats the name's case (draft-vixie-dnsext-dns0x20).
    question: [u8; MAX_WIRE_NAME + 4],
    length: usize,
    /// What a datagram to the client may hold, if it speaks EDNS.
    pub(super) payload: Option<u16>,
    /// The type that is asked for.
    pub kind: RecordType,
}

impl Query {
    /// Reads a message, without the length that TCP has in front of it.
    ///
    /// # Errors
    /// [`Malformed`], with its answer.
    pub fn read(message: &[u8]) -> Result<Self, Malformed> {
        let (Some(id), Some(flags)) = (u16_at(message, 0), u16_at(message, 2)) else {
            return Err(Malformed::Silent);
        };
        if message.len() < HEADER || flags & flag::RESPONSE != 0 {
            return Err(Malformed::Silent);
        }
        let fail = |code| Malformed::Code { id, flags, code };
        if flags & flag::OPCODE != 0 {
            return Err(fail(code::NOT_IMPLEMENTED));
        }
        let form = || fail(code::FORM);
        let one_option = match message[4..HEADER] {
            [0, 1, 0, 0, 0, 0, 0, options @ (0 | 1)] => options == 1,
            _ => return Err(form()),
        };
        if message.len() > MAX_QUERY || flags & flag::TRUNCATED != 0 {
            return Err(form());
        }
        let end = name_end(&message[HEADER..]).ok_or_else(form)? + HEADER;
        let kind = u16_at(message, end).ok_or_else(form)?;
        let class = u16_at(message, end + 2).ok_or_else(form)?;
        let after = &message[end + 4..];
        let payload = match one_option {
            true => Some(option(after).ok_or_else(form)?),
            false if after.is_empty() => None,
            false => return Err(form()),
        };
        if payload.is_some_and(|(_, version)| version != 0) {
            return Err(fail(code::BAD_VERSION));
        }
        if class != IN {
            return Err(fail(code::REFUSED));
        }
        let (asked, mut question) = (&message[HEADER..end + 4], [0; MAX_WIRE_NAME + 4]);
        question[..asked.len()].copy_from_slice(asked);
        Ok(Self {
            id,
            flags,
            question,
            length: asked.len(),
            payload: payload.map(|(payload, _)| payload.clamp(MIN_DATAGRAM, MAX_DATAGRAM)),
            kind: kind.into(),
        })
    }

    /// Name, type and class.
    pub(super) fn question(&self) -> &[u8] {
        &self.question[..self.length]
    }

    fn wire_name(&self) -> &[u8] {
        &self.question[..self.length - 4]
    }

    /// The name. What is no name of a host is refused without a word to anybody.
    ///
    /// # Errors
    /// Why it is none.
    pub fn name(&self) -> Result<HostName, HostError> {
        HostName::from_labels(labels(self.wire_name()))
    }

    /// The question in its one spelling. Of a name that is none of a host's it is nobody else's key.
    pub fn key(&self) -> Key {
        Key::of_wire(self.wire_name(), self.kind)
    }

    /// The name as it came, for a record of what was asked: what is not a letter, digit, hyphen or underscore as a
    /// number of three digits (RFC 4343 §2.1).
    pub fn shown(&self) -> String {
        let mut shown = String::new();
        for label in labels(self.wire_name()) {
            for byte in label {
                match byte {
                    b'-' | b'_' => shown.push(char::from(*byte)),
                    byte if byte.is_ascii_alphanumeric() => shown.push(char::from(*byte)),
                    byte => shown += &format!("\\{byte:03}"),
                }
            }
            shown.push('.');
        }
        if shown.is_empty() { ".".to_owned() } else { shown }
    }
}

/// The length of the name at the beginning of `bytes`, its last, empty label counted. No pointers.
fn name_end(bytes: &[u8]) -> Option<usize> {
    let mut place = 0;
    loop {
        match *bytes.get(place)? {
            0 => return Some(place + 1),
            len @ 1..=63 => place += 1 + usize::from(len),
            _ => return None,
        }
        if place >= MAX_WIRE_NAME {
            return None;
        }
    }
}

/// The labels of a name that [`name_end`] went through.
fn labels(mut name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = name.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*len))?;
        name = rest;
        (!label.is_empty()).then_some(label)
    })
}

/// Payload size and version of an OPT record (RFC 6891 §6.1.2) that is all of `bytes`. Its options are ours to ignore.
fn option(bytes: &[u8]) -> Option<(u16, u8)> {
    let ([0, 0, 41, high, low, _, version, _, _, len @ ..], mut options) = bytes.split_at_checked(11)? else {
        return None;
    };
    if options.len() != usize::from(u16_at(len, 0)?) {
        return None;
    }
    while !options.is_empty() {
        let len = u16_at(options, 2)?;
        options = options.get(4 + usize::from(len)..)?;
    }
    Some((u16::from_be_bytes([*high, *low]), *version))
}
