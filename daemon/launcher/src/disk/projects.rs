//! Project quotas: of the file system that `state_dir` is on, if it has them enforced; else of an XFS in one sparse
//! image below it, which all overlays share. The image is mounted in no mount namespace: a process that needs it mounts
//! the device once more, which is the same file system.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::loop_device::LoopDevice;
use agentd_kernel::mount::Attributes;
use agentd_kernel::process::{CloneArgs, SingleThreaded};
use agentd_kernel::quota;
use agentd_policy::event::ExitStatus;
use agentd_policy::names::SessionId;
use agentd_session::error::{HostError, On as _};
use agentd_session::{Reserve, Space, Usage, image};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::directories::Directories;

/// The image, and while it is made.
const NAME: &str = "overlays.xfs";
const NEW: &str = "overlays.xfs.new";
const PROGRAM: &str = "mkfs.xfs";
const BLOCK: u32 = 4096;
/// The smallest that there can be.
const SMALLEST: u64 = 1 << 30;
/// Projects of sessions: a range that nobody else is likely to use. Which of them is free is looked at.
const FIRST: u32 = 1 << 30;
const TRIES: u32 = 64;

/// Puts the directory of overlays where quotas are enforced. The device, if that is not where it was.
pub fn prepare(
    token: SingleThreaded,
    directories: &mut Directories,
    reserve: Option<u64>,
) -> Result<Option<LoopDevice>, HostError> {
    if quota::is_enforced(directories.overlays.as_fd()) {
        return Ok(None);
    }
    // Loads the module, whose statistics show whether it has quotas.
    drop(rustix::mount::fsopen("xfs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).on("xfs")?);
    if !std::path::Path::new("/proc/fs/xfs/xqmstat").exists() {
        return Err(HostError::unfit("this kernel's xfs has none (CONFIG_XFS_QUOTA)"));
    }
    let file = file(token, directories.state.as_fd())?;
    let device = match LoopDevice::find(file.as_fd()).on("loop devices")? {
        Some(device) => device,
        None => LoopDevice::over(file.as_fd(), BLOCK).on("loop device")?,
    };
    let mount = image::mount_shared(&device.path(), Attributes::WRITABLE).on(NAME)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(&mount, ".", flags, Mode::empty()).on(NAME)?;
    if !quota::is_enforced(root.as_fd()) {
        return Err(HostError::unfit("they are not enforced").on(NAME));
    }
    rustix::fs::fchmod(&root, Mode::RWXU).on(NAME)?;
    let space = Space::of(&directories.state).on("statfs")?;
    bound_dirty_pages(&device, Reserve::of(space.size, reserve));
    directories.overlays = root;
    Ok(Some(device))
}

/// Makes a session's new directory a project of its own, with this limit, before anything is made in it.
pub fn bound(directory: &OwnedFd, session: &SessionId, limit: Usage) -> Result<(), HostError> {
    let object = "project quota";
    let directory = directory.as_fd();
    let mut hasher = DefaultHasher::new();
    session.as_str().hash(&mut hasher);
    let first = (hasher.finish() & 0xffff_ffff) as u32 % FIRST;
    for number in 0..TRIES {
        let project = FIRST + first.wrapping_add(number) % FIRST;
        let found = quota::get(directory, project).on(object)?;
        if (found.bytes, found.inodes) != (0, 0) {
            continue;
        }
        quota::set_project(directory, project).on(object)?;
        quota::limit(directory, project, limit.bytes.max(1), limit.inodes).on(object)?;
        let set = quota::get(directory, project).on(object)?;
        let is_in = quota::project(directory).on(object)? == Some(project);
        return match is_in && set.bytes_limit >= limit.bytes && set.inodes_limit == limit.inodes {
            true => Ok(()),
            false => Err(HostError::unfit(format!("{set:?} was set")).on(object)),
        };
    }
    Err(HostError::unfit("no free project was found").on(object))
}

/// The image, which is made if it is not there.
fn file(token: SingleThreaded, state: BorrowedFd<'_>) -> Result<OwnedFd, HostError> {
    let open = |name: &str, flags: OFlags| {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags;
        rustix::fs::openat(state, name, flags, Mode::RUSR | Mode::WUSR)
    };
    match open(NAME, OFlags::empty()) {
        Err(Errno::NOENT) => {}
        other => return other.on(NAME),
    }
    // What was made by halves is made anew.
    match rustix::fs::unlinkat(state, NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).on(NAME),
    }
    let file = open(NEW, OFlags::CREATE | OFlags::EXCL).on(NAME)?;
    let size = Space::of(&file).on(NAME)?.size.bytes.max(SMALLEST);
    rustix::fs::ftruncate(&file, size.next_multiple_of(BLOCK.into())).on(NAME)?;
    // It is to take no more of the disk than is written to it.
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 0, BLOCK.into())
        .on(format_args!("{NAME}: the disk of state_dir cannot take back what is deleted"))?;
    let program = image::program(PROGRAM, "xfsprogs")?;
    let words = [PROGRAM, "-q", "-f", "-s", "size=4096", "-m", "reflink=1", "/proc/self/fd/0"];
    match image::run(token, CloneArgs::default(), (program.as_fd(), file.as_fd()), &words)? {
        ExitStatus::Code(0) => {}
        status => return Err(HostError::unfit(format!("{PROGRAM} ended with {status:?}"))),
    }
    rustix::fs::fsync(&file).on(NAME)?;
    rustix::fs::renameat(state, NEW, state, NAME).on(NAME)?;
    Ok(file)
}

/// What is written to the image and not on the host's disk yet has to find room there: no more than half of the
/// reserve. A kernel before 6.2 takes a part of memory only.
fn bound_dirty_pages(device: &LoopDevice, reserve: Reserve) {
    let name = device.path();
    let number = rustix::fs::stat(name.as_str()).map(|stat| stat.st_rdev).unwrap_or(0);
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let bdi = format!("/sys/class/bdi/{major}:{minor}");
    let bytes = (reserve.0.bytes / 2).max(1 << 20).to_string();
    let strict = std::fs::write(format!("{bdi}/strict_limit"), "1");
    let set = strict.and_then(|()| std::fs::write(format!("{bdi}/max_bytes"), bytes));
    if set.or_else(|_| std::fs::write(format!("{bdi}/max_ratio"), "1")).is_err() {
        tracing::warn!(
            device = name,
            "what is written to the image and not on disk yet has no bound of its own"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_quotas_is_bounded_by_none() {
        let directory = OwnedFd::from(std::fs::File::open("/proc").unwrap());
        let session = SessionId::parse("0123456789ab").unwrap();
        assert!(bound(&directory, &session, Usage { bytes: 1 << 20, inodes: 64 }).is_err());
    }
}
