//! The event store: for each session a file that only grows, one event as JSON a line. One thread writes,
//! so that a slow disk holds up nobody but those whose events wait for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agentd_policy::names::{AbsPath, SessionId};
use agentd_proto::v1::Event;
use tokio::sync::{mpsc, oneshot, watch};

use crate::host::lock;

/// The longest file of a session, in bytes.
pub const MAX_LOG: u64 = 256 << 20;
/// Of it, what only the session's end may use.
const RESERVE: u64 = 1 << 20;
/// Appends that wait for the disk.
const QUEUE: usize = 256;
/// How often files are looked for that were kept long enough.
const SWEEP: Duration = Duration::from_secs(3600);

/// Why events were not written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} has reached {MAX_LOG} bytes", .0.display())]
    Full(PathBuf),
    #[error("event as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the writer is gone")]
    Writer,
}

/// The file of one session.
pub struct Log {
    path: PathBuf,
    /// Bytes that hold whole events.
    committed: AtomicU64,
    file: Mutex<Option<File>>,
}

impl Log {
    /// The file, to be read up to [`committed`](Self::committed).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How much of the file is written.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Nothing more will be written.
    pub fn close(&self) {
        *lock(&self.file) = None;
    }

    fn write(&self, lines: &[u8]) -> Result<(), StoreError> {
        let fail = |source| StoreError::File { path: self.path.clone(), source };
        let mut file = lock(&self.file);
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(
                OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path).map_err(fail)?,
            ),
        };
        let before = self.committed();
        if let Err(source) = file.write_all(lines) {
            // Half a line must not stay before the next one.
            file.set_len(before).map_err(fail)?;
            return Err(fail(source));
        }
        self.committed.store(before + lines.len() as u64, Ordering::Release);
        Ok(())
    }
}

struct Job {
    log: Arc<Log>,
    lines: Vec<u8>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// All sessions' files.
pub struct Store {
    dir: PathBuf,
    jobs: mpsc::Sender<Job>,
    grown: watch::Sender<()>,
}

impl Store {
    /// The store below `state_dir`, which the launcher made. Files older than `retain_ms` are deleted.
    pub fn open(state_dir: &AbsPath, retain_ms: u64) -> Result<Self, StoreError> {
        let dir = Path::new(state_dir.as_str()).join("audit");
        std::fs::read_dir(&dir).map_err(|source| StoreError::File { path: dir.clone(), source })?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let grown = watch::Sender::new(());
        let told = grown.clone();
        spawn("events", move || write(queue, &told));
        let swept = dir.clone();
        spawn("sweep", move || {
            loop {
                sweep(&swept, Duration::from_millis(retain_ms));
                std::thread::sleep(SWEEP);
            }
        });
        Ok(Self { dir, jobs, grown })
    }

    /// The file of a new session. It is made with its first event.
    pub fn log(&self, session: &SessionId) -> Log {
        let path = self.dir.join(format!("{session}.jsonl"));
        Log { path, committed: AtomicU64::new(0), file: Mutex::new(None) }
    }

    /// Whether a session of this identity left its events here.
    pub fn has(&self, session: &SessionId) -> bool {
        self.dir.join(format!("{session}.jsonl")).exists()
    }

    /// Appends `events`, and returns when they are written.
    pub async fn append(&self, log: &Arc<Log>, events: &[Event]) -> Result<(), StoreError> {
        let mut lines = Vec::new();
        for event in events {
            serde_json::to_writer(&mut lines, event)?;
            lines.push(b'\n');
        }
        let last = events.iter().any(|event| event.kind == "session.ended");
        let room = if last { MAX_LOG } else { MAX_LOG - RESERVE };
        if log.committed() + lines.len() as u64 > room {
            return Err(StoreError::Full(log.path.clone()));
        }
        let (done, written) = oneshot::channel();
        self.jobs.send(Job { log: log.clone(), lines, done }).await.map_err(|_| StoreError::Writer)?;
        written.await.map_err(|_| StoreError::Writer)?
    }

    /// Wakes whenever any file has grown.
    pub fn grown(&self) -> watch::Receiver<()> {
        self.grown.subscribe()
    }

    /// Wakes those who follow, without an event: a session is over.
    pub fn wake(&self) {
        self.grown.send_replace(());
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::error!("thread {name}: {error}");
    }
}

fn write(mut queue: mpsc::Receiver<Job>, grown: &watch::Sender<()>) {
    while let Some(Job { log, lines, done }) = queue.blocking_recv() {
        let written = log.write(&lines);
        grown.send_replace(());
        // Whoever waited for it may be gone.
        let _ = done.send(written);
    }
}

/// Deletes the files of sessions that ended longer ago than `retain`.
fn sweep(dir: &Path, retain: Duration) {
    let Some(oldest) = SystemTime::now().checked_sub(retain) else { return };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return tracing::warn!("{}: {error}", dir.display()),
    };
    for entry in entries.flatten() {
        let ours = entry.path().extension().is_some_and(|e| e == "jsonl");
        let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|at| at < oldest);
        if ours
            && old
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!("{}: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str) -> (Store, PathBuf) {
        let root = std::env::temp_dir().join(format!("agentd-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(root.join("audit")).unwrap();
        let path = AbsPath::parse(root.to_str().unwrap()).unwrap();
        (Store::open(&path, 1000).unwrap(), root)
    }

    fn event(seq: u64) -> Event {
        Event { seq, kind: "process.exec".into(), ..Event::default() }
    }

    #[tokio::test]
    async fn events_are_lines_and_counted_when_written() {
        let (store, root) = store("lines");
        let log = Arc::new(store.log(&SessionId::parse("0123456789ab").unwrap()));
        let mut grown = store.grown();
        store.append(&log, &[event(1), event(2)]).await.unwrap();
        store.append(&log, &[event(3)]).await.unwrap();
        assert!(grown.has_changed().unwrap());
        grown.mark_unchanged();
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(text.len() as u64, log.committed());
        let seqs: Vec<u64> = text.lines().map(|l| serde_json::from_str::<Event>(l).unwrap().seq).collect();
        assert_eq!(seqs, [1, 2, 3]);
        log.close();
        std::fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn a_full_file_takes_nothing_but_the_end() {
        let (store, root) = store("full");
        let log = Arc::new(store.log(&SessionId::parse("0123456789ab").unwrap()));
        log.committed.store(MAX_LOG - RESERVE, Ordering::Release);
        assert!(matches!(store.append(&log, &[event(1)]).await, Err(StoreError::Full(_))));
        let end = Event { kind: "session.ended".into(), ..event(2) };
        store.append(&log, &[end]).await.unwrap();
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_was_kept_long_enough_goes() {
        let (_store, root) = store("sweep");
        let file = root.join("audit/0123456789ab.jsonl");
        std::fs::write(&file, "x").unwrap();
        sweep(&root.join("audit"), Duration::from_secs(3600));
        assert!(file.exists());
        sweep(&root.join("audit"), Duration::ZERO);
        assert!(!file.exists());
        std::fs::remove_dir_all(root).unwrap();
    }
}
