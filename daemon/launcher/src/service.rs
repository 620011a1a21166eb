//! The service as the launcher's child, where no service manager starts both.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentd_kernel::creds;
use agentd_kernel::process::{self, Birth, Child, SingleThreaded};
use agentd_policy::event::ExitStatus;
use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::settings::Settings;

/// How long it may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often it may be started in [`WINDOW`].
const STARTS: usize = 5;
/// See [`STARTS`].
const WINDOW: Duration = Duration::from_secs(10);

/// What a service manager told this process, and nobody else.
const OURS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The running service.
#[derive(Debug)]
pub struct Service {
    child: Child,
    /// When it was started, lately.
    starts: Vec<Instant>,
}

impl Service {
    /// Starts it under its own account, with no signal blocked. It ends with this process, however that ends.
    pub fn start(token: SingleThreaded, settings: &Settings) -> Result<Self, String> {
        Ok(Self { child: spawn(token, settings)?, starts: vec![Instant::now()] })
    }

    /// Starts one that has ended again.
    ///
    /// # Errors
    /// If it ends too often.
    pub fn again(mut self, token: SingleThreaded, settings: &Settings) -> Result<Self, String> {
        let how = self.child.wait().map_err(|e| format!("the service: {e}"))?;
        let now = Instant::now();
        self.starts.retain(|start| *start + WINDOW > now);
        if self.starts.len() >= STARTS {
            return Err(format!("the service ended {STARTS} times in {WINDOW:?}, now with {how:?}"));
        }
        tracing::error!(error = ?how, "the service ended and is started again");
        self.child = spawn(token, settings)?;
        self.starts.push(now);
        Ok(self)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.child.pidfd, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
    }

    /// Has it read its configuration again.
    pub fn reload(&self) -> Result<(), String> {
        rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::HUP).map_err(|e| e.to_string())
    }

    /// Ends it and waits.
    pub fn stop(self) -> Result<(), String> {
        if self.has_ended() {
            return self.child.wait().map(drop).map_err(|e| format!("service: {e}"));
        }
        rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::TERM)
            .map_err(|e| format!("service: {e}"))?;
        let until = Instant::now() + FAREWELL;
        while !self.has_ended() {
            if Instant::now() >= until {
                self.child.kill().and_then(|()| self.child.wait()).map_err(|e| format!("service: {e}"))?;
                return Err(format!("the service did not end in {FAREWELL:?} and was killed"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.child.wait().map(drop).map_err(|e| format!("service: {e}"))
    }
}

/// The service's program, which looks at the configuration and at the profiles and ends.
#[derive(Debug)]
pub struct Check(Child);

impl Check {
    /// Starts it, as the service would read them.
    pub fn start(token: SingleThreaded, settings: &Settings) -> Result<Self, String> {
        become_service(token, settings, |command| command.arg("--check").stdout(Stdio::null())).map(Self)
    }

    /// How it has ended; `None` while it runs.
    pub fn ended(&self) -> Result<Option<ExitStatus>, String> {
        self.0.try_wait().map_err(|e| format!("agentd --check: {e}"))
    }

    /// Ends it.
    pub fn kill(&self) -> std::io::Result<()> {
        self.0.kill()
    }
}

impl AsFd for Check {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

fn spawn(token: SingleThreaded, settings: &Settings) -> Result<Child, String> {
    become_service(token, settings, |command| command)
}

/// Starts the service's program under its own account.
fn become_service(
    token: SingleThreaded,
    settings: &Settings,
    with: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<Child, String> {
    let own = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
    let program = own.with_file_name("agentd");
    let launcher = rustix::process::getpid();
    let child = process::spawn(token, Birth::default(), || {
        let become_it = || -> Result<(), String> {
            SigSet::empty().thread_set_mask().map_err(|e| e.to_string())?;
            creds::become_ids(settings.service_uid, settings.service_gid).map_err(|e| e.to_string())?;
            // After the last change of ids, which takes it back; and it may be too late.
            creds::parent_death_signal().map_err(|e| e.to_string())?;
            match rustix::process::getppid() == Some(launcher) {
                true => Ok(()),
                false => Err("the launcher is gone".into()),
            }
        };
        let error = match become_it() {
            Ok(()) => {
                let mut command = Command::new(&program);
                command.arg("--config").arg(&settings.file).stdin(Stdio::null());
                for key in OURS {
                    command.env_remove(key);
                }
                with(&mut command).exec().to_string()
            }
            Err(error) => error,
        };
        tracing::error!(error, program = %program.display(), "the service was not started");
        127
    });
    child.map_err(|e| format!("{}: {e}", program.display()))
}
