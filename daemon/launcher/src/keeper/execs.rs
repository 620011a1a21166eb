//! Execs of the session: each is asked about, and let through if it can be told in full.

use std::os::fd::AsFd;

use agentd_kernel::exec_watch::Attempt;
use agentd_policy::event::EventBody;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::processes::{Ended, Met};
use super::{Keeper, PROCESS};

impl Keeper {
    pub(super) fn execs(&mut self) -> Result<(), String> {
        let attempts = self.execs.read(self.proc.as_fd()).map_err(|e| format!("fanotify: {e}"))?;
        if attempts.overflow {
            self.spool.lost(1);
        }
        self.limits.active();
        for attempt in attempts.attempts {
            // What cannot be told in full is refused: no room, a file without a name, a process without a pidfd.
            let room = self.spool.has_room();
            let allow = room && self.follow(&attempt);
            if !allow {
                let actor = self.processes.actor(attempt.pid);
                let path = attempt.path.clone().unwrap_or_else(|| "(unnameable)".into());
                let rule = if room { "audit.unnameable" } else { "audit.room" }.into();
                self.spool.push(EventBody::ExecRefused { actor, path, rule });
            }
            self.execs.answer(attempt, allow).map_err(|e| format!("fanotify: {e}"))?;
        }
        Ok(())
    }

    /// Remembers who runs what; whether that could be done.
    fn follow(&mut self, attempt: &Attempt) -> bool {
        let Some(path) = &attempt.path else { return false };
        let (known, event) = self.processes.attempt(attempt.pid, path);
        if let Some(event) = event {
            self.tell(event);
        }
        match known {
            Met::New => {
                let data = EventData::new_u64(PROCESS | u64::from(attempt.pid.unsigned_abs()));
                let pidfd = self.processes.pidfd(attempt.pid);
                pidfd.is_some_and(|pidfd| epoll::add(&self.epoll, pidfd, data, EventFlags::IN).is_ok())
            }
            Met::Known => true,
            Met::Unknown => false,
        }
    }

    pub(super) fn process_ended(&mut self, token: u64) -> Result<(), String> {
        let pid = i32::try_from(token & (PROCESS - 1)).map_err(|e| e.to_string())?;
        match self.processes.ended(pid) {
            Ended::Done(events) => events.into_iter().for_each(|e| self.tell(e)),
            Ended::NotReaped => {
                // Hang-ups, the sign that it was reaped, are reported without being asked for.
                if let Some(pidfd) = self.processes.pidfd(pid) {
                    epoll::modify(&self.epoll, pidfd, EventData::new_u64(token), EventFlags::empty())
                        .map_err(|e| format!("epoll: {e}"))?;
                }
            }
            Ended::Unknown => {}
        }
        Ok(())
    }

    /// Tells of a process, once the session has started: the command's own exec is seen before init hears
    /// that it succeeded.
    pub(super) fn tell(&mut self, event: EventBody) {
        match &mut self.early {
            Some(early) => early.push(event),
            None => self.spool.push(event),
        }
    }

    pub(super) fn tell_early(&mut self) {
        for event in self.early.take().into_iter().flatten() {
            self.spool.push(event);
        }
    }
}
