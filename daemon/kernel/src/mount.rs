//! Mounts, by descriptor (`fsopen(2)`, `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`): nothing here
//! opens a path that a caller named.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// `statfs(2)`: symbolic links are not followed. No library names it.
const ST_NOSYMFOLLOW: u64 = 0x2000;

/// Which step on a mount the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct MountError {
    /// The call, with what it was for.
    step: String,
    #[source]
    source: std::io::Error,
}

impl MountError {
    /// What went wrong at `step`.
    pub fn new(step: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self { step: step.into(), source: source.into() }
    }

    /// The kernel's error number.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Properties of a mount; what is not set is taken away nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// No writing through it.
    pub read_only: bool,
    /// No program in it may run.
    pub no_exec: bool,
    /// Device nodes in it open. Every other mount of a session is `nodev`.
    pub devices: bool,
    /// Symbolic links in it are not followed.
    pub no_symlinks: bool,
}

impl Attributes {
    /// Files to write: neither programs nor devices.
    pub const WRITABLE: Self = Self { read_only: false, no_exec: true, devices: false, no_symlinks: false };

    /// These, and what the mount of `source` refuses: a new file system made over it forgets that.
    ///
    /// # Errors
    /// As `fstatvfs(3)`.
    pub fn within(mut self, source: BorrowedFd<'_>) -> std::io::Result<Self> {
        let flags = rustix::fs::fstatvfs(source)?.f_flag;
        self.no_exec |= flags.contains(StatVfsMountFlags::NOEXEC);
        self.no_symlinks |= flags.bits() & ST_NOSYMFOLLOW != 0;
        Ok(self)
    }

    fn bits(self) -> u64 {
        let mut bits = MountAttrFlags::MOUNT_ATTR_NOSUID;
        bits.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        bits.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        bits.set(MountAttrFlags::MOUNT_ATTR_NODEV, !self.devices);
        bits.set(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, self.no_symlinks);
        u64::from(bits.bits())
    }
}

/// A mount that is in no namespace yet, or has been attached through this handle.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// A copy of the mount that `fd` lies on, from `fd` down, with everything that is mounted below. All
    /// or nothing: leaving submounts out would uncover what they hide.
    ///
    /// # Errors
    /// `EINVAL` if `fd` belongs to another mount namespace than the caller's.
    pub fn copy_of(fd: BorrowedFd<'_>) -> Result<Self, MountError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(fd, "", flags).map_err(|e| MountError::new("open_tree", e))?;
        Ok(Self(tree))
    }

    /// A copy of the mount that `fd` lies on, from `fd` down, alone: for asking what its file system can do.
    ///
    /// # Errors
    /// As [`Tree::copy_of`].
    pub fn copy_of_one(fd: BorrowedFd<'_>) -> Result<Self, MountError> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = rustix::mount::open_tree(fd, "", flags).map_err(|e| MountError::new("open_tree", e))?;
        Ok(Self(tree))
    }

    /// A copy of the mount of `name` in `dir`, from it down, alone.
    ///
    /// # Errors
    /// As `open_tree(2)`.
    pub fn copy_of_name(dir: BorrowedFd<'_>, name: &str) -> Result<Self, MountError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let tree = rustix::mount::open_tree(dir, name, flags).map_err(|e| MountError::new("open_tree", e))?;
        Ok(Self(tree))
    }

    /// A new file system of `kind` with these options.
    ///
    /// # Errors
    /// What `fsopen(2)`, `fsconfig(2)` or `fsmount(2)` refuses, with the option's name.
    pub fn new(kind: &str, options: &[(&str, &str)], attributes: Attributes) -> Result<Self, MountError> {
        Self::of_layers(kind, &[], options, attributes)
    }

    /// The same with open directories for some options, as an overlay takes its layers from Linux 6.13 on, and where
    /// their mounts are attached nowhere from 6.15 on. Before, the answer is `EINVAL`.
    ///
    /// # Errors
    /// As [`Tree::new`].
    pub fn of_layers(
        kind: &str,
        layers: &[(&str, BorrowedFd<'_>)],
        options: &[(&str, &str)],
        attributes: Attributes,
    ) -> Result<Self, MountError> {
        let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| MountError::new(format!("fsopen {kind}"), e))?;
        for (key, layer) in layers {
            rustix::mount::fsconfig_set_fd(fs.as_fd(), *key, *layer)
                .map_err(|e| MountError::new(format!("fsconfig {kind} {key}"), e))?;
        }
        for (key, value) in options {
            let result = match *value {
                "" => rustix::mount::fsconfig_set_flag(fs.as_fd(), *key),
                value => rustix::mount::fsconfig_set_string(fs.as_fd(), *key, value),
            };
            result.map_err(|e| MountError::new(format!("fsconfig {kind} {key}"), e))?;
        }
        rustix::mount::fsconfig_create(fs.as_fd())
            .map_err(|e| MountError::new(format!("create {kind}"), e))?;
        let bits = u32::try_from(attributes.bits())
            .map_err(|_| MountError::new(format!("attributes of {kind}"), rustix::io::Errno::INVAL))?;
        let bits = MountAttrFlags::from_bits_retain(bits);
        let tree = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, bits)
            .map_err(|e| MountError::new(format!("fsmount {kind}"), e))?;
        Ok(Self(tree))
    }

    /// A `tmpfs` that holds at most `size` bytes, owned by `owner` (uid and gid alike).
    ///
    /// # Errors
    /// As [`Tree::new`].
    pub fn tmpfs(size: u64, owner: u32, mode: u32, attributes: Attributes) -> Result<Self, MountError> {
        let inodes = (size / 4096).clamp(64, 4 << 20);
        let (size, inodes) = (size.to_string(), inodes.to_string());
        let (owner, mode) = (owner.to_string(), format!("{mode:o}"));
        let options = [
            ("size", size.as_str()),
            ("nr_inodes", &inodes),
            ("mode", &mode),
            ("uid", &owner),
            ("gid", &owner),
        ];
        Self::new("tmpfs", &options, attributes)
    }

    /// Sets the attributes of the mount and of everything below it, private and, with `map`, id-mapped. All
    /// or nothing.
    ///
    /// # Errors
    /// As `mount_setattr(2)`: `EINVAL` where a file system cannot be id-mapped.
    pub fn restrict(&self, attributes: Attributes, map: Option<BorrowedFd<'_>>) -> Result<(), MountError> {
        let mut set = attributes.bits();
        if map.is_some() {
            set |= libc::MOUNT_ATTR_IDMAP;
        }
        let attr = libc::mount_attr {
            attr_set: set,
            attr_clr: 0,
            propagation: libc::MS_PRIVATE,
            userns_fd: map.map_or(0, |fd| fd.as_raw_fd().cast_unsigned().into()),
        };
        setattr(self.0.as_fd(), libc::AT_RECURSIVE, &attr).map_err(|e| MountError::new("mount_setattr", e))
    }

    /// Attaches it at `place`, a descriptor of what it will cover.
    ///
    /// # Errors
    /// As `move_mount(2)`.
    pub fn attach(&self, place: BorrowedFd<'_>) -> Result<(), MountError> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&self.0, "", place, "", flags).map_err(|e| MountError::new("move_mount", e))
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Tree> for OwnedFd {
    fn from(tree: Tree) -> OwnedFd {
        tree.0
    }
}

fn setattr(fd: BorrowedFd<'_>, flags: libc::c_int, attr: &libc::mount_attr) -> std::io::Result<()> {
    // SAFETY: the path is a constant empty string, the struct is passed with its own size and only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Makes the mount that `fd` lies on read-only, itself alone.
///
/// # Errors
/// As `mount_setattr(2)`.
pub fn seal(fd: BorrowedFd<'_>) -> Result<(), MountError> {
    let attr = libc::mount_attr {
        attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    setattr(fd, 0, &attr).map_err(|e| MountError::new("mount_setattr read-only", e))
}

/// A new mount namespace, a private copy of the current one. The process's root stays where it was.
///
/// # Errors
/// As `unshare(2)`.
pub fn new_namespace() -> Result<(), MountError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|e| MountError::new("unshare mount namespace", e))
}

/// Enters the mount namespace of `fd`; root and working directory become its root.
///
/// # Errors
/// As `setns(2)`.
pub fn enter_namespace(fd: BorrowedFd<'_>) -> Result<(), MountError> {
    nix::sched::setns(fd, nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|e| MountError::new("setns mount namespace", e))
}

/// Makes `tree` the root of the mount namespace, and takes everything away that was mounted before.
///
/// # Errors
/// As `move_mount(2)`, `pivot_root(2)`, `umount2(2)`.
pub fn become_root(tree: &Tree) -> Result<(), MountError> {
    let root = rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, 0.into())
        .map_err(|e| MountError::new("open root", e))?;
    tree.attach(root.as_fd())?;
    rustix::process::fchdir(tree).map_err(|e| MountError::new("fchdir new root", e))?;
    // pivot_root(2), Notes: with both arguments "." the old root ends up on top of the new one and is then
    // taken away, which needs no directory for it.
    rustix::process::pivot_root(".", ".").map_err(|e| MountError::new("pivot_root", e))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(|e| MountError::new("umount old root", e))?;
    rustix::process::chdir("/").map_err(|e| MountError::new("chdir /", e))
}

/// Takes the mount at `path` away.
///
/// # Errors
/// As `umount2(2)`.
pub fn detach(path: &str) -> Result<(), MountError> {
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|e| MountError::new(format!("umount {path}"), e))
}

/// A device node in `dir` (`mknod(2)`), open to everyone.
///
/// # Errors
/// As `mknod(2)`.
pub fn device(dir: BorrowedFd<'_>, name: &str, major: u32, minor: u32) -> Result<(), MountError> {
    use rustix::fs::{FileType, Mode};
    let mode = Mode::from_raw_mode(0o666);
    let dev = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, mode, dev)
        .and_then(|()| rustix::fs::chmodat(dir, name, mode, AtFlags::empty()))
        .map_err(|e| MountError::new(format!("mknod {name}"), e))
}

/// The mount options of whatever `path` lies on, for checking what was set (`statvfs(3)`).
///
/// # Errors
/// As `statvfs(3)`.
pub fn is_read_only(path: &str) -> std::io::Result<bool> {
    let path = CString::new(path)?;
    let stat = rustix::fs::statvfs(path.as_c_str())?;
    Ok(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Opens `path` from the current directory without following a last symbolic link.
///
/// # Errors
/// As `openat(2)`.
pub fn place(path: &str) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens `path` from the root, across mounts, but through no symbolic link: the kernel's own name of a file leads
/// through none.
///
/// # Errors
/// As `openat2(2)`.
pub fn open_by_name(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)
}

/// Which file a descriptor is of, and by which mount. Two that are held at the same time are equal only if they are of
/// the same file and mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The mount's id, as in `mountinfo`.
    pub mount: u64,
    device: (u32, u32),
    inode: u64,
}

/// The identity of `fd`.
///
/// # Errors
/// As `statx(2)`; `EOPNOTSUPP` if the kernel leaves a part of it out.
pub fn identity(fd: BorrowedFd<'_>) -> rustix::io::Result<Identity> {
    // A bit that rustix has no name for in every version is kept.
    let wanted = StatxFlags::INO | StatxFlags::from_bits_retain(libc::STATX_MNT_ID);
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)?;
    if stat.stx_mask & wanted.bits() != wanted.bits() {
        return Err(rustix::io::Errno::OPNOTSUPP);
    }
    let device = (stat.stx_dev_major, stat.stx_dev_minor);
    Ok(Identity { mount: stat.stx_mnt_id, device, inode: stat.stx_ino })
}
