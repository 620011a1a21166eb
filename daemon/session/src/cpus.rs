//! What the host shows of its CPUs, and whether sessions can have it.

use std::os::fd::BorrowedFd;
use std::path::Path;

use agentd_kernel::mount;
use agentd_kernel::mountinfo::Mounts;

use crate::error::{HostError, On as _};

/// The CPUs, their topology and caches.
pub const CPUS: &str = "/sys/devices/system/cpu";

/// What the host has at [`CPUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// The host has nothing there.
    Missing,
    /// The host's own sysfs.
    Plain,
    /// Something is mounted below, such as the files of lxcfs in a container.
    Covered,
}

impl Cpus {
    /// Asks the host, once for all sessions. `proc` is the host's.
    pub fn find(proc: BorrowedFd<'_>) -> Result<Self, HostError> {
        match mount::place(CPUS) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::Missing),
            Err(error) => return Err(error).on(CPUS),
        }
        let mounts = Mounts::read(proc).on("mountinfo")?;
        Ok(if mounts.below(Path::new(CPUS)).is_some() { Self::Covered } else { Self::Plain })
    }
}
