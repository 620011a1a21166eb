//! The messages between agentd's processes. Each travels as one packet of a `SOCK_SEQPACKET` socket
//! (descriptors beside it), begins with [`VERSION`], and is bounded by [`MAX_PACKET`]. The receiver trusts
//! no sender: a packet of another version, with bytes left over, or out of form is an error, never a guess.
//!
//! What carries a session's bytes is simpler, because there may be gigabytes of it: [`frame`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::event::SourceEvent;
use crate::names::SessionId;
use crate::plan::Plan;

/// Of all messages here; the first two bytes of each packet.
pub const VERSION: u16 = 1;
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
    #[error("message out of form")]
    Form(#[source] postcard::Error),
    /// More than a message.
    #[error("{0} bytes after the message")]
    Trailing(usize),
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
/// If it is of another version, out of form, or followed by anything.
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

/// A connection that the launcher accepted. Never used twice in a launcher's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallerNumber(pub u64);

/// Names one request of the service, so that its answer finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestNumber(pub u64);

/// The launcher's answer to offered descriptors: random, for one use, for the process that made the offer.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket(pub [u8; 32]);

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// Who is at the other end of a connection: what the kernel says of it (`SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The effective uid when it connected.
    pub uid: u32,
    /// The effective gid.
    pub gid: u32,
    /// The process.
    pub pid: i32,
    /// Whether it belongs to the admin group.
    pub admin: bool,
}

/// Launcher to service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromLauncher {
    /// A client connected. Descriptor: the connection.
    Caller {
        /// Its number, which plans name.
        number: CallerNumber,
        /// Who it is.
        peer: Peer,
    },
    /// A session runs. Descriptors: the keeper's socket (packets), the relay's (frames).
    Built {
        /// The request that this answers.
        request: RequestNumber,
        /// How long each step took, from the moment that the launcher read the request.
        timings: Vec<Timing>,
    },
    /// A session was not built, and nothing of it is left.
    Refused {
        /// The request that this answers.
        request: RequestNumber,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing of a session is left but its overlay.
    Gone {
        /// Which.
        session: SessionId,
        /// What went wrong on the way; empty if nothing.
        errors: Vec<String>,
    },
    /// A session's overlay is deleted, or could not be.
    Removed {
        /// The request that this answers.
        request: RequestNumber,
        /// Why not.
        refusal: Option<Refusal>,
    },
}

/// Service to launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromService {
    /// A connection ended.
    Forget {
        /// Which.
        caller: CallerNumber,
    },
    /// Build this.
    Build {
        /// For the answer.
        request: RequestNumber,
        /// For whom.
        caller: CallerNumber,
        /// What it offered; `None` if the plan needs no descriptors.
        ticket: Option<Ticket>,
        /// What.
        plan: Box<Plan>,
    },
    /// End a session whose keeper does not.
    End {
        /// Which.
        session: SessionId,
    },
    /// Delete the overlay of an ended session.
    Remove {
        /// For the answer.
        request: RequestNumber,
        /// On whose word.
        caller: CallerNumber,
        /// The uid that it belongs to.
        owner: u32,
        /// Which.
        session: SessionId,
    },
}

/// How long a step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// What.
    pub step: String,
    /// Microseconds.
    pub start_us: u64,
    /// Microseconds.
    pub end_us: u64,
}

/// Service to keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// Send a signal to the command (with a terminal: to the foreground process group).
    Signal(i32),
    /// End the session.
    Kill,
    /// Events up to this number are on disk.
    Ack(u64),
}

/// Keeper to service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// Something happened. The last one is [`Ended`](crate::event::EventBody::Ended).
    Event(SourceEvent),
}

/// What travels between relay and service: frames on a stream, `kind` (1 byte), length (3 bytes, little
/// endian), payload.
pub mod frame {
    /// Towards the command: bytes for its standard input.
    pub const STDIN: u8 = 0;
    /// Towards the command: no more of them. No payload.
    pub const STDIN_EOF: u8 = 1;
    /// Towards the command: rows and columns, 2 bytes each, little endian.
    pub const RESIZE: u8 = 2;
    /// From the command: its standard output, or its terminal.
    pub const STDOUT: u8 = 3;
    /// From the command: its standard error.
    pub const STDERR: u8 = 4;
    /// From the command: nothing more will come. No payload; the relay ends after it.
    pub const DRAINED: u8 = 5;

    /// The longest payload, in bytes.
    pub const MAX: usize = 64 << 10;
    /// Bytes before the payload.
    pub const HEADER: usize = 4;

    /// The header of a frame; `None` if `len` is beyond [`MAX`].
    pub fn header(kind: u8, len: usize) -> Option<[u8; HEADER]> {
        let [a, b, c, ..] = u32::try_from(len).ok()?.to_le_bytes();
        (len <= MAX).then_some([kind, a, b, c])
    }

    /// Kind and length of the payload that follows `header`; `None` if it is none of ours.
    pub fn parse(header: [u8; HEADER]) -> Option<(u8, usize)> {
        let [kind, a, b, c] = header;
        let len = u32::from_le_bytes([a, b, c, 0]) as usize;
        let right = match kind {
            STDIN | STDOUT | STDERR => len <= MAX,
            STDIN_EOF | DRAINED => len == 0,
            RESIZE => len == 4,
            _ => false,
        };
        right.then_some((kind, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plan_comes_back_as_it_went() {
        let message = FromService::Build {
            request: RequestNumber(1),
            caller: CallerNumber(2),
            ticket: Some(Ticket([7; 32])),
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
            let _ = decode::<FromService>(&packet);
            let _ = decode::<FromLauncher>(&packet);
            let _ = decode::<FromKeeper>(&packet);
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
