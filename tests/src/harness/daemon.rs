//! A daemon of the test's own, below one directory that nobody but root can write to, as its profiles need.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::Signal;

use super::peer::{as_user, number_of};
use super::program::Program;
use super::small_disk::SmallDisk;
use super::users::{ADMINS, GROUP, SERVICE, User};

/// Pools of tests begin here; each daemon takes a range of its own.
const FIRST_UID: u32 = 1_950_000_000;
const POOL: u32 = 1 << 16;
/// How many of them a session takes.
const LEASE: u32 = 35;
/// Longer than any start or stop takes.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How a daemon is to be started.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    config: String,
    units: bool,
    env: Vec<(String, String)>,
    network: Option<PathBuf>,
    subuid: Option<String>,
    through: Vec<String>,
    cwd: Option<PathBuf>,
    leases: Option<u32>,
    disk: Option<(&'static str, u64)>,
}

impl Setup {
    /// By hand, as `agentd --config FILE`; with `config` in its `agentd.toml`.
    pub fn with(config: &str) -> Self {
        Self { config: config.into(), ..Self::default() }
    }

    /// Launcher and service apart, as a service manager starts them.
    #[must_use]
    pub fn as_units(self) -> Self {
        Self { units: true, ..self }
    }

    /// A variable of the launcher's environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// With so many leases in its pool.
    #[must_use]
    pub fn leases(self, count: u32) -> Self {
        Self { leases: Some(count), ..self }
    }

    /// With its state on a file system of its own, of that kind and so many bytes. The process has to have a mount
    /// namespace of its own, with which that goes.
    #[must_use]
    pub fn on_disk(self, kind: &'static str, bytes: u64) -> Self {
        Self { disk: Some((kind, bytes)), ..self }
    }

    /// In the network namespace `path`.
    #[must_use]
    pub fn in_network(self, path: &Path) -> Self {
        Self { network: Some(path.into()), ..self }
    }

    /// On a host that has `text` in /etc/subuid.
    #[must_use]
    pub fn subuid(self, text: &str) -> Self {
        Self { subuid: Some(text.into()), ..self }
    }

    /// Through another program, which executes the rest of its command line.
    #[must_use]
    pub fn through(self, program: &[&str]) -> Self {
        Self { through: program.iter().map(|word| (*word).to_owned()).collect(), ..self }
    }

    /// In the directory `cwd`.
    #[must_use]
    pub fn cwd(self, cwd: &Path) -> Self {
        Self { cwd: Some(cwd.into()), ..self }
    }

    /// What its programs are started through; `dir` is the daemon's own.
    fn command(&self, dir: &Path) -> Command {
        let mut command = self.starter(dir);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command
    }

    fn starter(&self, dir: &Path) -> Command {
        if let Some(text) = &self.subuid {
            let file = dir.join("subuid");
            std::fs::write(&file, text).expect("a file of ours");
            let mut command = Command::new("/usr/bin/unshare");
            let script = "mount --bind \"$0\" /etc/subuid && exec \"$@\"";
            command.args(["--mount", "--propagation", "slave", "--", "/bin/sh", "-c", script]).arg(file);
            command.arg("/usr/bin/setpriv");
            return command;
        }
        if let Some((program, rest)) = self.through.split_first() {
            let mut command = Command::new(program);
            command.args(rest).arg("/usr/bin/setpriv");
            return command;
        }
        let Some(network) = &self.network else { return Command::new("/usr/bin/setpriv") };
        let mut command = Command::new("/usr/bin/nsenter");
        command.arg(format!("--net={}", network.display())).args(["--", "/usr/bin/setpriv"]);
        command
    }
}

/// The two programs of a daemon that are not of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `agentd-launcher`, uid 0.
    Launcher,
    /// `agentd`, the unprivileged account.
    Service,
}

/// What runs of it.
#[derive(Debug, Default)]
struct Running {
    launcher: Option<Program>,
    /// Only as a unit; otherwise it is the launcher's child.
    service: Option<Program>,
    /// The launcher's last pid.
    pid: u32,
}

/// Whether the programs under test have faults to switch on: a build for debugging.
pub fn has_faults() -> bool {
    let launcher = std::fs::read(binaries().join("agentd-launcher")).expect("agentd-launcher");
    launcher.windows(12).any(|window| window == b"AGENTD_FAULT")
}

/// A running daemon. Ends with the value, or with this process.
#[derive(Debug)]
pub struct Daemon {
    /// Holds everything that the daemon touches, and the programs.
    pub dir: PathBuf,
    /// The first uid of its pool.
    pub first_uid: u32,
    setup: Setup,
    running: Mutex<Running>,
    disk: Mutex<Option<SmallDisk>>,
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
    /// Starts one and waits until it says that it is ready.
    ///
    /// # Panics
    /// If it does not start; with its log.
    pub fn start(setup: Setup) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/var/lib/agentd-test-{}-{number}", std::process::id()));
        for sub in ["bin", "probe", "profiles", "secrets"] {
            std::fs::create_dir_all(dir.join(sub)).expect("a new temporary directory");
        }
        for program in ["agentd", "agentd-launcher", "agentd-relay", "agentctl"] {
            place(&binaries().join(program), &dir.join("bin").join(program));
        }
        place(&binaries().join("probe"), &dir.join("probe/probe"));
        let mount = |(kind, bytes)| SmallDisk::mount(kind, bytes, &dir.join("disk.img"), &dir.join("state"));
        let disk = Mutex::new(setup.disk.map(mount));
        let (slot, first_uid) = pool();
        std::fs::write(dir.join("agentd.toml"), config_text(&dir, first_uid, &setup, &setup.config))
            .expect("a new file");
        let daemon = Self { dir, first_uid, setup, running: Mutex::default(), disk, _slot: slot };
        match daemon.setup.units {
            true => daemon.begin(&[Part::Launcher, Part::Service]),
            false => daemon.begin(&[Part::Launcher]),
        }
        daemon
    }

    /// Starts what has ended of it, and waits until all of it is ready.
    ///
    /// # Panics
    /// If it does not start; with its log.
    pub fn begin(&self, parts: &[Part]) {
        let mut running = self.running();
        for part in parts {
            match part {
                Part::Launcher => {
                    let program = Program::start(self.launcher(), &self.dir, "launcher");
                    running.pid = program.pid();
                    running.launcher = Some(program);
                }
                Part::Service => {
                    running.service = Some(Program::start(self.service(), &self.dir, "service"));
                }
            }
        }
        for part in parts {
            let program = match part {
                Part::Launcher => &mut running.launcher,
                Part::Service => &mut running.service,
            };
            if let Err(error) = program.as_mut().expect("just started").await_ready(START_TIMEOUT) {
                panic!("{part:?}: {error}\n{}", self.log());
            }
        }
    }

    /// Starts the launcher and kills it `after` that, whatever it is about by then.
    ///
    /// # Panics
    /// If it runs already.
    pub fn kill_while_it_starts(&self, after: Duration) {
        let mut running = self.running();
        assert!(running.launcher.is_none(), "it runs");
        let program = Program::start(self.launcher(), &self.dir, "launcher");
        running.pid = program.pid();
        // The moment is what is tested: there is nothing to wait for.
        std::thread::sleep(after);
        let _ = program.end(Signal::KILL, START_TIMEOUT);
    }

    /// Starts the launcher as a service manager does that listens for it on both `sockets`, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// If it ends instead.
    pub fn begin_activated(&self, sockets: [OwnedFd; 2]) -> Result<(), String> {
        let mut running = self.running();
        let mut program = Program::start_on(sockets, &self.launcher(), &self.dir, "launcher");
        running.pid = program.pid();
        let ready = program.await_ready(START_TIMEOUT);
        running.launcher = ready.is_ok().then_some(program);
        ready
    }

    fn launcher(&self) -> Command {
        let mut command = self.setup.command(&self.dir);
        command.args(["--pdeathsig", "TERM", "--"]);
        command.arg(self.dir.join(if self.setup.units { "bin/agentd-launcher" } else { "bin/agentd" }));
        command.arg("--config").arg(self.dir.join("agentd.toml"));
        command.envs(self.setup.env.iter().map(|(key, value)| (key, value)));
        command
    }

    fn service(&self) -> Command {
        let user = User::find(SERVICE).expect("the service's account");
        let mut command = self.setup.command(&self.dir);
        command
            .args(["--reuid", &user.uid.to_string(), "--regid", &user.gid.to_string(), "--clear-groups"])
            .args(["--pdeathsig", "TERM", "--"])
            .arg(self.dir.join("bin/agentd"))
            .arg("--config")
            .arg(self.dir.join("agentd.toml"));
        command.envs(self.setup.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Ends a part of it with SIGKILL, and waits until it is gone. By hand, the launcher starts its service
    /// again.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&self, part: Part) {
        self.signal(part, Signal::KILL);
    }

    /// Asks a part of it to end, and waits until it is gone. Only for units.
    ///
    /// # Panics
    /// If it does not end, or with an error.
    pub fn terminate(&self, part: Part) {
        let well = self.signal(part, Signal::TERM);
        assert!(well, "{part:?} ended with an error\n{}", self.log());
    }

    fn signal(&self, part: Part, signal: Signal) -> bool {
        let mut running = self.running();
        let program = match part {
            Part::Launcher => running.launcher.take(),
            Part::Service => running.service.take(),
        };
        match program {
            Some(program) => program.end(signal, START_TIMEOUT).unwrap_or_else(|| {
                panic!("{part:?} did not end on {signal:?}\n{}", self.log());
            }),
            None => {
                drop(running);
                let pid = self.service_pid().expect("a service that runs");
                super::parts::kill(pid);
                true
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Replaces what is in its `agentd.toml` besides what all tests have. It takes effect with a reload.
    pub fn configure(&self, config: &str) {
        std::fs::write(
            self.dir.join("agentd.toml"),
            config_text(&self.dir, self.first_uid, &self.setup, config),
        )
        .expect("its file");
    }

    /// Has a part of it read its configuration again, and waits for what it says of that. Only for units.
    ///
    /// # Panics
    /// If it does not say that.
    pub fn reload(&self, part: Part) -> String {
        let pid = match part {
            Part::Launcher => self.pid(),
            Part::Service => self.service_pid().expect("a service that runs"),
        };
        let mut said = String::new();
        self.with(part, |program| {
            program.hear_all();
            super::parts::signal(pid, Signal::HUP, false);
            program.await_said(START_TIMEOUT, |line| line.starts_with("RELOADING=1"))?;
            said = program.await_said(START_TIMEOUT, |line| line.starts_with("STATUS="))?;
            Ok(())
        });
        said
    }

    /// Waits until a part of it notifies its watchdog once more.
    ///
    /// # Errors
    /// If it does not within `limit`.
    pub fn await_sign_of_life(&self, part: Part, limit: Duration) -> Result<(), String> {
        let mut running = self.running();
        let program = match part {
            Part::Launcher => &mut running.launcher,
            Part::Service => &mut running.service,
        };
        let program = program.as_mut().expect("it runs");
        program.hear_all();
        program.await_said(limit, |line| line == "WATCHDOG=1").map(drop)
    }

    fn with(&self, part: Part, act: impl FnOnce(&mut Program) -> Result<(), String>) {
        let mut running = self.running();
        let program = match part {
            Part::Launcher => &mut running.launcher,
            Part::Service => &mut running.service,
        };
        let done = act(program.as_mut().expect("it runs"));
        drop(running);
        if let Err(error) = done {
            panic!("{part:?}: {error}\n{}", self.log());
        }
    }

    /// The launcher's pid, or what it was.
    pub fn pid(&self) -> u32 {
        self.running().pid
    }

    /// The service's pid; `None` if it does not run now.
    pub fn service_pid(&self) -> Option<u32> {
        let running = self.running();
        match &running.service {
            Some(program) => Some(program.pid()),
            None => super::parts::child_of(running.pid, "agentd"),
        }
    }

    /// The gid of those who may connect.
    pub fn group(&self) -> u32 {
        number_of("/etc/group", GROUP)
    }

    /// Connects to one of its sockets in the runtime directory, as `user` would.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect_as<T: Send>(
        &self,
        user: &User,
        connect: impl FnOnce(&Path) -> std::io::Result<T> + Send,
        name: &str,
    ) -> std::io::Result<T> {
        let path = self.runtime().join(name);
        as_user(user.uid, user.gid, &user.groups(), || connect(&path))
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

    /// The program that sessions run as the agent.
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
        format!("agentd-{:08x}", hasher.finish() & 0xffff_ffff)
    }

    /// Where that can be: below the mount itself, or under systemd in a scope.
    pub fn cgroups_in(&self, mount: &Path) -> [PathBuf; 2] {
        let name = self.cgroup();
        [mount.join(&name), mount.join(format!("agentd.slice/{name}.scope")).join(name)]
    }

    /// Takes away what it had, once it has ended.
    pub fn remove(&self) {
        if std::env::var_os("AGENTD_TEST_KEEP").is_none() {
            drop(self.disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
            std::fs::remove_dir_all(&self.dir).ok();
        }
    }

    /// Asks it to end, sessions and all, and waits for it. Returns whether it ended with success.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&self) -> bool {
        let (launcher, service) = {
            let mut running = self.running();
            (running.launcher.take(), running.service.take())
        };
        let mut well = true;
        let was_there = launcher.is_some() || service.is_some();
        for program in [service, launcher].into_iter().flatten() {
            let ended = program.end(Signal::TERM, START_TIMEOUT);
            well &= ended.unwrap_or_else(|| panic!("it did not end on SIGTERM\n{}", self.log()));
        }
        if self.setup.units && was_there {
            // As units they leave sessions alone. One that is started by hand takes them up, and ends them.
            let mut command = self.setup.command(&self.dir);
            command.args(["--pdeathsig", "TERM", "--"]).arg(self.dir.join("bin/agentd"));
            command.arg("--config").arg(self.dir.join("agentd.toml"));
            let mut last = Program::start(command, &self.dir, "launcher");
            self.running().pid = last.pid();
            if let Err(error) = last.await_ready(START_TIMEOUT) {
                panic!("to end its sessions: {error}\n{}", self.log());
            }
            let ended = last.end(Signal::TERM, START_TIMEOUT);
            well &= ended.unwrap_or_else(|| panic!("it did not end on SIGTERM\n{}", self.log()));
        }
        well
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic would hide the first.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.stop())).ok();
        } else {
            self.stop();
        }
        self.remove();
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

fn config_text(dir: &Path, first_uid: u32, setup: &Setup, more: &str) -> String {
    let dir = dir.display();
    // A client that is killed shall not keep a test waiting, unless that is the test.
    let grace = if more.contains("client_grace") { "" } else { "client_grace = \"300ms\"" };
    // Overlays lie where tests can look at them, and what is too much ends the session, on every host alike.
    let disk = if more.contains("disk_limits") { "" } else { "disk_limits = \"watch\"" };
    let last_uid = first_uid + setup.leases.map_or(POOL, |leases| leases * LEASE) - 1;
    format!(
        r#"socket = "{dir}/run/agentd.sock"
runtime_dir = "{dir}/run"
state_dir = "{dir}/state"
profile_dirs = ["{dir}/profiles"]
secrets_dir = "{dir}/secrets"
service_user = "{SERVICE}"
socket_group = "{GROUP}"
admin_group = "{ADMINS}"
{grace}
{disk}
{more}
[pool]
uids = "{first_uid}-{last_uid}"
"#
    )
}
