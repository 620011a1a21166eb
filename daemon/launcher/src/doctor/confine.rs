//! What processes are confined and watched with.

use std::os::fd::AsFd as _;
use std::time::Duration;

use agentd_kernel::exec_watch::ExecWatch;
use agentd_kernel::landlock::{self, FileRules, LEAST_ABI};
use agentd_kernel::process::{self, CloneArgs, PidfdExit, SingleThreaded};
use agentd_kernel::{creds, mount, procfs, seccomp};
use agentd_policy::event::ExitStatus;
use agentd_policy::wire::{Check, Status};
use agentd_session::Host;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;

use super::apart::{apart, ready};
use super::{Lack, fine, lack, verdict};

/// The newest ABI of Landlock whose rights all matter to a session.
const WHOLE_ABI: u32 = 6;
/// How long an event may take.
const EVENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Namespaces, and what the host says of those that users make.
pub fn namespaces(token: SingleThreaded) -> Vec<Check> {
    let kinds = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ];
    let make = |(kind, flag)| {
        let made = apart(token, || Ok(unshare(flag).map(|()| String::new())?));
        made.map(|_| kind).map_err(|error| Lack::on(kind, error))
    };
    let mut made = Vec::new();
    let mut refused = Vec::new();
    for kind in kinds {
        match make(kind) {
            Ok(kind) => made.push(kind),
            Err(error) => refused.push(error.to_string()),
        }
    }
    let tried = if refused.is_empty() { Ok(made.join(" ")) } else { Err(Lack::new(refused.join("; "))) };
    let fix =
        "raise user.max_*_namespaces with sysctl; use a kernel with CONFIG_NAMESPACES and CONFIG_USER_NS";
    vec![
        verdict("namespaces", tried, Status::Missing, "no session runs: it needs one of each", fix),
        unprivileged(),
    ]
}

/// Whoever forbids user namespaces to users does not forbid them to root, who makes a session's.
fn unprivileged() -> Check {
    let names = ["kernel/unprivileged_userns_clone", "kernel/apparmor_restrict_unprivileged_userns"];
    let said = |name: &&str| {
        let value = std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
        Some(format!("{} = {}", name.replace('/', "."), value.trim()))
    };
    let said: Vec<_> = names.iter().filter_map(said).collect();
    let found = if said.is_empty() { "not restricted".to_owned() } else { said.join(", ") };
    fine("namespaces.unprivileged", format!("{found}; sessions do not depend on it"))
}

/// Landlock, filters, and what reports programs.
pub fn checks(token: SingleThreaded, host: &Host) -> Vec<Check> {
    vec![
        landlock(token),
        verdict(
            "seccomp",
            apart(token, || filter(host)),
            Status::Missing,
            "no session runs: the kernel's calls could not be restricted",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
        verdict(
            "seccomp.notify",
            if seccomp::can_notify() { Ok("there".into()) } else { Err(Lack::new("not there")) },
            Status::Missing,
            "no session runs: calls that it may not make could not be reported",
            "use Linux 5.19 or later, with CONFIG_SECCOMP_FILTER",
        ),
        verdict(
            "fanotify",
            apart(token, || watch_exec(host)),
            Status::Missing,
            "no session runs: the programs that it starts could not be reported",
            "use a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS",
        ),
        verdict(
            "memfd.noexec",
            apart(token, || memfd_noexec(token)),
            Status::Reduced,
            "sessions cannot make memfds at all, which some programs want",
            "use Linux 6.3 or later",
        ),
        verdict(
            "pidfd.exit",
            pidfd_exit(token),
            Status::Reduced,
            "exit codes of programs are on record only for the command itself",
            "use Linux 6.15 or later",
        ),
        verdict(
            "oom.protect",
            apart(token, || oom_protect(host)),
            Status::Reduced,
            "when the whole host is out of memory, the kernel may pick a session's helpers",
            "give the launcher CAP_SYS_RESOURCE; the limits of sessions hold all the same",
        ),
        modules(),
    ]
}

fn landlock(token: SingleThreaded) -> Check {
    let abi = landlock::host_abi();
    let tried = apart(token, || {
        creds::no_new_privs()?;
        let enforced = landlock::enforce(FileRules::new(), LEAST_ABI)?;
        match rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::ACCESS) => Ok(format!("ABI {abi}, of which {} is used", enforced.abi)),
            other => Err(Lack::new(format!("ABI {abi} is in force and does not hold: {other:?}"))),
        }
    });
    let lacking: Vec<_> = [
        (3, "truncating files is not judged"),
        (4, "TCP ports are not judged"),
        (5, "ioctl on devices is not judged"),
        (6, "signals and abstract sockets are kept apart by namespaces alone"),
    ]
    .iter()
    .filter(|(since, _)| abi < *since)
    .map(|(_, what)| *what)
    .collect();
    let name = "landlock";
    match tried {
        Ok(found) if abi < WHOLE_ABI => {
            let fix = "use Linux 6.12 or later; profiles can insist by [require] landlock_abi";
            lack(name, Status::Reduced, found, &lacking.join("; "), fix)
        }
        tried => verdict(
            name,
            tried,
            Status::Missing,
            "no session runs: its access to files could not be restricted from inside",
            "use Linux 5.19 or later, with landlock among lsm= on the kernel's command line",
        ),
    }
}

/// Puts the agents' filter in force and does what it refuses.
fn filter(host: &Host) -> Result<String, Lack> {
    creds::no_new_privs()?;
    let enforced = seccomp::install(host.agent_filters.strictest())?;
    match unshare(CloneFlags::CLONE_NEWUTS) {
        // Of a session, its keeper answers, and the error is EPERM.
        Err(nix::errno::Errno::ENOSYS) => {
            Ok(format!("a filter of {} instructions holds", enforced.instructions))
        }
        other => Err(Lack::new(format!("a filter is in force and does not hold: unshare: {other:?}"))),
    }
}

/// Refuses a program that a child wants to run, on a mount of a namespace of its own.
fn watch_exec(host: &Host) -> Result<String, Lack> {
    let own = std::env::current_exe()?;
    mount::new_namespace()?;
    let program = mount::place(&own.to_string_lossy())?;
    let watch = ExecWatch::new().map_err(|e| Lack::on("fanotify_init", e))?;
    let beside = own.parent().unwrap_or(std::path::Path::new("/"));
    let beside = mount::place(&beside.to_string_lossy())?;
    watch.mark(beside.as_fd()).map_err(|e| Lack::on("fanotify_mark", e))?;
    let token = SingleThreaded::verify()?;
    let child = process::spawn(token, CloneArgs::default(), || {
        let signal = Some(rustix::process::Signal::KILL);
        let bound = rustix::process::set_parent_process_death_signal(signal);
        let ran = bound.map_err(|_| nix::errno::Errno::EINVAL).and_then(|()| {
            process::execute(program.as_fd(), &[c"agentd-launcher"], &[]).map(|never| match never {})
        });
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
        Some(ExitStatus::Code(1)) => Ok("programs are reported before they run, and can be refused".into()),
        other => Err(Lack::new(format!("a program was refused and ran: {other:?}"))),
    }
}

/// In a pid namespace of its own, whose setting this is, forbids executable memfds and makes one.
fn memfd_noexec(token: SingleThreaded) -> Result<String, Lack> {
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
        ExitStatus::Code(0) => Ok("a session's memfds cannot be run".into()),
        ExitStatus::Code(1) => Err(Lack::new("vm.memfd_noexec cannot be set")),
        _ => Err(Lack::new("vm.memfd_noexec is set and does not hold")),
    }
}

/// Asks for the exit code of a process by its descriptor alone.
fn pidfd_exit(token: SingleThreaded) -> Result<String, Lack> {
    let child = process::spawn(token, CloneArgs::default(), || 7)?;
    child.wait()?;
    match process::exit_of(child.pidfd.as_fd()) {
        PidfdExit::Status(ExitStatus::Code(7)) => Ok("exit codes of all programs are known".into()),
        other => Err(Lack::new(format!("the kernel does not show exit codes: {other:?}"))),
    }
}

fn oom_protect(host: &Host) -> Result<String, Lack> {
    match procfs::spare_from_oom(host.proc.as_fd()) {
        Ok(true) => Ok("helpers are kept from the OOM killer".into()),
        Ok(false) => Err(Lack::new("oom_score_adj cannot be lowered")),
        Err(error) => Err(Lack::on("oom_score_adj", error)),
    }
}

/// Which security modules there are; sessions need none of them.
fn modules() -> Check {
    let says = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let listed = says("/sys/kernel/security/lsm");
    let has = |name: &str| listed.split(',').any(|module| module.trim() == name);
    // Where securityfs is not mounted; the module is there even if it was switched off at boot.
    let apparmor = has("apparmor") || says("/sys/module/apparmor/parameters/enabled").trim() == "Y";
    let enforce = says("/sys/fs/selinux/enforce");
    let selinux = has("selinux") || !enforce.is_empty();
    let found = match (apparmor, selinux) {
        (false, false) => "neither AppArmor nor SELinux".to_owned(),
        (true, false) => "AppArmor".to_owned(),
        (_, true) => {
            format!("SELinux, {}", if enforce.trim() == "1" { "enforcing" } else { "permissive" })
        }
    };
    fine("lsm", format!("{found}; sessions are confined without it"))
}
