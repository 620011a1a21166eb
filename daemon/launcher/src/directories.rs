//! The directories and sockets that the launcher owns.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::packets::Packets;
use agentd_policy::names::{AbsPath, SessionId};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Gid, Uid};

use crate::settings::Settings;
use agentd_session::error::{HostError, On as _};

/// How many connections wait to be accepted.
const BACKLOG: i32 = 1024;

/// What the name of a socket may have at most (`unix(7)`), with the NUL at its end.
const SUN_PATH: usize = 108;
/// How long a session's id is.
const SESSION_NAME: usize = 12;

/// What the names of the service's records end with: whole, set aside, and being written.
const RECORDS: [&str; 3] = ["json", "broken", "tmp"];
/// What the name of a file ends with that says the format of a session's record.
const FORMAT: &str = ".format";
/// What the name of an overlay ends with that is to be deleted. No session's does.
const DOOMED: &str = ".deleted";
/// And of those that wait for a session of a lease.
const AHEAD: &str = "lease-";

/// The uppers of a session that are being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Whose they are.
    pub owner: u32,
    /// Which session's, if the name is one.
    pub session: Option<SessionId>,
    label: String,
}

impl Doomed {
    /// Those that are called `name`, if they are to be deleted.
    pub fn parse(owner: u32, name: &str) -> Option<Self> {
        let label = name.strip_suffix(DOOMED)?;
        Some(Self { owner, session: SessionId::parse(label).ok(), label: label.to_owned() })
    }

    /// Those that are made for the session that gets lease `number`: to be deleted, unless they are taken.
    pub fn ahead(owner: u32, number: u32) -> Self {
        Self { owner, session: None, label: format!("{AHEAD}{number}") }
    }

    /// The lease that they were made for, if they are such.
    pub fn lease(&self) -> Option<u32> {
        self.label.strip_prefix(AHEAD)?.parse().ok()
    }

    /// What they are called in the directory of their user's.
    pub fn name(&self) -> String {
        format!("{}{DOOMED}", self.label)
    }
}

/// Handles of the directories; root works relative to them.
#[derive(Debug)]
pub struct Directories {
    /// Locks, one a lease.
    pub leases: OwnedFd,
    /// What the others are below, but for sockets and locks.
    pub state: OwnedFd,
    /// Upper directories, by user and session.
    pub overlays: OwnedFd,
    /// The same below `state`, whatever overlays are on: for trials.
    pub trials: OwnedFd,
    /// The service's records.
    pub audit: OwnedFd,
    /// Sockets of keepers, one a session, and where they are.
    pub keepers: OwnedFd,
    keepers_path: String,
    /// Locked by this process for as long as it lives. Nothing else here opens it: to close one descriptor of a file
    /// gives up every record lock that the process has on it.
    _lock: OwnedFd,
}

impl Directories {
    /// Makes what is missing; refuses what others could have made.
    pub fn prepare(settings: &Settings) -> Result<Self, HostError> {
        let config = &settings.config;
        let runtime = make(&config.runtime_dir, 0o755)?;
        let state = make(&config.state_dir, 0o711)?;
        let lock = file(&runtime, "launcher.lock", OFlags::RDWR)?;
        hold(&lock).on(&config.runtime_dir)?;
        let leases = sub(&runtime, "leases", 0o700)?;
        // The service goes through it, and knows the names.
        let keepers = sub(&runtime, "keepers", 0o711)?;
        let keepers_path = format!("{}/keepers", config.runtime_dir);
        if keepers_path.len() + 1 + SESSION_NAME >= SUN_PATH {
            let why = format!("{keepers_path} is too long for the path of a socket");
            return Err(HostError::unfit(why).on("runtime_dir"));
        }
        let overlays = sub(&state, "overlays", 0o700)?;
        let audit = sub(&state, "audit", 0o700)?;
        let owner = (Uid::from_raw(settings.service_uid), Gid::from_raw(settings.service_gid));
        rustix::fs::fchown(&audit, Some(owner.0), Some(owner.1)).on("audit")?;
        let trials = overlays.try_clone().on("overlays")?;
        Ok(Self { leases, state, overlays, trials, audit, keepers, keepers_path, _lock: lock })
    }

    /// Every descriptor of it but the lock.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 6] {
        [&self.leases, &self.state, &self.overlays, &self.trials, &self.audit, &self.keepers].map(AsFd::as_fd)
    }

    /// Takes the lock of lease `number`: `None` while somebody else holds it. The keeper will have the descriptor: it
    /// cannot write by it what a later launcher takes for the truth.
    pub fn lock_lease(&self, number: u32) -> Result<Option<OwnedFd>, HostError> {
        let lock = file(&self.leases, &number.to_string(), OFlags::RDONLY)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno).on(lease(number)),
        }
    }

    /// Lease `number`'s file, if it has one.
    pub fn lease_file(&self, number: u32) -> Result<Option<OwnedFd>, HostError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.leases, number.to_string(), flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).on(lease(number)),
        }
    }

    /// Removes lease `number`'s file, which nobody may have locked.
    pub fn remove_lease(&self, number: u32) -> Result<(), HostError> {
        gone(rustix::fs::unlinkat(&self.leases, number.to_string(), AtFlags::empty())).on(lease(number))
    }

    /// The socket on which the keeper of `session` will listen, for `owner` alone.
    pub fn keeper_socket(&self, session: &SessionId, owner: u32) -> Result<OwnedFd, HostError> {
        listen(&format!("{}/{session}", self.keepers_path), SocketType::SEQPACKET, owner, 0, 0o600)
    }

    /// Connects to a session's keeper, without waiting.
    pub fn keeper(&self, session: &SessionId) -> Result<Packets, HostError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let connected = SocketAddrUnix::new(format!("{}/{session}", self.keepers_path)).and_then(|address| {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            rustix::net::connect(&socket, &address)?;
            Ok(socket)
        });
        connected.map(Packets::from_fd).on("its keeper")
    }

    /// Removes the name of that socket.
    pub fn remove_keeper_socket(&self, session: &str) -> Result<(), HostError> {
        gone(rustix::fs::unlinkat(&self.keepers, session, AtFlags::empty()))
            .on(format_args!("keepers/{session}"))
    }

    /// Says, for the service, in which format the record of `session` was, which is ended for that. The next launcher
    /// takes it away.
    pub fn write_format(&self, session: &SessionId, format: u16) -> Result<(), HostError> {
        let name = format!("{session}{FORMAT}");
        let object = format!("keepers/{name}");
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.keepers, &name, flags, Mode::from_raw_mode(0o644));
        let file = std::fs::File::from(file.on(&object)?);
        std::io::Write::write_all(&mut &file, format.to_string().as_bytes()).on(&object)
    }

    /// Every user who has overlays, and the names of those.
    pub fn all_overlays(&self) -> Result<Vec<(u32, String)>, HostError> {
        let mut all = Vec::new();
        for user in names(&self.overlays)? {
            let Some(uid) = user.strip_prefix('u').and_then(|uid| uid.parse().ok()) else { continue };
            let Some(dir) = self.user_overlays(uid)? else { continue };
            all.extend(names(&dir)?.into_iter().map(|session| (uid, session)));
        }
        Ok(all)
    }

    /// Whether the service may have a record of `session`: a whole one, one that it set aside because it is torn, or
    /// one that it is about to write. What cannot be looked at may be there.
    pub fn may_have_record(&self, session: &str) -> bool {
        RECORDS.iter().any(|kind| {
            let name = format!("{session}.{kind}");
            let found = rustix::fs::statat(&self.audit, name, AtFlags::SYMLINK_NOFOLLOW);
            !matches!(found, Err(rustix::io::Errno::NOENT))
        })
    }

    /// Renames the uppers of a session, which from then on are to be deleted, whatever happens; `None` if there are
    /// none.
    pub fn doom_uppers(&self, owner: u32, session: &str) -> Result<Option<Doomed>, HostError> {
        let Some(user) = self.user_overlays(owner)? else { return Ok(None) };
        let doomed = Doomed { owner, session: SessionId::parse(session).ok(), label: session.to_owned() };
        match rustix::fs::renameat_with(&user, session, &user, doomed.name(), RenameFlags::NOREPLACE) {
            Ok(()) => Ok(Some(doomed)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).on(overlay(owner, session)),
        }
    }

    /// All that was to be deleted and is still there.
    pub fn doomed(&self) -> Result<Vec<Doomed>, HostError> {
        let found = self.all_overlays()?.into_iter();
        Ok(found.filter_map(|(owner, name)| Doomed::parse(owner, &name)).collect())
    }

    /// A new directory for the uppers of a session.
    pub fn make_uppers(&self, uid: u32, session: &str) -> Result<OwnedFd, HostError> {
        let user = self.ensure_user_overlays(uid)?;
        rustix::fs::mkdirat(&user, session, Mode::from_raw_mode(0o700)).on(overlay(uid, session))?;
        open(&user, session)
    }

    /// The directory of a user's overlays.
    pub fn ensure_user_overlays(&self, uid: u32) -> Result<OwnedFd, HostError> {
        sub(&self.overlays, &format!("u{uid}"), 0o700)
    }

    /// The directory of a user's overlays, if it ever had one.
    pub fn user_overlays(&self, uid: u32) -> Result<Option<OwnedFd>, HostError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.overlays, format!("u{uid}"), flags, Mode::empty()) {
            Ok(dir) => Ok(Some(dir)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).on(format_args!("overlays/u{uid}")),
        }
    }
}

/// What a lease's file is called in an error.
fn lease(number: u32) -> String {
    format!("lease {number}")
}

/// And an overlay of a user's, which is a session's or has its name from a lease.
pub fn overlay(owner: u32, name: &str) -> String {
    format!("overlays/u{owner}/{name}")
}

/// What is in a directory.
pub fn names(dir: &OwnedFd) -> Result<Vec<String>, HostError> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether somebody has the lock on a lease's file, which is looked at by locking it for a moment.
pub fn is_held(file: &OwnedFd) -> rustix::io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => rustix::fs::flock(file, FlockOperation::Unlock).map(|()| false),
        Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Locks the launcher's file by a record lock (`fcntl(2)`), which is the process's own: no child inherits it, as it
/// would an `flock(2)`, so that whatever outlives a launcher keeps no other from starting.
fn hold(file: &OwnedFd) -> Result<(), HostError> {
    match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
            Err(HostError::unfit("another agentd-launcher runs here"))
        }
        Err(errno) => Err(errno).on("launcher.lock"),
    }
}

/// What was not there is gone as well.
fn gone(removed: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match removed {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn make(path: &AbsPath, mode: u32) -> Result<OwnedFd, HostError> {
    std::fs::create_dir_all(path.as_str()).on(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path.as_str(), flags, Mode::empty()).on(path)?;
    own(&dir, path.as_str(), mode)?;
    Ok(dir)
}

fn sub(parent: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd, HostError> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno).on(name),
    }
    open(parent, name)
}

fn own(dir: &OwnedFd, name: &str, mode: u32) -> Result<(), HostError> {
    let stat = rustix::fs::fstat(dir).on(name)?;
    if stat.st_uid != 0 {
        let why = format!("belongs to uid {}, not to root", stat.st_uid);
        return Err(HostError::unfit(why).on(name));
    }
    rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)).on(name)
}

/// Directory `name` in `parent`, which is no link.
pub fn open(parent: &OwnedFd, name: &str) -> Result<OwnedFd, HostError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).on(name)
}

fn file(parent: &OwnedFd, name: &str, access: OFlags) -> Result<OwnedFd, HostError> {
    let flags = access | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).on(name)
}

/// A listening Unix socket at `path`, for `owner` and `group`; what lay there before is replaced.
pub fn listen(path: &str, kind: SocketType, owner: u32, group: u32, mode: u32) -> Result<OwnedFd, HostError> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .on(path)?;
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno).on(path),
    }
    let address = SocketAddrUnix::new(path).on(path)?;
    // Nobody can connect before owner and mode are as they should be: the file is made without any right.
    let before = rustix::process::umask(Mode::from_raw_mode(0o777));
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(before);
    bound.on(path)?;
    let cwd = rustix::fs::CWD;
    rustix::fs::chownat(
        cwd,
        path,
        Some(Uid::from_raw(owner)),
        Some(Gid::from_raw(group)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .on(path)?;
    rustix::fs::chmodat(cwd, path, Mode::from_raw_mode(mode), AtFlags::empty()).on(path)?;
    rustix::net::listen(socket.as_fd(), BACKLOG).on(path)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a directory of its own, which ends with it.
    fn within(name: &str, test: impl FnOnce(Directories)) {
        let base = std::env::temp_dir().join(format!("agentd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&base).unwrap();
        let dir = || OwnedFd::from(std::fs::File::open(&base).unwrap());
        test(Directories {
            leases: dir(),
            state: dir(),
            overlays: dir(),
            trials: dir(),
            audit: dir(),
            keepers: dir(),
            keepers_path: String::new(),
            _lock: dir(),
        });
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn what_is_to_be_deleted_is_known_by_its_name() {
        within("doomed", |directories| {
            let session = "aabbccddeeff";
            drop(directories.make_uppers(7, session).unwrap());
            let doomed = directories.doom_uppers(7, session).unwrap().unwrap();
            assert_eq!(directories.doom_uppers(7, session).unwrap(), None);
            assert_eq!(directories.doomed().unwrap().first(), Some(&doomed));
            assert_eq!(Doomed::parse(7, &doomed.name()), Some(doomed));
            assert_eq!(Doomed::parse(7, session), None);
        });
    }

    #[test]
    fn a_record_that_cannot_be_read_is_one() {
        within("records", |directories| {
            assert!(!directories.may_have_record("aabbccddeeff"));
            for kind in RECORDS {
                let file = file(&directories.audit, &format!("112233445566.{kind}"), OFlags::RDWR).unwrap();
                assert!(directories.may_have_record("112233445566"));
                drop(file);
                let name = format!("112233445566.{kind}");
                rustix::fs::unlinkat(&directories.audit, name, AtFlags::empty()).unwrap();
            }
            // A name that the file system cannot look for.
            assert!(directories.may_have_record(&"x".repeat(300)));
        });
    }

    #[test]
    fn a_keeper_cannot_write_what_is_on_record_of_it() {
        within("lock", |directories| {
            let lock = directories.lock_lease(3).unwrap().unwrap();
            assert_eq!(rustix::io::pwrite(&lock, b"forged", 0), Err(rustix::io::Errno::BADF));
            assert!(directories.lock_lease(3).unwrap().is_none());
            assert!(is_held(&directories.lease_file(3).unwrap().unwrap()).unwrap());
            drop(lock);
            assert!(!is_held(&directories.lease_file(3).unwrap().unwrap()).unwrap());
        });
    }
}
