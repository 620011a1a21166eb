//! A daemon of the test's own, below one temporary directory.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::users::{ADMINS, GROUP, SERVICE};
use super::wait::wait_for_exit;

/// Pools of tests begin here; each daemon takes a range of its own.
const FIRST_UID: u32 = 1_950_000_000;
const POOL: u32 = 1 << 16;
/// Longer than any start or stop takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon. Ends with the value, or with this process.
#[derive(Debug)]
pub struct Daemon {
    /// Holds everything that the daemon touches, and the programs.
    pub dir: PathBuf,
    /// The first uid of its pool.
    pub first_uid: u32,
    child: Mutex<Child>,
    notify: UnixDatagram,
    _slot: OwnedFd,
}

/// Where the programs under test are: `AGENTD_BIN_DIR`, or beside this test's own directory.
pub fn binaries() -> PathBuf {
    if let Some(dir) = std::env::var_os("AGENTD_BIN_DIR") {
        return dir.into();
    }
    let own = std::env::current_exe().expect("a test knows where it is");
    let deps = own.parent().expect("a program lies in a directory");
    if deps.ends_with("deps") { deps.parent().expect("target/…/deps").into() } else { deps.into() }
}

impl Daemon {
    /// Starts one and waits until it says that it is ready. `more` is added to its `agentd.toml`.
    ///
    /// # Panics
    /// If it does not start; with its log.
    pub fn start(more: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/agentd-test-{}-{number}", std::process::id()));
        for sub in ["bin", "probe", "profiles", "secrets"] {
            std::fs::create_dir_all(dir.join(sub)).expect("a new temporary directory");
        }
        for program in ["agentd", "agentd-launcher", "agentd-relay", "agentctl"] {
            place(&binaries().join(program), &dir.join("bin").join(program));
        }
        place(&binaries().join("probe"), &dir.join("probe/probe"));
        let (slot, first_uid) = pool();
        let config = dir.join("agentd.toml");
        std::fs::write(&config, config_text(&dir, first_uid, more)).expect("a new file");
        let notify = UnixDatagram::bind(dir.join("notify")).expect("a new socket");
        std::fs::set_permissions(dir.join("notify"), std::fs::Permissions::from_mode(0o666)).expect("ours");
        let log = std::fs::File::create(dir.join("log")).expect("a new file");
        // Our end is its end, however we end: this is why daemons are started from the main thread only.
        let child = Command::new("/usr/bin/setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(dir.join("bin/agentd"))
            .arg("--config")
            .arg(&config)
            .env("NOTIFY_SOCKET", dir.join("notify"))
            .env("AGENTD_LOG", std::env::var("AGENTD_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("setpriv");
        let daemon = Self { dir, first_uid, child: Mutex::new(child), notify, _slot: slot };
        daemon.await_ready();
        daemon
    }

    fn await_ready(&self) {
        let notify = &self.notify;
        notify.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket option");
        let start = Instant::now();
        let mut message = [0; 4096];
        loop {
            match notify.recv(&mut message) {
                Ok(n) if String::from_utf8_lossy(&message[..n]).lines().any(|line| line == "READY=1") => {
                    return;
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => panic!("notify socket: {error}"),
            }
            let ended = self.child().try_wait().expect("our own child");
            assert!(ended.is_none(), "the daemon ended at its start: {ended:?}\n{}", self.log());
            assert!(start.elapsed() < PATIENCE, "the daemon is not ready\n{}", self.log());
        }
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The launcher's pid.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// The gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime().join("agentd.sock")
    }

    /// Its runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The client under test.
    pub fn agentctl(&self) -> PathBuf {
        self.dir.join("bin/agentctl")
    }

    /// The directory that holds the probe alone, to be given to sessions.
    pub fn probe_dir(&self) -> PathBuf {
        self.dir.join("probe")
    }

    /// The probe.
    pub fn probe(&self) -> PathBuf {
        self.dir.join("probe/probe")
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Whether `uid` is one of its pool.
    pub fn leases(&self, uid: u32) -> bool {
        (self.first_uid..self.first_uid + POOL).contains(&uid)
    }

    /// The name of its cgroup below every hierarchy's mount, as `cgroup_root = "auto"` makes it.
    pub fn cgroup(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.runtime().to_str().expect("our own name").hash(&mut hasher);
        format!("agentd-{:08x}", hasher.finish() as u32)
    }

    /// Asks it to end and waits for it. Returns whether it ended with success.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&self) -> bool {
        let mut child = self.child();
        if let Ok(Some(status)) = child.try_wait() {
            return status.success();
        }
        let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
        let status = wait_for_exit(&mut child, PATIENCE);
        if status.is_none() {
            let _ = child.kill();
        }
        status.unwrap_or_else(|| panic!("the daemon did not end on SIGTERM\n{}", self.log())).success()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if std::env::var_os("AGENTD_TEST_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// A link where that is possible: a build meanwhile replaces files and leaves ours alone.
fn place(from: &Path, to: &Path) {
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to)
            .unwrap_or_else(|e| panic!("{}: {e}; build the workspace first", from.display()));
    }
}

/// A range of uids that no other test on this host has, for as long as the descriptor is open.
fn pool() -> (OwnedFd, u32) {
    let dir = Path::new("/tmp/agentd-test-pools");
    std::fs::create_dir_all(dir).expect("a directory below /tmp");
    for number in 0..64 {
        let slot = std::fs::File::create(dir.join(number.to_string())).expect("a lock file");
        if rustix::fs::flock(&slot, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return (slot.into(), FIRST_UID + number * POOL);
        }
    }
    panic!("64 daemons of tests run on this host");
}

fn config_text(dir: &Path, first_uid: u32, more: &str) -> String {
    let dir = dir.display();
    let last_uid = first_uid + POOL - 1;
    format!(
        r#"socket = "{dir}/run/agentd.sock"
runtime_dir = "{dir}/run"
state_dir = "{dir}/state"
profile_dirs = ["{dir}/profiles"]
secrets_dir = "{dir}/secrets"
service_user = "{SERVICE}"
socket_group = "{GROUP}"
admin_group = "{ADMINS}"
{more}
[pool]
uids = "{first_uid}-{last_uid}"
"#
    )
}
