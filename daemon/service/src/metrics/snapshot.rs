//! Numbers that are not counted as things happen but read when metrics are requested.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Metrics;

/// How old the size of the store may be: a more frequent request has no directory read for it.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Counts as they are at one moment. Each name is the value of a label.
pub struct Snapshot {
    pub sessions: [(&'static str, u64); 5],
    pub queues: [(&'static str, usize); 2],
    pub connections: u32,
    pub clients: [(&'static str, u32); 4],
    /// Bytes of events that are written and not on disk.
    pub store_unsynced: u64,
    pub store_failed: bool,
    pub launcher_up: bool,
}

/// The bytes of a directory, which are read again once they are older than [`MAX_AGE`].
pub(super) struct StoreSize {
    dir: PathBuf,
    read_at: Mutex<Option<Instant>>,
}

impl StoreSize {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, read_at: Mutex::default() }
    }
}

impl Metrics {
    /// All of it, as text of OpenMetrics.
    pub(super) async fn text(&self, snapshot: Snapshot, size: &StoreSize) -> Result<String, std::fmt::Error> {
        self.set(&snapshot);
        self.measure(size).await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn set(&self, snapshot: &Snapshot) {
        for (state, count) in snapshot.sessions {
            self.sessions.get_or_create(&[("state", state.to_owned())]).set(signed(count));
        }
        for (queue, depth) in snapshot.queues {
            self.queue_length.get_or_create(&[("queue", queue.to_owned())]).set(signed(depth as u64));
        }
        self.connections.set(i64::from(snapshot.connections));
        for (what, count) in snapshot.clients {
            self.clients.get_or_create(&[("what", what.to_owned())]).set(i64::from(count));
        }
        self.store_unsynced.set(signed(snapshot.store_unsynced));
        self.store_failed.set(i64::from(snapshot.store_failed));
        self.launcher_up.set(i64::from(snapshot.launcher_up));
    }

    async fn measure(&self, size: &StoreSize) {
        let mut read_at = size.read_at.lock().await;
        if read_at.is_some_and(|at| at.elapsed() < MAX_AGE) {
            return;
        }
        let dir = size.dir.clone();
        // A panic in it leaves the number as it was.
        if let Ok(bytes) = tokio::task::spawn_blocking(move || bytes_in(&dir)).await {
            self.store.set(signed(bytes));
            *read_at = Some(Instant::now());
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
