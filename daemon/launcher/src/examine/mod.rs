//! `agentctl doctor`: what the host offers, and what sessions left behind. Children look and clean up; one at a
//! time, and for one user at most once a second.

mod traces;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use agentd_kernel::packets::{PacketError, Packets};
use agentd_kernel::process::{self, Child, CloneArgs};
use agentd_policy::wire::{Check, FromLauncher, Leak, MAX_PACKET, RequestNumber, Status, decode, encode};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::doctor;
use crate::sessions::{Message, Sessions};
use agentd_session::error::HostError;
use traces::Trace;

/// How long a child may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks for the same user.
const REST: Duration = Duration::from_secs(1);
/// The most that wait.
const MAX_WAITING: usize = 64;

/// Why an examination was not finished.
#[derive(Debug, thiserror::Error)]
enum NotExamined {
    #[error("it is being asked for already")]
    Asked,
    #[error("it took too long")]
    TooLong,
    #[error("it ended before it had an answer")]
    Ended,
    #[error(transparent)]
    Host(#[from] HostError),
}

pub struct Asked {
    /// For the answer.
    pub request: RequestNumber,
    pub uid: u32,
    /// Which account that counts for.
    pub account: u32,
    /// Whether to look for what was left behind.
    pub leaks: bool,
    /// And to take it away.
    pub clean: bool,
}

/// What a child says in the end.
#[derive(Debug, Serialize, Deserialize)]
enum Found {
    /// What there is.
    Looked { checks: Vec<Check>, traces: Vec<Trace> },
    /// Which of the traces are gone.
    Cleaned(Vec<bool>),
}

/// What is being done.
struct Running {
    asked: Asked,
    /// Whether somebody waits for it.
    wanted: bool,
    socket: Packets,
    child: Child,
    until: Instant,
    /// Once the traces are known and are being taken away.
    checks: Vec<Check>,
    traces: Vec<Trace>,
}

#[derive(Default)]
pub struct Examiner {
    waiting: VecDeque<Asked>,
    running: Option<Running>,
    /// When the last look for an account began.
    last: BTreeMap<u32, Instant>,
    /// Children that have said what they had to say.
    done: Vec<Child>,
    /// A child that nobody watches yet.
    unwatched: bool,
}

impl Examiner {
    /// Takes a request. The answer comes later, or at once if there are too many.
    pub fn ask(&mut self, asked: Asked) -> Option<Message> {
        let again = self.waiting.iter().any(|other| other.account == asked.account);
        if again || self.waiting.len() >= MAX_WAITING {
            return Some(answer(asked.request, vec![not_done(&NotExamined::Asked)], Vec::new()));
        }
        self.waiting.push_back(asked);
        None
    }

    /// The service is gone: what runs is finished, without an answer.
    pub fn forget(&mut self) {
        self.waiting.clear();
        if let Some(running) = &mut self.running {
            running.wanted = false;
        }
    }

    /// The socket of a child that is new since the last call.
    pub fn unwatched(&mut self) -> Option<&Packets> {
        let new = std::mem::take(&mut self.unwatched);
        self.running.as_ref().filter(|_| new).map(|running| &running.socket)
    }

    /// Begins what is due, ends what takes too long.
    pub fn tick(&mut self, cx: &Context, sessions: &mut Sessions, now: Instant) -> Option<Message> {
        self.done.retain(|child| matches!(child.try_wait(), Ok(None)));
        if let Some(late) = self.running.take_if(|running| running.until <= now) {
            if let Err(error) = late.child.kill() {
                tracing::error!(%error, "an examination of the host cannot be ended");
            }
            return self.finish(cx, sessions, late, Some(&NotExamined::TooLong));
        }
        self.last.retain(|_, began| *began + REST > now);
        if self.running.is_some() {
            return None;
        }
        let due = self.waiting.iter().position(|asked| !self.last.contains_key(&asked.account))?;
        let asked = self.waiting.remove(due)?;
        self.last.insert(asked.account, now);
        sessions.begin_to_see();
        let (request, uid, leaks) = (asked.request, asked.uid, asked.leaks);
        let started = start(cx, sessions, |say| {
            let traces = if leaks { traces::find(cx, sessions) } else { Vec::new() };
            doctor::examine(cx, uid, |checks| say(&Found::Looked { checks, traces }))
        });
        match started {
            Ok((child, socket)) => {
                let until = now + DEADLINE;
                let (checks, traces) = (Vec::new(), Vec::new());
                self.running = Some(Running { asked, wanted: true, socket, child, until, checks, traces });
                self.unwatched = true;
                None
            }
            Err(error) => {
                sessions.seen();
                Some(answer(request, vec![not_done(&error)], Vec::new()))
            }
        }
    }

    /// When something is due.
    pub fn next_tick(&self) -> Option<Instant> {
        match &self.running {
            Some(running) => Some(running.until),
            None => {
                self.waiting.iter().filter_map(|asked| self.last.get(&asked.account)).map(|t| *t + REST).min()
            }
        }
    }

    /// The child says something, or has ended.
    pub fn receive(&mut self, cx: &Context, sessions: &mut Sessions) -> Option<Message> {
        let running = self.running.as_ref()?;
        let found = match running.socket.receive(MAX_PACKET, 0) {
            Err(PacketError::WouldBlock) => return None,
            Ok(Some(packet)) => decode::<Found>(&packet.bytes).map_err(|e| NotExamined::Host(e.into())),
            Ok(None) => Err(NotExamined::Ended),
            Err(error) => Err(NotExamined::Host(error.into())),
        };
        let mut running = self.running.take()?;
        match found {
            Ok(Found::Looked { checks, traces }) => {
                let seen = sessions.seen();
                running.checks = checks;
                running.traces = traces.into_iter().filter(|trace| !trace.is_of(&seen)).collect();
                if !running.asked.clean || running.traces.is_empty() {
                    return self.finish(cx, sessions, running, None);
                }
                let traces = running.traces.clone();
                let started = start(cx, sessions, |say| {
                    say(&Found::Cleaned(traces.iter().map(|trace| trace.clean(cx, sessions)).collect()))
                });
                match started {
                    Ok((child, socket)) => {
                        self.done.push(std::mem::replace(&mut running.child, child));
                        running.socket = socket;
                        running.until = Instant::now() + DEADLINE;
                        self.running = Some(running);
                        self.unwatched = true;
                        None
                    }
                    Err(error) => self.finish(cx, sessions, running, Some(&error)),
                }
            }
            Ok(Found::Cleaned(gone)) => {
                for (trace, gone) in running.traces.iter_mut().zip(gone) {
                    trace.cleaned = gone;
                }
                self.finish(cx, sessions, running, None)
            }
            Err(error) => self.finish(cx, sessions, running, Some(&error)),
        }
    }

    fn finish(
        &mut self,
        cx: &Context,
        sessions: &mut Sessions,
        running: Running,
        problem: Option<&NotExamined>,
    ) -> Option<Message> {
        sessions.seen();
        if running.asked.clean && running.traces.iter().any(Trace::is_overlay) {
            // What the child did not finish.
            sessions.take_up_deletions(cx);
        }
        for uid in running.traces.iter().filter(|trace| trace.cleaned).filter_map(Trace::user) {
            sessions.leave_user(uid);
        }
        let Running { asked, wanted, child, mut checks, traces, .. } = running;
        self.done.push(child);
        checks.extend(problem.map(not_done));
        wanted.then(|| answer(asked.request, checks, traces.iter().map(Trace::leak).collect()))
    }
}

/// Starts a child that looks by `look`, which is given the way to say what it found; and its socket.
fn start(
    cx: &Context,
    sessions: &Sessions,
    look: impl FnOnce(&dyn Fn(&Found) -> Result<(), HostError>) -> Result<(), HostError>,
) -> Result<(Child, Packets), NotExamined> {
    let (ours, theirs) = Packets::pair().map_err(HostError::from)?;
    ours.set_nonblocking(true).map_err(HostError::from)?;
    let child = process::spawn(cx.token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
        let mut keep: Vec<BorrowedFd<'_>> = vec![theirs.as_fd()];
        keep.extend(cx.host.descriptors());
        keep.extend(cx.directories.descriptors());
        keep.extend(sessions.hierarchies().descriptors());
        let say = |found: &Found| -> Result<(), HostError> { Ok(theirs.send(&encode(found)?, &[])?) };
        let begun = process::set_title(c"agentd-doctor").and_then(|()| process::close_all_but(&keep));
        match begun.map_err(HostError::from).and_then(|()| look(&say)) {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!(%error, "the host could not be examined");
                1
            }
        }
    });
    Ok((child.map_err(HostError::from)?, ours))
}

fn answer(request: RequestNumber, checks: Vec<Check>, leaks: Vec<Leak>) -> Message {
    (FromLauncher::Examined { request, checks, leaks }, Vec::new())
}

fn not_done(why: &NotExamined) -> Check {
    Check {
        name: "doctor".into(),
        status: Status::Reduced,
        found: format!("the examination was not finished: {why}"),
        impact: "this report is not complete".into(),
        fix: "ask again in a few seconds".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_fill_the_queue() {
        let mut examiner = Examiner::default();
        let ask =
            |n: u64, uid| Asked { request: RequestNumber(n), uid, account: uid, leaks: false, clean: false };
        assert!(examiner.ask(ask(1, 1000)).is_none());
        assert!(examiner.ask(ask(2, 1000)).is_some());
        for uid in 1..u32::try_from(MAX_WAITING).unwrap() {
            assert!(examiner.ask(ask(uid.into(), 2000 + uid)).is_none());
        }
        assert!(examiner.ask(ask(3, 3000)).is_some());
        examiner.forget();
        assert!(examiner.ask(ask(4, 3000)).is_none());
    }
}
