//! What launcher and builder send each other.

use agentd_kernel::nsfs::Handle;
use agentd_policy::Refusal;
use agentd_policy::ceiling::Ceiling;
use agentd_policy::lease::Groups;
use agentd_policy::limits::DiskForm;
use agentd_policy::names::AbsPath;
use agentd_policy::plan::Plan;
use agentd_policy::wire::Timing;
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

/// Launcher to builder. Descriptors: the keeper's listening socket; the caller's side socket with its offer; a
/// directory for uppers, if the plan has overlays; the table of blocklists, if the site has any and the session egress;
/// a CA bundle, if it asks over TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// What to build.
    pub plan: Plan,
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
