//! The session's own /proc. Only a process inside a pid namespace can mount its /proc, so a helper of the
//! builder joins it, mounts, masks, and ends.

use std::os::fd::{AsFd, BorrowedFd};

use agentd_kernel::mount::{self, Attributes, Tree};
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_policy::event::ExitStatus;
use agentd_policy::step::Step;
use nix::sched::CloneFlags;
use rustix::fs::{FileType, Mode, OFlags};

use super::fault::{At, Fault};
use super::root::{EMPTY_DIR, EMPTY_FILE, READ_ONLY};

/// What shows, or controls, the kernel and the machine rather than the session (`proc(5)`).
const MASKED: &[&str] = &[
    "acpi",
    "asound",
    "buddyinfo",
    "bus",
    "cmdline",
    "config.gz",
    "diskstats",
    "fs",
    "interrupts",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "modules",
    "mtrr",
    "pagetypeinfo",
    "partitions",
    "pressure",
    "sched_debug",
    "scsi",
    "slabinfo",
    "softirqs",
    "swaps",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
    "vmstat",
    "zoneinfo",
];
/// What programs read but nothing may write.
const READ_ONLY_PARTS: &[&str] = &["driver", "irq", "sys"];

/// Starts the helper. `pidfd` is init's, `own` the builder's own pid namespace. The new root must be the
/// builder's root.
pub fn start(token: SingleThreaded, pidfd: BorrowedFd<'_>, own: BorrowedFd<'_>) -> Result<Child, Fault> {
    nix::sched::setns(pidfd, CloneFlags::CLONE_NEWPID).at(Step::Proc, "pid namespace")?;
    let helper = process::spawn(token, CloneArgs::default(), || match mount_proc() {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(step = %Step::Proc, %error, "the session's /proc was not mounted");
            1
        }
    });
    nix::sched::setns(own, CloneFlags::CLONE_NEWPID).at(Step::Proc, "own pid namespace")?;
    helper.at(Step::Proc, "fork")
}

/// Waits for the helper.
pub fn finish(helper: &Child) -> Result<(), Fault> {
    match helper.wait().at(Step::Proc, "wait")? {
        ExitStatus::Code(0) => Ok(()),
        status => Err(Fault::unfit(Step::Proc, "/proc", format!("the helper ended with {status:?}"))),
    }
}

fn mount_proc() -> Result<(), Fault> {
    let attributes = Attributes::WRITABLE;
    let proc = Tree::new("proc", &[], attributes).at(Step::Proc, "/proc")?;
    let place = mount::place("/proc").at(Step::Proc, "/proc")?;
    proc.attach(place.as_fd()).at(Step::Proc, "/proc")?;
    refuse_memfd_programs(proc.as_fd())?;
    for name in READ_ONLY_PARTS {
        cover(proc.as_fd(), name, |_| None)?;
    }
    for name in MASKED {
        cover(proc.as_fd(), name, |kind| {
            Some(if kind == FileType::Directory { EMPTY_DIR } else { EMPTY_FILE })
        })?;
    }
    Ok(())
}

/// `vm.memfd_noexec = 2` in the session's pid namespace (Linux 6.3): what runs has been a file that was
/// seen. Where it is missing the filter refuses `memfd_create(2)`.
fn refuse_memfd_programs(proc: BorrowedFd<'_>) -> Result<(), Fault> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(proc, "sys/vm/memfd_noexec", flags, Mode::empty()) {
        Ok(file) => rustix::io::write(&file, b"2").at(Step::Proc, "vm.memfd_noexec").map(drop),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(Fault::host(Step::Proc, "vm.memfd_noexec", errno)),
    }
}

/// Covers `name`, if this kernel has it, by what `by` says for its kind, or by itself read-only.
fn cover(
    proc: BorrowedFd<'_>,
    name: &str,
    by: impl Fn(FileType) -> Option<&'static str>,
) -> Result<(), Fault> {
    let place = match super::root::open_beneath(proc, name) {
        Ok(place) => place,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(Fault::host(Step::Proc, name, errno)),
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&place).at(Step::Proc, name)?.st_mode);
    let tree = match by(kind) {
        Some(empty) => Tree::copy_of(mount::place(empty).at(Step::Proc, name)?.as_fd()),
        None => Tree::copy_of(place.as_fd()),
    }
    .at(Step::Proc, name)?;
    tree.restrict(READ_ONLY, None).at(Step::Proc, name)?;
    tree.attach(place.as_fd()).at(Step::Proc, name)
}
