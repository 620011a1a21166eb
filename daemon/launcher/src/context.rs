//! What the launcher knows and holds for as long as it runs.

use agentd_kernel::process::SingleThreaded;

use crate::directories::Directories;
use crate::host::Host;
use crate::settings::Settings;

/// Read and opened once, and the same for every session.
#[derive(Debug)]
pub struct Context {
    /// That fork is sound.
    pub token: SingleThreaded,
    /// The site's decisions.
    pub settings: Settings,
    /// The directories that are ours.
    pub directories: Directories,
    /// What every build uses.
    pub host: Host,
}
