//! The meter measures what a session has written to its overlays.
//!
//! Where the kernel holds the limit, by project quotas or by an image of the session's own, the meter only
//! [reports](held) when the limit is reached. Otherwise it [watches](watch): it counts what has a [name](names), what
//! has [none](nameless), and holds the file system's own count of free space against both.

mod held;
mod nameless;
mod names;
mod notice;
mod space;
mod watch;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::cgroup::Freezer;
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_kernel::{creds, mount, seccomp};
use agentd_policy::limits::DiskForm;
use rustix::thread::{CapabilitySet, CapabilitySets};

pub use notice::{Excess, Notice, read};
pub use space::{Reserve, Space, Usage};

use crate::error::HostError;

/// What a meter is started with.
pub struct Meter<'a> {
    /// What enforces the limit.
    pub form: DiskForm,
    /// The session's directory of uppers.
    pub uppers: OwnedFd,
    /// The most that may be in it.
    pub limit: Usage,
    /// What must stay free of the file system.
    pub reserve: Reserve,
    /// What stops the session while it is looked at closely.
    pub freezer: Freezer,
    /// The host's /proc.
    pub proc: BorrowedFd<'a>,
    /// Where it is accounted.
    pub cgroup: BorrowedFd<'a>,
    /// An empty root.
    pub empty_root: BorrowedFd<'a>,
    /// What it may ask of the kernel.
    pub filter: &'a seccomp::Filter,
    /// That fork is sound.
    pub token: SingleThreaded,
}

impl Meter<'_> {
    /// Starts it. What it finds comes by the descriptor, as [`read`] reads it.
    pub fn start(self) -> std::io::Result<(Child, OwnedFd)> {
        let (notices, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let birth = CloneArgs { cgroup: Some(self.cgroup), ..CloneArgs::default() };
        let child = process::spawn(self.token, birth, || {
            let found = self.give_up(writer.as_fd()).and_then(|()| {
                if self.form != DiskForm::Watch {
                    return held::run(self.uppers.as_fd(), writer.as_fd()).map(|()| None);
                }
                watch::Watch {
                    uppers: self.uppers.as_fd(),
                    limit: self.limit,
                    reserve: self.reserve,
                    freezer: &self.freezer,
                    proc: self.proc,
                    keeper: writer.as_fd(),
                }
                .run()
            });
            let (notice, code) = match found {
                Ok(None) => return 0,
                Ok(Some(excess)) => (Notice::Over(excess), 0),
                Err(error) => {
                    tracing::error!(%error, "what the session writes cannot be measured");
                    (Notice::Failed(error.to_string()), 1)
                }
            };
            // A keeper that is gone needs no notice.
            rustix::io::write(&writer, &notice.to_bytes()).ok();
            code
        })?;
        Ok((child, notices))
    }

    /// Of root's rights it keeps those to list directories of others and to look at what their processes have open; it
    /// has no root and no network.
    fn give_up(&self, writer: BorrowedFd<'_>) -> Result<(), HostError> {
        process::set_title(c"agentd-meter")?;
        mount::enter_namespace(self.empty_root)?;
        let mut keep = vec![self.uppers.as_fd(), self.proc, writer];
        keep.extend(self.freezer.descriptors());
        process::close_all_but(&keep)?;
        creds::not_dumpable()?;
        // The links of /proc/PID/map_files need the last one, or CAP_SYS_ADMIN.
        let wanted = match self.form {
            DiskForm::Quota | DiskForm::Image => CapabilitySet::empty(),
            DiskForm::Watch => {
                CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE | CapabilitySet::CHECKPOINT_RESTORE
            }
        };
        let sets =
            CapabilitySets { effective: wanted, permitted: wanted, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets)?;
        creds::no_new_privs()?;
        creds::parent_death_signal()?;
        Ok(seccomp::install(self.filter).map(drop)?)
    }
}
