//! What enforces the limits of overlays on this host: [project quotas](projects), an image of its own for each session,
//! or the session's meter.

mod projects;
mod space;

use std::os::fd::{AsFd, OwnedFd};

use agentd_kernel::loop_device::LoopDevice;
use agentd_kernel::process::SingleThreaded;
use agentd_kernel::quota;
use agentd_policy::config::{Config, DiskLimits};
use agentd_policy::limits::DiskForm;
use agentd_policy::names::SessionId;
use agentd_policy::plan::Plan;
use agentd_session::{DiskOrder, Usage};

use crate::directories::Directories;

use agentd_session::error::HostError;
pub use space::{admit, free};

/// What enforces limits here, as the site wants it and the host can.
#[derive(Debug)]
pub struct Disk {
    /// What enforces the limits.
    pub form: DiskForm,
    /// Where overlays are, if that is an image that they share.
    shared: Option<LoopDevice>,
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
    ) -> Result<Self, HostError> {
        let plain = |form| Ok(Self { form, shared: None });
        match config.disk_limits {
            DiskLimits::Watch => plain(DiskForm::Watch),
            DiskLimits::Image => plain(DiskForm::Image),
            DiskLimits::Auto if quota::is_enforced(directories.overlays.as_fd()) => plain(DiskForm::Quota),
            DiskLimits::Auto => plain(DiskForm::Watch),
            DiskLimits::Quota => match projects::prepare(token, directories, config.disk_reserve) {
                Ok(shared) => Ok(Self { form: DiskForm::Quota, shared }),
                Err(error) => Err(HostError::unfit(format!(
                    "disk_limits: project quotas: {error}; use \"image\" or \"watch\""
                ))),
            },
        }
    }

    /// For a builder.
    pub fn order(&self, owner: u32, session: &SessionId) -> DiskOrder {
        let shared = self.shared.as_ref().map(|device| (device.path(), format!("/u{owner}/{session}")));
        DiskOrder { form: self.form, shared }
    }

    /// Bounds what will be in a session's new directory, where that is done beforehand.
    pub fn bound(&self, directory: &OwnedFd, plan: &Plan) -> Result<(), HostError> {
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
