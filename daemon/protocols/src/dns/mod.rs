//! DNS between the agent and the internet (RFC 1035): nothing that the agent wrote goes out, and nothing that a server
//! wrote comes in. [`Query`] is what the agent asks; [`Question`] is asked by us instead of it; [`Outcome`] is what of
//! the reply belongs to it; [`Query::answer`] is written by us.

mod answer;
mod data;
mod key;
mod query;
mod question;
mod reply;

use agentd_policy::dns_type::DnsType;

pub use answer::{Answer, MAX_REASON, Transport};
pub use hickory_proto::rr::RecordType;
pub use key::Key;
pub use query::{MAX_QUERY, Malformed, Query};
pub use question::Question;
pub use reply::{Outcome, ReplyError, Ttls};

/// Length of a message's header.
const HEADER: usize = 12;
/// The longest name in a message, with its last, empty label.
const MAX_WIRE_NAME: usize = 255;
/// The class IN (RFC 1035 §3.2.4).
const IN: u16 = 1;
/// The most that is sent and asked for in a datagram: no path of the internet's breaks it up (RFC 9715).
pub const MAX_DATAGRAM: u16 = 1232;
/// What a datagram holds at least, and at most without EDNS.
const MIN_DATAGRAM: u16 = 512;

/// Codes of a reply (RFC 1035 §4.1.1, RFC 6891 §9).
mod code {
    pub const NO_ERROR: u16 = 0;
    pub const FORM: u16 = 1;
    pub const FAILED: u16 = 2;
    pub const NO_NAME: u16 = 3;
    pub const NOT_IMPLEMENTED: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BAD_VERSION: u16 = 16;
}

/// Bits of a header's second word.
mod flag {
    pub const RESPONSE: u16 = 1 << 15;
    pub const OPCODE: u16 = 0xf << 11;
    pub const TRUNCATED: u16 = 1 << 9;
    pub const RECURSION_DESIRED: u16 = 1 << 8;
    pub const RECURSION_AVAILABLE: u16 = 1 << 7;
    pub const CHECKING_DISABLED: u16 = 1 << 4;
    pub const CODE: u16 = 0xf;
}

/// What is done with a question of some type.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// A, AAAA: resolved, checked, pinned.
    Addresses,
    /// HTTPS, SVCB (RFC 9460): there are none. They carry addresses of their own, and keys that hide names.
    Nothing,
    /// The profile lists the type: its data is written anew and passed on.
    Data,
    /// All other types: refused.
    Refused,
}

/// Judges a type, by those that the profile lists.
pub fn disposition(kind: RecordType, listed: &[DnsType]) -> Disposition {
    match kind {
        RecordType::A | RecordType::AAAA => Disposition::Addresses,
        RecordType::HTTPS | RecordType::SVCB => Disposition::Nothing,
        kind if listed.iter().any(|listed| listed.number() == u16::from(kind)) => Disposition::Data,
        _ => Disposition::Refused,
    }
}

fn u16_at(bytes: &[u8], place: usize) -> Option<u16> {
    bytes.get(place..place + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}

/// A label's length as messages have it. Names that were parsed have none above 63; a longer one is malformed.
fn label_length(label: &[u8]) -> u8 {
    u8::try_from(label.len()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
