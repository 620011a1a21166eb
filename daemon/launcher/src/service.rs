//! The service as the launcher's child, where no service manager starts both.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentd_kernel::creds;
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_policy::event::ExitStatus;
use nix::sys::signal::SigSet;
use rustix::process::Signal;

use crate::inheritance;
use crate::settings::Settings;
use agentd_session::error::{HostError, On as _};

/// Before what users run, and behind the launcher.
const NICE: i32 = -5;
/// How long it may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often it is started at once in [`WINDOW`].
const STARTS: usize = 5;
/// In which [`STARTS`] are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// After that, how long it rests: at first, and at most.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Variables that a service manager set for this process alone.
const OURS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The service, which is started again whenever it ends: the sessions do without it meanwhile.
#[derive(Debug)]
pub struct Service {
    child: Option<Child>,
    /// When it was started, lately.
    starts: Vec<Instant>,
    /// When it is started again.
    due: Option<Instant>,
    rest: Duration,
}

impl Service {
    /// Starts it under its own account, with no signal blocked. It ends with this process, however that ends.
    pub fn start(token: SingleThreaded, settings: &Settings) -> Result<Self, HostError> {
        let child = Some(spawn(token, settings)?);
        Ok(Self { child, starts: vec![Instant::now()], due: None, rest: REST.0 })
    }

    /// Takes note of its end, if it has ended: it is to be started again at once, or later if it ends too often.
    /// Whether it has.
    pub fn has_ended(&mut self, now: Instant) -> bool {
        let Some(child) = self.child.as_ref() else { return false };
        let how = match child.try_wait() {
            Ok(None) => return false,
            Ok(Some(how)) => format!("{how:?}"),
            Err(error) => error.to_string(),
        };
        tracing::error!(error = how, "the service ended and is started again");
        self.child = None;
        self.due = Some(self.next_start(now));
        true
    }

    fn next_start(&mut self, now: Instant) -> Instant {
        self.starts.retain(|start| *start + WINDOW > now);
        if self.starts.len() < STARTS {
            self.rest = REST.0;
            return now;
        }
        let rest = self.rest;
        self.rest = (rest * 2).min(REST.1);
        now + rest
    }

    /// Whether it does nothing but end.
    pub fn ends_too_often(&self) -> bool {
        self.child.is_none() && self.starts.len() >= STARTS
    }

    /// When it is to be started again.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts it again if that is due; whether it was.
    pub fn restart(&mut self, token: SingleThreaded, settings: &Settings, now: Instant) -> bool {
        if self.due.take_if(|due| *due <= now).is_none() {
            return false;
        }
        self.starts.push(now);
        match spawn(token, settings) {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                tracing::error!(%error, "the service cannot be started now");
                self.due = Some(self.next_start(now).max(now + REST.0));
            }
        }
        self.child.is_some()
    }

    /// Has it read its configuration again. One that is still to be started reads the new one.
    pub fn reload(&self) -> Result<(), HostError> {
        let Some(child) = &self.child else { return Ok(()) };
        Ok(rustix::process::pidfd_send_signal(&child.pidfd, Signal::HUP)?)
    }

    /// Ends it and waits.
    pub fn stop(self) -> Result<(), HostError> {
        let Some(child) = self.child else { return Ok(()) };
        match rustix::process::pidfd_send_signal(&child.pidfd, Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(errno).on("service"),
        }
        let until = Instant::now() + FAREWELL;
        while child.try_wait().on("service")?.is_none() {
            if Instant::now() >= until {
                child.kill().and_then(|()| child.wait()).on("service")?;
                let why = format!("the service did not end in {FAREWELL:?} and was killed");
                return Err(HostError::unfit(why));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// The service's program, which looks at the configuration and at the profiles and ends.
#[derive(Debug)]
pub struct Check(Child);

impl Check {
    /// Starts it, as the service would read them.
    pub fn start(token: SingleThreaded, settings: &Settings) -> Result<Self, HostError> {
        become_service(token, settings, |command| command.arg("--check").stdout(Stdio::null())).map(Self)
    }

    /// How it has ended; `None` while it runs.
    pub fn ended(&self) -> Result<Option<ExitStatus>, HostError> {
        self.0.try_wait().on("agentd --check")
    }

    pub fn kill(&self) -> std::io::Result<()> {
        self.0.kill()
    }
}

impl AsFd for Check {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

fn spawn(token: SingleThreaded, settings: &Settings) -> Result<Child, HostError> {
    become_service(token, settings, |command| command)
}

/// Starts the service's program under its own account.
fn become_service(
    token: SingleThreaded,
    settings: &Settings,
    with: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<Child, HostError> {
    let own = std::env::current_exe().on("/proc/self/exe")?;
    let program = own.with_file_name("agentd");
    let launcher = rustix::process::getpid();
    let child = process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
        let become_it = || -> Result<(), HostError> {
            SigSet::empty().thread_set_mask()?;
            // Not in root's terminal, whose signals and input would be its own.
            nix::unistd::setsid()?;
            inheritance::prefer(NICE);
            creds::become_ids(settings.service_uid, settings.service_gid)?;
            // After the last change of ids, which takes it back; and it may be too late.
            creds::parent_death_signal()?;
            match rustix::process::getppid() == Some(launcher) {
                true => Ok(()),
                false => Err(HostError::unfit("the launcher is gone")),
            }
        };
        let error = match become_it() {
            Ok(()) => {
                let mut command = Command::new(&program);
                command.arg("--config").arg(&settings.file).stdin(Stdio::null());
                for key in OURS {
                    command.env_remove(key);
                }
                with(&mut command).exec().into()
            }
            Err(error) => error,
        };
        tracing::error!(%error, program = %program.display(), "the service was not started");
        127
    });
    child.on(program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_ends_and_ends_rests_and_is_started_for_ever() {
        let begin = Instant::now();
        let mut service = Service { child: None, starts: Vec::new(), due: None, rest: REST.0 };
        let mut now = begin;
        let mut pauses = Vec::new();
        for _ in 0..20 {
            service.starts.push(now);
            let due = service.next_start(now);
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses[..8], [0, 0, 0, 0, 1, 2, 4, 8]);
        assert!(pauses.iter().all(|pause| *pause <= REST.1.as_secs()));
    }
}
