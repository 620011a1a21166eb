//! Where agentd keeps what only the caller writes to: `$XDG_STATE_HOME/agentd`, by default `~/.local/state/agentd`.
//!
//! Below it: `reviews/SESSION/WORKSPACE/`, with what was shown, what was applied and how to take it back; `journals/`,
//! with applies that have not ended; `locks/`. `WORKSPACE` is a digest of the workspace's path.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use agentd_policy::names::{AbsPath, SessionId};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::beneath::Tree;
use crate::calls::{Calls, NoFaults};
use crate::change::MAX_CHANGES;
use crate::error::{ReviewError, Side};
use crate::path::{FilePath, escaped};

/// Names in one directory of the state directory: applies of a session, journals, sessions.
pub const MAX_NAMES: usize = 100_000;

/// The caller's state directory, open.
#[derive(Debug)]
pub struct State(Tree);

/// What is kept of one session's review of one workspace: a directory of its own.
#[derive(Debug)]
pub struct Review(Tree);

/// An apply's sole right to a workspace. It ends when this is dropped, or the process.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // A child that another thread is starting may still share the descriptor: closing it would not be enough.
        rustix::fs::flock(&self.0, FlockOperation::Unlock).ok();
    }
}

impl State {
    /// The one that the environment names. It is made if it is missing.
    ///
    /// # Errors
    /// [`ReviewError::State`] if neither `XDG_STATE_HOME` nor `HOME` is an absolute path, or as [`State::at`].
    pub fn open() -> Result<Self, ReviewError> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        let base = absolute("XDG_STATE_HOME").or_else(home);
        let missing = || ReviewError::State {
            path: "agentd's state directory".to_owned(),
            wrong: "neither XDG_STATE_HOME nor HOME is an absolute path",
        };
        Self::at(&base.ok_or_else(missing)?.join("agentd"))
    }

    /// The one at `path`, made with mode 0700 if it is missing, as are its parents.
    ///
    /// # Errors
    /// [`ReviewError::State`] if it is a link, another user's, or others may write to it.
    pub fn at(path: &Path) -> Result<Self, ReviewError> {
        let shown = || escaped(path.as_os_str().as_bytes());
        let failed = |wrong| ReviewError::State { path: shown(), wrong };
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(path).map_err(|_| failed("it cannot be made, or is no directory"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(failed("it is a link, or no directory")),
            Err(_) => return Err(failed("it cannot be opened")),
        };
        Self::new(dir).map_err(|wrong| match wrong {
            ReviewError::State { wrong, .. } => failed(wrong),
            other => other,
        })
    }

    /// An open directory, as the state directory.
    ///
    /// # Errors
    /// As [`State::at`].
    pub fn new(dir: OwnedFd) -> Result<Self, ReviewError> {
        let tree = Tree::new(Side::State, dir);
        let stat = rustix::fs::fstat(&tree).map_err(|errno| tree.error("stat", None, errno))?;
        private(&stat)
            .map_err(|wrong| ReviewError::State { path: "agentd's state directory".into(), wrong })?;
        Ok(Self(tree))
    }

    /// The tree itself, for paths that [`State`]'s other functions return.
    pub fn tree(&self) -> &Tree {
        &self.0
    }

    /// The directory of `session`'s review of the workspace at `path`, made if it is missing.
    ///
    /// # Errors
    /// As `mkdirat(2)` and `openat2(2)`; [`ReviewError::State`] if it is not the caller's alone.
    pub fn review(&self, session: &SessionId, path: &AbsPath) -> Result<Review, ReviewError> {
        let mut at = None;
        for name in ["reviews", session.as_str(), &key(path)] {
            at = Some(self.directory(at.as_ref(), name)?);
        }
        self.0
            .open(at.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)
            .map(|dir| Review(Tree::new(Side::State, dir)))
    }

    /// Forgets all about `session`: what was shown, and what applies replaced. They can be taken back no more.
    ///
    /// # Errors
    /// As `unlinkat(2)`. What was removed until then is gone.
    pub fn forget(&self, session: &SessionId) -> Result<(), ReviewError> {
        let path = FilePath::join(Some(&name("reviews")?), OsStr::new(session.as_str()))?;
        match self.0.stat(&path)? {
            Some(_) => remove_all(&mut Calls::new(&mut NoFaults), &self.0, &path, 16),
            None => Ok(()),
        }
    }

    /// The sole right to apply to this workspace; `None` while another process has it.
    ///
    /// # Errors
    /// As `openat(2)` and `flock(2)`.
    pub fn lock(&self, workspace: &Tree) -> Result<Option<Lock>, ReviewError> {
        let stat = rustix::fs::fstat(workspace).map_err(|errno| workspace.error("stat", None, errno))?;
        let dir = self.directory(None, "locks")?;
        let path = FilePath::join(Some(&dir), OsStr::new(&format!("{:x}-{:x}", stat.st_dev, stat.st_ino)))?;
        let parent = self.0.parent(&path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, path.name(), flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| self.0.error("open", Some(&path), errno))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(self.0.error("flock", Some(&path), errno)),
        }
    }

    /// The directory `name` in `parent`, made if it is missing, and checked.
    ///
    /// # Errors
    /// As [`State::review`].
    pub fn directory(&self, parent: Option<&FilePath>, name: &str) -> Result<FilePath, ReviewError> {
        directory(&self.0, parent, name)
    }

    /// Where this directory is in `workspace`; `None` if it is not within it. Nothing may be applied there: the agent
    /// would choose what is undone.
    ///
    /// # Errors
    /// As `openat(2)` and `readlink(2)` on the directories above.
    pub fn within(&self, workspace: &Tree) -> Result<Option<FilePath>, ReviewError> {
        let failed = |call| move |errno| self.0.error(call, None, errno);
        let identity = |stat: &Stat| (stat.st_dev, stat.st_ino);
        let top = identity(&rustix::fs::fstat(workspace).map_err(failed("stat"))?);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = self.0.open(None, flags)?;
        let mut here = identity(&rustix::fs::fstat(&at).map_err(failed("stat"))?);
        for depth in 0..crate::path::MAX_PATH {
            if here == top {
                return if depth == 0 { Ok(None) } else { self.last(depth).map(Some) };
            }
            at = rustix::fs::openat(&at, "..", flags, Mode::empty()).map_err(failed("open"))?;
            let above = identity(&rustix::fs::fstat(&at).map_err(failed("stat"))?);
            if above == here {
                return Ok(None);
            }
            here = above;
        }
        Ok(None)
    }

    /// The last `count` components of this directory's own path.
    fn last(&self, count: usize) -> Result<FilePath, ReviewError> {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        let link = format!("/proc/self/fd/{}", self.0.as_fd().as_raw_fd());
        let path =
            rustix::fs::readlink(link, Vec::new()).map_err(|errno| self.0.error("readlink", None, errno))?;
        let mut components: Vec<_> = path.to_bytes().split(|byte| *byte == b'/').rev().take(count).collect();
        components.reverse();
        FilePath::parse(&components.join(&b'/'))
    }
}

impl Review {
    /// The directory, open.
    pub fn tree(&self) -> &Tree {
        &self.0
    }

    /// The directory `name` in it, made if it is missing.
    ///
    /// # Errors
    /// As [`State::review`].
    pub fn directory(&self, name: &str) -> Result<FilePath, ReviewError> {
        directory(&self.0, None, name)
    }
}

fn directory(tree: &Tree, parent: Option<&FilePath>, name: &str) -> Result<FilePath, ReviewError> {
    let path = FilePath::join(parent, OsStr::new(name))?;
    let holder = tree.parent(&path)?;
    match rustix::fs::mkdirat(&holder, path.name(), Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(tree.error("mkdir", Some(&path), errno)),
    }
    let stat = tree.stat(&path)?.ok_or_else(|| tree.error("stat", Some(&path), Errno::NOENT))?;
    private(&stat).map_err(|wrong| ReviewError::State { path: path.to_string(), wrong })?;
    Ok(path)
}

/// Whether it is a directory of the caller's that nobody else writes to.
pub fn private(stat: &Stat) -> Result<(), &'static str> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        Err("it is no directory")
    } else if stat.st_uid != rustix::process::geteuid().as_raw() {
        Err("it is another user's")
    } else if stat.st_mode & 0o022 != 0 {
        Err("other users may write to it")
    } else {
        Ok(())
    }
}

/// The name of the workspace at `path`, among those of a session.
fn key(path: &AbsPath) -> String {
    Sha256::digest(path.as_str().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A name of agentd's own.
///
/// # Errors
/// None, for names without `/`.
pub fn name(name: &str) -> Result<FilePath, ReviewError> {
    FilePath::join(None, OsStr::new(name))
}

/// Writes the file `path` as a whole: after a crash it has what it had, or `bytes`. It is on disk when this returns.
///
/// # Errors
/// As the calls that it is made of; the file is as it was.
pub fn write(calls: &mut Calls<'_>, tree: &Tree, path: &FilePath, bytes: &[u8]) -> Result<(), ReviewError> {
    let mut beside = OsString::from(path.name());
    beside.push(".new");
    let new = FilePath::join(path.parent().as_ref(), &beside)?;
    // One that a process left which was killed here.
    if tree.stat(&new)?.is_some() {
        calls.remove(tree, &new, false)?;
    }
    let file = calls.create(tree, &new)?;
    let written = calls
        .write_at(tree, &new, &file, bytes, 0)
        .and_then(|()| calls.sync(tree, Some(&new), &file))
        .and_then(|()| calls.replace(tree, &new, path));
    if written.is_err() {
        // The first error is the one to report.
        calls.remove(tree, &new, false).ok();
        return written;
    }
    sync_parent(calls, tree, path)
}

/// Waits until the entry of `path` in its directory is on disk.
///
/// # Errors
/// As `fsync(2)`.
pub fn sync_parent(calls: &mut Calls<'_>, tree: &Tree, path: &FilePath) -> Result<(), ReviewError> {
    let parent = path.parent();
    let dir = tree.open(parent.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)?;
    calls.sync(tree, parent.as_ref(), &dir)
}

/// What the file `path` holds, at most `max` bytes; `None` if there is none.
///
/// # Errors
/// [`ReviewError::TooMuch`] if it is longer; as `read(2)`.
pub fn read(tree: &Tree, path: &FilePath, max: usize) -> Result<Option<Vec<u8>>, ReviewError> {
    use std::io::Read as _;
    if tree.stat(path)?.is_none() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::from(tree.open(Some(path), OFlags::RDONLY)?);
    let read = file.take(max as u64 + 1).read_to_end(&mut bytes);
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    match read.map_err(|error| tree.error("read", Some(path), errno(error)))? {
        length if length > max => {
            Err(ReviewError::TooMuch { what: "bytes in a file of agentd's", max: max as u64 })
        }
        _ => Ok(Some(bytes)),
    }
}

/// Removes `path` and all below it, at most `depth` directories deep; no link is followed.
///
/// # Errors
/// As `unlinkat(2)`, and [`ReviewError::TooMuch`] if it is deeper. What was removed until then is gone.
pub fn remove_all(calls: &mut Calls<'_>, tree: &Tree, path: &FilePath, depth: u8) -> Result<(), ReviewError> {
    let Some(stat) = tree.stat(path)? else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return calls.remove(tree, path, false);
    }
    let below = depth.checked_sub(1).ok_or(ReviewError::TooMuch { what: "directories deep", max: 16 })?;
    for name in tree.names(Some(path), 2 * MAX_CHANGES)? {
        remove_all(calls, tree, &FilePath::join(Some(path), &name)?, below)?;
    }
    calls.remove(tree, path, true)
}
