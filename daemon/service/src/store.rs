//! The event store: for each session a file that only grows, one event as JSON a line. One thread writes,
//! so that a slow disk holds up nobody but those whose events wait for it. Another writes the sessions' records: to
//! replace a file can take the disk long. Of each, what is asked for later is written later.
//!
//! A line of an event that came from a keeper has one key more than the event: `n`, the keeper's own number of
//! the last event that it accounts for. A service that starts anew goes on behind it.

use std::collections::HashSet;
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
use crate::output_log::OutputLog;
use crate::record::{self, Record};
use crate::tail::{self, Tail};

/// The longest file of a session, in bytes.
pub const MAX_LOG: u64 = 256 << 20;
/// Of it, what only the session's end may use, with the last that its keeper saw.
const RESERVE: u64 = 16 << 20;
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

/// An event, and with it the keeper's own number if it came from there.
pub struct Line {
    pub event: Event,
    pub source: Option<u64>,
}

impl Line {
    fn write(&self, lines: &mut Vec<u8>) -> Result<(), StoreError> {
        serde_json::to_writer(&mut *lines, &self.event)?;
        if let Some(number) = self.source {
            lines.pop();
            lines.extend_from_slice(format!(",\"n\":{number}}}").as_bytes());
        }
        lines.push(b'\n');
        Ok(())
    }
}

/// Sessions whose files nobody may delete.
type Live = Arc<Mutex<HashSet<SessionId>>>;

/// The file of one session.
pub struct Log {
    path: PathBuf,
    session: SessionId,
    live: Live,
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
        lock(&self.live).remove(&self.session);
    }

    /// Where the file stands. What a writer that was killed left of a line at its end is cut off.
    pub fn take_up(&self) -> io::Result<Tail> {
        let tail = tail::read(&self.path)?;
        self.committed.store(tail.length, Ordering::Release);
        Ok(tail)
    }

    fn write(&self, lines: &[u8]) -> Result<(), StoreError> {
        let fail = |source| StoreError::File { path: self.path.clone(), source };
        let (mut slot, before) = (lock(&self.file), self.committed());
        let mut file = match slot.take() {
            Some(file) => file,
            None => self.open(before).map_err(fail)?,
        };
        if let Err(source) = file.write_all(lines) {
            // Half a line must not stay before the next one: if it does now, that is looked at again.
            if file.set_len(before).is_ok() {
                *slot = Some(file);
            }
            return Err(fail(source));
        }
        *slot = Some(file);
        self.committed.store(before + lines.len() as u64, Ordering::Release);
        Ok(())
    }

    fn open(&self, length: u64) -> io::Result<File> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.set_len(length)?;
        Ok(file)
    }
}

type Done = oneshot::Sender<Result<(), StoreError>>;

enum Job {
    Append { log: Arc<Log>, lines: Vec<u8>, done: Done },
    Save { path: PathBuf, bytes: Vec<u8>, done: Done },
    Forget { session: SessionId, done: oneshot::Sender<()> },
}

/// All sessions' files.
pub struct Store {
    dir: PathBuf,
    events: mpsc::Sender<Job>,
    records: mpsc::Sender<Job>,
    grown: watch::Sender<()>,
    live: Live,
}

impl Store {
    /// The store below `state_dir`, which the launcher made. Files older than `retain_ms` are deleted, but
    /// for those of sessions that live.
    pub fn open(state_dir: &AbsPath, retain_ms: u64) -> Result<Self, StoreError> {
        let dir = Path::new(state_dir.as_str()).join("audit");
        std::fs::read_dir(&dir).map_err(|source| StoreError::File { path: dir.clone(), source })?;
        let (grown, live) = (watch::Sender::new(()), Live::default());
        let writer = |name| {
            let (jobs, queue) = mpsc::channel(QUEUE);
            let (told, place) = (grown.clone(), dir.clone());
            spawn(name, move || write(queue, &told, &place));
            jobs
        };
        let (events, records) = (writer("events"), writer("records"));
        let (swept, spared) = (dir.clone(), live.clone());
        spawn("sweep", move || {
            loop {
                // Sessions that live are known a moment after the start.
                std::thread::sleep(SWEEP);
                sweep(&swept, &spared, Duration::from_millis(retain_ms));
            }
        });
        Ok(Self { dir, events, records, grown, live })
    }

    /// The records that there are.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        record::load(&self.dir).map_err(|source| StoreError::File { path: self.dir.clone(), source })
    }

    /// Nobody can make sense of what is kept of a session.
    pub fn set_aside(&self, session: &SessionId, why: &str) {
        record::set_aside(&record::path(&self.dir, session), why);
    }

    /// The file of a session that lives. It is made with its first event.
    pub fn log(&self, session: &SessionId) -> Log {
        lock(&self.live).insert(session.clone());
        let path = self.dir.join(format!("{session}.jsonl"));
        let (live, session) = (self.live.clone(), session.clone());
        Log { path, session, live, committed: AtomicU64::new(0), file: Mutex::new(None) }
    }

    /// What a session's command writes.
    pub fn output(&self, session: &SessionId) -> OutputLog {
        OutputLog::new(&self.dir, session)
    }

    /// Whether a session of this identity left something here.
    pub fn has(&self, session: &SessionId) -> bool {
        self.dir.join(format!("{session}.jsonl")).exists() || record::path(&self.dir, session).exists()
    }

    /// Appends events, and returns when they are written.
    pub async fn append(&self, log: &Arc<Log>, events: &[Line]) -> Result<(), StoreError> {
        let mut lines = Vec::new();
        for event in events {
            event.write(&mut lines)?;
        }
        let last = events.iter().any(|line| line.event.kind == "session.ended");
        let room = if last { MAX_LOG } else { MAX_LOG - RESERVE };
        if log.committed() + lines.len() as u64 > room {
            return Err(StoreError::Full(log.path.clone()));
        }
        let (done, written) = oneshot::channel();
        let job = Job::Append { log: log.clone(), lines, done };
        self.events.send(job).await.map_err(|_| StoreError::Writer)?;
        written.await.map_err(|_| StoreError::Writer)?
    }

    /// Has a record written, behind all records that were asked for before. The answer need not be waited for.
    pub async fn save(&self, record: &Record) -> oneshot::Receiver<Result<(), StoreError>> {
        let (done, written) = oneshot::channel();
        match serde_json::to_vec(record) {
            Ok(bytes) => {
                let path = record::path(&self.dir, &record.id);
                // Without a writer the answer is that there is none.
                let _ = self.records.send(Job::Save { path, bytes, done }).await;
            }
            Err(error) => drop(done.send(Err(error.into()))),
        }
        written
    }

    /// Deletes a session's record and its output. Its events stay as long as all events.
    pub async fn forget(&self, session: &SessionId) {
        let (done, forgotten) = oneshot::channel();
        // Without a writer nothing is written any more either.
        let _ = self.records.send(Job::Forget { session: session.clone(), done }).await;
        let _ = forgotten.await;
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

fn write(mut queue: mpsc::Receiver<Job>, grown: &watch::Sender<()>, dir: &Path) {
    while let Some(job) = queue.blocking_recv() {
        match job {
            Job::Append { log, lines, done } => {
                let written = log.write(&lines);
                // Whoever waited for it may be gone.
                let _ = done.send(written);
                grown.send_replace(());
            }
            Job::Save { path, bytes, done } => {
                let saved = record::replace(&path, &bytes);
                let saved = saved.map_err(|source| StoreError::File { path, source });
                if let Err(error) = &saved {
                    tracing::error!("record: {error}");
                }
                let _ = done.send(saved);
            }
            Job::Forget { session, done } => {
                remove(&record::path(dir, &session));
                OutputLog::new(dir, &session).remove();
                let _ = done.send(());
            }
        }
    }
}

/// Deletes a file that may be gone already.
pub fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{}: {error}", path.display());
        }
        _ => {}
    }
}

/// Deletes the events and the output of sessions that ended longer ago than `retain`.
fn sweep(dir: &Path, live: &Live, retain: Duration) {
    let Some(oldest) = SystemTime::now().checked_sub(retain) else { return };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return tracing::warn!("{}: {error}", dir.display()),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((id, end)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
        let ours = matches!(end, "jsonl" | "broken" | "out0" | "out1");
        let lives = SessionId::parse(id).is_ok_and(|id| lock(live).contains(&id));
        let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|at| at < oldest);
        if ours && old && !lives {
            remove(&entry.path());
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

    fn id() -> SessionId {
        SessionId::parse("0123456789ab").unwrap()
    }

    fn event(seq: u64) -> Line {
        let event = Event { seq, kind: "process.exec".into(), ..Event::default() };
        Line { event, source: (seq != 2).then_some(seq * 10) }
    }

    #[tokio::test]
    async fn events_are_lines_and_counted_when_written() {
        let (store, root) = store("lines");
        let log = Arc::new(store.log(&id()));
        let mut grown = store.grown();
        store.append(&log, &[event(1), event(2)]).await.unwrap();
        store.append(&log, &[event(3)]).await.unwrap();
        grown.changed().await.unwrap();
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(text.len() as u64, log.committed());
        let seqs: Vec<u64> = text.lines().map(|l| serde_json::from_str::<Event>(l).unwrap().seq).collect();
        assert_eq!(seqs, [1, 2, 3]);
        assert!(text.ends_with(",\"n\":30}\n") && text.matches("\"n\":").count() == 2);
        log.close();
        std::fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn a_full_file_takes_nothing_but_the_end() {
        let (store, root) = store("full");
        let log = Arc::new(store.log(&id()));
        log.committed.store(MAX_LOG - RESERVE, Ordering::Release);
        assert!(matches!(store.append(&log, &[event(1)]).await, Err(StoreError::Full(_))));
        let end = Event { kind: "session.ended".into(), ..event(2).event };
        store.append(&log, &[Line { event: end, source: None }]).await.unwrap();
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_was_kept_long_enough_goes_unless_its_session_lives() {
        let (store, root) = store("sweep");
        let file = root.join("audit/0123456789ab.jsonl");
        std::fs::write(&file, "x").unwrap();
        let sweep = |retain| sweep(&root.join("audit"), &store.live, retain);
        sweep(Duration::from_secs(3600));
        let log = store.log(&id());
        sweep(Duration::ZERO);
        assert!(file.exists());
        log.close();
        sweep(Duration::ZERO);
        assert!(!file.exists());
        std::fs::remove_dir_all(root).unwrap();
    }
}
