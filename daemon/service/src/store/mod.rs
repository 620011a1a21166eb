//! The event store: for each session a file that only grows, one event as JSON a line. One thread writes, and never
//! waits for the disk. What is [written](Log::written) has its place and its number, and a service that starts anew
//! finds it; only what is on [disk], where a power cut leaves it, is shown or acknowledged.
//!
//! A line of an event that came from a keeper has one key more than the event: `n`, the keeper's own number of
//! the last event that it accounts for. A service that starts anew goes on behind it.
//!
//! A session's first record comes to the disk before its first event does, and one that knows of its end after that
//! event: whose events there are is known, and a record with an end has all of them on disk.

mod ballast;
mod disk;
#[cfg(test)]
mod gate;
mod log;
pub mod output;
pub mod record;
mod sweep;
mod tail;
mod writer;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentd_policy::Refusal;
use agentd_policy::event_kind::EventKind;
use agentd_policy::names::{AbsPath, SessionId};
use agentd_policy::rule::Rule;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use self::disk::Disk;
pub use self::log::Log;
use self::output::OutputLog;
use self::record::Record;
pub use self::tail::Tail;
pub use self::writer::EventLine;
use self::writer::Job;
use crate::log::session_of;
use crate::sync::lock;

/// The longest file of a session, in bytes.
pub const MAX_LOG: u64 = 256 << 20;
/// Of it, what only the session's end may use, with the last that its keeper saw.
const RESERVE: u64 = 16 << 20;
/// What waits to be written.
const QUEUE: usize = 256;
/// How long a reader waits for the disk.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why events were not written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} has reached {MAX_LOG} bytes", .0.display())]
    Full(PathBuf),
    #[error("event as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the disk did not take what was written before")]
    Failed,
    #[error("the writer is gone")]
    Writer,
    #[error("thread {name}: {source}")]
    Thread { name: &'static str, source: io::Error },
}

/// Sessions whose files the sweep leaves alone.
type Live = Arc<Mutex<HashSet<SessionId>>>;

/// All sessions' files.
pub struct Store {
    dir: PathBuf,
    jobs: mpsc::Sender<Job>,
    disk: Arc<Disk>,
    grown: watch::Sender<()>,
    live: Live,
    /// How long files are kept, in milliseconds.
    retain: Arc<AtomicU64>,
}

impl Store {
    /// The store below `state_dir`, which the launcher made. Files older than `retain_ms` are deleted, but
    /// for those of sessions that live.
    pub fn open(state_dir: &AbsPath, retain_ms: u64) -> Result<Self, StoreError> {
        let dir = Path::new(state_dir.as_str()).join("audit");
        std::fs::read_dir(&dir).map_err(|source| StoreError::File { path: dir.clone(), source })?;
        let (grown, live) = (watch::Sender::new(()), Live::default());
        let disk = Disk::new(&dir, grown.clone());
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (below, place) = (disk.clone(), dir.clone());
        spawn("events", move || writer::run(queue, &below, &place))?;
        let below = disk.clone();
        spawn("disk", move || below.run())?;
        let retain = Arc::new(AtomicU64::new(retain_ms));
        let (swept, spared, kept) = (dir.clone(), live.clone(), retain.clone());
        spawn("sweep", move || sweep::run(&swept, &spared, &kept))?;
        Ok(Self { dir, jobs, disk, grown, live, retain })
    }

    /// From now on files are kept for so long.
    pub fn keep(&self, retain_ms: u64) {
        self.retain.store(retain_ms, Ordering::Relaxed);
    }

    /// Whether the writer's thread is alive.
    pub fn has_writer(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// The record of a session that was removed, while it is kept.
    pub fn removed(&self, session: &SessionId) -> Option<Record> {
        record::read(&record::removed(&self.dir, session)).ok()
    }

    /// The records of sessions that were removed, the oldest first.
    pub fn all_removed(&self) -> Result<Vec<Record>, StoreError> {
        let fail = |source| StoreError::File { path: self.dir.clone(), source };
        record::load_removed(&self.dir).map_err(fail)
    }

    /// The records that there are.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        record::load(&self.dir).map_err(|source| StoreError::File { path: self.dir.clone(), source })
    }

    /// Sets the record of a session aside, which cannot be used.
    pub fn set_aside(&self, session: &SessionId, why: &dyn std::error::Error) {
        record::set_aside(&record::path(&self.dir, session), why);
    }

    /// The file of a session that lives. It is made with its first event.
    pub fn log(&self, session: &SessionId) -> Arc<Log> {
        lock(&self.live).insert(session.clone());
        let path = self.dir.join(format!("{session}.jsonl"));
        Log::new(path, session.clone(), self.live.clone())
    }

    /// Where the file of a session stands that an earlier service had, whose record may know that it has `ended`.
    pub fn take_up(&self, log: &Arc<Log>, ended: bool) -> io::Result<Tail> {
        log.take_up(ended, &self.disk)
    }

    /// Whether what is written comes to the disk. Otherwise there is no new session.
    pub fn check(&self) -> Result<(), Refusal> {
        if !self.disk.has_failed() {
            return Ok(());
        }
        Err(Refusal::new(
            "a session, while events do not come to the disk",
            Rule::AuditFailed,
            "look at the log of agentd and at the disk, and restart agentd",
        ))
    }

    /// Waits until what is written of `logs` is on disk, but not for ever.
    pub async fn settle(&self, logs: impl Iterator<Item = &Arc<Log>>) -> Result<(), Refusal> {
        let waiting: Vec<_> = logs
            .map(|log| (log, log.written()))
            .filter(|(log, written)| log.committed() < *written)
            .collect();
        if waiting.is_empty() {
            return self.check();
        }
        self.disk.hurry();
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        for (log, written) in waiting {
            let mut committed = log.watch();
            let enough = committed.wait_for(|length| *length >= written || self.disk.has_failed());
            // Its sender is in the log.
            if timeout_at(deadline, enough).await.is_err() {
                return Err(Refusal::new(
                    "the last events, which are not on disk yet",
                    Rule::AuditLate,
                    "ask again; if it stays so, look at the log of agentd and at the disk",
                ));
            }
        }
        self.check()
    }

    /// What a session's command writes.
    pub fn output(&self, session: &SessionId) -> OutputLog {
        OutputLog::new(&self.dir, session)
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How much waits to be written.
    pub fn waiting(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }

    /// Whether a session of this identity left something here.
    pub fn has(&self, session: &SessionId) -> bool {
        let record = [record::path(&self.dir, session), record::removed(&self.dir, session)];
        self.dir.join(format!("{session}.jsonl")).exists() || record.iter().any(|path| path.exists())
    }

    /// Appends events, and returns when they are written, with where the file ends then. The log says how far it is
    /// on disk.
    pub async fn append(&self, log: &Arc<Log>, events: &[EventLine]) -> Result<u64, StoreError> {
        let mut lines = Vec::new();
        for event in events {
            event.write(&mut lines)?;
        }
        let last = events.iter().any(|line| EventKind::SessionEnded.is(&line.event.kind));
        let room = if last { MAX_LOG } else { MAX_LOG - RESERVE };
        if log.written() + lines.len() as u64 > room {
            return Err(StoreError::Full(log.path().to_owned()));
        }
        let (done, written) = oneshot::channel();
        // With its end a session is on disk at once: its keeper waits for that.
        let job = Job::Append { log: log.clone(), lines, urgent: last, done };
        self.jobs.send(job).await.map_err(|_| StoreError::Writer)?;
        written.await.map_err(|_| StoreError::Writer)?
    }

    /// Has the first record of a session written. The answer need not be waited for at once.
    pub async fn create(&self, record: &Record) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, written) = oneshot::channel();
        match serde_json::to_vec(record) {
            Ok(bytes) => {
                let job = Job::Create { session: record.id.clone(), record: bytes, done };
                // Without a writer the answer is that there is none.
                self.jobs.send(job).await.ok();
            }
            Err(error) => drop(done.send(Err(error.into()))),
        }
        written
    }

    /// Has another record written in the place of the one before.
    pub fn save(&self, record: &Record) {
        match serde_json::to_vec(record) {
            Ok(bytes) => self.disk.replace(record.id.clone(), bytes),
            Err(error) => tracing::error!(session = %record.id, %error, "a record cannot be written as JSON"),
        }
    }

    /// Deletes the record of a session that never was.
    pub async fn forget(&self, session: &SessionId) {
        let (done, forgotten) = oneshot::channel();
        self.disk.forget(session.clone(), false, done);
        forgotten.await.ok();
    }

    /// Deletes a session's output. Its record and its events stay as long as all events.
    pub async fn retire(&self, session: &SessionId) {
        let (done, retired) = oneshot::channel();
        self.disk.forget(session.clone(), true, done);
        retired.await.ok();
    }

    /// Wakes whenever more of any file is on disk.
    pub fn grown(&self) -> watch::Receiver<()> {
        self.grown.subscribe()
    }

    /// The disk, as a test has it.
    #[cfg(test)]
    pub fn gate(&self) -> &gate::Gate {
        &self.disk.gate
    }

    /// Wakes those who follow, without an event: a session is over.
    pub fn wake(&self) {
        self.grown.send_replace(());
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.disk.close();
    }
}

fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|source| StoreError::Thread { name, source })
}

/// Deletes a file that may be gone already.
pub fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(session = session_of(path), path = %path.display(), %error, "a file stays");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
