//! The service as the launcher's child, where no service manager starts both.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::settings::Settings;

/// How long it may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// The running service.
#[derive(Debug)]
pub struct Service(Child);

impl Service {
    /// Starts it under its own account.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|e| format!("/proc/self/exe: {e}"))?;
        let program = own.with_file_name("agentd");
        let mut command = Command::new(&program);
        command
            .arg("--config")
            .arg(&settings.file)
            .uid(settings.service_uid)
            .gid(settings.service_gid)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command.spawn().map(Self).map_err(|e| format!("{}: {e}", program.display()))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Ends it and waits.
    pub fn stop(mut self) -> Result<(), String> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).map_err(|e| e.to_string())?);
        if self.has_ended() {
            return Ok(());
        }
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).map_err(|e| format!("service: {e}"))?;
        let until = Instant::now() + FAREWELL;
        while !self.has_ended() {
            if Instant::now() >= until {
                self.0.kill().and_then(|()| self.0.wait()).map_err(|e| format!("service: {e}"))?;
                return Err(format!("the service did not end in {FAREWELL:?} and was killed"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
