//! How much a session has written to its overlays, and what is done about it.
//!
//! Where the kernel has project quotas, each session is a [project](projects). An [image] of its own for each session
//! holds the limit by itself as well. With both a small process [tells](held) when the limit is reached. Otherwise such a
//! process [watches](watch): it counts what has a [name](names), what has [none](nameless), and holds the file system's
//! own count of free space against both.

mod held;
pub mod image;
mod nameless;
mod names;
mod notice;
pub mod projects;
mod space;
pub mod squeeze;
mod watch;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::cgroup::Freezer;
use agentd_kernel::loop_device::LoopDevice;
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_kernel::{creds, mount, quota, seccomp};
use agentd_policy::config::{Config, DiskLimits};
use agentd_policy::limits::DiskForm;
use agentd_policy::names::SessionId;
use agentd_policy::plan::Plan;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::directories::Directories;

pub use notice::{Excess, Notice, read};
pub use space::{Reserve, Usage, admit, free};

/// What enforces limits here, as the site wants it and the host can.
#[derive(Debug)]
pub struct Disk {
    /// How.
    pub form: DiskForm,
    /// Where overlays are, if that is an image that they share.
    shared: Option<LoopDevice>,
}

/// What a builder needs to know of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// How limits are enforced.
    pub form: DiskForm,
    /// The device that the session's directory is on, and the directory's path there, if it is no directory of the
    /// host's.
    pub shared: Option<(String, String)>,
}

impl Disk {
    /// Finds out what there is, and puts the directory of overlays where it is enforced.
    ///
    /// # Errors
    /// If the host has not what the site wants.
    pub fn prepare(
        token: SingleThreaded,
        config: &Config,
        directories: &mut Directories,
    ) -> Result<Self, String> {
        let plain = |form| Ok(Self { form, shared: None });
        match config.disk_limits {
            DiskLimits::Watch => plain(DiskForm::Watch),
            DiskLimits::Image => plain(DiskForm::Image),
            DiskLimits::Auto if quota::is_enforced(directories.overlays.as_fd()) => plain(DiskForm::Quota),
            DiskLimits::Auto => plain(DiskForm::Watch),
            DiskLimits::Quota => match projects::prepare(token, directories, config.disk_reserve) {
                Ok(shared) => Ok(Self { form: DiskForm::Quota, shared }),
                Err(error) => {
                    Err(format!("disk_limits: project quotas: {error}; use \"image\" or \"watch\""))
                }
            },
        }
    }

    /// For a builder.
    pub fn order(&self, owner: u32, session: &SessionId) -> Order {
        let shared = self.shared.as_ref().map(|device| (device.path(), format!("/u{owner}/{session}")));
        Order { form: self.form, shared }
    }

    /// Bounds what will be in a session's new directory, where that is done beforehand.
    pub fn bound(&self, directory: &OwnedFd, plan: &Plan) -> Result<(), String> {
        match self.form {
            DiskForm::Quota => {
                let limit = Usage { bytes: plan.limits.disk, inodes: plan.limits.inodes };
                projects::bound(directory, &plan.session, limit)
            }
            DiskForm::Image | DiskForm::Watch => Ok(()),
        }
    }
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.form, &self.shared) {
            (DiskForm::Quota, None) => f.write_str("quota: of the file system of state_dir"),
            (DiskForm::Quota, Some(device)) => {
                write!(f, "quota: of an image below state_dir ({})", device.path())
            }
            (form, _) => f.write_str(form.as_str()),
        }
    }
}

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
        let (notices, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let birth = CloneArgs { cgroup: Some(self.cgroup), ..CloneArgs::default() };
        let child = process::spawn(self.token, birth, || {
            let found = self.give_up(tell.as_fd()).and_then(|()| {
                if self.form != DiskForm::Watch {
                    return held::run(self.uppers.as_fd(), tell.as_fd()).map(|()| None);
                }
                watch::Watch {
                    uppers: self.uppers.as_fd(),
                    limit: self.limit,
                    reserve: self.reserve,
                    freezer: &self.freezer,
                    proc: self.proc,
                    keeper: tell.as_fd(),
                }
                .run()
            });
            let (notice, code) = match found {
                Ok(None) => return 0,
                Ok(Some(excess)) => (Notice::Over(excess), 0),
                Err(error) => {
                    tracing::error!(error, "what the session writes cannot be measured");
                    (Notice::Failed(error), 1)
                }
            };
            // A keeper that is gone needs no notice.
            let _ = rustix::io::write(&tell, &notice.to_bytes());
            code
        })?;
        Ok((child, notices))
    }

    /// Of root's rights it keeps those to list directories of others and to look at what their processes have open; it
    /// has no root and no network.
    fn give_up(&self, tell: BorrowedFd<'_>) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        process::set_title(c"agentd-meter").map_err(|e| text(&e))?;
        mount::enter_namespace(self.empty_root).map_err(|e| text(&e))?;
        let mut keep = vec![self.uppers.as_fd(), self.proc, tell];
        keep.extend(self.freezer.descriptors());
        process::close_all_but(&keep).map_err(|e| text(&e))?;
        creds::not_dumpable().map_err(|e| text(&e))?;
        // The links of /proc/PID/map_files need the last one, or CAP_SYS_ADMIN.
        let wanted = match self.form {
            DiskForm::Quota | DiskForm::Image => CapabilitySet::empty(),
            DiskForm::Watch => {
                CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE | CapabilitySet::CHECKPOINT_RESTORE
            }
        };
        let sets =
            CapabilitySets { effective: wanted, permitted: wanted, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).map_err(|e| text(&e))?;
        creds::no_new_privs().map_err(|e| text(&e))?;
        creds::parent_death_signal().map_err(|e| text(&e))?;
        seccomp::install(self.filter).map(drop).map_err(|e| text(&e))
    }
}
