//! Marking every mount of the finished root from which a program can run.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::exec_watch::ExecWatch;
use agentd_kernel::mountinfo::Mounts;
use agentd_kernel::{creds, mount};
use agentd_policy::step::Step;
use rustix::fs::{FileType, Mode, OFlags};

use super::fault::{At, Fault};

/// A group with a mark on every mount of the builder's namespace that is not `noexec`. `proc` is the host's.
pub fn every_mount(proc: BorrowedFd<'_>, keeper: u32) -> Result<ExecWatch, Fault> {
    let mounts = Mounts::read(proc).at(Step::ExecWatch, "mountinfo")?;
    // The kernel counts groups by uid (fs.fanotify.max_user_groups): each lease has its own count.
    creds::effective_uid(keeper).at(Step::ExecWatch, "keeper's uid")?;
    let watch = ExecWatch::new().at(Step::ExecWatch, "fanotify");
    creds::effective_uid(0).at(Step::ExecWatch, "root's uid")?;
    super::prepare::ends_with_launcher()?;
    let watch = watch?;
    for mount in mounts.iter().filter(|mount| !mount.no_exec) {
        let path = mount.point.to_string_lossy();
        let place = mount::place(&path).at(Step::ExecWatch, &path)?;
        let is_dir = is_directory(place.as_fd()).at(Step::ExecWatch, &path)?;
        match (mount.point.parent(), mount.point.file_name()) {
            (Some(parent), Some(name)) if !is_dir => {
                let dir = mount::place(&parent.to_string_lossy()).at(Step::ExecWatch, &path)?;
                watch.mark_file(dir.as_fd(), name)
            }
            _ => watch.mark(place.as_fd()),
        }
        .at(Step::ExecWatch, &path)?;
    }
    Ok(watch)
}

/// The mounts of the builder's namespace as a file that reports priority data when one comes or goes
/// (`proc_pid_mountinfo(5)`).
pub fn mounts(proc: BorrowedFd<'_>) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(proc, "self/mountinfo", flags, Mode::empty()).at(Step::Mounts, "mountinfo")
}

fn is_directory(place: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode) == FileType::Directory)
}
