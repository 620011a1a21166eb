//! Deletes the files of sessions that ended longer ago than the site keeps them (`audit.retain`).

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use agentd_policy::names::SessionId;

use super::{Live, remove};
use crate::sync::lock;

/// How often files are looked for that were kept long enough.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Sweeps `dir` for ever. `retain` is in milliseconds.
pub(super) fn run(dir: &Path, live: &Live, retain: &AtomicU64) -> ! {
    loop {
        // Sessions that live are known a moment after the start.
        std::thread::sleep(INTERVAL);
        sweep(dir, live, Duration::from_millis(retain.load(Ordering::Relaxed)));
    }
}

/// Deletes the events and the output of sessions that ended longer ago than `retain`.
pub(super) fn sweep(dir: &Path, live: &Live, retain: Duration) {
    let Some(oldest) = SystemTime::now().checked_sub(retain) else { return };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return tracing::warn!(path = %dir.display(), %error, "old files cannot be looked for"),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((id, end)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        let ours = matches!(end, "jsonl" | "broken" | "removed" | "out0" | "out1");
        let lives = SessionId::parse(id).is_ok_and(|id| lock(live).contains(&id));
        let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|at| at < oldest);
        if ours && old && !lives {
            remove(&entry.path());
        }
    }
}
