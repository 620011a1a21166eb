//! How a session ends: why, what is told of it, and what is waited for.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use agentd_kernel::event_loop::EventFlags;
use agentd_policy::event::{End, EventBody, ExitStatus};
use nix::libc::{SIGHUP as HUP, SIGPIPE as PIPE};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::Keeper;
use super::source::Source;

/// How long the relay may take to deliver to a service that is there what the command left behind.
const DRAIN: Duration = Duration::from_secs(40);
/// How long a relay that is dying may take until it is dead.
const RELAY_DIES: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// How long a relay may take to tell of the connections that ended with the session.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a service that is there may take to write the last events down.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Keeper {
    /// Ends the session for this reason, unless it is ending already.
    pub(super) fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            if let Err(error) = self.watch.kill() {
                tracing::error!(%error, "the session's agents cannot be killed");
            }
        }
    }

    /// The host shuts down, or somebody stops all sessions.
    pub(super) fn asked_to_end(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.finish(End::Killed);
    }

    pub(super) fn init_ended(&mut self) -> Result<(), String> {
        let Some(init) = self.init.take() else { return Ok(()) };
        init.wait().map_err(|e| format!("init: {e}"))?;
        // What init said last is still in its socket.
        self.init_says()?;
        // Nothing in the session can kill pid 1; the kernel can, for memory, and root.
        let _ = self.memory_limit();
        self.finish(match self.limits.has_killed_for_memory() {
            true => End::OutOfMemory,
            false => End::Failed { what: "its pid 1 ended before its command".into() },
        });
        self.pids_limit()?;
        // Without its reader the meter ends.
        if let Some((meter, over)) = self.limits.disk.take() {
            drop(over);
            self.event_loop
                .add(&meter.pidfd, Source::MeterExit, EventFlags::IN)
                .map_err(|e| format!("epoll: {e}"))?;
            self.limits.meter = Some(meter);
        }
        self.tell_early();
        // With pid 1 the kernel has ended every process of the session (pid_namespaces(7)).
        self.commands_are_over();
        self.closes()?;
        self.refused_at_last();
        for event in self.processes.all_ended(&self.execs) {
            self.spool.push(event);
        }
        self.packets_denied()?;
        self.denials.flush(&mut self.spool);
        self.leftovers.begin(&self.event_loop, &mut self.spool);
        // Connections that ended with it are still to be told of.
        self.silence = Some(Instant::now() + SILENCE);
        if self.egress_state.is_none() || self.relay.is_none() {
            self.say_the_end();
        }
        Ok(())
    }

    /// Nothing more will be told of the session but its end.
    pub(super) fn say_the_end(&mut self) {
        if self.silence.take().is_none() && !self.end_waits {
            return;
        }
        self.end_waits = !self.leftovers.is_done();
        if self.end_waits {
            return;
        }
        if let Some(egress_state) = &mut self.egress_state {
            egress_state.told.flush(&mut self.spool);
        }
        let end = self.end.clone().unwrap_or(End::Killed);
        self.spool.push(EventBody::Ended(end));
        self.over = Some(Instant::now());
    }

    /// The first command has ended. One that dies because nobody carries its streams any more does so while its
    /// relay dies: then that is the reason.
    pub(super) fn main_ended(&mut self, status: ExitStatus) -> Result<(), String> {
        let wait = match status {
            ExitStatus::Signal(HUP | PIPE) => RELAY_DIES,
            _ => Timespec { tv_sec: 0, tv_nsec: 0 },
        };
        let dead = self.relay.as_ref().is_some_and(|relay| {
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

    pub(super) fn relay_ended(&mut self) -> Result<(), String> {
        let Some(relay) = self.relay.take() else { return Ok(()) };
        let status = relay.wait().map_err(|e| format!("relay: {e}"))?;
        // What it said last is still in its socket.
        self.relay_says()?;
        // It ends of its own only after the session, with everything delivered.
        if self.over.is_none() || status != ExitStatus::Code(0) {
            self.finish(End::Failed { what: format!("the relay ended with {status:?}") });
        }
        self.control = None;
        self.say_the_end();
        Ok(())
    }

    /// Nobody inside can change a mount: a masked or protected name was replaced or removed from outside, and
    /// what covered it is gone.
    pub(super) fn mounts_changed(&mut self) {
        self.mounts = None;
        let what = "a masked or protected name of its workspace was replaced from outside";
        self.finish(End::Failed { what: what.into() });
    }

    /// Since when the service could have taken what is left; `None` as long as there is no service, or no end.
    fn patience(&self) -> Option<Instant> {
        Some(self.over?.max(self.service.as_ref()?.since))
    }

    /// Ends a session that was never handed over, and waits for its processes.
    pub fn abandon(mut self) {
        self.finish(End::Killed);
        let Self { init, relay, control, service, limits, leftovers, .. } = self;
        leftovers.abandon();
        // Without these the relay and the meter end.
        drop((control, service));
        let (meter, over) = limits.disk.unzip();
        drop(over);
        for child in [init, relay, meter].into_iter().flatten() {
            if let Err(error) = child.wait() {
                tracing::error!(%error, "a part of a session that was not built cannot be waited for");
            }
        }
    }

    /// What is due by the clock once the session is over.
    pub(super) fn look_at_the_end(&mut self, now: Instant) {
        if self.silence.is_some_and(|until| until <= now) {
            self.say_the_end();
        }
        if self.patience().is_some_and(|since| now >= since + DRAIN) {
            // Whatever it still holds, nobody takes it: without its control socket the relay ends.
            self.control = None;
        }
    }

    /// When to look again.
    pub(super) fn end_due(&self) -> Option<Instant> {
        let waits = if self.relay.is_none() { LAST_WORDS } else { DRAIN };
        // What is told to end already does so without a clock.
        let ending = self.relay.is_some() && self.control.is_none() || self.limits.meter.is_some();
        self.patience().filter(|_| !ending).map(|since| since + waits)
    }

    /// Whether nothing of the session is left, and the service knows all of it. As long as there is none, one is
    /// waited for.
    pub(super) fn is_finished(&self) -> bool {
        let gone = self.init.is_none() && self.relay.is_none() && self.limits.meter.is_none();
        let patient = self.patience().is_none_or(|since| since.elapsed() < LAST_WORDS);
        self.over.is_some() && gone && (self.spool.is_empty() || !patient)
    }
}
