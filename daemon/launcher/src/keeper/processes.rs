//! The session's processes that were seen to exec: what they ran, and their end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::process::{self, PidfdExit};
use agentd_kernel::procfs::{self, Ids};
use agentd_policy::event::{Actor, EventBody};
use rustix::process::{Pid, PidfdFlags};

/// Between a process's being let through and its image changing: when to look, in microseconds.
const LOOKS: [u64; 12] = [60, 90, 150, 200, 300, 700, 2_000, 6_000, 20_000, 60_000, 200_000, 700_000];
/// The most that is kept of one argument, and of all, in bytes.
const MAX_ARGUMENT: usize = 4096;
/// See [`MAX_ARGUMENT`].
const MAX_ARGUMENTS: usize = 16 << 10;
/// The most interpreters of one exec.
const MAX_INTERPRETERS: usize = 8;

/// What the kernel was asked for and let through, but has not done yet as far as we saw.
#[derive(Debug)]
struct Pending {
    path: String,
    interpreters: Vec<String>,
    before: [u64; 3],
    looks: usize,
    next: Instant,
}

/// One process.
#[derive(Debug)]
struct Known {
    pidfd: OwnedFd,
    ids: Ids,
    parent: Option<u32>,
    exe: Option<String>,
    pending: Option<Pending>,
}

impl Known {
    fn actor(&self) -> Actor {
        Actor { pid: self.ids.pid, ppid: self.parent, exe: self.exe.clone() }
    }
}

/// All of them, by the host's pid.
#[derive(Debug)]
pub struct Processes {
    proc: OwnedFd,
    known: BTreeMap<i32, Known>,
}

/// Whether a process is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// From now on: its pidfd is to be watched.
    New,
    /// It was.
    Known,
    /// It could not be asked or held by a pidfd.
    Unknown,
}

/// What became of a process whose pidfd reported something.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its events are complete and it is forgotten.
    Done(Vec<EventBody>),
    /// It has ended but was not reaped: look again at the pidfd's hang-up.
    NotReaped,
    /// Nobody we know.
    Unknown,
}

impl Processes {
    /// None yet; `proc` is the host's /proc.
    pub fn new(proc: OwnedFd) -> Self {
        Self { proc, known: BTreeMap::new() }
    }

    /// A process waits to run the file `path`: remembers it while the kernel holds it still. Whether it is
    /// known, and the event of an exec that is now known to be over.
    pub fn attempt(&mut self, pid: i32, path: &str) -> (Met, Option<EventBody>) {
        let now = Instant::now();
        let before = procfs::image(self.proc.as_fd(), pid).unwrap_or([0; 3]);
        let mut event = None;
        let mut met = Met::Known;
        if !self.known.contains_key(&pid) {
            match self.meet(pid) {
                Some(known) => {
                    self.known.insert(pid, known);
                    met = Met::New;
                }
                None => return (Met::Unknown, None),
            }
        }
        let Self { proc, known } = self;
        let Some(known) = known.get_mut(&pid) else { return (Met::Unknown, None) };
        match &mut known.pending {
            // The same exec goes on: a script's interpreter, or the ELF loader.
            Some(pending) if pending.before == before => {
                if pending.interpreters.len() < MAX_INTERPRETERS {
                    pending.interpreters.push(path.to_owned());
                }
                // It is the loader that comes last: the image changes in a moment.
                (pending.looks, pending.next) = (0, now + Duration::from_micros(LOOKS[0]));
            }
            _ => {
                event = settle(proc.as_fd(), pid, known);
                let path = path.to_owned();
                let next = now + Duration::from_micros(LOOKS[0]);
                known.pending = Some(Pending { path, interpreters: Vec::new(), before, looks: 0, next });
            }
        }
        (met, event)
    }

    /// Who waits, for an attempt that is refused.
    pub fn actor(&self, pid: i32) -> Actor {
        match self.known.get(&pid) {
            Some(known) => known.actor(),
            None => {
                let ids = procfs::ids(self.proc.as_fd(), pid).unwrap_or_default();
                Actor { pid: ids.pid, ppid: None, exe: None }
            }
        }
    }

    fn meet(&self, pid: i32) -> Option<Known> {
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let ids = procfs::ids(self.proc.as_fd(), pid).ok()?;
        let parent = match self.known.get(&(i32::try_from(ids.parent).ok()?)) {
            Some(parent) => Some(parent.ids.pid),
            None => procfs::ids(self.proc.as_fd(), i32::try_from(ids.parent).ok()?).ok().map(|i| i.pid),
        };
        Some(Known { pidfd, ids, parent, exe: None, pending: None })
    }

    /// The execs whose image has changed by now, or that will not any more.
    pub fn look(&mut self, now: Instant) -> Vec<EventBody> {
        let mut events = Vec::new();
        let Self { proc, known } = self;
        for (pid, known) in known {
            let Some(pending) = known.pending.as_mut().filter(|p| p.next <= now) else { continue };
            // A new image is there before its arguments are.
            let changed = procfs::image(proc.as_fd(), *pid).is_ok_and(|image| image != pending.before)
                && procfs::arguments(proc.as_fd(), *pid).is_ok_and(|arguments| !arguments.is_empty());
            pending.looks += 1;
            match LOOKS.get(pending.looks) {
                Some(wait) if !changed => pending.next = now + Duration::from_micros(*wait),
                _ => events.extend(settle(proc.as_fd(), *pid, known)),
            }
        }
        events
    }

    /// When to look next.
    pub fn next_look(&self) -> Option<Instant> {
        self.known.values().filter_map(|k| k.pending.as_ref()).map(|p| p.next).min()
    }

    /// The pidfd of `pid` reported something.
    pub fn ended(&mut self, pid: i32) -> Ended {
        let Some(known) = self.known.get_mut(&pid) else { return Ended::Unknown };
        let status = match process::exit_of(known.pidfd.as_fd()) {
            PidfdExit::NotReaped => return Ended::NotReaped,
            PidfdExit::Status(status) => Some(status),
            PidfdExit::Unsupported => None,
        };
        let mut events: Vec<_> = settle(self.proc.as_fd(), pid, known).into_iter().collect();
        events.push(EventBody::Exit { actor: known.actor(), status });
        self.known.remove(&pid);
        Ended::Done(events)
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let processes = self.known.values().map(|k| k.pidfd.as_fd());
        std::iter::once(self.proc.as_fd()).chain(processes).collect()
    }

    /// The pidfd of `pid`.
    pub fn pidfd(&self, pid: i32) -> Option<BorrowedFd<'_>> {
        self.known.get(&pid).map(|k| k.pidfd.as_fd())
    }

    /// Everybody who is left, at the end of the session, when nobody is.
    pub fn all_ended(&mut self) -> Vec<EventBody> {
        let pids: Vec<i32> = self.known.keys().copied().collect();
        let mut events = Vec::new();
        for pid in pids {
            match self.ended(pid) {
                Ended::Done(more) => events.extend(more),
                Ended::NotReaped | Ended::Unknown => {
                    if let Some(mut known) = self.known.remove(&pid) {
                        events.extend(settle(self.proc.as_fd(), pid, &mut known));
                        events.push(EventBody::Exit { actor: known.actor(), status: None });
                    }
                }
            }
        }
        events
    }
}

/// The event of a pending exec. Its arguments are read only from an image that has changed.
fn settle(proc: BorrowedFd<'_>, pid: i32, known: &mut Known) -> Option<EventBody> {
    let pending = known.pending.take()?;
    let changed = procfs::image(proc, pid).is_ok_and(|image| image != pending.before);
    let argv = if changed { procfs::arguments(proc, pid).ok() } else { None };
    let argv = argv.filter(|arguments| !arguments.is_empty()).map(bounded);
    let actor = known.actor();
    // An image that cannot be asked any more has ended: it ran, as far as anybody can tell.
    if changed || procfs::image(proc, pid).map_or(true, |image| image == [0; 3]) {
        known.exe = Some(pending.path.clone());
    }
    Some(EventBody::Exec { actor, path: pending.path, interpreters: pending.interpreters, argv })
}

fn bounded(arguments: Vec<String>) -> Vec<String> {
    let mut left = MAX_ARGUMENTS;
    let mut out = Vec::new();
    for mut argument in arguments {
        let most = left.min(MAX_ARGUMENT);
        if argument.len() > most {
            let cut = (0..=most).rev().find(|at| argument.is_char_boundary(*at)).unwrap_or(0);
            argument.truncate(cut);
            argument.push('…');
        }
        left = left.saturating_sub(argument.len() + 1);
        out.push(argument);
        if left == 0 {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_bounded() {
        let all = bounded(vec!["ü".repeat(10_000); 100]);
        assert!(all.iter().map(String::len).sum::<usize>() <= MAX_ARGUMENTS + 16);
        assert_eq!(bounded(vec!["a".into(), String::new()]), ["a", ""]);
    }
}
