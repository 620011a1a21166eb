//! Project quotas: of the file system that `state_dir` is on, if it has them enforced; else of an XFS in one sparse image
//! below it, which all overlays share. The image is mounted in no mount namespace: whoever needs it mounts the device
//! once more, which is the same file system.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::loop_device::LoopDevice;
use agentd_kernel::mount::Attributes;
use agentd_kernel::process::{CloneArgs, SingleThreaded};
use agentd_kernel::quota;
use agentd_policy::event::ExitStatus;
use agentd_policy::names::SessionId;
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
) -> Result<Option<LoopDevice>, String> {
    if quota::is_enforced(directories.overlays.as_fd()) {
        return Ok(None);
    }
    // Loads the module, which tells by a file of its statistics whether it has quotas.
    drop(
        rustix::mount::fsopen("xfs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| format!("xfs: {e}"))?,
    );
    if !std::path::Path::new("/proc/fs/xfs/xqmstat").exists() {
        return Err("this kernel's xfs has none (CONFIG_XFS_QUOTA)".into());
    }
    let file = file(token, directories.state.as_fd())?;
    let device = match LoopDevice::find(file.as_fd()).map_err(|e| format!("loop devices: {e}"))? {
        Some(device) => device,
        None => LoopDevice::over(file.as_fd(), BLOCK).map_err(|e| format!("loop device: {e}"))?,
    };
    let mount =
        image::mount_shared(&device.path(), Attributes::WRITABLE).map_err(|e| format!("{NAME}: {e}"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(&mount, ".", flags, Mode::empty()).map_err(|e| format!("{NAME}: {e}"))?;
    if !quota::is_enforced(root.as_fd()) {
        return Err(format!("{NAME}: they are not enforced"));
    }
    rustix::fs::fchmod(&root, Mode::RWXU).map_err(|e| format!("{NAME}: {e}"))?;
    let space = Space::of(&directories.state).map_err(|e| format!("statfs: {e}"))?;
    bound_dirty_pages(&device, Reserve::of(space.size, reserve));
    directories.overlays = root;
    Ok(Some(device))
}

/// Makes a session's new directory a project of its own, with this limit, before anything is made in it.
pub fn bound(directory: &OwnedFd, session: &SessionId, limit: Usage) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("project quota: {e}");
    let directory = directory.as_fd();
    let mut hasher = DefaultHasher::new();
    session.as_str().hash(&mut hasher);
    let first = hasher.finish() as u32 % FIRST;
    for number in 0..TRIES {
        let project = FIRST + first.wrapping_add(number) % FIRST;
        let found = quota::get(directory, project).map_err(fail)?;
        if (found.bytes, found.inodes) != (0, 0) {
            continue;
        }
        quota::set_project(directory, project).map_err(fail)?;
        quota::limit(directory, project, limit.bytes.max(1), limit.inodes).map_err(fail)?;
        let set = quota::get(directory, project).map_err(fail)?;
        let is_in = quota::project(directory).map_err(fail)? == Some(project);
        return match is_in && set.bytes_limit >= limit.bytes && set.inodes_limit == limit.inodes {
            true => Ok(()),
            false => Err(format!("project quota: {set:?} was set")),
        };
    }
    Err("project quota: no free project was found".into())
}

/// The image, which is made if it is not there.
fn file(token: SingleThreaded, state: BorrowedFd<'_>) -> Result<OwnedFd, String> {
    let fail = |e: Errno| format!("{NAME}: {e}");
    let open = |name: &str, flags: OFlags| {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags;
        rustix::fs::openat(state, name, flags, Mode::RUSR | Mode::WUSR)
    };
    match open(NAME, OFlags::empty()) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(fail),
    }
    // What was made by halves is made anew.
    match rustix::fs::unlinkat(state, NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(fail(errno)),
    }
    let file = open(NEW, OFlags::CREATE | OFlags::EXCL).map_err(fail)?;
    let size = Space::of(&file).map_err(fail)?.size.bytes.max(SMALLEST);
    rustix::fs::ftruncate(&file, size.next_multiple_of(BLOCK.into())).map_err(fail)?;
    // It is to take no more of the disk than is written to it.
    match rustix::fs::fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        0,
        BLOCK.into(),
    ) {
        Ok(()) => {}
        Err(errno) => {
            return Err(format!("{NAME}: the disk of state_dir cannot take back what is deleted: {errno}"));
        }
    }
    let program = image::program(PROGRAM, "xfsprogs")?;
    let words = [PROGRAM, "-q", "-f", "-s", "size=4096", "-m", "reflink=1", "/proc/self/fd/0"];
    match image::run(token, CloneArgs::default(), (program.as_fd(), file.as_fd()), &words)? {
        ExitStatus::Code(0) => {}
        status => return Err(format!("{PROGRAM} ended with {status:?}")),
    }
    rustix::fs::fsync(&file).map_err(fail)?;
    rustix::fs::renameat(state, NEW, state, NAME).map_err(fail)?;
    Ok(file)
}

/// What is written to the image and not on the host's disk yet has to find room there: no more than half of the reserve.
/// A kernel before 6.2 can be told a part of memory only.
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
