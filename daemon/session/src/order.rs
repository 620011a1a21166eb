//! What launcher and builder send each other.

use std::ops::RangeInclusive;

use agentd_kernel::nsfs::Handle;
use agentd_policy::Refusal;
use agentd_policy::ceiling::Ceiling;
use agentd_policy::lease::Groups;
use agentd_policy::limits::DiskForm;
use agentd_policy::names::AbsPath;
use agentd_policy::plan::Permitted;
use agentd_policy::wire::{Attached, Message, Timing, WireError};
use serde::{Deserialize, Serialize};

use crate::meter::Reserve;

/// Whose session it is: the numbers that it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The caller's uid.
    pub uid: u32,
    /// The caller's gid.
    pub gid: u32,
    /// Its other groups.
    pub groups: Groups,
}

/// Launcher to builder. Descriptors: [`OrderDescriptors`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// What to build.
    pub plan: Permitted,
    /// What it may reach at most, however it is changed later.
    pub ceiling: Ceiling,
    /// When the launcher read the request: nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// Whether a directory for uppers does.
    pub uppers: bool,
    /// What enforces the limit of what is written there.
    pub disk: DiskOrder,
    /// What must stay free of its file system.
    pub reserve: Reserve,
    /// Whether the table of blocklists does.
    pub blocklist: bool,
    /// Whether a CA bundle does.
    pub trust: bool,
    /// Whether a file for the site's proxy does.
    pub credential: bool,
    /// Who may connect to the keeper, besides root.
    pub service_uid: u32,
}

impl Message for Order {
    fn descriptors(&self) -> RangeInclusive<usize> {
        let optional = [self.uppers, self.blocklist, self.trust, self.credential];
        let count = 2 + optional.into_iter().filter(|present| *present).count();
        count..=count
    }
}

/// The descriptors of an [`Order`].
#[derive(Debug)]
pub struct OrderDescriptors<F> {
    /// The keeper's listening socket.
    pub listener: F,
    /// The side socket of the client, with its offer.
    pub offer: F,
    /// A directory for uppers, if the plan has overlays.
    pub uppers: Option<F>,
    /// The table of blocklists, if the site has any and the session has egress.
    pub blocklist: Option<F>,
    /// A CA bundle (PEM), if the session's resolvers are asked over TLS.
    pub ca_bundle: Option<F>,
    /// The credential for the site's proxy.
    pub credential: Option<F>,
}

impl<F> OrderDescriptors<F> {
    /// Takes those of `order`.
    ///
    /// # Errors
    /// If there are fewer or more.
    pub fn take(order: &Order, mut attached: Attached<F>) -> Result<Self, WireError> {
        let descriptors = Self {
            listener: attached.one()?,
            offer: attached.one()?,
            uppers: attached.one_if(order.uppers)?,
            blocklist: attached.one_if(order.blocklist)?,
            ca_bundle: attached.one_if(order.trust)?,
            credential: attached.one_if(order.credential)?,
        };
        attached.finish()?;
        Ok(descriptors)
    }

    /// In the order in which they are sent.
    pub fn into_vec(self) -> Vec<F> {
        let optional = [self.uppers, self.blocklist, self.ca_bundle, self.credential];
        [self.listener, self.offer].into_iter().chain(optional.into_iter().flatten()).collect()
    }
}

/// Builder to launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// A name is about to be made in a directory of the caller's. The launcher takes it away again in the end, whatever
    /// becomes of the builder. Descriptor: the directory.
    Placed {
        /// The directory's path.
        workspace: AbsPath,
        /// The name in it.
        name: String,
        /// The file system of the directory.
        dev: u64,
        /// Its number there.
        ino: u64,
    },
    /// The session is confined and its command starts. Descriptors: the service's ends of the keeper's and
    /// of the relay's socket.
    Built {
        /// How long each step took.
        timings: Vec<Timing>,
        /// A handle of its user namespace, if this kernel has such.
        users: Option<(i32, [u8; Handle::SIZE])>,
    },
    /// Of a keeper: no process of the session is left, so that what was made in directories of the caller's can go.
    Emptied,
    /// It was not built.
    Refused(Refusal),
}

impl Message for Reply {
    fn descriptors(&self) -> RangeInclusive<usize> {
        match self {
            Self::Placed { .. } => 1..=1,
            Self::Built { .. } => 2..=2,
            Self::Emptied | Self::Refused(_) => 0..=0,
        }
    }
}

/// What a builder needs to know of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskOrder {
    /// How limits are enforced.
    pub form: DiskForm,
    /// The device that the session's directory is on, and the directory's path there, if it is no directory of the
    /// host's.
    pub shared: Option<(String, String)>,
}

/// The time that launcher and builder share.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
