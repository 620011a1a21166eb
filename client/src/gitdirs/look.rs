//! Looking at directories that a file of git's named: no link is followed, nothing but regular files is read, and each
//! is held open, so that what was looked at is what is offered.

use std::os::fd::{AsFd as _, OwnedFd};

use agentd_policy::names::AbsPath;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

/// Room for the names of a directory while it is read, in bytes.
const NAMES: usize = 16 << 10;

/// A directory, under the name that leads to it without links.
#[derive(Debug)]
pub struct Dir {
    pub path: AbsPath,
    /// The file system that it is on.
    pub device: u64,
    /// Whose it is.
    pub owner: u32,
    fd: OwnedFd,
}

/// Why something cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is nothing of that name.
    Missing,
    /// A symbolic link is on the way, or at its end.
    Link,
    /// It is of another kind.
    Kind,
    /// It is longer than such a file is.
    Long,
    /// The kernel says no.
    Errno(Errno),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::Link => f.write_str("leads through a symbolic link"),
            Self::Kind => f.write_str("is of another kind than git expects"),
            Self::Long => f.write_str("is too long"),
            Self::Errno(errno) => write!(f, "cannot be read: {errno}"),
        }
    }
}

impl From<Errno> for Why {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Missing,
            Errno::LOOP => Self::Link,
            Errno::NOTDIR => Self::Kind,
            errno => Self::Errno(errno),
        }
    }
}

impl Dir {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// If there is none, if a link is on the way, or if it cannot be read.
    pub fn open(path: &AbsPath) -> Result<Self, Why> {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(CWD, path.as_str(), flags, Mode::empty(), resolve)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { path: path.clone(), device: stat.st_dev, owner: stat.st_uid, fd })
    }

    /// The path of `name`, which may be several names, in it.
    pub fn join(&self, name: &str) -> Option<AbsPath> {
        agentd_policy::git::read::resolve(&self.path, name)
    }

    /// The directory `name` in it.
    ///
    /// # Errors
    /// As [`Dir::open`].
    pub fn child(&self, name: &str) -> Result<Self, Why> {
        let path = self.join(name).ok_or(Why::Missing)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&self.fd, name, flags, Mode::empty(), BENEATH)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { path, device: stat.st_dev, owner: stat.st_uid, fd })
    }

    /// What is at `name` in it, itself; nothing if that is nothing.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn stat(&self, name: &str) -> Result<Option<Stat>, Why> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether `name` in it is of that kind.
    pub fn has(&self, name: &str, kind: FileType) -> bool {
        matches!(self.stat(name), Ok(Some(stat)) if FileType::from_raw_mode(stat.st_mode) == kind)
    }

    /// The content of the regular file `name` in it, of at most `most` bytes.
    ///
    /// # Errors
    /// If it is not there, is no such file, is longer, or cannot be read.
    pub fn read(&self, name: &str, most: u64) -> Result<Vec<u8>, Why> {
        let regular = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        // By its name alone at first: to open a device can do things.
        let named =
            rustix::fs::openat2(&self.fd, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), BENEATH)?;
        if !regular(&rustix::fs::fstat(&named)?) {
            return Err(Why::Kind);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&self.fd, name, flags, Mode::empty(), BENEATH)?;
        let stat = rustix::fs::fstat(&fd)?;
        if !regular(&stat) {
            return Err(Why::Kind);
        }
        let mut bytes = vec![0; usize::try_from(most + 1).map_err(|_| Why::Long)?];
        let mut count = 0;
        while let Some(rest) = bytes.get_mut(count..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&fd, rest, count as u64)? {
                0 => break,
                more => count += more,
            }
        }
        bytes.truncate(count);
        if count as u64 > most { Err(Why::Long) } else { Ok(bytes) }
    }

    /// Gives `see` each name in it, with what it is, until `see` says no; whether it never did.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn all_names(&self, mut see: impl FnMut(&[u8], FileType) -> bool) -> Result<bool, Why> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&self.fd, ".", flags, Mode::empty(), BENEATH)?;
        let mut room = Vec::with_capacity(NAMES);
        let mut names = RawDir::new(fd.as_fd(), room.spare_capacity_mut());
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name = entry.file_name();
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            if !matches!(name.to_bytes(), b"." | b"..") && !see(name.to_bytes(), kind) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The open directory, to be offered.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

/// What is below a directory, through no link.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gitdirs::tests::{Scratch, abs};

    #[test]
    fn only_regular_files_are_read_and_only_so_much() {
        let scratch = Scratch::new();
        let dir = Dir::open(&scratch.path("")).unwrap();
        scratch.write("f", "four");
        std::fs::create_dir(scratch.0.join("d")).unwrap();
        std::os::unix::fs::symlink("f", scratch.0.join("l")).unwrap();
        std::os::unix::fs::symlink(&scratch.0, scratch.0.join("d/up")).unwrap();
        let fifo = rustix::fs::mknodat(CWD, scratch.0.join("p"), FileType::Fifo, Mode::RWXU, 0);
        assert_eq!(fifo, Ok(()));
        assert_eq!(dir.read("f", 4), Ok(b"four".to_vec()));
        for (name, most, why) in [
            ("f", 3, Why::Long),
            ("l", 9, Why::Link),
            ("p", 9, Why::Kind),
            ("d", 9, Why::Kind),
            ("d/up/f", 9, Why::Link),
            ("f/x", 9, Why::Kind),
            ("x", 9, Why::Missing),
            ("../x", 9, Why::Errno(Errno::XDEV)),
        ] {
            assert_eq!(dir.read(name, most), Err(why), "{name}");
        }
        for (path, why) in [("d/up", Why::Link), ("d/up/d", Why::Link), ("f", Why::Kind), ("x", Why::Missing)]
        {
            assert_eq!(Dir::open(&scratch.path(path)).err(), Some(why), "{path}");
        }
        assert_eq!(Dir::open(&abs("/dev/null")).err(), Some(Why::Kind));
        assert_eq!(dir.all_names(|name, _| name != b"l"), Ok(false));
        assert_eq!(dir.all_names(|_, _| true), Ok(true));
    }
}
