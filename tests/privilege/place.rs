//! Where the launcher of one test runs, and what is on the host of it.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentd_kernel::packets::Packets;
use agentd_tests::harness::{World, start, wait_for_exit, within};
use rustix::process::Signal;

use crate::asking::{number_of, seqpacket};

/// Pools of these launchers begin here, below those of whole daemons.
const FIRST_UID: u32 = 1_930_000_000;
const POOL: u32 = 1120;
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a trace may stay.
const SOON: Duration = Duration::from_secs(2);

/// A launcher alone.
pub struct Launcher {
    dir: PathBuf,
    /// The first uid of its pool.
    pub first_uid: u32,
    /// The service's account.
    pub service_uid: u32,
    /// The group that may connect.
    pub socket_gid: u32,
    child: Child,
}

impl Launcher {
    /// Starts one, with `more` in its configuration.
    pub fn start(world: &World, more: &str) -> Self {
        Self::with_prewarmed(world, 0, more)
    }

    /// Starts one that prepares sessions before anybody asks for them.
    pub fn with_prewarmed(world: &World, prewarmed: u32, more: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(format!("/tmp/agentd-priv-{pid}-{number}"));
        std::fs::create_dir_all(&dir).expect("a new directory");
        let first_uid = FIRST_UID + (pid % 1024) * 16 * POOL + (number % 16) * POOL;
        let last_uid = first_uid + POOL - 1;
        let text = std::fs::read_to_string(world.daemon().dir.join("agentd.toml")).expect("the daemon's");
        let value = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).expect("a key");
            line.split('"').nth(1).expect("a text").to_owned()
        };
        let (service, group, admins) = (value("service_user"), value("socket_group"), value("admin_group"));
        let at = dir.display();
        let config = format!(
            "prewarmed_sessions = {prewarmed}\nsocket = \"{at}/run/agentd.sock\"\nruntime_dir = \"{at}/run\"\nstate_dir = \"{at}/state\"\n\
             profile_dirs = []\nsecrets_dir = \"{at}/secrets\"\nservice_user = \"{service}\"\n\
             socket_group = \"{group}\"\nadmin_group = \"{admins}\"\n{more}\n[pool]\n\
             uids = \"{first_uid}-{last_uid}\"\n"
        );
        std::fs::write(dir.join("agentd.toml"), config).expect("a new file");
        let log = std::fs::File::create(dir.join("log")).expect("a new file");
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .args(["--pdeathsig", "TERM", "--"])
            .arg(world.daemon().dir.join("bin/agentd-launcher"))
            .arg("--config")
            .arg(dir.join("agentd.toml"))
            .env_remove("NOTIFY_SOCKET")
            .env("AGENTD_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = start(command).expect("setpriv");
        let (service_uid, socket_gid) = (number_of("/etc/passwd", &service), number_of("/etc/group", &group));
        let launcher = Self { dir, first_uid, service_uid, socket_gid, child };
        launcher.await_loop();
        launcher
    }

    /// Its last socket is the service's: root is let in and cut off as soon as the loop runs.
    fn await_loop(&self) {
        let path = self.runtime().join("service.sock");
        let mut socket = None;
        let listens = within(START_TIMEOUT, || seqpacket(&path).map(|fd| socket = Some(fd)));
        listens.unwrap_or_else(|e| panic!("the launcher does not listen: {e}\n{}", self.log()));
        let cut = Packets::from_fd(socket.expect("connected")).receive(64, 0);
        assert!(!matches!(cut, Ok(Some(_))), "root is no service: {cut:?}");
    }

    /// Its runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Nanoseconds that it has run.
    pub fn run_time(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid())).expect("it runs");
        text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number")
    }

    /// Whether it has ended within `limit`.
    pub fn ended_within(&mut self, limit: Duration) -> bool {
        wait_for_exit(&mut self.child, limit).is_some()
    }

    /// What is on the host of it.
    pub fn traces(&self) -> Traces {
        Traces::of(self)
    }

    /// Fails unless the host is as in `before` again, soon.
    #[track_caller]
    pub fn assert_clean(&self, before: &Traces) {
        let same = within(SOON, || {
            let now = self.traces();
            if now == *before { Ok(()) } else { Err(Box::new(now)) }
        });
        if let Err(now) = same {
            panic!("left behind:\nbefore {before:#?}\nnow {now:#?}\n{}", self.log());
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            rustix::process::kill_process(pid, Signal::TERM).ok();
        }
        let ended = wait_for_exit(&mut self.child, START_TIMEOUT);
        if ended.is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        let log = self.log();
        if std::env::var_os("AGENTD_TEST_KEEP").is_none() {
            std::fs::remove_dir_all(&self.dir).ok();
        }
        if !std::thread::panicking() {
            assert!(ended.is_some_and(|status| status.success()), "the launcher ended with {ended:?}\n{log}");
        }
    }
}

/// What sessions can leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    processes: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    leases: BTreeSet<String>,
    overlays: BTreeSet<String>,
    mounts: BTreeSet<String>,
    descriptors: Vec<String>,
}

impl Traces {
    /// How many groups there are of sessions of a user.
    pub fn groups_of(&self, uid: u32) -> usize {
        self.cgroups.iter().filter(|path| path.contains(&format!("/u{uid}/"))).count()
    }

    fn of(launcher: &Launcher) -> Self {
        let pool = launcher.first_uid..launcher.first_uid + POOL;
        Self {
            processes: processes(launcher.pid(), &pool),
            cgroups: cgroups(&launcher.runtime()),
            leases: leases(&launcher.runtime().join("leases")),
            overlays: two_deep(&launcher.state().join("overlays")),
            mounts: mounts(launcher),
            descriptors: descriptors(launcher.pid()),
        }
    }
}

fn processes(launcher: u32, pool: &std::ops::Range<u32>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        let number = |key: &str| field(key).and_then(|word| word.parse::<u32>().ok());
        if number("PPid:") == Some(launcher) || number("Uid:").is_some_and(|uid| pool.contains(&uid)) {
            found.insert(format!("{} {}", entry.file_name().display(), field("Name:").unwrap_or_default()));
        }
    }
    found
}

/// Directories of this daemon below `agents/u…` and `helpers/u…`, in every hierarchy.
fn cgroups(runtime: &Path) -> BTreeSet<String> {
    let mut hasher = DefaultHasher::new();
    runtime.to_str().expect("our own name").hash(&mut hasher);
    let name = format!("agentd-{:08x}", hasher.finish() & 0xffff_ffff);
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    let mut found = BTreeSet::new();
    let mut roots = 0;
    for line in mountinfo.lines().filter(|line| line.contains(" - cgroup")) {
        let mount = Path::new(line.split(' ').nth(4).unwrap_or_default());
        // Under systemd it is in a scope.
        for root in [mount.join(&name), mount.join(format!("agentd.slice/{name}.scope")).join(&name)] {
            roots += usize::from(root.is_dir());
            for half in children(&root) {
                found.extend(two_deep(&half));
            }
        }
    }
    assert!(roots > 0, "no cgroup {name}: the test looks in the wrong place");
    found
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn two_deep(dir: &Path) -> BTreeSet<String> {
    children(dir).iter().flat_map(|below| children(below)).map(|path| path.display().to_string()).collect()
}

fn leases(dir: &Path) -> BTreeSet<String> {
    let locks = std::fs::read_to_string("/proc/locks").expect("/proc/locks");
    let held = |inode: u64| locks.lines().any(|line| line.contains(&format!(":{inode} ")));
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.metadata().is_ok_and(|m| held(m.ino())))
        .map(|entry| entry.file_name().display().to_string())
        .collect()
}

fn mounts(launcher: &Launcher) -> BTreeSet<String> {
    let at = launcher.dir.display().to_string();
    let text = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let both = text("self") + &text(&launcher.pid().to_string());
    both.lines().filter(|line| line.contains(&at)).map(str::to_owned).collect()
}

/// What a process has open, without the numbers that differ.
pub fn descriptors(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let mut kinds: Vec<String> = targets
        .map(|target| target.display().to_string().split(":[").next().unwrap_or_default().to_owned())
        .collect();
    kinds.sort();
    kinds
}
