//! Execs of the session: each is asked about, and let through if it can be recorded in full.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::exec_watch::{Attempt, ExecWatch};
use agentd_policy::event::{EventBody, ExecResult};
use agentd_policy::rule::Rule;

use super::Keeper;
use super::processes::{Ended, Met, Processes};
use super::refused::Refused;
use super::source::Source;
use crate::error::{HostError, On as _};

/// What runs in the session, and what of it is audited.
pub struct ExecAudit {
    /// fanotify: every exec of a file waits for an answer.
    pub execs: ExecWatch,
    /// The session's processes that have run something.
    pub processes: Processes,
    /// System calls that the filter refused, from when init is confined until it has ended.
    pub refused: Option<Refused>,
}

impl ExecAudit {
    /// Of a session whose init is not confined. `proc` is the host's /proc.
    pub fn new(execs: ExecWatch, proc: OwnedFd) -> Self {
        Self { execs, processes: Processes::new(proc), refused: None }
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let own = [self.execs.as_fd(), self.execs.closes_fd()].into_iter();
        own.chain(self.refused.as_ref().map(AsFd::as_fd)).chain(self.processes.descriptors())
    }
}

impl Keeper {
    pub(super) fn execs(&mut self) -> Result<(), HostError> {
        let attempts = self.audit.execs.read(self.proc.as_fd()).on("fanotify")?;
        if attempts.overflow {
            self.spool.lost(1);
        }
        self.limits.active();
        let now = Instant::now();
        self.files.scratches.active(now);
        // What the next program takes away has been there.
        for event in self.files.scratches.look().on("scratch")? {
            self.spool.push(event);
        }
        for attempt in attempts.attempts {
            // Whatever a thread closed before it opens another file is reported by now.
            self.closes()?;
            // An exec that cannot be recorded is refused: no room, a file without a name, a process without a pidfd.
            let room = self.spool.has_room_for(self.audit.processes.unsettled() + 1);
            let met = if room { self.follow(&attempt) } else { Met::Unknown };
            if met == Met::Unknown {
                let actor = self.audit.processes.actor(attempt.thread);
                let path = attempt.path.clone().unwrap_or_else(|| "(unnameable)".into());
                let rule = if room { Rule::AuditUnnameable } else { Rule::AuditRoom }.into();
                self.spool.push(EventBody::ExecRefused { actor, path, rule });
            }
            let allow = !matches!(met, Met::Unknown | Met::Gone);
            self.audit.execs.answer(&attempt, allow).on("fanotify")?;
            if allow {
                self.audit.processes.let_through(attempt);
            }
        }
        Ok(())
    }

    /// Remembers who runs what; whether that could be done.
    fn follow(&mut self, attempt: &Attempt) -> Met {
        let (met, events) = self.audit.processes.attempt(&self.audit.execs, attempt);
        events.into_iter().for_each(|event| self.spool.push_of_process(event));
        match met {
            Met::New(pid) => {
                let source = Source::Process(pid.unsigned_abs());
                let pidfd = self.audit.processes.pidfd(pid);
                let followed =
                    pidfd.is_some_and(|pidfd| self.event_loop.add(pidfd, source, EventFlags::IN).is_ok());
                if followed { met } else { Met::Unknown }
            }
            Met::Gone => {
                // It was killed while it waited: nothing runs.
                let actor = self.audit.processes.actor(attempt.thread);
                let path = attempt.path.clone().unwrap_or_else(|| "(unnameable)".into());
                let (result, count) = (ExecResult::Failed, 1);
                let (interpreters, argv, image) = Default::default();
                self.spool.push_of_process(EventBody::Exec {
                    actor,
                    path,
                    interpreters,
                    argv,
                    result,
                    image,
                    count,
                });
                met
            }
            Met::Known | Met::Unknown => met,
        }
    }

    /// Files that were to be run were closed.
    pub(super) fn closes(&mut self) -> Result<(), HostError> {
        let closes = self.audit.execs.closes().on("fanotify")?;
        let events = self.audit.processes.closed(&self.audit.execs, &closes);
        events.into_iter().for_each(|event| self.spool.push_of_process(event));
        Ok(())
    }

    /// From now on calls that the filter refuses are received.
    pub(super) fn watch_refused(&mut self, listener: OwnedFd) -> Result<(), HostError> {
        let listener = Refused::new(listener)?;
        self.event_loop.add(&listener, Source::Refused, EventFlags::IN).on("epoll")?;
        self.audit.refused = Some(listener);
        Ok(())
    }

    pub(super) fn calls_refused(&mut self) -> Result<(), HostError> {
        let Some(refused) = &mut self.audit.refused else { return Ok(()) };
        let turn = refused.receive(&self.audit.processes, Instant::now());
        let turn = turn.on("seccomp")?;
        self.spool.lost(turn.lost);
        turn.events.into_iter().for_each(|event| self.spool.push_of_process(event));
        if turn.last {
            self.refused_at_last();
        }
        Ok(())
    }

    /// What was still being counted is recorded, and nothing more is received.
    pub(super) fn refused_at_last(&mut self) {
        let Some(refused) = self.audit.refused.take() else { return };
        // Init may have it open for a moment yet. It may be gone from there by itself.
        self.event_loop.remove(&refused).ok();
        refused.flush().into_iter().for_each(|event| self.spool.push_of_process(event));
    }

    pub(super) fn process_ended(&mut self, number: u32) -> Result<(), HostError> {
        let pid = i32::try_from(number).map_err(|_| HostError::unfit("a token of no process"))?;
        match self.audit.processes.ended(&self.audit.execs, pid) {
            Ended::Done(events) => events.into_iter().for_each(|e| self.spool.push_of_process(e)),
            Ended::NotReaped => {
                // Hang-ups, the sign that it was reaped, are reported without being asked for.
                if let Some(pidfd) = self.audit.processes.pidfd(pid) {
                    self.event_loop
                        .modify(pidfd, Source::Process(number), EventFlags::empty())
                        .on("epoll")?;
                }
            }
            Ended::Unknown => {}
        }
        Ok(())
    }
}
