//! Files beneath a directory, opened without ever leaving it.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{ReviewError, Side};
use crate::path::FilePath;

/// Neither a link nor another mount is passed on the way (`openat2(2)`).
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens `name`, a path, beneath the open directory `dir`. `O_NOFOLLOW`, `O_NOCTTY` and `O_NONBLOCK` come with it: no
/// FIFO is waited for.
///
/// # Errors
/// As `openat2(2)`; [`Errno::XDEV`] and [`Errno::LOOP`] where the path would leave the tree.
pub fn open_at(dir: impl AsFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let unwanted = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = if flags.contains(OFlags::PATH) { flags.difference(unwanted) } else { flags };
    loop {
        match rustix::fs::openat2(&dir, name, flags, Mode::empty(), RESOLVE) {
            // A rename or mount elsewhere got in between (`openat2(2)`).
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// A tree that is open at its top.
#[derive(Debug)]
pub struct Tree {
    side: Side,
    top: OwnedFd,
}

impl Tree {
    /// The tree below `top`, an open directory (or one opened with `O_PATH`).
    pub fn new(side: Side, top: OwnedFd) -> Self {
        Self { side, top }
    }

    /// Which one it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Opens `path`, by [`open_at`]; `None` is the top.
    ///
    /// # Errors
    /// As [`open_at`].
    pub fn open(&self, path: Option<&FilePath>, flags: OFlags) -> Result<OwnedFd, ReviewError> {
        let name = path.map_or(OsStr::new("."), FilePath::as_os_str);
        open_at(&self.top, name, flags).map_err(|errno| self.error("open", path, errno))
    }

    /// The directory that holds `path`, for calls that take a directory and a name.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn parent(&self, path: &FilePath) -> Result<OwnedFd, ReviewError> {
        self.open(path.parent().as_ref(), OFlags::PATH | OFlags::DIRECTORY)
    }

    /// What is known of `path`; a link is not followed.
    ///
    /// # Errors
    /// As [`Tree::open`], but for what is not there: that is `None`.
    pub fn stat(&self, path: &FilePath) -> Result<Option<Stat>, ReviewError> {
        let found = match self.parent(path) {
            Ok(parent) => rustix::fs::statat(&parent, path.name(), AtFlags::SYMLINK_NOFOLLOW),
            Err(ReviewError::Io { errno, .. }) => Err(errno),
            Err(other) => return Err(other),
        };
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.error("stat", Some(path), errno)),
        }
    }

    /// The names in directory `path`, without `.` and `..`, in no order; [`ReviewError::TooMuch`] from `max` on.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn names(&self, path: Option<&FilePath>, max: usize) -> Result<Vec<OsString>, ReviewError> {
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let failed = |errno| self.error("read", path, errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() >= max {
                return Err(ReviewError::TooMuch { what: "names in one directory", max: max as u64 });
            }
            names.push(OsString::from_vec(name));
        }
        Ok(names)
    }

    /// Where the link `path` points.
    ///
    /// # Errors
    /// As [`Tree::open`]; if it is no link.
    pub fn read_link(&self, path: &FilePath) -> Result<Vec<u8>, ReviewError> {
        let parent = self.parent(path)?;
        let target = rustix::fs::readlinkat(&parent, path.name(), Vec::new());
        target.map(std::ffi::CString::into_bytes).map_err(|errno| self.error("readlink", Some(path), errno))
    }

    /// An error about `path` in this tree.
    pub fn error(&self, call: &'static str, path: Option<&FilePath>, errno: Errno) -> ReviewError {
        ReviewError::Io { call, side: self.side, path: path.cloned(), errno }
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }
}
