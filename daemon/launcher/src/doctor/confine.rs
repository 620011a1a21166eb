//! Trials that take root's rights: what reports programs, and settings.

use std::os::fd::AsFd as _;
use std::time::Duration;

use agentd_kernel::exec_watch::ExecWatch;
use agentd_kernel::process::{self, CloneArgs, SingleThreaded};
use agentd_kernel::{mount, procfs};
use agentd_policy::event::ExitStatus;
use agentd_session::Host;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use super::apart::{Lack, Tried, ready};

/// How long an event may take.
const EVENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Refuses a program that a child wants to run, on a mount of a namespace of its own.
pub fn watch_exec(host: &Host) -> Tried<()> {
    let own = std::env::current_exe()?;
    mount::new_namespace()?;
    let program = mount::place(&own.to_string_lossy())?;
    let watch = ExecWatch::new().map_err(|e| Lack::on("fanotify_init", e))?;
    let beside = own.parent().unwrap_or(std::path::Path::new("/"));
    let beside = mount::place(&beside.to_string_lossy())?;
    watch.mark(beside.as_fd()).map_err(|e| Lack::on("fanotify_mark", e))?;
    let token = SingleThreaded::verify()?;
    let child = process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
        let ran = process::execute(program.as_fd(), &[c"agentd-launcher"], &[]).map(|never| match never {});
        i32::from(ran == Err::<(), _>(nix::errno::Errno::EPERM))
    })?;
    let answered = if ready(watch.as_fd(), EVENT_TIMEOUT) {
        let attempts = watch.read(host.proc.as_fd())?.attempts;
        attempts.into_iter().try_for_each(|attempt| watch.answer(&attempt, false)).map_err(Lack::from)
    } else {
        Err(Lack::new("no event came"))
    };
    let ended = if ready(child.pidfd.as_fd(), EVENT_TIMEOUT) { child.try_wait() } else { Ok(None) };
    child.kill()?;
    answered?;
    match ended? {
        Some(ExitStatus::Code(1)) => Ok(()),
        other => Err(Lack::new(format!("a program was refused and ran: {other:?}"))),
    }
}

/// In a pid namespace of its own, whose setting this is, forbids executable memfds and makes one.
pub fn memfd_noexec(token: SingleThreaded) -> Tried<()> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    let child = process::spawn(token, CloneArgs::default(), || {
        // The setting is that of the writer's namespace; it must not be the host's.
        if std::process::id() != 1 || std::fs::write("/proc/sys/vm/memfd_noexec", "2").is_err() {
            return 1;
        }
        match rustix::fs::memfd_create("doctor", MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
            Err(Errno::ACCESS) => 0,
            _ => 2,
        }
    })?;
    match child.wait()? {
        ExitStatus::Code(0) => Ok(()),
        ExitStatus::Code(1) => Err(Lack::new("vm.memfd_noexec cannot be set")),
        _ => Err(Lack::new("vm.memfd_noexec is set and does not hold")),
    }
}

/// Lowers what the OOM killer makes of a process.
pub fn oom_protect(host: &Host) -> Tried<()> {
    match procfs::spare_from_oom(host.proc.as_fd()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Lack::new("oom_score_adj cannot be lowered")),
        Err(error) => Err(Lack::on("oom_score_adj", error)),
    }
}
