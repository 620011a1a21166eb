//! System call filters (`seccomp(2)`): a table in, classic BPF out.
//!
//! [`compile`] is pure. A filter is one binary search over ranges of calls with equal rules, so that a call
//! costs a handful of comparisons and a call that is always allowed costs none: the kernel sees that its
//! path looks at no argument and skips the filter (Linux 5.11).
//!
//! Arguments are judged by what the kernel itself reads: the low 32 bits of those that it takes as `int`,
//! `unsigned int` or `umode_t`, whatever a caller has put into the upper half.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the tables of system calls are those of x86_64");

mod bpf;
mod names;
mod notify;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd as _, OwnedFd};

use rustix::thread::SecureComputingMode;

pub use notify::{Asked, Call, Listener, Received};
pub use tables::{AGENT, DIALLER, KEEPER, METER, RELAY};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The call is executed.
    Allow,
    /// It fails with this errno.
    Errno(u16),
    /// The same, and the [`Listener`] is notified. Without a listener it fails with `ENOSYS`.
    Notify(u16),
    /// The process ends with `SIGSYS`.
    Kill,
}

/// One half of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// The low 32 bits.
    Low(u8),
    /// The high 32 bits.
    High(u8),
}

/// How a call is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Always the same way.
    Always(Verdict),
    /// By an argument.
    Match(Box<Match>),
}

/// A decision by some bits of an argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// Where to look.
    pub word: Word,
    /// The bits that count.
    pub mask: u32,
    /// Values of those bits, and what follows; the first that fits.
    pub arms: Vec<(Vec<u32>, Rule)>,
    /// What follows if none fits.
    pub otherwise: Rule,
}

/// What a filter depends on besides its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether `memfd_create(2)` is allowed: only where `vm.memfd_noexec` keeps memfds from being run.
    pub memfd_create: bool,
    /// Whether set-group-ID bits may be set: only where no directory of the host's can be written to, or a file with
    /// one would be a program that others run with the caller's group.
    pub set_gid: bool,
}

/// Who may call what.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    rules: fn(Options) -> BTreeMap<u32, Rule>,
    /// For calls that agentd knows and `rules` does not name.
    denied: Verdict,
}

/// A compiled filter.
#[derive(Clone)]
pub struct Filter(Vec<libc::sock_filter>);

/// The filter is in force.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// How many instructions it has.
    pub instructions: usize,
}

/// Why a filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Without it only root may install a filter, and set-user-ID programs would run under it.
    #[error("no_new_privs is not set")]
    NewPrivs,
    /// The kernel refused.
    #[error("cannot install the system call filter: {0}")]
    Install(#[source] std::io::Error),
    /// The kernel took it and says otherwise.
    #[error("the system call filter is not in force after it was installed")]
    NotInForce,
    /// Another process sent it as one.
    #[error("a descriptor that is not a listener for refused calls")]
    NotAListener,
}

/// Compiles a table.
pub fn compile(table: &Table, options: Options) -> Filter {
    Filter(bpf::program(&ranges((table.rules)(options), table.denied)))
}

impl Filter {
    /// The same for a session whose processes have these ids, as they see them: what sets others fails with `EPERM`
    /// where the kernel, which has no such id in the session's user namespace, says `EINVAL`.
    #[must_use]
    pub fn with_ids(mut self, uid: u32, gid: u32) -> Self {
        for instruction in self.0.iter_mut().filter(|i| i.code == bpf::IF_EQUAL) {
            match instruction.k {
                tables::OWN_UID => instruction.k = uid,
                tables::OWN_GID => instruction.k = gid,
                _ => {}
            }
        }
        self
    }
}

/// Puts a filter on this thread and all that it starts, and asks the kernel whether it is there.
///
/// # Errors
/// [`SeccompError`]; only after [`SeccompError::NotInForce`] may anything have changed.
pub fn install(filter: &Filter) -> Result<Enforced, SeccompError> {
    put(filter, 0).map(|_| Enforced { instructions: filter.0.len() })
}

/// The same, with the listener for calls whose verdict is [`Verdict::Notify`]. As long as one descriptor of it is open
/// they wait for its answer. Until one was received a signal interrupts it (`EINTR`), from then on only one that kills
/// (Linux 5.19).
///
/// # Errors
/// As [`install`].
pub fn install_told(filter: &Filter) -> Result<(Enforced, OwnedFd), SeccompError> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let listener = put(filter, flags)?;
    let listener = i32::try_from(listener).map_err(|_| SeccompError::NotInForce)?;
    // SAFETY: with NEW_LISTENER the call returns a new descriptor (close-on-exec), which nothing else knows of.
    let listener = unsafe { OwnedFd::from_raw_fd(listener) };
    Ok((Enforced { instructions: filter.0.len() }, listener))
}

/// What `seccomp(2)` returned.
fn put(filter: &Filter, flags: libc::c_ulong) -> Result<libc::c_long, SeccompError> {
    if !rustix::thread::no_new_privs().map_err(|e| SeccompError::Install(e.into()))? {
        return Err(SeccompError::NewPrivs);
    }
    let mut program = filter.0.clone();
    let len = u16::try_from(program.len()).map_err(|e| SeccompError::Install(std::io::Error::other(e)))?;
    let argument = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the program and its description live across the call, which only reads them; `len` is its
    // length.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&argument))
    };
    if result < 0 {
        return Err(SeccompError::Install(std::io::Error::last_os_error()));
    }
    // Every table allows this question.
    match rustix::thread::secure_computing_mode() {
        Ok(SecureComputingMode::Filter) => Ok(result),
        _ => Err(SeccompError::NotInForce),
    }
}

/// Whether filters can hand calls to another process to judge (`SECCOMP_RET_USER_NOTIF`).
pub fn can_notify() -> bool {
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads the four bytes of `action`, which lives across the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, std::ptr::from_ref(&action))
    };
    result == 0
}

/// First number of a range and the rule for all in it. The first range starts at 0, and each has another
/// rule than the one before.
fn ranges(mut rules: BTreeMap<u32, Rule>, denied: Verdict) -> Vec<(u32, Rule)> {
    for number in tables::KNOWN.into_iter().flatten() {
        rules.entry(number).or_insert(Rule::Always(denied));
    }
    // All else is unknown, the calls of x32 (from 0x40000000 on) among it.
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let mut next = 0;
    let mut push = |first: u32, rule: Rule| match ranges.last() {
        Some((_, last)) if *last == rule => {}
        _ => ranges.push((first, rule)),
    };
    for (number, rule) in rules {
        if number > next {
            push(next, Rule::Always(tables::UNKNOWN));
        }
        push(number, rule);
        next = number + 1;
    }
    push(next, Rule::Always(tables::UNKNOWN));
    ranges
}

impl From<Verdict> for Rule {
    fn from(verdict: Verdict) -> Self {
        Self::Always(verdict)
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter({} instructions)", self.0.len())
    }
}

/// The listing, one instruction a line; jumps name the line that they go to.
impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        bpf::list(&self.0, f)
    }
}
