//! What the launcher inherits is nothing for keepers, agents and the service: they are forked from
//! here, and have its memory until they execute another program.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use agentd_kernel::{creds, process};
use rustix::fs::{Mode, OFlags};

use agentd_session::error::{HostError, On as _};

/// The variables that are of use: for the service manager, and for the log.
const KEPT: [&str; 11] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
    "AGENTD_LOG",
    "NO_COLOR",
    "RUST_BACKTRACE",
    "MALLOC_ARENA_MAX",
];
/// Names the step at which a builder of a debug build fails.
#[cfg(debug_assertions)]
const FAULT: &str = "AGENTD_FAULT";

fn is_kept(name: &OsStr) -> bool {
    #[cfg(debug_assertions)]
    if name == FAULT {
        return true;
    }
    KEPT.iter().any(|kept| name == *kept)
}

/// Gives up what was inherited. An environment with anything but [`KEPT`] is left behind by executing this program
/// anew: nothing of it stays in memory then.
pub fn shed() -> Result<(), HostError> {
    let (kept, rest): (Vec<(OsString, OsString)>, Vec<_>) =
        std::env::vars_os().partition(|(name, _)| is_kept(name));
    if !rest.is_empty() {
        let own = std::env::current_exe().on("/proc/self/exe")?;
        let error = Command::new(&own).args(std::env::args_os().skip(1)).env_clear().envs(kept).exec();
        return Err(error).on(own.display());
    }
    std::env::set_current_dir("/").on("/")?;
    creds::leave_keyring()?;
    write_only(1, &std::io::stdout()).and_then(|()| write_only(2, &std::io::stderr()))
}

/// Has this process run before others that want a processor: a process that floods it competes with it for one. Where
/// that is not permitted (some containers) it takes its turn. No child of its has that, unless it asks too.
pub fn prefer(nice: i32) {
    if let Err(errno) = rustix::process::setpriority_process(None, nice) {
        tracing::debug!(error = %errno, nice, "the priority stays as it is");
    }
}

/// What is written to a terminal need not be able to read what is typed there.
fn write_only(number: i32, stream: &impl std::os::fd::AsFd) -> Result<(), HostError> {
    if !rustix::termios::isatty(stream) {
        return Ok(());
    }
    let path = format!("/proc/self/fd/{number}");
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path.as_str(), flags, Mode::empty()).on(&path)?;
    process::place(std::os::fd::AsFd::as_fd(&opened), number).on(&path)
}
