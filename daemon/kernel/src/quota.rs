//! Project quotas (`quotactl_fd(2)`, `FS_IOC_FSSETXATTR`): what is below a directory is bounded in bytes and inodes,
//! named or not.

use std::os::fd::{AsRawFd, BorrowedFd};

const PRJQUOTA: u32 = 2;
/// `Q_GETQUOTA`, `Q_SETQUOTA`, `Q_XGETQSTATV`.
const GET: u32 = 0x80_0007;
const SET: u32 = 0x80_0008;
const STATE: u32 = 0x5808;
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const PROJINHERIT: u32 = 0x200;
/// Of `struct if_dqblk`: both limits.
const QIF_LIMITS: u32 = 1 | 4;
/// Of `struct fs_quota_statv`: counted, and enforced.
const COUNTED: u16 = 1 << 4;
const ENFORCED: u16 = 1 << 5;
/// What limits of bytes are counted in.
const BLOCK: u64 = 1024;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk` of `linux/quota.h`.
#[repr(C)]
#[derive(Default)]
struct Block {
    bytes_hard: u64,
    bytes_soft: u64,
    bytes: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    inodes: u64,
    bytes_time: u64,
    inodes_time: u64,
    valid: u32,
}

/// `struct fs_quota_statv` of `linux/dqblk_xfs.h`.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    in_core: u32,
    files: [[u64; 3]; 3],
    times: [i32; 3],
    warnings: [u16; 4],
    padding_2: u32,
    padding_3: [u64; 7],
}

/// Bytes and inodes of a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// That are taken.
    pub bytes: u64,
    /// The same of files, directories and links.
    pub inodes: u64,
    /// The most; 0 for none.
    pub bytes_limit: u64,
    /// The limit of inodes; 0 for none.
    pub inodes_limit: u64,
}

fn call<T>(fd: BorrowedFd<'_>, command: u32, project: u32, argument: &mut T) -> std::io::Result<()> {
    let command = command << 8 | PRJQUOTA;
    // SAFETY: the kernel reads or writes the struct that belongs to the command, which `T` is for each of the three
    // callers below, and keeps nothing of it.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, fd.as_raw_fd(), command, project, std::ptr::from_mut(argument))
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Whether the file system that `fd` lies on counts projects and holds them to their limits. One that has none of
/// that says so by an error, which is no answer to pass on.
pub fn is_enforced(fd: BorrowedFd<'_>) -> bool {
    let mut state = State { version: 1, ..State::default() };
    call(fd, STATE, 0, &mut state).is_ok() && state.flags & (COUNTED | ENFORCED) == COUNTED | ENFORCED
}

/// What a project has, and may have. One that nobody has used has nothing.
///
/// # Errors
/// As `quotactl_fd(2)`.
pub fn get(fd: BorrowedFd<'_>, project: u32) -> std::io::Result<Quota> {
    let mut block = Block::default();
    match call(fd, GET, project, &mut block) {
        Ok(()) => Ok(Quota {
            bytes: block.bytes,
            inodes: block.inodes,
            bytes_limit: block.bytes_hard.saturating_mul(BLOCK),
            inodes_limit: block.inodes_hard,
        }),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            Ok(Quota::default())
        }
        Err(error) => Err(error),
    }
}

/// Sets a project's limits, neither of which may be 0: that would be none.
///
/// # Errors
/// As `quotactl_fd(2)`.
pub fn limit(fd: BorrowedFd<'_>, project: u32, bytes: u64, inodes: u64) -> std::io::Result<()> {
    if bytes == 0 || inodes == 0 {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut block = Block {
        bytes_hard: bytes.div_ceil(BLOCK),
        inodes_hard: inodes,
        valid: QIF_LIMITS,
        ..Block::default()
    };
    call(fd, SET, project, &mut block)
}

/// The project of a file or directory, if what is made in it belongs to that as well.
///
/// # Errors
/// As `ioctl(2)`.
pub fn project(fd: BorrowedFd<'_>) -> std::io::Result<Option<u32>> {
    let attributes = attributes(fd)?;
    Ok((attributes.flags & PROJINHERIT != 0).then_some(attributes.project))
}

/// Puts a directory into a project, and all that will be made in it.
///
/// # Errors
/// As `ioctl(2)`.
pub fn set_project(fd: BorrowedFd<'_>, project: u32) -> std::io::Result<()> {
    // What is not read first would be cleared.
    let mut attributes = attributes(fd)?;
    attributes.project = project;
    attributes.flags |= PROJINHERIT;
    // SAFETY: the request reads a `struct fsxattr`, which lives until then.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn attributes(fd: BorrowedFd<'_>) -> std::io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the request writes a `struct fsxattr`, which lives until then.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) };
    if result == 0 { Ok(attributes) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_structs_are_the_kernels() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!((size_of::<Block>(), std::mem::offset_of!(Block, valid)), (72, 64));
        assert_eq!((size_of::<State>(), std::mem::offset_of!(State, files)), (160, 8));
    }

    #[test]
    fn a_file_system_without_quotas_has_none() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(!is_enforced(proc.as_fd()));
        assert!(limit(proc.as_fd(), 7, 0, 1).is_err() && limit(proc.as_fd(), 7, 1, 0).is_err());
        assert!(project(proc.as_fd()).is_err());
    }
}
