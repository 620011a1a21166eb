//! Landlock: what a process may do with files, from inside (`landlock(7)`).
//!
//! Rules name open descriptors, never paths. Every right that the host's Landlock knows is handled, so what
//! no rule grants is refused. No class grants `RESOLVE_UNIX` (ABI 9): the confined processes reach each
//! other's sockets without it, and nobody else's.

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::FileType;

/// The least that agentd works with: renames between directories can be judged from here on.
pub const LEAST_ABI: u32 = 2;

/// What may be done below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Listing directories, nothing else.
    ListOnly,
    /// Listing and reading.
    ReadOnly,
    /// Listing, reading and running.
    ReadExec,
    /// Everything but running, making devices, and `ioctl(2)` on devices.
    ReadWrite,
    /// The same and running.
    ReadWriteExec,
    /// Listing, reading, writing, and `ioctl(2)`.
    Device,
}

/// What Landlock is to allow.
#[derive(Debug, Default)]
pub struct FileRules(Vec<(OwnedFd, Class)>);

/// Landlock is in force.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// The ABI whose rights are all handled: the host's, or the newest that agentd knows.
    pub abi: u32,
    /// Whether signals and abstract sockets of others are out of reach (ABI 6).
    pub scoped: bool,
}

/// Why Landlock is not in force.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// Too old, not built in, or not enabled.
    #[error("the kernel offers Landlock ABI {host} (0: none), and {required} is required")]
    Abi {
        /// What the host has.
        host: u32,
        /// What is needed.
        required: u32,
    },
    /// It has to be set before.
    #[error("no_new_privs is not set")]
    NewPrivs,
    /// A descriptor cannot be asked what it is.
    #[error("cannot stat what a Landlock rule names: {0}")]
    Stat(#[source] std::io::Error),
    /// The kernel refused.
    #[error("landlock: {0}")]
    Ruleset(#[from] RulesetError),
    /// Some of it is missing.
    #[error("landlock is not fully enforced: {0:?}")]
    NotInForce(RulesetStatus),
}

impl FileRules {
    /// A set without any rule.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows `class` on what `place` is open on, and below it. `O_PATH` is enough.
    pub fn add(&mut self, place: OwnedFd, class: Class) {
        self.0.push((place, class));
    }
}

/// The ABI of the host's Landlock; 0 if it has none.
pub fn host_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads nothing behind the pointer, which has to be null.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION)
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Refuses this thread and all that it starts every access to files that `rules` do not allow, and signals
/// and abstract sockets of processes that it did not start, where the host can. Ports are not restricted.
///
/// # Errors
/// [`LandlockError`]: above all if the host's ABI is below `required_abi` or 2.
pub fn enforce(rules: FileRules, required_abi: u32) -> Result<Enforced, LandlockError> {
    let abi = usable(required_abi)?;
    let mut ruleset = handle_files(abi)?.create()?;
    for (place, class) in rules.0 {
        let stat = rustix::fs::fstat(&place).map_err(|e| LandlockError::Stat(e.into()))?;
        let mut rights = class.rights() & AccessFs::from_all(abi);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            rights &= AccessFs::from_file(abi);
        }
        // A list of a file's content is nothing that could be allowed.
        if !rights.is_empty() {
            ruleset = ruleset.add_rule(PathBeneath::new(place, rights))?;
        }
    }
    restrict(ruleset, abi)
}

/// Refuses this thread and all that it starts every file, every TCP port (ABI 4), and signals and abstract
/// sockets of others (ABI 6).
///
/// # Errors
/// [`LandlockError`].
pub fn deny_all() -> Result<Enforced, LandlockError> {
    let abi = usable(LEAST_ABI)?;
    let mut ruleset = handle_files(abi)?;
    let ports = AccessNet::from_all(abi);
    if !ports.is_empty() {
        ruleset = ruleset.handle_access(ports)?;
    }
    restrict(ruleset.create()?, abi)
}

/// The ABI to work with. `no_new_privs` has to be set.
fn usable(required: u32) -> Result<ABI, LandlockError> {
    let (host, required) = (host_abi(), required.max(LEAST_ABI));
    if host < required {
        return Err(LandlockError::Abi { host, required });
    }
    match rustix::thread::no_new_privs() {
        Ok(true) => Ok(ABI::from(i32::try_from(host).unwrap_or(i32::MAX))),
        _ => Err(LandlockError::NewPrivs),
    }
}

/// Each right is asked for as one that must be there: the host has it by its ABI.
fn handle_files(abi: ABI) -> Result<Ruleset, RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    match Scope::from_all(abi) {
        none if none.is_empty() => Ok(ruleset),
        scopes => ruleset.scope(scopes),
    }
}

fn restrict(ruleset: RulesetCreated, abi: ABI) -> Result<Enforced, LandlockError> {
    let status = ruleset.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced || !status.no_new_privs {
        return Err(LandlockError::NotInForce(status.ruleset));
    }
    Ok(Enforced { abi: abi as u32, scoped: !Scope::from_all(abi).is_empty() })
}

impl Class {
    /// Its rights, whatever the host knows of them.
    fn rights(self) -> BitFlags<AccessFs> {
        let list = BitFlags::from(AccessFs::ReadDir);
        let write = AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::MakeDir
            | AccessFs::MakeSym
            | AccessFs::MakeSock
            | AccessFs::MakeFifo
            | AccessFs::RemoveFile
            | AccessFs::RemoveDir
            | AccessFs::Refer;
        let read = list | AccessFs::ReadFile;
        match self {
            Self::ListOnly => list,
            Self::ReadOnly => read,
            Self::ReadExec => read | AccessFs::Execute,
            Self::ReadWrite => read | write,
            Self::ReadWriteExec => read | write | AccessFs::Execute,
            Self::Device => read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::creds;
    use crate::lockdown::testing::in_child;
    use std::fs::{self, File};
    use std::io::ErrorKind::PermissionDenied;
    use std::path::{Path, PathBuf};

    /// A directory of its own that ends with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("agentd-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn place(path: impl AsRef<Path>) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    fn refused<T>(result: std::io::Result<T>) -> bool {
        matches!(result, Err(e) if e.kind() == PermissionDenied)
    }

    #[test]
    fn classes_allow_what_they_say() {
        let scratch = Scratch::new("landlock");
        let dir = |name: &str| scratch.0.join(name);
        for name in ["read", "write", "exec", "list"] {
            fs::create_dir(dir(name)).unwrap();
            fs::write(dir(name).join("file"), "x").unwrap();
            fs::copy("/bin/true", dir(name).join("program")).unwrap();
        }
        in_child(|| {
            creds::no_new_privs().unwrap();
            let mut rules = FileRules::new();
            rules.add(place(dir("read")), Class::ReadOnly);
            rules.add(place(dir("write")), Class::ReadWrite);
            rules.add(place(dir("exec")), Class::ReadWriteExec);
            rules.add(place(dir("list")), Class::ListOnly);
            for system in ["/usr", "/lib", "/lib64"] {
                rules.add(place(system), Class::ReadExec);
            }
            rules.add(place("/dev/null"), Class::Device);
            // Rights of directories on a file are left out, and nothing is left of this one.
            rules.add(place("/etc/hostname"), Class::ReadWriteExec);
            rules.add(place("/etc/passwd"), Class::ListOnly);
            let enforced = enforce(rules, LEAST_ABI).unwrap();
            assert_eq!(enforced.abi, host_abi().min(9));
            let run = |name| std::process::Command::new(dir(name).join("program")).status();

            assert_eq!(fs::read(dir("read/file")).unwrap(), b"x");
            assert!(refused(fs::write(dir("read/file"), "y")));
            assert!(refused(fs::write(dir("read/new"), "y")));
            assert!(refused(run("read")));

            fs::write(dir("write/new"), "y").unwrap();
            fs::create_dir(dir("write/sub")).unwrap();
            fs::rename(dir("write/new"), dir("write/sub/new")).unwrap();
            let _listener = std::os::unix::net::UnixListener::bind(dir("write/socket")).unwrap();
            std::os::unix::net::UnixStream::connect(dir("write/socket")).unwrap();
            assert!(refused(run("write")));

            assert!(run("exec").unwrap().success());
            assert_eq!(fs::read_dir(dir("list")).unwrap().count(), 2);
            assert!(refused(fs::read(dir("list/file"))));
            fs::write("/dev/null", "x").unwrap();
            fs::read("/etc/hostname").unwrap();
            assert!(refused(fs::read("/etc/passwd")));
            assert!(refused(fs::read_dir("/")));
            if enforced.scoped {
                let parent = rustix::process::getppid().unwrap();
                assert_eq!(rustix::process::test_kill_process(parent), Err(rustix::io::Errno::PERM));
            }
        });
    }

    #[test]
    fn nothing_is_left_by_deny_all() {
        in_child(|| {
            creds::no_new_privs().unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let enforced = deny_all().unwrap();
            assert!(refused(fs::read_dir("/")));
            assert!(refused(fs::write("/dev/null", "x")));
            if enforced.abi >= 4 {
                assert!(refused(std::net::TcpStream::connect(listener.local_addr().unwrap())));
                assert!(refused(std::net::TcpListener::bind("127.0.0.1:0")));
            }
        });
    }

    #[test]
    fn what_the_host_cannot_do_is_refused() {
        in_child(|| {
            assert!(matches!(enforce(FileRules::new(), 2), Err(LandlockError::NewPrivs)));
            creds::no_new_privs().unwrap();
            let host = host_abi();
            let error = enforce(FileRules::new(), host + 1).unwrap_err();
            assert!(matches!(error, LandlockError::Abi { required, .. } if required == host + 1));
            fs::read_dir("/").unwrap();
        });
    }
}
