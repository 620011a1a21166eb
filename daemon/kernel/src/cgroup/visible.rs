//! v1 hierarchies that limit nothing here, and that programs look for beside those that do: the JVM reads no limit on a
//! host without `cpuacct` and `cpuset`. Nothing is limited by them: one that cannot be used is left out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::files::{make_dir, open_dir_path, read_at, write_at};
use super::{CgroupError, failed};
use crate::mountinfo::Mounts;

/// The controllers that programs read.
const NAMES: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "cpuset"];

/// Which of them a hierarchy has, by the options of its mount and in their order.
pub(super) fn names<'a>(options: impl Iterator<Item = &'a [u8]>) -> Vec<&'static str> {
    options.filter_map(|option| NAMES.into_iter().find(|name| option == name.as_bytes())).collect()
}

/// The directory `name` of the hierarchy of `cpuacct`, and what holds it. Each session has a group below.
pub(super) fn accounting(mounts: &Mounts, name: &str) -> Option<(OwnedFd, OwnedFd)> {
    directory(mounts, "cpuacct", name)
}

/// The same of `cpuset`, with every CPU that the directory above has. It is the group of all sessions and has none
/// below: CPUs are shared out by affinity.
pub(super) fn cpuset(mounts: &Mounts, name: &str) -> Option<(OwnedFd, OwnedFd)> {
    let (base, root) = directory(mounts, "cpuset", name)?;
    // A group without memory nodes and CPUs takes no process.
    let filled = ["cpuset.mems", "cpuset.cpus"].map(|file| copy(base.as_fd(), root.as_fd(), file));
    filled.iter().all(Result::is_ok).then_some((base, root))
}

fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, file: &str) -> Result<(), CgroupError> {
    let value = read_at(from, file)?;
    match value.trim() {
        "" => Err(failed(format!("read {file}"))(std::io::Error::other("it is empty"))),
        value => write_at(to, file, value),
    }
}

/// The directory `name` in the mount of the hierarchy that has `controller`, if that is a v1 hierarchy.
fn directory(mounts: &Mounts, controller: &str, name: &str) -> Option<(OwnedFd, OwnedFd)> {
    let mount = mounts.iter().find(|mount| mount.is_v1_hierarchy_of(controller))?;
    let base = open_dir_path(&mount.point).ok()?;
    let root = make_dir(base.as_fd(), name).ok()?;
    Some((base, root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_controllers_that_programs_read() {
        let options = ["rw", "cpu", "cpuacct", "xattr", "name=systemd"].map(str::as_bytes);
        assert_eq!(names(options.into_iter()), ["cpu", "cpuacct"]);
    }
}
