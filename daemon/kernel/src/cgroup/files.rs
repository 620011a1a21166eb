//! Files of a cgroup file system, relative to a directory that is held.

use std::io::{Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{CgroupError, Controller, failed};

pub(super) fn open_dir_path(path: &Path) -> Result<OwnedFd, CgroupError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| failed(format!("open {}", path.display()))(e.into()))
}

pub(super) fn open_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, CgroupError> {
    open_at(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

pub(super) fn make_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, CgroupError> {
    match open_dir(parent, name) {
        Ok(dir) => return Ok(dir),
        Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => open_dir(parent, name),
        Err(errno) => Err(failed(format!("mkdir {name}"))(errno.into())),
    }
}

pub(super) fn enable(dir: BorrowedFd<'_>, controllers: &[Controller]) -> Result<(), CgroupError> {
    if controllers.is_empty() {
        return Ok(());
    }
    let on = read_at(dir, "cgroup.subtree_control")?;
    for controller in controllers {
        if !on.split_whitespace().any(|word| word == controller.name()) {
            write_at(dir, "cgroup.subtree_control", &format!("+{}", controller.name()))?;
        }
    }
    Ok(())
}

pub(super) fn open_at(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, CgroupError> {
    rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| failed(format!("open {name}"))(e.into()))
}

pub(super) fn read_at(dir: BorrowedFd<'_>, name: &str) -> Result<String, CgroupError> {
    let mut text = String::new();
    std::fs::File::from(open_at(dir, name, OFlags::RDONLY)?)
        .take(64 << 10)
        .read_to_string(&mut text)
        .map_err(failed(format!("read {name}")))?;
    Ok(text)
}

pub(super) fn number_at(dir: BorrowedFd<'_>, name: &str) -> Result<u64, CgroupError> {
    let text = read_at(dir, name)?;
    text.trim().parse().map_err(|e| failed(format!("read {name}"))(std::io::Error::other(e)))
}

pub(super) fn write_at(dir: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), CgroupError> {
    std::fs::File::from(open_at(dir, name, OFlags::WRONLY)?)
        .write_all(value.as_bytes())
        .map_err(failed(format!("write {value} to {name}")))
}

/// Writes to a file that not every kernel has: without swap accounting there is no swap to forbid.
pub(super) fn write_optional(dir: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), CgroupError> {
    match write_at(dir, name, value) {
        Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
