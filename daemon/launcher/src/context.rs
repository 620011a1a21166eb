//! What the launcher knows and holds for as long as it runs.

use agentd_kernel::memfd::Sealed;
use agentd_kernel::process::SingleThreaded;
use agentd_session::Host;

use crate::accounts::Accounts;
use crate::directories::Directories;
use crate::disk::Disk;
use crate::scope::Scope;
use crate::settings::Settings;

/// Read and opened once, and the same for every session.
#[derive(Debug)]
pub struct Context {
    /// That fork is sound.
    pub token: SingleThreaded,
    /// The site's decisions.
    pub settings: Settings,
    /// Which account answers for whom.
    pub accounts: Accounts,
    /// The directories that are ours.
    pub directories: Directories,
    /// What enforces the limits of overlays.
    pub disk: Disk,
    /// Open files that this process may have, and each that it starts.
    pub open_files: u64,
    /// Where sessions' cgroups are.
    pub cgroups: Cgroups,
    /// What every build uses.
    pub host: Host,
    /// The table of the site's blocklists, for sessions that begin; `None` if it names no file.
    pub blocklist: Option<Sealed>,
}

/// Where sessions' cgroups are.
#[derive(Debug)]
pub struct Cgroups {
    /// What keeps them there, under systemd.
    pub scope: Option<Scope>,
    /// The directory of cgroup2 that they are below; else the mount itself.
    pub root: Option<String>,
}
