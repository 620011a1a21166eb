//! What a file is now, with its identity.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::conflict::Conflict;
use crate::beneath::Tree;
use crate::change::{Content, Entry, Kind};
use crate::digest::Digest;
use crate::error::ReviewError;
use crate::path::FilePath;
use crate::trees::Stamp;

/// Which file it is, and when it was written to, as far as renames leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The inode's number in the workspace's file system.
    pub inode: u64,
    /// In bytes; of a directory 0.
    pub size: u64,
    /// When it was modified; of a directory 0.
    pub modified: Stamp,
    /// Permission bits: `07777`.
    pub mode: u32,
}

/// A file as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What it is and holds.
    pub entry: Entry,
    /// Which one it is.
    pub identity: Identity,
    /// It was modified so recently that a write within the same tick of the clock would leave no trace.
    pub racy: bool,
}

/// What kind of file a status is of.
pub fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => Kind::Device,
    }
}

impl Identity {
    /// The one of a file with this status.
    pub fn of(stat: &Stat) -> Self {
        let directory = kind(stat) == Kind::Directory;
        let modified = Stamp::new(stat.st_mtime, stat.st_mtime_nsec);
        Self {
            inode: stat.st_ino,
            size: if directory { 0 } else { stat.st_size.unsigned_abs() },
            modified: if directory { Stamp { seconds: 0, nanoseconds: 0 } } else { modified },
            mode: stat.st_mode & 0o7777,
        }
    }
}

/// The clock that files are stamped with.
pub fn now() -> Stamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Stamp::new(now.tv_sec, now.tv_nsec)
}

/// What is at `path`; `None` if nothing is. Its content is read, but of no device, FIFO or socket.
///
/// # Errors
/// As `openat2(2)` and `read(2)`: [`conflict`] says which of them are about the file rather than about the system.
pub fn look(tree: &Tree, path: &FilePath) -> Result<Option<Found>, ReviewError> {
    let file = match tree.open(Some(path), OFlags::PATH) {
        Ok(file) => file,
        Err(ReviewError::Io { errno: Errno::NOENT, .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let status =
        |file: &OwnedFd| rustix::fs::fstat(file).map_err(|errno| tree.error("stat", Some(path), errno));
    let mut stat = status(&file)?;
    let content = match kind(&stat) {
        Kind::File => match tree.open(Some(path), OFlags::RDONLY) {
            Ok(file) => {
                stat = status(&file)?;
                let (digest, size) =
                    Digest::of_file(&file).map_err(|errno| tree.error("read", Some(path), errno))?;
                // Written to since: then what was read is of no moment, and the size differs from the identity's.
                stat.st_size = i64::try_from(size).unwrap_or(i64::MAX);
                Content::Bytes(digest)
            }
            Err(ReviewError::Io { errno: Errno::ACCESS, .. }) => Content::Unreadable,
            Err(error) => return Err(error),
        },
        Kind::Symlink => Content::Target(tree.read_link(path)?),
        _ => Content::None,
    };
    let identity = Identity::of(&stat);
    let size = if matches!(kind(&stat), Kind::File | Kind::Symlink) { identity.size } else { 0 };
    let entry = Entry { kind: kind(&stat), mode: identity.mode, size, content };
    // Clocks of file systems tick every 1 to 10 ms; some have whole seconds.
    let racy = identity.modified.seconds.saturating_add(2) >= now().seconds;
    Ok(Some(Found { entry, identity, racy }))
}

/// What an error about `path` means for a change of it; `None` if it is about the system.
pub fn conflict(error: &ReviewError) -> Option<Conflict> {
    match error {
        ReviewError::Io { errno: Errno::LOOP | Errno::NOTDIR, .. } => Some(Conflict::Parent),
        ReviewError::Io { errno: Errno::XDEV | Errno::BUSY, .. } => Some(Conflict::MountPoint),
        ReviewError::Io { errno: Errno::NOTEMPTY, .. } => Some(Conflict::NotEmpty),
        ReviewError::Io { errno: Errno::EXIST, .. } => Some(Conflict::Added),
        ReviewError::Io { errno: Errno::NOENT, .. } => Some(Conflict::Deleted),
        _ => None,
    }
}
