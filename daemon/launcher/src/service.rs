//! The service as the launcher's child, where no service manager starts both.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentd_kernel::process::{self, Birth, Child, SingleThreaded};
use nix::sys::signal::SigSet;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::settings::Settings;

/// How long it may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// The running service.
#[derive(Debug)]
pub struct Service(Child);

impl Service {
    /// Starts it under its own account, with no signal blocked.
    pub fn start(token: SingleThreaded, settings: &Settings) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
        let program = own.with_file_name("agentd");
        let child = process::spawn(token, Birth::default(), || {
            let mut command = Command::new(&program);
            command
                .arg("--config")
                .arg(&settings.file)
                .uid(settings.service_uid)
                .gid(settings.service_gid)
                .env_remove("NOTIFY_SOCKET")
                .stdin(Stdio::null());
            let error = match SigSet::empty().thread_set_mask() {
                Ok(()) => command.exec(),
                Err(errno) => errno.into(),
            };
            tracing::error!(%error, program = %program.display(), "the service was not started");
            127
        });
        child.map(Self).map_err(|e| format!("{}: {e}", program.display()))
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        !matches!(rustix::process::waitid(WaitId::PidFd(self.0.pidfd.as_fd()), options), Ok(None))
    }

    /// Ends it and waits.
    pub fn stop(self) -> Result<(), String> {
        if self.has_ended() {
            return Ok(());
        }
        rustix::process::pidfd_send_signal(&self.0.pidfd, Signal::TERM)
            .map_err(|e| format!("service: {e}"))?;
        let until = Instant::now() + FAREWELL;
        while !self.has_ended() {
            if Instant::now() >= until {
                self.0.kill().and_then(|()| self.0.wait()).map_err(|e| format!("service: {e}"))?;
                return Err(format!("the service did not end in {FAREWELL:?} and was killed"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
