//! Processes: `clone3(2)` straight into a cgroup and namespaces, pidfds, exit statuses.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use agentd_policy::event::ExitStatus;

/// `CLONE_INTO_CGROUP` of `clone3(2)`; 64-bit, so not in libc's `c_int` constants.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Proof that the process had one thread when it was asked. Only such a process may go on in Rust after a
/// fork without an exec: no other thread can have held a lock that the child then waits for.
#[derive(Clone, Copy, Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Asks the kernel.
    ///
    /// # Errors
    /// If there are more threads, or /proc does not show them.
    pub fn verify() -> std::io::Result<Self> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(std::io::Error::other(format!("the process has {threads} threads, not 1")));
        }
        Ok(Self(()))
    }
}

/// How a child is born.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs<'a> {
    /// Into this cgroup (a directory of cgroup2).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Into a new user namespace, owned by the effective uid, and a new pid namespace, owned by it.
    pub new_user_and_pid: bool,
    /// Into a new user namespace alone.
    pub new_user: bool,
    /// Killed when the parent ends, however that ends. A later change of ids takes it back (`prctl(2)`); not for a
    /// child in a new pid namespace, which cannot see whether its parent lives.
    pub with_parent: bool,
}

/// A child, by number and by descriptor. Dropping it neither ends nor waits for it.
#[derive(Debug)]
pub struct Child {
    /// As this process sees it.
    pub pid: Pid,
    /// Becomes readable when the child has ended.
    pub pidfd: OwnedFd,
}

/// Forks. The child has no better priority than processes have by default, runs `run` and ends with the code that it
/// returns, or 101 if it panics; it never returns to the caller's code.
///
/// # Errors
/// As `clone3(2)`. On cgroup errors there is no child.
pub fn spawn(_: SingleThreaded, birth: CloneArgs<'_>, run: impl FnOnce() -> i32) -> std::io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64;
    let mut namespaces = 0;
    if birth.new_user_and_pid {
        namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWPID;
    } else if birth.new_user {
        namespaces = libc::CLONE_NEWUSER;
    }
    flags |= u64::from(namespaces.cast_unsigned());
    let parent = birth.with_parent.then(rustix::process::getpid);
    let mut cgroup = 0;
    if let Some(fd) = birth.cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup = fd.as_raw_fd().cast_unsigned().into();
    }
    let mut args = libc::clone_args {
        flags,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: the arguments live across the call and describe a plain fork (no shared memory, no new
    // stack). The process has one thread (`SingleThreaded`), so the child's copy of every lock is free and
    // it may run any Rust code.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            if !parent.is_none_or(end_with) || !has_default_priority() {
                exit_now(1);
            }
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(101);
            exit_now(code)
        }
        pid => {
            // SAFETY: clone3 with CLONE_PIDFD has stored a new descriptor there that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| std::io::Error::other("clone3 returned no pid"))?;
            Ok(Child { pid, pidfd })
        }
    }
}

/// Gives up a priority above the default, which is its parent's alone; whether it has.
fn has_default_priority() -> bool {
    match rustix::process::getpriority_process(None) {
        Ok(nice) if nice < 0 => rustix::process::setpriority_process(None, 0).is_ok(),
        other => other.is_ok(),
    }
}

/// Has this process killed when `parent` ends; whether it lives still.
fn end_with(parent: Pid) -> bool {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).is_ok()
        && rustix::process::getppid() == Some(parent)
}

/// Forks by `fork(3)`: without descriptors or namespaces, and through the session's filter, which refuses
/// `clone3(2)`. The child runs `run` as in [`spawn`].
///
/// # Errors
/// As `fork(2)`.
pub fn fork(_: SingleThreaded, run: impl FnOnce() -> i32) -> std::io::Result<Pid> {
    // SAFETY: the process has one thread (`SingleThreaded`), so the child may run any Rust code.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(101);
            exit_now(code)
        }
        pid => Pid::from_raw(pid).ok_or_else(|| std::io::Error::other("fork returned no pid")),
    }
}

/// Ends the process at once, without destructors or buffers of its parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

impl Child {
    /// Waits for the end and reaps.
    ///
    /// # Errors
    /// As `waitid(2)`.
    pub fn wait(&self) -> std::io::Result<ExitStatus> {
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(ended)) => return Ok(status(&ended)),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The same without waiting; `None` while it runs.
    ///
    /// # Errors
    /// As `waitid(2)`.
    pub fn try_wait(&self) -> std::io::Result<Option<ExitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        Ok(rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?.map(|s| status(&s)))
    }

    /// Sends SIGKILL. A child that has ended already is no error.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`.
    pub fn kill(&self) -> std::io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn status(ended: &rustix::process::WaitIdStatus) -> ExitStatus {
    match (ended.exit_status(), ended.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or(libc::SIGKILL)),
    }
}

/// What the kernel keeps of a process that has ended, by its pidfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidfdExit {
    /// How it ended.
    Status(ExitStatus),
    /// It has not been reaped yet; the pidfd reports a hang-up once it is.
    NotReaped,
    /// The kernel is older than 6.15 and does not show it.
    Unsupported,
}

/// Whether the process has ended, reaped or not.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1..))
}

/// How a process ended that need not be a child (`PIDFD_GET_INFO`, Linux 6.15).
pub fn exit_of(pidfd: BorrowedFd<'_>) -> PidfdExit {
    // SAFETY: a struct of integers, for which zero is a valid value.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the ioctl writes at most the size that its number names into `info`, which lives until then.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    if result == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0 {
        let status = info.exit_code;
        return PidfdExit::Status(if libc::WIFSIGNALED(status) {
            ExitStatus::Signal(libc::WTERMSIG(status))
        } else {
            ExitStatus::Code(libc::WEXITSTATUS(status))
        });
    }
    match std::io::Error::last_os_error().raw_os_error() {
        _ if result == 0 => PidfdExit::NotReaped,
        Some(libc::ESRCH) => PidfdExit::NotReaped,
        _ => PidfdExit::Unsupported,
    }
}

/// Whether two threads have the same table of descriptors (`kcmp(2)`); if that is unknown, they have not.
pub fn share_descriptors(one: i32, other: i32) -> bool {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: five numbers; the call compares what the kernel has of two threads and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) };
    result == 0
}

/// Closes every descriptor but those, and standard input, output and error.
///
/// # Errors
/// As `close_range(2)`.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut numbers: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    numbers.extend([0, 1, 2]);
    numbers.sort_unstable();
    numbers.dedup();
    let mut first = 0;
    for number in numbers {
        if first < number {
            close_range(first, number - 1, 0)?;
        }
        first = number + 1;
    }
    close_range(first, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> std::io::Result<()> {
    // SAFETY: callers own no descriptor object in the range that they will use again; the numbers and
    // flags have no effect on memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// As `close_range(2)`.
pub fn close_from(first: u32) -> std::io::Result<()> {
    close_range(first, u32::MAX, 0)
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// As `close_range(2)`.
pub fn close_on_exec_from(first: u32) -> std::io::Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Changes what `ps(1)` and /proc show of this process: its name (at most 15 bytes) and its command line, which
/// otherwise are the launcher's, with paths of the host, for everyone in the session to read.
///
/// # Errors
/// If /proc does not show where the command line is.
pub fn set_title(name: &std::ffi::CStr) -> std::io::Result<()> {
    rustix::thread::set_name(name)?;
    // Asked once: a child in an empty root has no /proc, and the same memory.
    static RANGE: std::sync::OnceLock<(usize, usize)> = std::sync::OnceLock::new();
    let (start, end) = match RANGE.get() {
        Some(range) => *range,
        None => {
            let range = command_line_range()?;
            *RANGE.get_or_init(|| range)
        }
    };
    // SAFETY: the kernel says that the command line lies there: memory on the initial stack, writable, as
    // long as the process lives. The program has read its arguments already and keeps no reference to them
    // (`std::env::args` copies), and it has one thread.
    let line = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
    line.fill(0);
    let room = line.len() - 1;
    for (to, from) in line.iter_mut().take(room).zip(name.to_bytes()) {
        *to = *from;
    }
    Ok(())
}

/// Overwrites the environment that this process was started with, for itself and for what /proc shows of it: from here
/// on no variable is set. A child has its parent's until it executes a program.
///
/// # Errors
/// If /proc does not show where it is.
pub fn clear_environment() -> std::io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    // `env_start` and `env_end` of proc_pid_stat(5) have the numbers 50 and 51; the first field after the name is
    // number 3.
    let number = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<usize>().ok());
    let (start, end) = match (number(50), number(51)) {
        (Some(start), Some(end)) if start != 0 && end >= start && end - start <= 8 << 20 => (start, end),
        _ => return Err(std::io::Error::other("/proc/self/stat has no environment")),
    };
    // SAFETY: the kernel says that the environment's strings lie there: memory on the initial stack, writable, as long
    // as the process lives. The process has one thread, so nobody reads them meanwhile; libc's `environ` points to
    // strings in there, which are empty from now on and still end within it. The standard library hands out copies.
    let strings = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
    strings.fill(0);
    Ok(())
}

/// Where the kernel says that this process's command line lies (proc_pid_stat(5), `arg_start`, `arg_end`).
fn command_line_range() -> std::io::Result<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    // They have the numbers 48 and 49; the first field after the name is number 3.
    let number = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<usize>().ok());
    match (number(48), number(49)) {
        (Some(start), Some(end)) if start != 0 && end > start && end - start <= 1 << 20 => Ok((start, end)),
        _ => Err(std::io::Error::other("/proc/self/stat has no command line")),
    }
}

/// Becomes the program that `file` is open on (`execveat(2)` with an empty path). Returns only on error.
///
/// # Errors
/// As `execveat(2)`.
pub fn execute(
    file: BorrowedFd<'_>,
    argv: &[&std::ffi::CStr],
    env: &[&std::ffi::CStr],
) -> nix::Result<std::convert::Infallible> {
    nix::unistd::execveat(file, c"", argv, env, nix::fcntl::AtFlags::AT_EMPTY_PATH)
}

/// Sets what `signal` does to what it does by default.
///
/// # Errors
/// As `sigaction(2)`.
pub fn default_action(signal: nix::sys::signal::Signal) -> nix::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Makes `fd` known as `number` too, without close-on-exec.
///
/// # Errors
/// As `dup2(2)`.
pub fn place(fd: BorrowedFd<'_>, number: RawFd) -> std::io::Result<()> {
    let result = if fd.as_raw_fd() == number {
        // SAFETY: only the flag of a descriptor that is borrowed changes.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
    } else {
        // SAFETY: the caller decides what lives at `number`; it is a process about to exec.
        unsafe { libc::dup2(fd.as_raw_fd(), number) }
    };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The test harness has threads; the children below only return.
    const TOKEN: SingleThreaded = SingleThreaded(());

    #[test]
    fn a_child_ends_with_its_code() {
        let child = spawn(TOKEN, CloneArgs::default(), || 7).unwrap();
        assert_eq!(child.wait().unwrap(), ExitStatus::Code(7));
        assert!(child.kill().is_ok());
    }

    #[test]
    fn a_child_that_is_killed_says_so() {
        let child = spawn(TOKEN, CloneArgs::default(), || {
            nix::unistd::pause();
            0
        })
        .unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap(), ExitStatus::Signal(libc::SIGKILL));
    }
}
