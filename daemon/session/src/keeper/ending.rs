//! How a session ends: its processes, and what is done at each step of its [`Phase`].

use std::time::Instant;

use agentd_kernel::event_loop::EventFlags;
use agentd_policy::event::{End, EventBody, ExitStatus};
use nix::libc::{SIGHUP as HUP, SIGPIPE as PIPE};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::Keeper;
use super::phase::{Action, Input, Phase, Remains};
use super::source::Source;
use crate::error::{HostError, On as _};

/// How long a relay that is dying may take until it is dead.
const RELAY_DIES: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

impl Keeper {
    /// Ends the session for this reason, unless it is ending already.
    pub(super) fn finish(&mut self, end: End) {
        self.advance(Input::End(end));
    }

    /// The host shuts down, or somebody stops all sessions.
    pub(super) fn asked_to_end(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.finish(End::Killed);
    }

    pub(super) fn init_ended(&mut self) -> Result<(), HostError> {
        let Some(init) = self.init.child.take() else { return Ok(()) };
        init.wait().on("init")?;
        // What init said last is still in its socket.
        self.receive_init()?;
        // Nothing in the session can kill pid 1; the kernel can, for memory, and root.
        self.memory_limit().ok();
        self.finish(match self.limits.has_killed_for_memory() {
            true => End::OutOfMemory,
            false => End::Failed { what: "its pid 1 ended before its command".into() },
        });
        self.pids_limit()?;
        // Without its reader the meter ends.
        if let Some((meter, over)) = self.limits.disk.take() {
            drop(over);
            self.event_loop.add(&meter.pidfd, Source::MeterExit, EventFlags::IN).on("epoll")?;
            self.limits.meter = Some(meter);
        }
        self.spool.release();
        // With pid 1 the kernel has ended every process of the session (pid_namespaces(7)).
        self.commands_are_over();
        self.closes()?;
        self.refused_at_last();
        for event in self.audit.processes.all_ended(&self.audit.execs) {
            self.spool.push(event);
        }
        self.packets_denied()?;
        self.denials.flush(&mut self.spool);
        self.files.leftovers.begin(&self.event_loop, &mut self.spool);
        let reports = self.egress_state.is_some() && self.relay.child.is_some();
        self.advance(Input::Emptied { reports });
        self.leftovers_looked_at();
        Ok(())
    }

    /// What `input` makes of the session.
    pub(super) fn advance(&mut self, input: Input) {
        let (phase, action) = std::mem::replace(&mut self.phase, Phase::Running).step(input, Instant::now());
        self.phase = phase;
        match action {
            Some(Action::Kill) => {
                if let Err(error) = self.watch.kill() {
                    tracing::error!(%error, "the session's agents cannot be killed");
                }
            }
            Some(Action::Record(end)) => {
                if let Some(egress_state) = &mut self.egress_state {
                    egress_state.coalescer.flush(&mut self.spool);
                }
                self.spool.push(EventBody::Ended(end));
            }
            None => {}
        }
    }

    /// The first command has ended. One that dies because nobody carries its streams any more does so while its
    /// relay dies: then that is the reason.
    pub(super) fn main_ended(&mut self, status: ExitStatus) -> Result<(), HostError> {
        let wait = match status {
            ExitStatus::Signal(HUP | PIPE) => RELAY_DIES,
            _ => Timespec { tv_sec: 0, tv_nsec: 0 },
        };
        let dead = self.relay.child.as_ref().is_some_and(|relay| {
            let mut fds = [PollFd::new(&relay.pidfd, PollFlags::IN)];
            !matches!(rustix::event::poll(&mut fds, Some(&wait)), Ok(0) | Err(_))
        });
        if dead {
            self.relay_ended()?;
        }
        let end = self.end_of_command(status);
        self.finish(end);
        Ok(())
    }

    /// Nobody inside can change a mount: a masked or protected name was replaced or removed from outside, and
    /// what covered it is gone.
    pub(super) fn mounts_changed(&mut self) {
        self.files.mounts = None;
        let what = "a masked or protected name of its workspace was replaced from outside";
        self.finish(End::Failed { what: what.into() });
    }

    /// Ends a session that was never handed over, and waits for its processes.
    pub fn abandon(mut self) {
        self.finish(End::Killed);
        let Self { init, relay, service, limits, files, .. } = self;
        files.leftovers.abandon();
        // Without these the relay and the meter end.
        drop((relay.control, service));
        let (meter, notices) = limits.disk.unzip();
        drop(notices);
        for child in [init.child, relay.child, meter].into_iter().flatten() {
            if let Err(error) = child.wait() {
                tracing::error!(%error, "a part of a session that was not built cannot be waited for");
            }
        }
    }

    /// What is due by the clock once the session is over.
    pub(super) fn look_at_the_end(&mut self, now: Instant) {
        self.advance(Input::Clock);
        if self.phase.gives_relay_up(&self.remains(), now) {
            self.relay.control = None;
        }
    }

    fn remains(&self) -> Remains {
        Remains {
            init: self.init.child.is_some(),
            relay: self.relay.child.is_some(),
            meter: self.limits.meter.is_some(),
            control: self.relay.control.is_some(),
            acknowledged: self.spool.is_empty(),
            service: self.service.link.as_ref().map(|service| service.since),
        }
    }

    /// When to look again at what is left of an ended session.
    pub(super) fn end_due(&self) -> Option<Instant> {
        self.phase.remains_due(&self.remains())
    }

    /// Whether nothing of the session is left, and the service knows all of it.
    pub(super) fn is_finished(&self) -> bool {
        self.phase.is_finished(&self.remains(), Instant::now())
    }
}
