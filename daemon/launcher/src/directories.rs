//! The directories and sockets that the launcher owns.

use std::os::fd::{AsFd, OwnedFd};

use agentd_policy::names::AbsPath;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Gid, Uid};

use crate::settings::Settings;

/// How many connections wait to be accepted.
const BACKLOG: i32 = 256;

/// Handles of the directories; root works relative to them.
#[derive(Debug)]
pub struct Directories {
    /// Locks, one a lease.
    pub leases: OwnedFd,
    /// Upper directories, by user and session.
    pub overlays: OwnedFd,
    /// Says that this launcher is the only one here.
    _lock: OwnedFd,
}

impl Directories {
    /// Makes what is missing; refuses what others could have made.
    pub fn prepare(settings: &Settings) -> Result<Self, String> {
        let config = &settings.config;
        let runtime = make(&config.runtime_dir, 0o755)?;
        let state = make(&config.state_dir, 0o711)?;
        let lock = file(&runtime, "launcher.lock")?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("{}: another agentd-launcher runs here", config.runtime_dir))?;
        let leases = sub(&runtime, "leases", 0o700)?;
        let overlays = sub(&state, "overlays", 0o700)?;
        let audit = sub(&state, "audit", 0o700)?;
        let owner = (Uid::from_raw(settings.service_uid), Gid::from_raw(settings.service_gid));
        rustix::fs::fchown(&audit, Some(owner.0), Some(owner.1)).map_err(|e| format!("audit: {e}"))?;
        Ok(Self { leases, overlays, _lock: lock })
    }

    /// Takes the lock of lease `number`: `None` while somebody else holds it.
    pub fn lock_lease(&self, number: u32) -> Result<Option<OwnedFd>, String> {
        let lock = file(&self.leases, &number.to_string())?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(errno) => Err(format!("lease {number}: {errno}")),
        }
    }

    /// A new directory for the uppers of a session.
    pub fn make_uppers(&self, uid: u32, session: &str) -> Result<OwnedFd, String> {
        let user = sub(&self.overlays, &format!("u{uid}"), 0o700)?;
        rustix::fs::mkdirat(&user, session, Mode::from_raw_mode(0o700))
            .map_err(|e| format!("overlays/u{uid}/{session}: {e}"))?;
        open(&user, session)
    }

    /// The directory of a user's overlays, if it ever had one.
    pub fn user_overlays(&self, uid: u32) -> Result<Option<OwnedFd>, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.overlays, format!("u{uid}"), flags, Mode::empty()) {
            Ok(dir) => Ok(Some(dir)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(format!("overlays/u{uid}: {errno}")),
        }
    }
}

fn make(path: &AbsPath, mode: u32) -> Result<OwnedFd, String> {
    std::fs::create_dir_all(path.as_str()).map_err(|e| format!("{path}: {e}"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path.as_str(), flags, Mode::empty()).map_err(|e| format!("{path}: {e}"))?;
    own(&dir, path.as_str(), mode)?;
    Ok(dir)
}

fn sub(parent: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd, String> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(format!("{name}: {errno}")),
    }
    open(parent, name)
}

fn own(dir: &OwnedFd, name: &str, mode: u32) -> Result<(), String> {
    let stat = rustix::fs::fstat(dir).map_err(|e| format!("{name}: {e}"))?;
    if stat.st_uid != 0 {
        return Err(format!("{name}: belongs to uid {}, not to root", stat.st_uid));
    }
    rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)).map_err(|e| format!("{name}: {e}"))
}

fn open(parent: &OwnedFd, name: &str) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| format!("{name}: {e}"))
}

fn file(parent: &OwnedFd, name: &str) -> Result<OwnedFd, String> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| format!("{name}: {e}"))
}

/// A listening Unix socket at `path`, for `owner` and `group`; what lay there before is replaced.
pub fn listen(path: &str, kind: SocketType, owner: u32, group: u32, mode: u32) -> Result<OwnedFd, String> {
    let fail = |e: rustix::io::Errno| format!("{path}: {e}");
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(fail)?;
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(fail(errno)),
    }
    // Nobody can connect before owner and mode are as they should be: the file is made without any right.
    let before = rustix::process::umask(Mode::from_raw_mode(0o777));
    let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(path).map_err(fail)?);
    rustix::process::umask(before);
    bound.map_err(fail)?;
    let cwd = rustix::fs::CWD;
    rustix::fs::chownat(
        cwd,
        path,
        Some(Uid::from_raw(owner)),
        Some(Gid::from_raw(group)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(fail)?;
    rustix::fs::chmodat(cwd, path, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(fail)?;
    rustix::net::listen(socket.as_fd(), BACKLOG).map_err(fail)?;
    Ok(socket)
}
