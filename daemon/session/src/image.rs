//! A session's overlays in a file system of their own: an image of the limit's size, whose room is taken from the
//! host's disk at once. The kernel refuses what does not fit, with a name or without, and nothing that others do to the
//! host's disk reaches what the session was promised.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::loop_device::LoopDevice;
use agentd_kernel::mount::{Attributes, MountError, Tree};
use agentd_kernel::process::{self, CloneArgs, SingleThreaded};
use agentd_policy::event::ExitStatus;
use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::error::{HostError, On as _};
use crate::meter::Usage;

/// Its name in the session's directory.
pub const NAME: &str = "image";
/// The size of its blocks, in bytes.
pub const BLOCK: u32 = 4096;
/// What each inode takes.
const INODE: u64 = 256;
/// Groups, bitmaps, and what the file system keeps back: this part of the limit, and something besides.
const PART: u64 = 32;
const FIXED: u64 = 4 << 20;
/// A journal in MiB, for less than the second and for more.
const JOURNAL: (u64, u64) = (4, 32);
const LARGE: u64 = 1 << 30;
/// What makes a file system. Its name is looked for below these.
pub const PROGRAM: &str = "mke2fs";
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Every mount of the image that sessions share under project quotas. A sparse write takes a block; deleted files are
/// given back to the host.
const SHARED: [(&str, &str); 3] = [("prjquota", ""), ("discard", ""), ("allocsize", "4k")];

/// The image, attached to a device.
#[derive(Debug)]
pub struct Image {
    device: LoopDevice,
}

/// Opens a program of the host's, which is in the package `package`.
pub fn program(name: &str, package: &str) -> Result<OwnedFd, HostError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut open =
        PLACES.iter().map(|place| rustix::fs::open(format!("{place}/{name}"), flags, Mode::empty()));
    let open = open.find_map(Result::ok);
    open.ok_or_else(|| HostError::unfit(format!("not found; install {package}")).on(name))
}

/// Runs `program` with these words and `file` as its standard input, and waits for its end.
pub fn run(
    token: SingleThreaded,
    birth: CloneArgs<'_>,
    (program, file): (BorrowedFd<'_>, BorrowedFd<'_>),
    words: &[&str],
) -> Result<ExitStatus, HostError> {
    let words: Result<Vec<_>, _> = words.iter().map(|word| std::ffi::CString::new(*word)).collect();
    let words = words.map_err(std::io::Error::from)?;
    let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
    let child = process::spawn(token, birth, || {
        let kept = process::close_all_but(&[program, file]);
        let placed = kept.and_then(|()| process::place(file, 0));
        // Returns only on error.
        i32::from(placed.is_err() || process::execute(program, &words, &[]).is_err()) + 126
    });
    Ok(child.and_then(|child| child.wait())?)
}

/// How large an image is that holds so much.
pub fn size(limit: Usage) -> u64 {
    let bytes = limit.bytes.saturating_add(limit.bytes / PART).saturating_add(FIXED);
    let all = bytes.saturating_add(limit.inodes.saturating_mul(INODE)).saturating_add(journal(limit) << 20);
    all.checked_next_multiple_of(BLOCK.into()).unwrap_or(u64::MAX - u64::MAX % u64::from(BLOCK))
}

fn journal(limit: Usage) -> u64 {
    if limit.bytes < LARGE { JOURNAL.0 } else { JOURNAL.1 }
}

impl Image {
    /// Makes one in `dir`, by `program`, a process in `cgroup`.
    pub fn make(
        token: SingleThreaded,
        dir: BorrowedFd<'_>,
        limit: Usage,
        (program, cgroup): (BorrowedFd<'_>, BorrowedFd<'_>),
    ) -> Result<Self, HostError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR)?;
        let size = size(limit);
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)
            .on(format_args!("{size} bytes of the disk of state_dir"))?;
        let command = format!(
            "{PROGRAM} -q -F -t ext4 -b 4096 -I 256 -m 0 -N {} -J size={} -O ^resize_inode \
            -E lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0 /proc/self/fd/0",
            limit.inodes,
            journal(limit)
        );
        let words: Vec<_> = command.split(' ').collect();
        let birth = CloneArgs { cgroup: Some(cgroup), ..CloneArgs::default() };
        match run(token, birth, (program, file.as_fd()), &words)? {
            ExitStatus::Code(0) => {}
            status => return Err(HostError::unfit(format!("{PROGRAM} ended with {status:?}"))),
        }
        let device = LoopDevice::over(file.as_fd(), BLOCK).on("loop device")?;
        Ok(Self { device })
    }

    /// One more mount of it, in no namespace. A copy of the first would do only from Linux 6.15 on.
    pub fn mount(&self, attributes: Attributes) -> Result<Tree, MountError> {
        let device = self.device.path();
        Tree::new("ext4", &[("source", device.as_str()), ("noinit_itable", "")], attributes)
    }
}

/// One more mount of the image that sessions share, in no namespace.
pub fn mount_shared(device: &str, attributes: Attributes) -> Result<Tree, MountError> {
    let options: Vec<_> = std::iter::once(("source", device)).chain(SHARED).collect();
    Tree::new("xfs", &options, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_more_than_the_limit() {
        for bytes in [1 << 20, 50 << 20, 10 << 30] {
            let limit = Usage { bytes, inodes: bytes / 4096 };
            let size = size(limit);
            assert!(size > bytes + limit.inodes * INODE && size.is_multiple_of(4096), "{size}");
        }
        assert!(size(Usage { bytes: u64::MAX, inodes: 1 }) > u64::MAX / 2);
    }
}
