//! The session's processes that were seen to exec: what they ran, and their end.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::exec_watch::{Attempt, Closes, ExecWatch};
use agentd_kernel::process::{self, PidfdExit};
use agentd_kernel::procfs::{self, FileId, Ids, Memory, ThreadState};
use agentd_policy::event::{Actor, EventBody, ExecResult};
use rustix::process::{Pid, PidfdFlags};

use super::calls::{Before, Calls, Outcome};
use super::repeats::Repeats;
use super::watched::WatchedFiles;

/// Between a process's being let through and its image changing: when to look, in microseconds.
const LOOKS: [u64; 12] = [60, 90, 150, 200, 300, 700, 2_000, 6_000, 20_000, 60_000, 200_000, 700_000];
/// From so many looks on the thread is asked where it is: a call takes less, if its processor is not taken away.
const LATE: usize = 7;
/// The most that is kept of one argument, and of all, in bytes.
const MAX_ARGUMENT: usize = 4096;
// See [`MAX_ARGUMENT`].
const MAX_ARGUMENTS: usize = 16 << 10;

/// What the kernel says that a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exe {
    File(FileId),
    /// We may not know.
    Hidden,
    /// It has no image any more.
    Gone,
}

impl Exe {
    fn of(proc: BorrowedFd<'_>, pid: i32) -> Self {
        match procfs::running(proc, pid) {
            Ok(file) => Self::File(file),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Self::Hidden,
            Err(_) => Self::Gone,
        }
    }

    fn file(self) -> Option<FileId> {
        match self {
            Self::File(file) => Some(file),
            Self::Hidden | Self::Gone => None,
        }
    }
}

/// How an image differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    /// It does; the new one is not there in full.
    Begun,
    Done,
    /// There is none to be seen.
    Gone,
}

#[derive(Debug)]
struct Known {
    pidfd: OwnedFd,
    ids: Ids,
    parent: Option<u32>,
    /// What it runs, as it was last seen.
    exe: Exe,
    memory: Memory,
    /// The name of that.
    path: Option<String>,
    calls: Calls,
    repeats: Repeats,
    looks: usize,
    next: Option<Instant>,
}

impl Known {
    fn actor(&self) -> Actor {
        Actor { pid: self.ids.pid, ppid: self.parent, exe: self.path.clone() }
    }

    fn before(&self) -> Before {
        Before { exe: self.exe.file(), forked: self.memory.forked }
    }

    /// Looks at the image. One of the same file is new if it lies elsewhere, or is the first of its own: asked only if
    /// such a file was opened, or before a call is said to have failed.
    fn change(&self, proc: BorrowedFd<'_>, pid: i32, memory: Option<Memory>) -> (Change, Exe, Memory) {
        let exe = Exe::of(proc, pid);
        let alike = exe == self.exe;
        let plain = !self.calls.has_over() && exe.file().is_some_and(|file| !self.calls.includes(file));
        if alike && memory.is_none() && plain {
            return (Change::None, exe, self.memory);
        }
        let memory = memory.filter(|_| alike).or_else(|| procfs::memory(proc, pid).ok());
        // Between the two the image may have changed: then the next look sees one that is whole.
        let exe = if Exe::of(proc, pid) == exe { exe } else { return (Change::Begun, exe, self.memory) };
        let (Some(memory), false) = (memory, exe == Exe::Gone) else {
            return (Change::Gone, exe, self.memory);
        };
        let another = !alike
            || (self.memory.forked && !memory.forked)
            || (exe != Exe::Hidden && memory.places != self.memory.places);
        let complete = exe == Exe::Hidden || memory.places.iter().all(|place| *place != 0);
        let change = match (another, complete) {
            (false, _) => Change::None,
            (true, true) => Change::Done,
            (true, false) => Change::Begun,
        };
        (change, exe, memory)
    }
}

/// All of them, by the host's pid.
#[derive(Debug)]
pub struct Processes {
    proc: OwnedFd,
    known: BTreeMap<i32, Known>,
    files: WatchedFiles,
    /// Our own program, which init's children run until they exec: its name is the host's.
    ours: Exe,
}

/// Whether a process is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// From now on: its pidfd is to be watched.
    New(i32),
    Known,
    /// It could not be asked or held by a pidfd.
    Unknown,
    /// The thread was killed while it waited: it runs nothing.
    Gone,
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
        let ours = Exe::of(proc.as_fd(), std::process::id().cast_signed());
        Self { proc, known: BTreeMap::new(), files: WatchedFiles::default(), ours }
    }

    /// A thread waits to run a file: remembers it while the kernel holds it still. Whether its process is known, and
    /// what is certain by now of calls before.
    pub fn attempt(&mut self, watch: &ExecWatch, attempt: &Attempt) -> (Met, Vec<EventBody>) {
        let (Some(path), Some(file)) = (&attempt.path, attempt.file) else {
            return (Met::Unknown, Vec::new());
        };
        let thread = attempt.thread;
        let proc = self.proc.as_fd();
        let Ok(mut memory) = procfs::memory(proc, thread) else { return (Met::Gone, Vec::new()) };
        let mut pid = thread;
        if self.known.get(&thread).is_none_or(|known| known.memory.began != memory.began) {
            // Another thread than the first, or a process that is new.
            let Ok(ids) = procfs::ids(proc, thread) else { return (Met::Gone, Vec::new()) };
            pid = i32::try_from(ids.group).unwrap_or_default();
            if pid != thread {
                let Ok(group) = procfs::memory(proc, pid) else { return (Met::Gone, Vec::new()) };
                memory = group;
            }
        }
        let mut events = Vec::new();
        let mut met = Met::Known;
        if self.known.get(&pid).is_some_and(|known| known.memory.began != memory.began) {
            // Its number was given to another.
            events.extend(self.forget(watch, pid));
        }
        if !self.known.contains_key(&pid) {
            let Some(known) = self.meet(pid, memory) else { return (Met::Unknown, events) };
            self.known.insert(pid, known);
            met = Met::New(pid);
        }
        events.extend(self.look_at(watch, pid, Some(memory)));
        let Some(known) = self.known.get_mut(&pid) else { return (Met::Unknown, events) };
        let marked = self.files.mark(watch, attempt);
        let before = known.before();
        let outcomes = known.calls.open(thread, file, path, marked, before);
        (known.looks, known.next) = (0, Some(Instant::now() + Duration::from_micros(LOOKS[0])));
        events.extend(outcome_events(known, outcomes, None, &mut self.files, watch));
        (met, events)
    }

    /// The attempt was let through: its file stays watched until it is known what became of it.
    pub fn let_through(&mut self, attempt: Attempt) {
        self.files.keep(attempt);
    }

    /// Who waits, for an attempt that is refused.
    pub fn actor(&self, thread: i32) -> Actor {
        if let Some(known) = self.known.get(&thread) {
            return known.actor();
        }
        let ids = procfs::ids(self.proc.as_fd(), thread).unwrap_or_default();
        match i32::try_from(ids.group).ok().and_then(|pid| self.known.get(&pid)) {
            Some(known) => known.actor(),
            None => Actor { pid: ids.pid, ppid: None, exe: None },
        }
    }

    /// The program that a thread runs which waits for us; `None` if it is gone.
    pub fn caller(&self, thread: i32) -> Option<Actor> {
        let proc = self.proc.as_fd();
        let mut ids = procfs::ids(proc, thread).ok()?;
        let pid = i32::try_from(ids.group).ok()?;
        if pid != thread {
            ids = procfs::ids(proc, pid).ok()?;
        }
        // Of the thread: a process whose first one has ended has none. A file that was renamed since it was run is
        // called what it was called then.
        let exe = match (Exe::of(proc, thread), self.known.get(&pid)) {
            (exe, _) if exe == self.ours => None,
            (exe, Some(known)) if exe == known.exe && known.path.is_some() => known.path.clone(),
            _ => procfs::link(proc, &thread.to_string(), "exe").ok(),
        };
        let parent = i32::try_from(ids.parent).ok().and_then(|parent| self.known.get(&parent));
        Some(Actor { pid: ids.pid, ppid: parent.map(|parent| parent.ids.pid), exe })
    }

    /// The host's /proc.
    pub fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    fn meet(&self, pid: i32, memory: Memory) -> Option<Known> {
        let proc = self.proc.as_fd();
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let ids = procfs::ids(proc, pid).ok()?;
        let exe = Exe::of(proc, pid);
        let parent = self.known.get(&(i32::try_from(ids.parent).ok()?));
        // A process that was forked runs what its parent runs.
        let path = match parent.filter(|parent| exe.file().is_some() && parent.exe == exe) {
            Some(parent) => parent.path.clone(),
            None if exe == self.ours => None,
            None => procfs::link(proc, &pid.to_string(), "exe").ok(),
        };
        let parent = match parent {
            Some(parent) => Some(parent.ids.pid),
            None => procfs::ids(proc, i32::try_from(ids.parent).ok()?).ok().map(|i| i.pid),
        };
        let calls = Calls::default();
        let repeats = Repeats::default();
        Some(Known { pidfd, ids, parent, exe, memory, path, calls, repeats, looks: 0, next: None })
    }

    /// Files were closed: whose calls are over by that, and what became of them.
    pub fn closed(&mut self, watch: &ExecWatch, closes: &Closes) -> Vec<EventBody> {
        if closes.overflow {
            self.known.values_mut().for_each(|known| known.calls.doubt(None));
        }
        let mut concerned = Vec::new();
        for (thread, file) in &closes.closes {
            let leader = self.known.get(thread).is_some_and(|known| known.calls.has(*thread));
            let pid = match leader {
                true => Some(*thread),
                false => self.known.iter().find(|(_, known)| known.calls.has(*thread)).map(|(pid, _)| *pid),
            };
            if let Some((pid, known)) = pid.and_then(|pid| Some((pid, self.known.get_mut(&pid)?))) {
                known.calls.closed(*thread, *file);
                if !concerned.contains(&pid) {
                    concerned.push(pid);
                }
            }
        }
        concerned.into_iter().flat_map(|pid| self.look_at(watch, pid, None)).collect()
    }

    /// The execs whose image has changed by now, or that will not any more.
    pub fn look(&mut self, watch: &ExecWatch, now: Instant) -> Vec<EventBody> {
        let due = |known: &Known| known.next.is_some_and(|next| next <= now);
        let pids: Vec<i32> = self.known.iter().filter(|(_, known)| due(known)).map(|(pid, _)| *pid).collect();
        let mut events = Vec::new();
        for pid in pids {
            let Some(known) = self.known.get_mut(&pid) else { continue };
            known.looks += 1;
            let wait = LOOKS.get(known.looks).or(LOOKS.last()).copied().unwrap_or_default();
            known.next = Some(now + Duration::from_micros(wait));
            if known.looks >= LATE {
                for thread in known.calls.threads() {
                    let state = procfs::thread_state(self.proc.as_fd(), pid, thread);
                    if matches!(state, Ok(ThreadState::Elsewhere | ThreadState::Gone)) {
                        known.calls.left(thread);
                    }
                }
            }
            events.extend(self.look_at(watch, pid, None));
        }
        for known in self.known.values_mut() {
            let repeated = known.repeats.flush_older(now);
            events.extend(repeated.map(|(outcome, count)| exec(known, outcome, count, None)));
        }
        events
    }

    /// Looks at one process's image: what is certain of its calls now.
    fn look_at(&mut self, watch: &ExecWatch, pid: i32, memory: Option<Memory>) -> Vec<EventBody> {
        let Self { proc, known, files, .. } = self;
        let Some(known) = known.get_mut(&pid).filter(|known| !known.calls.is_empty()) else {
            return Vec::new();
        };
        let (change, exe, memory) = known.change(proc.as_fd(), pid, memory);
        let before = known.before();
        let events = match change {
            // Its number may stay with the parent for long.
            Change::Gone if process::has_ended(known.pidfd.as_fd()) => gone(known, files, watch),
            Change::Begun | Change::Gone => Vec::new(),
            // What cannot be seen may have changed.
            Change::None if exe == Exe::Hidden => Vec::new(),
            Change::None => {
                known.memory = memory;
                let outcomes = known.calls.unchanged(before);
                outcome_events(known, outcomes, None, files, watch)
            }
            Change::Done => {
                let (found, outcomes) = known.calls.changed(exe.file(), before);
                let name = procfs::link(proc.as_fd(), &pid.to_string(), "exe").ok();
                let argv =
                    procfs::arguments(proc.as_fd(), pid).ok().filter(|arguments| !arguments.is_empty());
                let image = Image { name, argv: argv.map(bounded), unasked: !found && exe != Exe::Hidden };
                let events = outcome_events(known, outcomes, Some(image), files, watch);
                (known.exe, known.memory) = (exe, memory);
                events
            }
        };
        if known.calls.is_empty() {
            known.next = None;
        }
        events
    }

    /// When to look next.
    pub fn next_look(&self) -> Option<Instant> {
        self.known.values().flat_map(|k| [k.next, k.repeats.due()]).flatten().min()
    }

    /// How many events are still to come of what was let through.
    pub fn unsettled(&self) -> usize {
        self.known.values().map(|known| known.calls.len() + known.repeats.len()).sum()
    }

    /// The pidfd of `pid` reported something.
    pub fn ended(&mut self, watch: &ExecWatch, pid: i32) -> Ended {
        let Some(known) = self.known.get(&pid) else { return Ended::Unknown };
        if !process::has_ended(known.pidfd.as_fd()) {
            return Ended::Unknown;
        }
        match process::exit_of(known.pidfd.as_fd()) {
            PidfdExit::NotReaped => Ended::NotReaped,
            PidfdExit::Status(_) | PidfdExit::Unsupported => Ended::Done(self.forget(watch, pid)),
        }
    }

    /// The events of a process's end.
    fn forget(&mut self, watch: &ExecWatch, pid: i32) -> Vec<EventBody> {
        let Some(mut known) = self.known.remove(&pid) else { return Vec::new() };
        let status = match process::exit_of(known.pidfd.as_fd()) {
            PidfdExit::Status(status) => Some(status),
            PidfdExit::NotReaped | PidfdExit::Unsupported => None,
        };
        let mut events = gone(&mut known, &mut self.files, watch);
        let repeated = known.repeats.flush();
        events.extend(repeated.map(|(outcome, count)| exec(&known, outcome, count, None)));
        events.push(EventBody::Exit { actor: known.actor(), status });
        events
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
    pub fn all_ended(&mut self, watch: &ExecWatch) -> Vec<EventBody> {
        let pids: Vec<i32> = self.known.keys().copied().collect();
        pids.into_iter().flat_map(|pid| self.forget(watch, pid)).collect()
    }
}

/// An image that is new, as it says of itself and the kernel of it.
struct Image {
    name: Option<String>,
    argv: Option<Vec<String>>,
    /// No attempt was seen for its file.
    unasked: bool,
}

/// The events of calls whose process is gone. If one of them may have run, what ended cannot be named.
fn gone(known: &mut Known, files: &mut WatchedFiles, watch: &ExecWatch) -> Vec<EventBody> {
    let before = known.before();
    let outcomes = known.calls.gone(before);
    let doubt = outcomes.iter().any(|outcome| outcome.result == ExecResult::Unknown);
    let events = outcome_events(known, outcomes, None, files, watch);
    if doubt {
        known.path = None;
    }
    events
}

/// The events of what has become certain.
fn outcome_events(
    known: &mut Known,
    outcomes: Vec<Outcome>,
    image: Option<Image>,
    files: &mut WatchedFiles,
    watch: &ExecWatch,
) -> Vec<EventBody> {
    let mut events = Vec::new();
    let mut program = None;
    for outcome in outcomes {
        outcome.marked.iter().for_each(|file| files.release(watch, *file));
        program = program.or_else(|| outcome.program.clone());
        for (outcome, count) in known.repeats.pass(outcome, Instant::now()) {
            events.push(exec(known, outcome, count, image.as_ref()));
        }
    }
    if let Some(image) = image {
        if let Some(path) = image.name.clone().filter(|_| image.unasked) {
            let outcome = Outcome { path, result: ExecResult::Ran, ..Outcome::default() };
            events.push(exec(known, outcome, 1, Some(&image)));
        }
        known.path = image.name.or(program);
    }
    events
}

fn exec(known: &Known, outcome: Outcome, count: u64, image: Option<&Image>) -> EventBody {
    let Outcome { path, interpreters, result, program, .. } = outcome;
    let image = image.filter(|_| result == ExecResult::Ran);
    let name = image.and_then(|image| image.name.clone()).or(program).filter(|name| *name != path);
    let argv = image.and_then(|image| image.argv.clone());
    EventBody::Exec { actor: known.actor(), path, interpreters, argv, result, image: name, count }
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
