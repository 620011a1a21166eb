//! A daemon, its users, and names for what tests make.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::daemon::{Daemon, Setup};
use super::run::Session;
use super::users::{User, Users};

/// Everything that the tests of one program share.
#[derive(Debug)]
pub struct World {
    daemon: Daemon,
    users: Users,
    made: Mutex<Vec<PathBuf>>,
}

/// Of all worlds of this process: names do not meet.
static COUNTER: AtomicU32 = AtomicU32::new(0);

impl World {
    /// Makes the accounts and starts the daemon.
    pub fn new() -> Self {
        Self::with("")
    }

    /// The same, with more in the daemon's `agentd.toml`.
    pub fn with(config: &str) -> Self {
        Self::of(Setup::with(config))
    }

    /// The same, with a daemon that is started so.
    pub fn of(setup: Setup) -> Self {
        let users = Users::ensure();
        [&users.a, &users.b].iter().for_each(|user| sweep(&user.home));
        Self { daemon: Daemon::start(setup), users, made: Mutex::default() }
    }

    /// The daemon that all tests of this world use.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The user whose sessions most tests run.
    pub fn a(&self) -> &User {
        &self.users.a
    }

    /// Another user, who must see nothing of user a.
    pub fn b(&self) -> &User {
        &self.users.b
    }

    /// A user who sees everyone's sessions.
    pub fn admin(&self) -> &User {
        &self.users.admin
    }

    /// A user who may not connect.
    pub fn outsider(&self) -> &User {
        &self.users.outsider
    }

    /// A name that nothing on this host has.
    pub fn unique(&self, word: &str) -> String {
        format!("{word}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
    }

    /// A new empty directory in `user`'s home.
    pub fn workspace(&self, user: &User) -> PathBuf {
        let dir = user.home.join(self.unique("w"));
        user.make_dir(&dir);
        self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(dir.clone());
        dir
    }

    /// A session of user a in a workspace of its own.
    pub fn session(&self) -> Session<'_> {
        Session::new(self, self.a(), self.workspace(self.a()))
    }

    /// A session of user a in `workspace`.
    pub fn session_in(&self, workspace: impl Into<PathBuf>) -> Session<'_> {
        Session::new(self, self.a(), workspace)
    }
}

/// Takes workspaces away that processes left which were killed.
fn sweep(home: &Path) {
    let Ok(entries) = std::fs::read_dir(home) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let made_by = name.to_str().and_then(|name| name.strip_prefix("w-")?.split_once('-'));
        let gone = made_by.is_some_and(|(pid, _)| {
            pid.parse::<u32>().is_ok_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        });
        if gone {
            // Somebody else may be about it.
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Takes the workspaces away that were made here.
    fn clean(&self) {
        let made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for dir in made.iter() {
            std::fs::remove_dir_all(dir).ok();
        }
    }

    /// Stops the daemon and takes away what tests made.
    ///
    /// # Panics
    /// If the daemon does not end well.
    pub fn end(&self) {
        self.clean();
        let well = self.daemon.stop();
        let log = self.daemon.log();
        self.daemon.remove();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        assert!(well, "the daemon ended with an error, lastly (newest first):\n{}", last.join("\n"));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.clean();
    }
}
