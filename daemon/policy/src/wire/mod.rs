//! The messages between agentd's processes. Each travels as one packet of a `SOCK_SEQPACKET` socket
//! (descriptors beside it), begins with [`VERSION`], and is bounded by [`MAX_PACKET`]. The receiver trusts
//! no sender: a packet of another version, with bytes left over, or malformed is an error, never a guess.
//!
//! What carries a session's bytes is simpler, because there may be gigabytes of it: [`frame`].

mod attached;
pub mod frame;
mod keeper_relay;
mod keeper_service;
mod launcher_keeper;
mod launcher_service;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use attached::{Attached, Message, decode_with};
pub use keeper_relay::*;
pub use keeper_service::*;
pub use launcher_keeper::*;
pub use launcher_service::*;

/// The format of all messages here, and of what the launcher keeps of a lease; the first two bytes of each packet.
pub const VERSION: u16 = 6;
/// The longest packet, in bytes: a plan with its longest command line.
pub const MAX_PACKET: usize = 192 << 10;
/// The longest packet that a keeper and a service exchange.
pub const MAX_KEEPER_PACKET: usize = 64 << 10;

/// A packet that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Another program, or another version of it.
    #[error("message of version {0}, not {VERSION}")]
    Version(u16),
    /// Too long to send or to take.
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
    /// Not a message at all.
    #[error("message malformed")]
    Form(#[source] postcard::Error),
    /// More than a message.
    #[error("{0} bytes after the message")]
    Trailing(usize),
    /// Fewer descriptors than the message has, or more.
    #[error("message with descriptors missing or left over")]
    Descriptors,
}

/// `message` as a packet.
///
/// # Errors
/// If it would be longer than [`MAX_PACKET`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let packet = postcard::to_extend(message, VERSION.to_le_bytes().to_vec()).map_err(WireError::Form)?;
    if packet.len() > MAX_PACKET {
        return Err(WireError::TooLong(packet.len()));
    }
    Ok(packet)
}

/// The message in `packet`.
///
/// # Errors
/// If it is of another version, malformed, or followed by anything.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, WireError> {
    if packet.len() > MAX_PACKET {
        return Err(WireError::TooLong(packet.len()));
    }
    let Some((version, body)) = packet.split_first_chunk::<2>() else {
        return Err(WireError::Version(0));
    };
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let (message, rest) = postcard::take_from_bytes(body).map_err(WireError::Form)?;
    if !rest.is_empty() {
        return Err(WireError::Trailing(rest.len()));
    }
    Ok(message)
}

/// The first of what a packet of any version holds, whatever follows it.
///
/// # Errors
/// If that is malformed.
pub fn prefix<T: DeserializeOwned>(packet: &[u8]) -> Result<T, WireError> {
    let body = packet.get(2..).ok_or(WireError::Version(0))?;
    postcard::take_from_bytes(body).map(|(first, _)| first).map_err(WireError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::SessionId;
    use proptest::prelude::*;

    #[test]
    fn a_plan_comes_back_as_it_went() {
        let message = FromService::Build {
            request: RequestNumber(1),
            caller: CallerNumber(2),
            ticket: Ticket([7; 32]),
            plan: Box::new(crate::plan::tests::plan()),
        };
        let packet = encode(&message).unwrap();
        assert_eq!(decode::<FromService>(&packet).unwrap(), message);
    }

    #[test]
    fn other_versions_and_leftovers_are_refused() {
        let mut packet = encode(&ToKeeper::Kill).unwrap();
        packet.push(0);
        assert!(matches!(decode::<ToKeeper>(&packet), Err(WireError::Trailing(1))));
        packet.pop();
        packet[0] ^= 1;
        assert!(matches!(decode::<ToKeeper>(&packet), Err(WireError::Version(_))));
        assert!(matches!(decode::<ToKeeper>(&[1]), Err(WireError::Version(0))));
    }

    #[test]
    fn names_inside_messages_are_checked() {
        let good = encode(&FromService::End { session: SessionId::parse("0123456789ab").unwrap() }).unwrap();
        let bad: Vec<u8> = good.iter().map(|b| if *b == b'a' { b'/' } else { *b }).collect();
        assert!(decode::<FromService>(&bad).is_err());
    }

    proptest! {
        #[test]
        fn hostile_packets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut packet = VERSION.to_le_bytes().to_vec();
            packet.extend(bytes);
            decode::<FromService>(&packet).ok();
            decode::<FromLauncher>(&packet).ok();
            decode::<FromKeeper>(&packet).ok();
        }

        #[test]
        fn frames_are_ours_or_nothing(header in any::<[u8; 4]>()) {
            if let Some((kind, len)) = frame::parse(header) {
                prop_assert!(len <= frame::MAX);
                prop_assert_eq!(frame::header(kind, len), Some(header));
            }
        }
    }
}
