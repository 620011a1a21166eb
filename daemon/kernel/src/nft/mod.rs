//! The session's nftables table: described as data, committed in one atomic batch, read back.

mod encode;
mod open;
#[cfg(test)]
mod open_tests;
mod pins;
mod probe;
mod readback;
mod rules;
mod sets;
#[cfg(test)]
mod tests;

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::NetlinkBuffer;
use nftnl::FinalizedBatch;
pub use nftnl::{Hook, Policy};

pub use open::{AcceptRule, LISTENER};
pub use probe::transparent;
pub use rules::{Base, ChainSpec, DENIED, LOG_GROUP, Match, PLANNED, RuleSpec, Ruleset, Statement, TABLE};
pub use sets::{Element, MAX_ELEMENTS, Set};

use crate::netlink::{self, Netlink, NetlinkError, messages};

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The socket failed.
    #[error("nftables: {0}")]
    Netlink(#[source] std::io::Error),
    /// The kernel refused a message of the batch: nothing was changed.
    #[error("nftables: {what}: {error}")]
    Refused {
        /// What it would have made.
        what: String,
        /// The kernel's error for it.
        error: std::io::Error,
    },
    /// The kernel holds something else than what was meant.
    #[error("nftables: read back: {0}")]
    Differs(String),
}

impl From<NetlinkError> for NftError {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(match error {
            NetlinkError::Socket(error) => error,
            other => std::io::Error::other(other),
        })
    }
}

/// The table of one network namespace, and the socket that speaks about it: opened inside, it stays good
/// for the owner of that namespace's user namespace, from outside and without any capability.
#[derive(Debug)]
pub struct Table(Netlink);

impl Table {
    /// Makes `ruleset` in the calling thread's network namespace, which must hold none, and reads it back.
    ///
    /// # Errors
    /// [`NftError`]. Nothing was made unless it is [`NftError::Differs`].
    pub fn install(ruleset: &Ruleset) -> Result<Self, NftError> {
        let table = Self::open()?;
        let batch = encode::batch(ruleset);
        table.commit(&batch, |sequence| name(&batch, ruleset, sequence))?;
        table.compare(&batch)?;
        Ok(table)
    }

    fn open() -> Result<Self, NftError> {
        let socket = Netlink::open(netlink::NETFILTER).map_err(NftError::Netlink)?;
        socket.make_room().map_err(NftError::Netlink)?;
        Ok(Self(socket))
    }

    /// Takes a socket that was opened in the table's network namespace.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(Netlink::from_fd(fd))
    }

    /// Whether the namespace holds `ruleset` and nothing else.
    ///
    /// # Errors
    /// [`NftError::Differs`] if not.
    pub fn verify(&self, ruleset: &Ruleset) -> Result<(), NftError> {
        self.compare(&encode::batch(ruleset))
    }

    /// Puts the rules that `ruleset` has in its chain [`PLANNED`] in the place of those that are there, all at once,
    /// and reads everything back. What the sets hold stays.
    ///
    /// # Errors
    /// [`NftError`]. Nothing was changed unless it is [`NftError::Differs`].
    pub fn plan(&self, ruleset: &Ruleset) -> Result<(), NftError> {
        for chain in ruleset.chains.iter().filter(|chain| chain.name == PLANNED) {
            self.commit(&encode::refill(chain), |_| format!("chain {PLANNED}"))?;
        }
        self.verify(ruleset)
    }

    /// How many packets were refused so far.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn denied(&self) -> Result<u64, NftError> {
        let mut packets = None;
        self.0.ask(&encode::get_counter(DENIED, 1), false, |message| {
            packets = encode::counted(message.payload());
            Ok(())
        })?;
        packets.ok_or_else(|| NftError::Differs(format!("counter {DENIED} has no number")))
    }

    /// All of `batch`, or nothing; `name` says what a message of it would have made.
    fn commit(&self, batch: &FinalizedBatch, name: impl FnOnce(u32) -> String) -> Result<(), NftError> {
        // One datagram whatever its length: page by page would be several batches.
        let pages: Vec<_> = batch.iter().map(IoSlice::new).collect();
        self.0.send(&pages).map_err(NftError::Netlink)?;
        match self.0.acknowledged(batch.sequence_numbers().len()) {
            Err(NetlinkError::Refused { sequence, error }) => {
                self.0.drain().map_err(NftError::Netlink)?;
                Err(NftError::Refused { what: name(sequence), error })
            }
            result => Ok(result?),
        }
    }

    fn compare(&self, batch: &FinalizedBatch) -> Result<(), NftError> {
        for (what, new, get) in [
            ("tables", libc::NFT_MSG_NEWTABLE, libc::NFT_MSG_GETTABLE),
            ("sets", libc::NFT_MSG_NEWSET, libc::NFT_MSG_GETSET),
            ("chains", libc::NFT_MSG_NEWCHAIN, libc::NFT_MSG_GETCHAIN),
            ("rules", libc::NFT_MSG_NEWRULE, libc::NFT_MSG_GETRULE),
        ] {
            let mut sent = sent(batch).filter(|message| kind(message) == Some(new));
            let mut number = 0;
            let mut differs = None;
            self.0.ask(&encode::dump(get, 1), true, |held| {
                number += 1;
                let agrees = sent.next().is_some_and(|sent| readback::agrees(sent.payload(), held.payload()));
                if !agrees && differs.is_none() {
                    differs = Some(number);
                }
                Ok(())
            })?;
            if let Some(number) = differs {
                return Err(NftError::Differs(format!("{what}: number {number} is not what was meant")));
            }
            if sent.next().is_some() {
                return Err(NftError::Differs(format!("{what}: there are only {number}")));
            }
        }
        Ok(())
    }
}

impl AsFd for Table {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The bodies of the messages that make the rules of `ruleset`, each once.
pub(crate) fn rule_bodies(ruleset: &Ruleset) -> std::collections::BTreeSet<Vec<u8>> {
    let batch = encode::batch(ruleset);
    let rules = sent(&batch).filter(|message| kind(message) == Some(libc::NFT_MSG_NEWRULE));
    rules.map(|message| message.payload().to_vec()).collect()
}

/// Whether the message body `held` is what the message body `sent` asked for.
pub(crate) fn agrees(sent: &[u8], held: &[u8]) -> bool {
    readback::agrees(sent, held)
}

/// Everything else that is read of a message body.
pub(crate) fn read(body: &[u8]) {
    let _ = encode::counted(body);
    let element = Element { address: [192, 0, 2, 1].into(), protocol: 6, port: Some(443) };
    let _ = sets::lasts(&element, body);
}

/// The messages of a batch, its begin and end among them.
fn sent(batch: &FinalizedBatch) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    batch.iter().flat_map(messages).map_while(Result::ok)
}

/// Which of nf_tables' messages it is.
fn kind(message: &NetlinkBuffer<&[u8]>) -> Option<libc::c_int> {
    let [low, high] = message.message_type().to_le_bytes();
    (libc::c_int::from(high) == libc::NFNL_SUBSYS_NFTABLES).then_some(libc::c_int::from(low))
}

/// What the message with this sequence number would have made.
fn name(batch: &FinalizedBatch, ruleset: &Ruleset, sequence: u32) -> String {
    let mut sets = ruleset.sets.iter();
    let mut chains = ruleset.chains.iter();
    let mut rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    for message in sent(batch) {
        let kind = kind(&message);
        let what = match kind {
            Some(libc::NFT_MSG_NEWTABLE) => Some(format!("table {TABLE}")),
            Some(libc::NFT_MSG_NEWOBJ) => Some(format!("counter {DENIED}")),
            Some(libc::NFT_MSG_NEWSET) => sets.next().map(|set| format!("set {}", set.name())),
            Some(libc::NFT_MSG_NEWCHAIN) => chains.next().map(|chain| format!("chain {}", chain.name)),
            Some(libc::NFT_MSG_NEWRULE) => rules.next().map(|rule| format!("rule `{rule}`")),
            _ => None,
        };
        if message.sequence_number() == sequence {
            return what.unwrap_or_else(|| "batch".into());
        }
    }
    "batch".into()
}
