//! One file of one tree, as it is when it is looked at.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::beneath::{Tree, open_at};
use crate::change::{Content, Entry, Kind};
use crate::digest::Digest;
use crate::error::{ReviewError, Side};
use crate::path::FilePath;

/// How often a file is looked at that is another one each time, because a session replaces it meanwhile.
const TRIES: usize = 4;

/// Why a directory was not compared.
#[derive(Debug)]
pub enum Fault {
    /// The caller may not list it, or not look at what is in it, in this tree.
    Closed(Side),
    /// The review fails.
    Review(ReviewError),
}

impl From<ReviewError> for Fault {
    fn from(error: ReviewError) -> Self {
        match error {
            ReviewError::Io { side, errno: Errno::ACCESS | Errno::PERM, .. } => Self::Closed(side),
            other => Self::Review(other),
        }
    }
}

/// A file that was looked at.
#[derive(Clone, Debug)]
pub struct Look {
    /// What a change says of it.
    pub entry: Entry,
    /// Of the same moment, for a regular file whose content was read; else from before.
    pub stat: Stat,
}

impl Look {
    fn new(stat: Stat, size: u64, content: Content) -> Self {
        let entry = Entry { kind: kind(&stat), mode: stat.st_mode & 0o7777, size, content };
        Self { entry, stat }
    }

    /// A directory, of which more is not compared.
    pub fn directory(stat: Stat) -> Self {
        Self::new(stat, 0, Content::None)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.entry.kind == Kind::Directory
    }
}

/// A directory of a tree that is open.
#[derive(Debug)]
pub struct Place<'a> {
    tree: &'a Tree,
    /// Opened for reading.
    pub dir: OwnedFd,
}

impl<'a> Place<'a> {
    /// Opens `path` in `tree`, `None` being the top. There is no place where there is no directory any more.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn open(tree: &'a Tree, path: Option<&FilePath>) -> Result<Option<Self>, Fault> {
        match tree.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => Ok(Some(Self { tree, dir })),
            Err(ReviewError::Io { errno, .. }) if is_gone(errno) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// An error about `path` in this tree.
    pub fn error(&self, call: &'static str, path: Option<&FilePath>, errno: Errno) -> ReviewError {
        self.tree.error(call, path, errno)
    }

    /// What is known of `name`, which is `path` from the top, without its content.
    ///
    /// # Errors
    /// As `fstatat(2)`, but for what is not there.
    pub fn stat(&self, name: &OsStr, path: &FilePath) -> Result<Option<Stat>, Fault> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(self.error("stat", Some(path), errno).into()),
        }
    }

    /// The same with its content, read now. What the caller may not read has [`Content::Unreadable`], and so has what
    /// is of another kind at each of a few looks.
    ///
    /// # Errors
    /// As `read(2)` and `readlink(2)`.
    pub fn look(&self, name: &OsStr, path: &FilePath) -> Result<Option<Look>, Fault> {
        let mut last = None;
        for _ in 0..TRIES {
            let Some(stat) = self.stat(name, path)? else { return Ok(None) };
            let found = match kind(&stat) {
                Kind::File => self.read_file(name, stat),
                Kind::Symlink => self.read_link(name, stat),
                _ => Ok(Some(Look::directory(stat))),
            };
            match found {
                Ok(None) => last = Some(stat),
                Ok(found) => return Ok(found),
                Err((call, errno)) => return Err(Fault::Review(self.error(call, Some(path), errno))),
            }
        }
        Ok(last.map(unreadable))
    }

    /// Nothing if it is no regular file any more.
    fn read_file(&self, name: &OsStr, stat: Stat) -> Result<Option<Look>, (&'static str, Errno)> {
        let file = match open_at(&self.dir, name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::ACCESS | Errno::PERM) => return Ok(Some(unreadable(stat))),
            Err(errno) if is_gone(errno) || errno == Errno::NXIO => return Ok(None),
            Err(errno) => return Err(("open", errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| ("stat", errno))?;
        if kind(&stat) != Kind::File {
            return Ok(None);
        }
        let (digest, size) = Digest::of_file(&file).map_err(|errno| ("read", errno))?;
        Ok(Some(Look::new(stat, size, Content::Bytes(digest))))
    }

    /// Nothing if it is no link any more.
    fn read_link(&self, name: &OsStr, stat: Stat) -> Result<Option<Look>, (&'static str, Errno)> {
        match rustix::fs::readlinkat(&self.dir, name, Vec::new()) {
            Ok(target) => {
                let target = target.into_bytes();
                Ok(Some(Look::new(stat, target.len() as u64, Content::Target(target))))
            }
            Err(errno) if is_gone(errno) || errno == Errno::INVAL => Ok(None),
            Err(errno) => Err(("readlink", errno)),
        }
    }
}

fn unreadable(stat: Stat) -> Look {
    let size = if kind(&stat) == Kind::Directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) };
    Look::new(stat, size, Content::Unreadable)
}

/// Whether a name led nowhere, or to another kind of file, by the time that it was used.
pub fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
}

/// What a file is.
fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice | FileType::BlockDevice => Kind::Device,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    }
}
