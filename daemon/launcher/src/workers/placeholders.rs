//! How placeholders are taken away, by a process that is their caller and has no right besides.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use agentd_kernel::creds::NoHostRights;
use agentd_policy::names::AbsPath;
use agentd_session::COMMON_DIR;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::Place;

/// Takes away those that are still as they were made.
pub fn remove(_: &NoHostRights, placeholders: &[(Place, String)]) {
    // The last made come first: a directory is empty once what was made in it is gone.
    for (place, name) in placeholders.iter().rev() {
        let removed = match place {
            Place::Open { dir, .. } => remove_if_empty(dir.as_fd(), name),
            Place::Named { path, dev, ino } => {
                find(path, *dev, *ino).and_then(|workspace| remove_if_empty(workspace.as_fd(), name))
            }
        };
        if let Err(errno) = removed {
            tracing::warn!(error = %errno, name, "a placeholder stays");
        }
    }
}

/// Opens the directory at `path`, which must be the one that was there before.
fn find(path: &AbsPath, dev: u64, ino: u64) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path.as_str(), flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&dir)?;
    match (stat.st_dev, stat.st_ino) == (dev, ino) {
        true => Ok(dir),
        false => Err(rustix::io::Errno::STALE),
    }
}

/// Removes `name` below `workspace` if it is an empty file or directory, or what stands for a repository's common
/// directory, following no link.
fn remove_if_empty(workspace: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    let (parent, last) = name.rsplit_once('/').unwrap_or((".", name));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let dir = rustix::fs::openat2(workspace, parent, flags, Mode::empty(), resolve)?;
    let stat = match rustix::fs::statat(&dir, last, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_size == 0 || says_where_it_is(dir.as_fd(), last) => {
            rustix::fs::unlinkat(&dir, last, AtFlags::empty())
        }
        FileType::Directory => match rustix::fs::unlinkat(&dir, last, AtFlags::REMOVEDIR) {
            Err(rustix::io::Errno::NOTEMPTY) => Ok(()),
            other => other,
        },
        _ => Ok(()),
    }
}

fn says_where_it_is(dir: BorrowedFd<'_>, name: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut bytes = [0; COMMON_DIR.len() + 1];
    let mut read = || {
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        rustix::io::read(&file, &mut bytes)
    };
    let count = if name == "commondir" { read().unwrap_or(0) } else { 0 };
    bytes.get(..count) == Some(COMMON_DIR)
}
