//! Where a session's overlays write to: directories below `state_dir`, or a file system of the session's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount::Tree;
use agentd_policy::limits::DiskForm;
use agentd_policy::plan::Plan;
use agentd_policy::step::Step;
use rustix::fs::{Mode, OFlags, Stat};
use rustix::process::{Gid, Uid};

use super::Builder;
use super::fault::{At, Fault};
use super::root::WRITABLE_EXEC;
use crate::image::{self, Image};
use crate::meter::Usage;
use crate::order::DiskOrder;

/// The session's directory of them.
#[derive(Debug)]
pub struct Uppers {
    directory: OwnedFd,
    lies: Lies,
}

/// Where the directory is.
#[derive(Debug)]
enum Lies {
    /// In the host's mount namespace.
    OnDisk,
    /// It is the root of the session's own file system.
    AtTop(Image),
    /// In the file system of this device, so far below its root.
    Below(String, String),
}

/// One of them: `upper` and `work` are in `path` below a mount.
#[derive(Debug)]
pub struct Upper {
    /// The mount, in no namespace yet.
    pub tree: Tree,
    /// Where in it; empty, or with a slash first.
    pub path: String,
    /// The directory in which both lie, which is root's.
    pub directory: OwnedFd,
}

impl Builder<'_> {
    /// What `directory` becomes. The builder is in the host's mount namespace.
    pub(super) fn uppers(&self, directory: OwnedFd, plan: &Plan, disk: DiskOrder) -> Result<Uppers, Fault> {
        if disk.form != DiskForm::Image {
            let lies = disk.shared.map_or(Lies::OnDisk, |(device, path)| Lies::Below(device, path));
            return Ok(Uppers { directory, lies });
        }
        let program = self.host.mke2fs.as_ref();
        let program = program.ok_or_else(|| Fault::unfit(Step::Disk, image::PROGRAM, "not found"))?;
        let limit = Usage { bytes: plan.limits.disk, inodes: plan.limits.inodes };
        let parts = (program.as_fd(), self.helpers.directory());
        let image = Image::make(self.token, directory.as_fd(), limit, parts).at(Step::Disk, "image")?;
        // It goes on being one of the file system when the mount that it was opened by is gone.
        let mount = image.mount(WRITABLE_EXEC).at(Step::Disk, "image")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&mount, ".", flags, Mode::empty()).at(Step::Disk, "image")?;
        Ok(Uppers { directory, lies: Lies::AtTop(image) })
    }
}

impl Uppers {
    /// One for an overlay over `lower`.
    pub fn make(&self, number: usize, lower: &Stat, path_of_lower: &str) -> Result<Upper, Fault> {
        let name = number.to_string();
        let made = make(self.directory.as_fd(), &name, lower).at(Step::Overlay, path_of_lower)?;
        let (tree, path) = match &self.lies {
            Lies::OnDisk => (Tree::copy_of(made.as_fd()), String::new()),
            Lies::AtTop(image) => (image.mount(WRITABLE_EXEC), format!("/{name}")),
            Lies::Below(device, path) => {
                (image::mount_shared(device, WRITABLE_EXEC), format!("{path}/{name}"))
            }
        };
        Ok(Upper { tree: tree.at(Step::Overlay, path_of_lower)?, path, directory: made })
    }
}

impl From<Uppers> for OwnedFd {
    fn from(uppers: Uppers) -> Self {
        uppers.directory
    }
}

/// `N/upper` and `N/work` in the session's directory, unless they are there already. The upper directory has the mode
/// and owner of what it lies over, because the merged one shows them.
fn make(uppers: BorrowedFd<'_>, name: &str, lower: &Stat) -> rustix::io::Result<OwnedFd> {
    ensure(uppers, name, 0o755)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let home = rustix::fs::openat(uppers, name, flags, Mode::empty())?;
    let (uid, gid) = (Uid::from_raw(lower.st_uid), Gid::from_raw(lower.st_gid));
    for dir in ["upper", "work"] {
        ensure(home.as_fd(), dir, 0o700)?;
        rustix::fs::chownat(&home, dir, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(lower.st_mode & 0o1777);
        rustix::fs::chmodat(&home, dir, mode, rustix::fs::AtFlags::empty())?;
    }
    Ok(home)
}

/// Nobody but root reaches the place: what is there was made ahead.
fn ensure(parent: BorrowedFd<'_>, name: &str, mode: u32) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => other,
    }
}
