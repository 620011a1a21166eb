//! Keep-alives for the service manager's watchdog, sent while the runtime turns, the task of the link to the launcher
//! answers, and the store has its writer. A disk that does not answer ends nothing: the store reports it, another
//! service would have the same disk, and sessions go on without one.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::host::Host;
use crate::manager;

/// Shows that a task is awake: asked from one task and answered from another.
pub struct Heartbeat {
    asked: watch::Sender<u64>,
    answered: watch::Sender<u64>,
}

impl Heartbeat {
    pub fn new() -> Self {
        Self { asked: watch::Sender::new(0), answered: watch::Sender::new(0) }
    }

    /// Answers for ever: the task that this is a part of is awake.
    pub async fn answer(&self) {
        let mut asked = self.asked.subscribe();
        loop {
            let number = *asked.borrow_and_update();
            self.answered.send_replace(number);
            // Its sender is in this very value.
            asked.changed().await.ok();
        }
    }

    /// Whether there is an answer within `limit`.
    async fn is_alive(&self, limit: Duration) -> bool {
        let mut answered = self.answered.subscribe();
        self.asked.send_modify(|number| *number += 1);
        let number = *self.asked.borrow();
        timeout(limit, answered.wait_for(|answer| *answer >= number)).await.is_ok()
    }
}

/// Sends keep-alives to the manager's watchdog for as long as the service lives.
pub async fn run(host: Arc<Host>, heartbeat: Arc<Heartbeat>) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    // Question and pause together are less than what the manager waits.
    let every = limit / 3;
    let mut turn = interval(every);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        match is_alive(&host, &heartbeat, every).await {
            Ok(()) => manager::notify(&[NotifyState::Watchdog]),
            Err(what) => tracing::error!(error = what, "the watchdog gets no keep-alive"),
        }
    }
}

async fn is_alive(host: &Host, heartbeat: &Heartbeat, limit: Duration) -> Result<(), &'static str> {
    if !host.store.has_writer() {
        return Err("the event store has no writer any more");
    }
    match heartbeat.is_alive(limit).await {
        true => Ok(()),
        false => Err("the task of the link to the launcher does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_is_stuck_has_no_heartbeat() {
        let heartbeat = Arc::new(Heartbeat::new());
        assert!(!heartbeat.is_alive(Duration::from_millis(20)).await);
        let own = heartbeat.clone();
        let task = tokio::spawn(async move { own.answer().await });
        assert!(heartbeat.is_alive(Duration::from_secs(10)).await);
        task.abort();
        assert!(task.await.is_err());
        assert!(!heartbeat.is_alive(Duration::from_millis(20)).await);
    }
}
