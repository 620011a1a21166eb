//! The system calls that change something, each beneath a tree, and each with a hook before it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::beneath::Tree;
use crate::error::ReviewError;
use crate::path::FilePath;
use crate::trees::Stamp;

/// What is called before each change of a file system: a test stops there, or fails the call.
pub trait Faults {
    /// Before `call` on `path` in the tree that `in_tree` names.
    ///
    /// # Errors
    /// What the call is to fail with, instead of being made.
    fn before(&mut self, call: &'static str, in_tree: &Tree, path: Option<&FilePath>) -> Result<(), Errno>;
}

/// No faults: what is called in production.
#[derive(Debug)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn before(&mut self, _: &'static str, _: &Tree, _: Option<&FilePath>) -> Result<(), Errno> {
        Ok(())
    }
}

/// The calls, after their hook. Every error has the call and the file.
pub struct Calls<'a>(&'a mut dyn Faults);

impl std::fmt::Debug for Calls<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Calls")
    }
}

impl<'a> Calls<'a> {
    /// With this hook before each.
    pub fn new(faults: &'a mut dyn Faults) -> Self {
        Self(faults)
    }

    fn make<T>(
        &mut self,
        call: &'static str,
        tree: &Tree,
        path: Option<&FilePath>,
        make: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, ReviewError> {
        let made = self.0.before(call, tree, path).and_then(|()| make());
        made.map_err(|errno| tree.error(call, path, errno))
    }

    /// Makes a directory with exactly `mode`, if its parent is not set-group-id.
    ///
    /// # Errors
    /// As `mkdirat(2)`; one that is there already is an error.
    pub fn make_dir(&mut self, tree: &Tree, path: &FilePath, mode: u32) -> Result<OwnedFd, ReviewError> {
        let parent = tree.parent(path)?;
        let private = Mode::from_raw_mode(0o700);
        self.make("mkdir", tree, Some(path), || rustix::fs::mkdirat(&parent, path.name(), private))?;
        let made = tree.open(Some(path), OFlags::RDONLY | OFlags::DIRECTORY)?;
        if mode != 0o700 {
            self.chmod(tree, path, &made, mode)?;
        }
        Ok(made)
    }

    /// Makes a file that only the caller reads and writes, and opens it for both.
    ///
    /// # Errors
    /// As `openat(2)`; one that is there already is an error, a link too.
    pub fn create(&mut self, tree: &Tree, path: &FilePath) -> Result<OwnedFd, ReviewError> {
        let parent = tree.parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        self.make("create", tree, Some(path), || rustix::fs::openat(&parent, path.name(), flags, mode))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    pub fn write_at(
        &mut self,
        tree: &Tree,
        path: &FilePath,
        file: impl AsFd,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), ReviewError> {
        self.make("write", tree, Some(path), || {
            let mut written = 0;
            while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
                match rustix::io::pwrite(&file, rest, offset + written as u64) {
                    Ok(0) => return Err(Errno::IO),
                    Ok(more) => written += more,
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        })
    }

    /// Makes the file this long.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    pub fn set_size(
        &mut self,
        tree: &Tree,
        path: &FilePath,
        file: impl AsFd,
        size: u64,
    ) -> Result<(), ReviewError> {
        self.make("truncate", tree, Some(path), || rustix::fs::ftruncate(file, size))
    }

    /// Shares the blocks of `from` with the new file; whether the file system can.
    ///
    /// # Errors
    /// As `ioctl_ficlone(2)`, but for "it cannot".
    pub fn clone_blocks(
        &mut self,
        tree: &Tree,
        path: &FilePath,
        file: impl AsFd,
        from: impl AsFd,
    ) -> Result<bool, ReviewError> {
        self.make("clone", tree, Some(path), || match rustix::fs::ioctl_ficlone(file, from) {
            Ok(()) => Ok(true),
            Err(Errno::NOSPC) => Err(Errno::NOSPC),
            Err(_) => Ok(false),
        })
    }

    /// Sets the permission bits of what is open.
    ///
    /// # Errors
    /// As `fchmod(2)`.
    pub fn chmod(
        &mut self,
        tree: &Tree,
        path: &FilePath,
        file: impl AsFd,
        mode: u32,
    ) -> Result<(), ReviewError> {
        self.make("chmod", tree, Some(path), || rustix::fs::fchmod(file, Mode::from_raw_mode(mode)))
    }

    /// Makes a link that points to `target`, whatever is there.
    ///
    /// # Errors
    /// As `symlinkat(2)`.
    pub fn symlink(&mut self, tree: &Tree, path: &FilePath, target: &[u8]) -> Result<(), ReviewError> {
        let parent = tree.parent(path)?;
        self.make("symlink", tree, Some(path), || rustix::fs::symlinkat(target, &parent, path.name()))
    }

    /// Sets when it was last modified; of a link, not of what it points to.
    ///
    /// # Errors
    /// As `utimensat(2)`.
    pub fn set_modified(&mut self, tree: &Tree, path: &FilePath, to: Stamp) -> Result<(), ReviewError> {
        let parent = tree.parent(path)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: to.seconds, tv_nsec: to.nanoseconds.into() },
        };
        self.make("utimens", tree, Some(path), || {
            rustix::fs::utimensat(&parent, path.name(), &times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Moves `from` to `to`, perhaps in another tree; nothing is replaced. With `exchange` the two change places.
    ///
    /// # Errors
    /// As `renameat2(2)`, about `to`.
    pub fn rename(
        &mut self,
        (from, old): (&Tree, &FilePath),
        (to, new): (&Tree, &FilePath),
        exchange: bool,
    ) -> Result<(), ReviewError> {
        let (out_of, into) = (from.parent(old)?, to.parent(new)?);
        let (call, flags) = match exchange {
            true => ("exchange", RenameFlags::EXCHANGE),
            false => ("rename", RenameFlags::NOREPLACE),
        };
        self.make(call, to, Some(new), || {
            rustix::fs::renameat_with(&out_of, old.name(), &into, new.name(), flags)
        })
    }

    /// Moves `old` to `new` in the same tree; what was there is replaced, as a whole.
    ///
    /// # Errors
    /// As `renameat(2)`.
    pub fn replace(&mut self, tree: &Tree, old: &FilePath, new: &FilePath) -> Result<(), ReviewError> {
        let (out_of, into) = (tree.parent(old)?, tree.parent(new)?);
        self.make("rename", tree, Some(new), || rustix::fs::renameat(&out_of, old.name(), &into, new.name()))
    }

    /// Removes a file or link, or with `dir` an empty directory.
    ///
    /// # Errors
    /// As `unlinkat(2)`.
    pub fn remove(&mut self, tree: &Tree, path: &FilePath, dir: bool) -> Result<(), ReviewError> {
        let parent = tree.parent(path)?;
        let (call, flags) = if dir { ("rmdir", AtFlags::REMOVEDIR) } else { ("unlink", AtFlags::empty()) };
        self.make(call, tree, Some(path), || rustix::fs::unlinkat(&parent, path.name(), flags))
    }

    /// Waits until what is open is on disk.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync(&mut self, tree: &Tree, path: Option<&FilePath>, file: impl AsFd) -> Result<(), ReviewError> {
        self.make("fsync", tree, path, || rustix::fs::fsync(file))
    }

    /// Waits until everything of the tree's file system is on disk.
    ///
    /// # Errors
    /// As `syncfs(2)`.
    pub fn sync_all(&mut self, tree: &Tree) -> Result<(), ReviewError> {
        // Not of the top itself: that may have been opened with `O_PATH`.
        let top = tree.open(None, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.make("syncfs", tree, None, || rustix::fs::syncfs(&top))
    }
}
