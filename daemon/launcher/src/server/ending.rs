//! Signals, the service as a child, and how the launcher ends.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Server, notify_manager};
use crate::link::LinkError;
use crate::service::Service;
use agentd_session::error::{HostError, On as _};

/// How long sessions may take to end when the launcher is asked to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why the launcher ends though nobody asked for it, or what it could not take away.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Its service does nothing but end.
    #[error("the service ends as often as it is started")]
    Service,
    /// Every session has lost its cgroup.
    #[error("the cgroup of all sessions is gone: somebody stopped their scope")]
    Cgroups,
    /// Something of the host's.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// An end with failures, in the order in which they came.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Ended(Vec<Failed>);

impl From<HostError> for Ended {
    fn from(error: HostError) -> Self {
        Self(vec![error.into()])
    }
}

impl Server {
    pub(super) fn signal(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            match Signal::try_from(number) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.begin_closing(),
                Ok(Signal::SIGHUP) => self.begin_reload(),
                // A child has ended: those that there are, are looked at in any case.
                _ => {}
            }
        }
        self.look_after_service();
    }

    /// By hand the service is our child: one that ends is started again, and sessions go on meanwhile.
    fn look_after_service(&mut self) {
        let now = Instant::now();
        if self.closing.is_some() || !self.service.as_mut().is_some_and(|service| service.has_ended(now)) {
            return;
        }
        self.lose_service(&LinkError::Ended);
        // One that never was there, for a configuration that cannot work, has nothing that would miss it.
        let hopeless = self.service.as_ref().is_some_and(Service::ends_too_often);
        if hopeless && !self.ready && self.sessions.live().is_empty() {
            self.failed = Some(Failed::Service);
            self.begin_closing();
        }
        self.restart_service(now);
    }

    /// Starts the service again once that is due.
    pub(super) fn restart_service(&mut self, now: Instant) {
        if self.closing.is_some() {
            return;
        }
        let Some(service) = &mut self.service else { return };
        if service.restart(self.context.token, &self.context.settings, now) {
            // It reads the file as it is now.
            self.stale = false;
        }
    }

    /// Ends if somebody took the cgroup of all sessions away, and with it every session: the next launcher
    /// makes another.
    pub(super) fn look_after_cgroups(&mut self) {
        if self.closing.is_none() && !self.sessions.are_rooted() {
            tracing::error!(error = %Failed::Cgroups, "ending");
            self.failed = Some(Failed::Cgroups);
            self.begin_closing();
        }
    }

    fn begin_closing(&mut self) {
        if self.closing.is_some() {
            return;
        }
        notify_manager(&[sd_notify::NotifyState::Stopping]);
        self.closing = Some(Instant::now() + FAREWELL);
        if self.by_hand {
            tracing::info!(sessions = self.sessions.live().len(), "ending, with every session");
            self.sessions.kill_agents();
        } else {
            self.sessions.abandon();
            match self.sessions.live().len() {
                0 => tracing::info!("ending"),
                sessions => tracing::warn!(sessions, "sessions go on without the launcher"),
            }
        }
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        let done = if self.by_hand { self.sessions.is_empty() } else { self.sessions.is_settled() };
        self.closing.is_some_and(|until| done || now >= until)
    }

    /// Takes the sockets and groups away; every error is reported, none stops the rest.
    pub(super) fn close(mut self) -> Result<(), Ended> {
        let mut errors = Vec::from_iter(self.failed.take());
        if let Some(service) = self.service.take() {
            errors.extend(service.stop().err().map(Failed::Host));
        }
        for path in &self.bound {
            errors.extend(rustix::fs::unlink(path.as_str()).on(path).err().map(Failed::Host));
        }
        if self.by_hand || self.sessions.is_empty() {
            errors.extend(self.sessions.close().err().map(Failed::Host));
            let left = self.context.cgroups.scope.as_ref().map(|scope| scope.leave());
            errors.extend(left.and_then(Result::err).map(Failed::Host));
        }
        if errors.is_empty() { Ok(()) } else { Err(Ended(errors)) }
    }
}
