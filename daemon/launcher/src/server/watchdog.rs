//! Keep-alive messages for the service manager, at least as often as it asked for, as long as the loop turns.

use std::time::{Duration, Instant};

use super::notify_manager;

/// The watchdog of `sd_watchdog_enabled(3)`.
pub(super) struct Watchdog {
    every: Duration,
    next: Instant,
}

impl Watchdog {
    /// The one that this process was given, if any.
    pub(super) fn wanted() -> Option<Self> {
        let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())?;
        Some(Self { every: limit / 3, next: Instant::now() })
    }

    /// The loop has turned once more.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.next <= now {
            notify_manager(&[sd_notify::NotifyState::Watchdog]);
            self.next = now + self.every;
        }
    }

    /// When it has to turn again.
    pub(super) fn due(&self) -> Instant {
        self.next
    }
}
