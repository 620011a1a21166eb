//! What processes are confined and watched with.

use std::os::fd::AsFd as _;

use agentd_kernel::creds::NoHostRights;
use agentd_kernel::landlock::{self, FileRules, LEAST_ABI};
use agentd_kernel::process::{self, CloneArgs, PidfdExit, SingleThreaded};
use agentd_kernel::seccomp;
use agentd_policy::event::ExitStatus;
use agentd_policy::wire::{Check, Status};
use agentd_session::Host;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Facts, fine, lack, verdict};
use crate::doctor::apart::{Lack, Tried, apart};

/// The newest ABI of Landlock whose rights all matter to a session.
const WHOLE_ABI: u32 = 6;

/// What a session has one each of.
pub const NAMESPACES: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

/// Namespaces, and what the host says of those that users make.
pub fn namespaces(tried: &[Tried<()>; NAMESPACES.len()]) -> Vec<Check> {
    let each = || NAMESPACES.iter().map(|(kind, _)| kind).zip(tried);
    let refused: Vec<_> =
        each().filter_map(|(kind, tried)| Some(format!("{kind}: {}", tried.as_ref().err()?))).collect();
    let made = each().map(|(kind, _)| *kind).collect::<Vec<_>>().join(" ");
    let tried = if refused.is_empty() { Ok(made) } else { Err(refused.join("; ")) };
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
pub fn checks(_: &NoHostRights, token: SingleThreaded, host: &Host, facts: &Facts) -> Vec<Check> {
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
            if seccomp::can_notify() { Ok("there") } else { Err("not there") },
            Status::Missing,
            "no session runs: calls that it may not make could not be reported",
            "use Linux 5.19 or later, with CONFIG_SECCOMP_FILTER",
        ),
        verdict(
            "fanotify",
            there(&facts.exec_watch, "programs are reported before they run, and can be refused"),
            Status::Missing,
            "no session runs: the programs that it starts could not be reported",
            "use a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS",
        ),
        verdict(
            "memfd.noexec",
            there(&facts.memfd_noexec, "a session's memfds cannot be run"),
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
            there(&facts.oom, "helpers are kept from the OOM killer"),
            Status::Reduced,
            "when the whole host is out of memory, the kernel may pick a session's helpers",
            "give the launcher CAP_SYS_RESOURCE; the limits of sessions hold all the same",
        ),
        modules(),
    ]
}

fn there<'a>(tried: &'a Tried<()>, found: &'a str) -> Result<&'a str, &'a Lack> {
    tried.as_ref().map(|()| found)
}

fn landlock(token: SingleThreaded) -> Check {
    let abi = landlock::host_abi();
    let tried = apart(token, || {
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
fn filter(host: &Host) -> Tried<String> {
    let enforced = seccomp::install(host.agent_filters.strictest())?;
    match unshare(CloneFlags::CLONE_NEWUTS) {
        // Of a session, its keeper answers, and the error is EPERM.
        Err(nix::errno::Errno::ENOSYS) => {
            Ok(format!("a filter of {} instructions holds", enforced.instructions))
        }
        other => Err(Lack::new(format!("a filter is in force and does not hold: unshare: {other:?}"))),
    }
}

/// Asks for the exit code of a process by its descriptor alone.
fn pidfd_exit(token: SingleThreaded) -> Tried<&'static str> {
    let child = process::spawn(token, CloneArgs::default(), || 7)?;
    child.wait()?;
    match process::exit_of(child.pidfd.as_fd()) {
        PidfdExit::Status(ExitStatus::Code(7)) => Ok("exit codes of all programs are known"),
        other => Err(Lack::new(format!("the kernel does not show exit codes: {other:?}"))),
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
