//! Signals, the service as a child, and how the launcher ends.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Server, tell_manager};
use crate::service::Service;

/// How long sessions may take to end when the launcher is told to.
const FAREWELL: Duration = Duration::from_secs(10);

impl Server {
    pub(super) fn signal(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            match Signal::try_from(number) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.begin_closing(),
                Ok(Signal::SIGHUP) => {
                    tracing::warn!("there is nothing to read again: restart to change settings")
                }
                // A child has ended: those that there are, are looked at in any case.
                _ => {}
            }
        }
        self.look_after_service();
    }

    /// By hand the service is our child: one that ends is started again, unless it does nothing but that.
    fn look_after_service(&mut self) {
        if self.closing.is_some() || !self.service.as_ref().is_some_and(Service::has_ended) {
            return;
        }
        self.lose_service("it ended");
        let restarted = match self.service.take() {
            Some(service) => service.again(self.context.token, &self.context.settings),
            None => return,
        };
        match restarted {
            Ok(service) => self.service = Some(service),
            Err(error) => {
                tracing::error!(error, "the service");
                self.failed = Some(error);
                self.begin_closing();
            }
        }
    }

    fn begin_closing(&mut self) {
        if self.closing.is_some() {
            return;
        }
        tell_manager(&[sd_notify::NotifyState::Stopping]);
        self.closing = Some(Instant::now() + FAREWELL);
        if self.by_hand {
            tracing::info!("ending every session");
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

    /// Takes the sockets and groups away; every error is told, none stops the rest.
    pub(super) fn close(mut self) -> Result<(), String> {
        let mut errors = Vec::from_iter(self.failed.take());
        if let Some(service) = self.service.take() {
            errors.extend(service.stop().err());
        }
        let config = &self.context.settings.config;
        for path in [config.socket.as_str(), &config.offer_socket(), &config.service_socket()] {
            errors.extend(rustix::fs::unlink(path).err().map(|e| format!("{path}: {e}")));
        }
        if self.by_hand || self.sessions.is_empty() {
            errors.extend(self.sessions.close().err());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}
