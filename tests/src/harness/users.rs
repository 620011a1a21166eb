//! The accounts that tests play: made once on a host, left there, never given a password.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The account that the service runs as.
pub const SERVICE: &str = "agentd-test-svc";
/// Who may connect.
pub const GROUP: &str = "agentd-test";
/// Who sees everyone's sessions.
pub const ADMINS: &str = "agentd-test-adm";

/// An account of the host.
#[derive(Clone, Debug)]
pub struct User {
    /// Its login name.
    pub name: String,
    /// The user id, never 0 but for `root`.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// The home directory, which exists.
    pub home: PathBuf,
}

impl User {
    /// The account `name`, as the host has it.
    pub(super) fn find(name: &str) -> Option<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let fields: Vec<&str> = line.split(':').collect();
        let number = |at: usize| fields[at].parse().expect("a number in /etc/passwd");
        Some(Self { name: name.to_owned(), uid: number(2), gid: number(3), home: fields[5].into() })
    }

    /// The account with uid 0.
    pub fn root() -> Self {
        Self { name: "root".into(), uid: 0, gid: 0, home: "/root".into() }
    }

    /// Its groups besides the first.
    pub fn groups(&self) -> Vec<u32> {
        let text = std::fs::read_to_string("/etc/group").expect("/etc/group");
        let lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let of = lines.filter(|fields| fields.last().is_some_and(|m| m.split(',').any(|n| n == self.name)));
        of.filter_map(|fields| fields.get(2).and_then(|word| word.parse().ok())).collect()
    }

    /// Makes the account if it is missing.
    fn ensure(name: &str, groups: &str, home: bool) -> Self {
        if let Some(user) = Self::find(name) {
            return user;
        }
        let mut useradd = Command::new("/usr/sbin/useradd");
        useradd.args(["--shell", "/bin/bash", "--user-group"]);
        useradd.arg(if home { "--create-home" } else { "--system" });
        if !groups.is_empty() {
            useradd.args(["--groups", groups]);
        }
        let status = useradd.arg(name).status().expect("/usr/sbin/useradd");
        // Another test binary may have been faster.
        Self::find(name).unwrap_or_else(|| panic!("useradd {name}: {status}"))
    }

    /// A command that becomes this user, with its groups, and then runs `program`; without our environment.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .args(["--reuid", &self.uid.to_string(), "--regid", &self.gid.to_string(), "--init-groups", "--"])
            .arg(program.as_ref())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LANG", "C.UTF-8")
            .current_dir(&self.home);
        command
    }

    /// Gives `path` to this user.
    pub fn own(&self, path: impl AsRef<Path>) {
        std::os::unix::fs::lchown(path.as_ref(), Some(self.uid), Some(self.gid)).expect("root may chown");
    }

    /// Makes the directory `path` for this user, with its parents.
    pub fn make_dir(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        if !path.exists() {
            if let Some(parent) = path.parent() {
                self.make_dir(parent);
            }
            std::fs::create_dir(path).expect("a new directory");
            self.own(path);
        }
    }

    /// Writes the file `path` for this user.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        if let Some(parent) = path.as_ref().parent() {
            self.make_dir(parent);
        }
        std::fs::write(path.as_ref(), content).expect("a new file");
        self.own(path);
    }
}

/// The played users.
#[derive(Clone, Debug)]
pub struct Users {
    /// Whose sessions most tests run.
    pub a: User,
    /// Another one, who must see nothing of it.
    pub b: User,
    /// Member of `ADMINS` and `GROUP`.
    pub admin: User,
    /// In none of the groups.
    pub outsider: User,
}

impl Users {
    /// Makes what is missing of accounts and groups.
    pub fn ensure() -> Self {
        // One after the other: an account is to be found before it has its home.
        let lock = std::fs::File::create("/run/agentd-test-users.lock").expect("root may write to /run");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
        for group in [GROUP, ADMINS] {
            let status = Command::new("/usr/sbin/groupadd").args(["--force", group]).status();
            assert!(status.is_ok_and(|s| s.success()), "groupadd {group}");
        }
        User::ensure(SERVICE, "", false);
        let users = Self {
            a: User::ensure("agentd-test-a", GROUP, true),
            b: User::ensure("agentd-test-b", GROUP, true),
            admin: User::ensure("agentd-test-root", &format!("{GROUP},{ADMINS}"), true),
            outsider: User::ensure("agentd-test-out", "", true),
        };
        for user in [&users.a, &users.b, &users.admin, &users.outsider] {
            use std::os::unix::fs::PermissionsExt;
            let closed = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(&user.home, closed).expect("a home");
        }
        users
    }
}
