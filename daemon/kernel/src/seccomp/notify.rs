//! Calls that are refused with a notification (`seccomp_unotify(2)`): who made them, and the answer, which is always a
//! refusal.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Options, Rule, SeccompError, Table, Verdict, bpf, names, tables};
use crate::width::half;

/// The most interrupted calls that are not caught up with.
const MAX_STALE: u64 = 1 << 20;

/// How many calls there were and how often one was asked for. The kernel counts a call that is made, and counts it down
/// when somebody asks for one: not when a signal interrupts it before. That leaves a rest, and a rest that grows
/// without end would make the kernel's counter run over.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// The first call that was received, and the last. Their numbers follow each other.
    ids: Option<(u64, u64)>,
    /// Since the first, and with it.
    asked: u64,
}

impl Count {
    /// Calls that were interrupted: so often can be asked without waiting.
    fn stale(&self) -> u64 {
        self.ids
            .map_or(0, |(first, last)| last.wrapping_sub(first).saturating_add(1).saturating_sub(self.asked))
    }

    /// One was asked for, and it was this; how many before it were interrupted that nobody received.
    fn received(&mut self, id: u64) -> u64 {
        let missed = self.ids.map_or(0, |(_, last)| id.wrapping_sub(last).saturating_sub(1));
        self.ids = Some((self.ids.map_or(id, |(first, _)| first), id));
        self.asked += 1;
        missed
    }

    /// One was asked for, and there was none any more.
    fn missed(&mut self) {
        self.asked += u64::from(self.ids.is_some());
    }
}

/// The listener for the calls of one session.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    count: Cell<Count>,
    table: Table,
    options: Options,
    /// Made when it is first asked: most sessions never need it.
    rules: OnceCell<BTreeMap<u32, Rule>>,
}

/// A call, as a filter sees it: what pointers lead to is not known, and could change after it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Its architecture, one of `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Its number in that architecture.
    pub number: u32,
    /// Its six arguments as registers.
    pub arguments: [u64; 6],
}

/// A call whose caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    id: u64,
    /// How many calls before it were interrupted by a signal, or killed, and are not received.
    pub missed: u64,
    /// The caller: a thread, by the number that it has for us. It is this thread's for certain only if
    /// [`Listener::is_waiting`] says so after everything was read.
    pub thread: i32,
    /// What it called.
    pub call: Call,
}

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A call, to be answered by [`Listener::refuse`].
    Call(Asked),
    /// One that was interrupted: there may be more.
    Less,
    /// No notification waits.
    Nothing,
    /// No process is left that could make one.
    End,
}

impl Listener {
    /// What [`install_told`](super::install_told) gave for a filter of `table` with `options`.
    pub fn new(fd: OwnedFd, table: Table, options: Options) -> Self {
        Self { fd, count: Cell::default(), table, options, rules: OnceCell::new() }
    }

    /// The same, of a descriptor that another process sent.
    ///
    /// # Errors
    /// [`SeccompError::NotAListener`].
    pub fn adopt(fd: OwnedFd, table: Table, options: Options) -> Result<Self, SeccompError> {
        // No call has this number, and only a listener says so.
        match valid(&fd, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Self::new(fd, table, options)),
            _ => Err(SeccompError::NotAListener),
        }
    }

    /// The next call. Never blocks, as long as nobody else takes calls from it.
    ///
    /// # Errors
    /// Those of the ioctl; or if so many calls are interrupted that they cannot be caught up with.
    pub fn next(&self) -> io::Result<Received> {
        let mut count = self.count.get();
        let stale = count.stale();
        if stale > MAX_STALE {
            return Err(io::Error::other("too many refused calls are interrupted"));
        }
        // To ask for a call that is not there would block.
        let mut due = [PollFd::new(&self.fd, PollFlags::IN)];
        rustix::event::poll(&mut due, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        match due[0].revents() {
            ready if ready.contains(PollFlags::IN) => {}
            ready if ready.contains(PollFlags::HUP) => return Ok(Received::End),
            _ if stale == 0 => return Ok(Received::Nothing),
            _ => {}
        }
        // SAFETY: all of its fields are integers, for which zero is a value; the kernel demands zeros.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: `asked` is of the type and size that the request names, and lives across the call.
        let result = unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, std::ptr::from_mut(&mut asked))
        };
        if result == 0 {
            let missed = count.received(asked.id);
            self.count.set(count);
            let libc::seccomp_data { nr, arch, args, .. } = asked.data;
            let call = Call { arch, number: nr.cast_unsigned(), arguments: args };
            return Ok(Received::Call(Asked { id: asked.id, missed, thread: asked.pid.cast_signed(), call }));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EINTR) => Ok(Received::Less),
            error if error.raw_os_error() == Some(libc::ENOENT) => {
                count.missed();
                self.count.set(count);
                Ok(Received::Less)
            }
            error => Err(error),
        }
    }

    /// Whether its caller still waits: what was read of it is about it.
    pub fn is_waiting(&self, asked: &Asked) -> bool {
        valid(&self.fd, asked.id).is_ok()
    }

    /// Lets the call fail as the filter's table wants it, whatever was read of it. A caller that was killed meanwhile
    /// is no error.
    ///
    /// # Errors
    /// Those of the ioctl.
    pub fn refuse(&self, asked: &Asked) -> io::Result<()> {
        let errno = i32::from(self.errno(&asked.call));
        let answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error: -errno, flags: 0 };
        // SAFETY: `answer` is of the type and size that the request names, and lives across the call, which only reads
        // it.
        let result = unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, std::ptr::from_ref(&answer))
        };
        match io::Error::last_os_error() {
            error if result != 0 && error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// With which errno a call fails that was notified of.
    pub fn errno(&self, call: &Call) -> u16 {
        let rules = self.rules.get_or_init(|| (self.table.rules)(self.options));
        match call.judge(rules, self.table.denied) {
            Verdict::Errno(errno) | Verdict::Notify(errno) if errno != 0 => errno,
            // Only what fails is notified of.
            _ => const { half(libc::EPERM.cast_unsigned()) },
        }
    }
}

/// Whether the caller of call `id` waits: ENOENT if not.
fn valid(fd: &OwnedFd, id: u64) -> io::Result<()> {
    // SAFETY: the kernel reads the eight bytes of the id, which lives across the call; what is no listener does not
    // know the request.
    let result =
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, std::ptr::from_ref(&id)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The lower half of an argument.
pub(super) const fn low(argument: u64) -> u32 {
    (argument & 0xffff_ffff) as u32
}

impl Call {
    /// What is at `offset` of `struct seccomp_data`.
    pub(super) fn word(&self, offset: u32) -> u32 {
        match offset {
            bpf::NUMBER => self.number,
            bpf::ARCH => self.arch,
            offset => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                if offset % 8 == 0 { low(argument) } else { (argument >> 32) as u32 }
            }
        }
    }

    /// What rules say of it, without any compiling.
    pub(super) fn judge(&self, rules: &BTreeMap<u32, Rule>, denied: Verdict) -> Verdict {
        if self.arch != bpf::X86_64 {
            return tables::UNKNOWN;
        }
        let mut rule = match rules.get(&self.number) {
            Some(rule) => rule,
            None if tables::KNOWN.iter().any(|known| known.contains(&self.number)) => return denied,
            None => return tables::UNKNOWN,
        };
        loop {
            let decision = match rule {
                Rule::Always(verdict) => return *verdict,
                Rule::Match(decision) => decision,
            };
            let bits = self.word(bpf::offset(decision.word)) & decision.mask;
            let arm = decision.arms.iter().find(|(values, _)| values.contains(&bits));
            rule = arm.map_or(&decision.otherwise, |(_, rule)| rule);
        }
    }

    /// Its name; its number, if agentd knows none.
    pub fn name(&self) -> String {
        names::name(self.number).map_or_else(|| self.number.to_string(), str::to_owned)
    }

    /// What of its arguments it was refused for, in the words of its manual page; `None` if it is refused whatever they
    /// are, and they are pointers.
    pub fn argument(&self) -> Option<String> {
        names::argument(self)
    }
}
