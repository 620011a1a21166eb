//! A mount that a test makes on the host, in a directory of its own.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// It goes with this.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// A `tmpfs` at `path`, open to everybody.
    ///
    /// # Panics
    /// If root may not mount.
    pub fn tmpfs(path: &Path, flags: MountFlags) -> Self {
        let options = c"size=64m,mode=1777";
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, options).expect("root may mount");
        Self(path.to_owned())
    }

    /// `path` as a mount of its own, on which `flags` hold: on every kernel that can map the ids of its file system.
    ///
    /// # Panics
    /// If root may not mount.
    pub fn again(path: &Path, flags: MountFlags) -> Self {
        let mounted = Self::bind(path, path);
        rustix::mount::mount_remount(path, flags | MountFlags::BIND, c"").expect("root may mount");
        mounted
    }

    /// What is at `source`, at `path` as well.
    ///
    /// # Panics
    /// If root may not mount.
    pub fn bind(source: &Path, path: &Path) -> Self {
        rustix::mount::mount_bind(source, path).expect("root may mount");
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}
