//! What is not counted as it happens but looked at when somebody asks.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Metrics;
use crate::host::Host;
use crate::session::Phase;
use crate::slots::Slots;

/// How old the size of the store may be: whoever asks more often has no directory read for it.
const FRESH: Duration = Duration::from_secs(60);

/// When the size of the store was last looked at.
#[derive(Default)]
pub struct Size(Mutex<Option<Instant>>);

impl Metrics {
    /// All of it, as text of OpenMetrics.
    pub(super) async fn text(&self, host: &Host, size: &Size) -> Result<String, std::fmt::Error> {
        self.look(host);
        self.measure(host, size).await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn look(&self, host: &Host) {
        let (mut counts, mut unsynced) = ([0; 5], 0);
        for session in host.registry.all() {
            if session.is_removed() {
                continue;
            }
            counts[session.phase() as usize] += 1;
            unsynced += session.log.written().saturating_sub(session.log.committed());
        }
        for (phase, state) in [
            (Phase::Creating, "creating"),
            (Phase::Running, "running"),
            (Phase::Stopping, "stopping"),
            (Phase::Ended, "ending"),
            (Phase::Over, "ended"),
        ] {
            self.sessions.get_or_create(&[("state", state.to_owned())]).set(counts[phase as usize]);
        }
        self.store_unsynced.set(signed(unsynced));
        for (queue, depth) in [("store", host.store.waiting()), ("launcher", host.launcher.waiting())] {
            self.queue_length.get_or_create(&[("queue", queue.to_owned())]).set(signed(depth as u64));
        }
        let taken = |slots: &Slots| i64::from(slots.taken());
        self.connections.set(taken(&host.connections));
        for (what, slots) in [
            ("commands", &host.attached),
            ("events", &host.followers),
            ("states", &host.watchers),
            ("requests", &host.requests),
        ] {
            self.clients.get_or_create(&[("what", what.to_owned())]).set(taken(slots));
        }
        self.store_failed.set(i64::from(host.store.check().is_err()));
        self.launcher_up.set(i64::from(*host.launcher.present().borrow() != 0));
    }

    async fn measure(&self, host: &Host, size: &Size) {
        let mut looked = size.0.lock().await;
        if looked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let dir = host.store.dir().to_owned();
        // A panic in it leaves the number as it was.
        if let Ok(bytes) = tokio::task::spawn_blocking(move || bytes_in(&dir)).await {
            self.store.set(signed(bytes));
            *looked = Some(Instant::now());
        }
    }
}

/// The lengths of the files in `dir`. One that goes meanwhile counts nothing.
fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(|meta| meta.is_file())
        .map(|meta| meta.len())
        .sum()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
