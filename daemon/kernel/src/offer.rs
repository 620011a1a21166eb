//! What a client hands to the launcher on the side socket: the paths of its request, as descriptors that
//! it opened itself with its user's own rights, each with its role and the highest mode that it grants.
//!
//! An offer is one packet: `AGD1`, then two bytes a descriptor (role, mode), in the order of the
//! descriptors. The answer is one packet: `0` and a ticket of 32 bytes, or `1` and a refusal in three parts
//! that NUL bytes separate. The ticket holds as long as the client keeps the socket open and lives.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::packets::{MAX_DESCRIPTORS, Packet, PacketError, Packets};

const MAGIC: &[u8; 4] = b"AGD1";
/// The longest offer, in bytes.
pub const MAX_OFFER: usize = MAGIC.len() + 2 * MAX_DESCRIPTORS;
/// The longest answer, in bytes.
pub const MAX_ANSWER: usize = 4096;

/// What a descriptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A directory to work in.
    Workspace,
    /// A file or directory to read.
    Input,
}

/// The most that a descriptor may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Reading.
    Ro,
    /// As the lower layer of an overlay.
    Overlay,
    /// Reading and writing.
    Direct,
}

/// One descriptor's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What for.
    pub role: Role,
    /// At most.
    pub mode: Mode,
}

/// The launcher's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The offer is held; name it in the request.
    Ticket([u8; 32]),
    /// It is not: what, rule, mend.
    Refused(String, String, String),
}

/// An offer or answer that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// Not of the form.
    #[error("offer out of form: {0}")]
    Form(&'static str),
    /// The socket failed.
    #[error("offer: {0}")]
    Packet(#[from] PacketError),
}

/// Sends `descriptors`, each with its grant. Client's side.
///
/// # Errors
/// If there are more than 253, or the socket fails.
pub fn send(socket: &Packets, offered: &[(Grant, BorrowedFd<'_>)]) -> Result<(), OfferError> {
    let mut bytes = MAGIC.to_vec();
    for (grant, _) in offered {
        bytes.push(match grant.role {
            Role::Workspace => 0,
            Role::Input => 1,
        });
        bytes.push(match grant.mode {
            Mode::Ro => 0,
            Mode::Overlay => 1,
            Mode::Direct => 2,
        });
    }
    let descriptors: Vec<_> = offered.iter().map(|(_, fd)| *fd).collect();
    Ok(socket.send(&bytes, &descriptors)?)
}

/// The offer in `packet`. Builder's side.
///
/// # Errors
/// If it is out of form; then every descriptor is closed.
pub fn parse(packet: Packet) -> Result<Vec<(Grant, OwnedFd)>, OfferError> {
    let grants = grants(&packet.bytes)?;
    if grants.len() != packet.descriptors.len() {
        return Err(OfferError::Form("grants and descriptors do not match"));
    }
    Ok(grants.into_iter().zip(packet.descriptors).collect())
}

/// What the bytes of an offer grant. Launcher's side, which never takes the descriptors: closing one can
/// block for as long as its file system, or its socket's `SO_LINGER`, likes.
///
/// # Errors
/// If they are out of form.
pub fn grants(bytes: &[u8]) -> Result<Vec<Grant>, OfferError> {
    let grants = bytes.strip_prefix(MAGIC).ok_or(OfferError::Form("not an offer"))?;
    let (pairs, rest) = grants.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > MAX_DESCRIPTORS {
        return Err(OfferError::Form("half a grant, or more than 253"));
    }
    pairs
        .iter()
        .map(|[role, mode]| {
            let role = match role {
                0 => Role::Workspace,
                1 => Role::Input,
                _ => return Err(OfferError::Form("unknown role")),
            };
            let mode = match mode {
                0 => Mode::Ro,
                1 => Mode::Overlay,
                2 => Mode::Direct,
                _ => return Err(OfferError::Form("unknown mode")),
            };
            Ok(Grant { role, mode })
        })
        .collect()
}

impl Answer {
    /// The answer as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Ticket(ticket) => {
                bytes.push(0);
                bytes.extend(ticket);
            }
            Self::Refused(what, rule, mend) => {
                bytes.push(1);
                bytes.extend([what.as_str(), rule, mend].join("\0").into_bytes());
                bytes.truncate(MAX_ANSWER);
            }
        }
        bytes
    }

    /// Reads an answer. Client's side.
    ///
    /// # Errors
    /// If it is out of form.
    pub fn parse(bytes: &[u8]) -> Result<Self, OfferError> {
        match bytes.split_first() {
            Some((0, ticket)) => match ticket.try_into() {
                Ok(ticket) => Ok(Self::Ticket(ticket)),
                Err(_) => Err(OfferError::Form("a ticket has 32 bytes")),
            },
            Some((1, text)) => {
                let text = String::from_utf8_lossy(text);
                let mut parts = text.splitn(3, '\0').map(str::to_owned);
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(what), Some(rule), Some(mend)) => Ok(Self::Refused(what, rule, mend)),
                    _ => Err(OfferError::Form("a refusal has three parts")),
                }
            }
            _ => Err(OfferError::Form("unknown answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    #[test]
    fn an_offer_comes_back_as_it_went() {
        let (a, b) = Packets::pair().unwrap();
        let file = std::fs::File::open("/").unwrap();
        let grants = [
            Grant { role: Role::Workspace, mode: Mode::Overlay },
            Grant { role: Role::Input, mode: Mode::Ro },
        ];
        send(&a, &grants.map(|g| (g, file.as_fd()))).unwrap();
        let packet = b.receive(MAX_OFFER, MAX_DESCRIPTORS).unwrap().unwrap();
        let got: Vec<_> = parse(packet).unwrap().into_iter().map(|(g, _)| g).collect();
        assert_eq!(got, grants);
        for answer in [Answer::Ticket([3; 32]), Answer::Refused("a".into(), "b".into(), "c".into())] {
            assert_eq!(Answer::parse(&answer.encode()).unwrap(), answer);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Answer::parse(&bytes);
            let _ = parse(Packet { bytes, descriptors: vec![] });
        }
    }
}
