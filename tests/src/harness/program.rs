//! A program of a daemon's: started, ready, ended.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, Once, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::parts::children_of;
use super::wait::wait_for_exit;

/// One that was started, and what it says of itself.
#[derive(Debug)]
pub struct Program {
    child: Child,
    notify: UnixDatagram,
}

impl Program {
    /// Starts `command`; what it writes goes to the file `log` in `dir`.
    pub fn start(mut command: Command, dir: &Path, name: &str) -> Self {
        let log = log(dir);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        Self::begin(command, dir, name)
    }

    /// The same for one that is handed sockets to listen on, as `sd_listen_fds(3)` has it.
    pub fn start_on(sockets: [OwnedFd; 2], command: &Command, dir: &Path, name: &str) -> Self {
        let script = "exec 3<&0 4>&1 </dev/null >&2; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"";
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(key, value)| value.map(|value| (key, value))));
        let [first, second] = sockets;
        shell.stdin(first).stdout(second).stderr(log(dir));
        Self::begin(shell, dir, name)
    }

    fn begin(mut command: Command, dir: &Path, name: &str) -> Self {
        let socket = dir.join(format!("notify-{name}"));
        std::fs::remove_file(&socket).ok();
        let notify = UnixDatagram::bind(&socket).expect("a new socket");
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("ours");
        command.env("NOTIFY_SOCKET", &socket);
        Self { child: start(command).expect("setpriv"), notify }
    }

    /// The pid of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// If it ends instead, or does not say so in time.
    pub fn await_ready(&mut self, limit: Duration) -> Result<(), String> {
        self.await_said(limit, |line| line == "READY=1").map(drop)
    }

    /// Waits until it says a line that is `so`. The line.
    ///
    /// # Errors
    /// If it ends instead, or does not say so in time.
    pub fn await_said(&mut self, limit: Duration, so: impl Fn(&str) -> bool) -> Result<String, String> {
        self.notify.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket option");
        let start = Instant::now();
        let mut message = [0; 4096];
        loop {
            match self.notify.recv(&mut message) {
                Ok(n) => {
                    let message = String::from_utf8_lossy(&message[..n]);
                    if let Some(line) = message.lines().find(|line| so(line)) {
                        return Ok(line.to_owned());
                    }
                }
                Err(error) if passes(&error) => {}
                Err(error) => return Err(format!("notify socket: {error}")),
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended: {status}"));
            }
            if start.elapsed() > limit {
                return Err("it does not say so".into());
            }
        }
    }

    /// Takes what it has said so far.
    pub fn hear_all(&mut self) {
        self.notify.set_nonblocking(true).expect("a socket option");
        while self.notify.recv(&mut [0; 4096]).is_ok() {}
        self.notify.set_nonblocking(false).expect("a socket option");
    }

    /// Sends `signal` and waits for the end; whether that was a success, or by that very signal. `None` if it
    /// had to be killed.
    pub fn end(mut self, signal: Signal, limit: Duration) -> Option<bool> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status.success());
        }
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid");
        kill_process(pid, signal).expect("our own child");
        let status = wait_for_exit(&mut self.child, limit);
        if status.is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        status.map(|status| status.success() || status.signal() == Some(signal.as_raw()))
    }
}

fn log(dir: &Path) -> std::fs::File {
    std::fs::File::options().create(true).append(true).open(dir.join("log")).expect("a log")
}

/// Whether it is only that nothing came in this while.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Starts `command` on a thread that lives as long as this process: a parent-death signal is sent when the
/// thread ends that started the child, and tests run on threads that come and go.
pub fn start(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static STARTER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                answer.send(command.spawn()).ok();
            }
        });
        Mutex::new(jobs)
    });
    reap_orphans();
    let (answer, answered) = mpsc::channel();
    // Held until it is in there: one that ends at once is ours from its first moment.
    let mut ours = OURS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let jobs = STARTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    jobs.send((command, answer)).expect("the starter lives");
    drop(jobs);
    let child = answered.recv().expect("the starter lives")?;
    ours.push(child.id());
    Ok(child)
}

/// Programs that were started here, and are waited for.
static OURS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// What outlives its parent is this process's child from now on, and reaped as soon as it ends: as a service
/// manager does it. A host's pid 1 need not be so quick.
fn reap_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("it is our own");
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_millis(20));
                for pid in dead_orphans() {
                    waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::NOHANG).ok();
                }
            }
        });
    });
}

/// Children that have ended, are of a daemon, and are nobody's here.
fn dead_orphans() -> Vec<u32> {
    let ended = children_of(std::process::id()).into_iter().filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(") Z ") && stat.contains("(agentd")
    });
    let ours = OURS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    ended.filter(|pid| !ours.contains(pid)).collect()
}
