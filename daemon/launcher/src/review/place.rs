//! Where a session's overlays are on disk, and what lies beside each.

use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};

use agentd_kernel::loop_device::LoopDevice;
use agentd_kernel::mount::{Attributes, MountError, Tree};
use agentd_policy::mount::MAX_MOUNTS;
use agentd_policy::review::{About, MAX_ABOUT};
use agentd_session::error::{HostError, On as _};
use agentd_session::image;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// Every mount of a review.
pub const READ_ONLY: Attributes =
    Attributes { read_only: true, no_exec: true, devices: false, no_symlinks: true };

/// The session's directory of uppers, by a mount of its own that is attached nowhere.
pub struct Place {
    /// The mount, or a larger one that it is in.
    pub tree: Tree,
    /// Where in it the directory is; empty, or with a slash first.
    pub path: String,
    directory: OwnedFd,
}

/// One overlay: what its directory is called, what lies beside it, and when that was written.
pub type Overlay = (String, About, (i64, u32));

impl Place {
    /// What is behind `directory`: an image of the session's own if there is one in it, whatever new sessions have; the
    /// image that sessions share, by its device and the path in it; or the file system that it is in.
    pub fn of(directory: OwnedFd, shared: Option<&(String, String)>) -> Result<Self, HostError> {
        if let Some(tree) = own_image(&directory)? {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(&tree, ".", flags, Mode::empty()).on(image::NAME)?;
            return Ok(Self { tree, path: String::new(), directory });
        }
        let (tree, path) = match shared {
            Some((device, path)) => (image::mount_shared(device, READ_ONLY), path.clone()),
            None => (Tree::copy_of_one(directory.as_fd()), String::new()),
        };
        Ok(Self { tree: tree.on("uppers")?, path, directory })
    }

    /// The session's overlays. What agentd wrote nothing about was never one.
    pub fn overlays(&self) -> Result<Vec<Overlay>, HostError> {
        (0..MAX_MOUNTS).filter_map(|number| self.overlay(number.to_string()).transpose()).collect()
    }

    fn overlay(&self, name: String) -> Result<Option<Overlay>, HostError> {
        let path = format!("{name}/{}", About::NAME);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.directory, &path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => std::fs::File::from(opened.on(&path)?),
        };
        let stat = rustix::fs::fstat(&file).on(&path)?;
        let mut bytes = Vec::new();
        file.take(MAX_ABOUT as u64 + 1).read_to_end(&mut bytes).on(&path)?;
        let about = About::decode(&bytes).map_err(|error| HostError::unfit(error.to_string()));
        // Below a second's worth, as all of them.
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(Some((name, about.on(path)?, (stat.st_mtime, nanoseconds))))
    }
}

/// A mount of the session's own image, if `directory` has one. No file may be behind two devices: the one that a
/// session or another review has is found, and only one at a time looks for it.
fn own_image(directory: &OwnedFd) -> Result<Option<Tree>, HostError> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, image::NAME, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.on(image::NAME)?,
    };
    rustix::fs::flock(&file, FlockOperation::LockExclusive).on(image::NAME)?;
    let device = match LoopDevice::find(file.as_fd()).on("loop devices")? {
        Some(device) => device,
        None => LoopDevice::over(file.as_fd(), image::BLOCK).on("loop device")?,
    };
    // The device has the file open as it was opened here, with its lock.
    rustix::fs::flock(&file, FlockOperation::Unlock).on(image::NAME)?;
    let path = device.path();
    let mount = |more: &[(&str, &str)]| {
        let options = [&[("source", path.as_str()), ("noinit_itable", "")], more].concat();
        Tree::new("ext4", &options, READ_ONLY)
    };
    let busy = |error: &MountError| error.errno() == Some(Errno::BUSY.raw_os_error());
    match mount(&[("ro", "")]) {
        // The session runs, and has it mounted to write to it.
        Err(error) if busy(&error) => Ok(Some(mount(&[]).on(image::NAME)?)),
        mounted => Ok(Some(mounted.on(image::NAME)?)),
    }
}
