//! Running a command in a session: the one place where a process becomes something else.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::process::{self, SingleThreaded};
use agentd_policy::names::AbsPath;
use agentd_policy::plan::Plan;
use agentd_policy::step::CommandStep;
use agentd_policy::wire::Command;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::HostError;

/// What a command's standard input, output and error are.
#[derive(Debug)]
pub enum Stdio {
    /// The terminal side of a pty, which becomes the controlling terminal.
    Terminal(OwnedFd),
    Pipes([OwnedFd; 3]),
}

impl Stdio {
    /// One descriptor is a terminal, three are pipes.
    pub fn new(descriptors: Vec<OwnedFd>) -> Result<Self, HostError> {
        match <[OwnedFd; 3]>::try_from(descriptors) {
            Ok(pipes) => Ok(Self::Pipes(pipes)),
            Err(mut other) => match (other.pop(), other.is_empty()) {
                (Some(tty), true) => Ok(Self::Terminal(tty)),
                _ => Err(HostError::unfit("neither a terminal nor three pipes")),
            },
        }
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Terminal(tty) => vec![tty.as_fd()],
            Self::Pipes(pipes) => pipes.iter().map(AsFd::as_fd).collect(),
        }
    }
}

/// What a command of a session runs with.
pub struct Invocation<'a> {
    argv: &'a [Vec<u8>],
    env: Vec<&'a (Vec<u8>, Vec<u8>)>,
    cwd: &'a AbsPath,
}

impl<'a> Invocation<'a> {
    /// The command that the plan is for.
    pub fn first(plan: &'a Plan) -> Self {
        Self { argv: &plan.command, env: plan.env.iter().collect(), cwd: &plan.cwd }
    }

    /// A further one. What it leaves out is as for the first.
    pub fn further(plan: &'a Plan, command: &'a Command) -> Self {
        let own = |key: &[u8]| command.env.iter().any(|(name, _)| name == key);
        let rest = plan.env.iter().filter(|(key, _)| !own(key));
        Self {
            argv: &command.argv,
            env: command.env.iter().chain(rest).collect(),
            cwd: command.cwd.as_ref().unwrap_or(&plan.cwd),
        }
    }
}

/// Why a command was not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRun {
    /// Where its start failed.
    pub step: CommandStep,
    /// The error number.
    pub errno: i32,
}

impl NotRun {
    /// At this step, for this reason.
    pub fn new(step: CommandStep, errno: i32) -> Self {
        Self { step, errno }
    }
}

/// A command on its way: forked, and not yet known to have been executed.
#[derive(Debug)]
pub struct Starting {
    pub pid: Pid,
    /// What went wrong comes by it, or nothing, once the program runs.
    report: OwnedFd,
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

impl Starting {
    /// Forks a command, in a session (`setsid(2)`) of its own.
    pub fn fork(token: SingleThreaded, invocation: &Invocation<'_>, stdio: &Stdio) -> Result<Self, NotRun> {
        let (report, reporter) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| NotRun::new(CommandStep::Fork, e.raw_os_error()))?;
        let pid = process::fork(token, || {
            let not_run = become_command(invocation, stdio);
            let bytes = [not_run.step.name().as_bytes(), b"\0", &not_run.errno.to_le_bytes()].concat();
            // If init is gone, so is this process in a moment.
            rustix::io::write(&reporter, &bytes).ok();
            127
        });
        let pid = pid.map_err(|e| NotRun::new(CommandStep::Fork, e.raw_os_error().unwrap_or(0)))?;
        Ok(Self { pid, report })
    }

    /// Waits until it has been executed, or could not be. Others of the same uid can stop it on the way: a process that
    /// has something else to do asks only once the descriptor is readable.
    pub fn outcome(self) -> Result<Pid, NotRun> {
        // The pipe is close-on-exec: an empty end of file is the sign that the program runs.
        let mut bytes = [0; 64];
        let count = loop {
            match rustix::io::read(&self.report, &mut bytes) {
                Ok(count) => break count,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(NotRun::new(CommandStep::Fork, errno.raw_os_error())),
            }
        };
        match &bytes[..count] {
            [] => Ok(self.pid),
            report => Err(not_run(report)),
        }
    }
}

/// What a command's report says. What wrote it may have been changed on the way by a process of the same uid: one that
/// is malformed is a failure like another.
fn not_run(report: &[u8]) -> NotRun {
    let parsed = report.iter().position(|byte| *byte == 0).and_then(|end| {
        let step = CommandStep::parse(std::str::from_utf8(&report[..end]).ok()?)?;
        Some(NotRun::new(step, i32::from_le_bytes(report[end + 1..].try_into().ok()?)))
    });
    parsed.unwrap_or(NotRun::new(CommandStep::Fork, Errno::EBADMSG as i32))
}

/// Returns only if the command could not be run.
fn become_command(invocation: &Invocation<'_>, stdio: &Stdio) -> NotRun {
    if let Err(errno) = take_stdio(stdio) {
        return NotRun::new(CommandStep::Terminal, errno as i32);
    }
    if let Err(errno) = reset_signals() {
        return NotRun::new(CommandStep::Fork, errno as i32);
    }
    if let Err(errno) = nix::unistd::chdir(invocation.cwd.as_str()) {
        return NotRun::new(CommandStep::Cwd, errno as i32);
    }
    NotRun::new(CommandStep::Exec, execute(invocation) as i32)
}

fn take_stdio(stdio: &Stdio) -> nix::Result<()> {
    nix::unistd::setsid()?;
    let [stdin, stdout, stderr] = match stdio {
        Stdio::Terminal(tty) => {
            let none = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
            rustix::process::ioctl_tiocsctty(tty).map_err(none)?;
            [tty.as_fd(), tty.as_fd(), tty.as_fd()]
        }
        Stdio::Pipes([stdin, stdout, stderr]) => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
    };
    let error = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(0));
    // The pipes and terminals have numbers above 2: init's 0, 1 and 2 are taken.
    for (number, fd) in [(0, stdin), (1, stdout), (2, stderr)] {
        process::place(fd, number).map_err(error)?;
    }
    // All but 0, 1 and 2 are closed when the program starts; the report pipe until then is needed.
    process::close_on_exec_from(3).map_err(error)
}

fn reset_signals() -> nix::Result<()> {
    SigSet::empty().thread_set_mask()?;
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            process::default_action(signal)?;
        }
    }
    Ok(())
}

/// `execve(2)`, looked up in the command's PATH as `execvpe(3)` does, without its fall-back to a shell.
fn execute(invocation: &Invocation<'_>) -> Errno {
    let Invocation { argv: words, env: variables, .. } = invocation;
    let c = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let argv: Result<Vec<_>, _> = words.iter().cloned().map(c).collect();
    let env: Result<Vec<_>, _> = variables.iter().map(|(k, v)| c([k, &b"="[..], v].concat())).collect();
    let (Ok(argv), Ok(env)) = (argv, env) else { return Errno::EINVAL };
    let Some(program) = words.first() else { return Errno::EINVAL };
    if program.contains(&b'/') {
        return match c(program.clone()) {
            Ok(path) => failed_exec(&path, &argv, &env),
            Err(errno) => errno,
        };
    }
    let path = variables.iter().find(|(key, _)| key == b"PATH").map_or(&b""[..], |(_, value)| value);
    let mut result = Errno::ENOENT;
    for dir in path.split(|b| *b == b':').filter(|dir| !dir.is_empty()) {
        let Ok(path) = c([dir, b"/", program.as_slice()].concat()) else { return Errno::EINVAL };
        match failed_exec(&path, &argv, &env) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => result = Errno::EACCES,
            errno => return errno,
        }
    }
    result
}

fn failed_exec(path: &CString, argv: &[CString], env: &[CString]) -> Errno {
    match nix::unistd::execve(path, argv, env) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_report_is_no_command_that_runs() {
        let of = |report: &[u8]| {
            let NotRun { step, errno } = not_run(report);
            (step, errno)
        };
        assert_eq!(of(b"exec\0\x02\0\0\0"), (CommandStep::Exec, Errno::ENOENT as i32));
        for malformed in
            [&b"x"[..], b"exec", b"exec\0", b"exec\0\x02\0\0\0\0", b"other\0\x02\0\0\0", b"\xff\0\x02\0\0\0"]
        {
            assert_eq!(of(malformed), (CommandStep::Fork, Errno::EBADMSG as i32), "{malformed:?}");
        }
    }

    fn plan() -> Plan {
        let json = |text: &str| AbsPath::parse(text).unwrap();
        Plan {
            profile: agentd_policy::digest::Digest::default(),
            session: agentd_policy::names::SessionId::parse("0123456789ab").unwrap(),
            user: agentd_policy::names::UserName::parse("alice").unwrap(),
            home: json("/home/alice"),
            shell: json("/bin/sh"),
            command: vec![b"first".to_vec()],
            env: vec![(b"PATH".to_vec(), b"/bin".to_vec()), (b"A".to_vec(), b"1".to_vec())],
            cwd: json("/tmp"),
            terminal: None,
            workspaces: vec![],
            inputs: vec![],
            scratch: vec![],
            home_size: 0,
            limits: agentd_policy::limits::Limits {
                memory: 0,
                pids: 0,
                cpus: 1.0,
                disk: 0,
                inodes: 1 << 20,
                timeout_ms: 0,
                idle_ms: 0,
                open_files: 0,
            },
            landlock_abi: 1,
            remove: false,
            umask: 0o022,
            egress: None,
        }
    }

    #[test]
    fn what_a_command_does_not_say_is_as_for_the_first() {
        let command = Command {
            argv: vec![b"second".to_vec()],
            env: vec![(b"A".to_vec(), b"2".to_vec())],
            cwd: None,
            terminal: None,
        };
        let plan = plan();
        let invocation = Invocation::further(&plan, &command);
        assert_eq!(invocation.argv, command.argv);
        let env: Vec<_> = invocation.env.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(env, [(&b"A"[..], &b"2"[..]), (b"PATH", b"/bin")]);
        assert_eq!(invocation.cwd.as_str(), "/tmp");
    }
}
