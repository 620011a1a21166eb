//! What makes events and records last. One thread has the disk take all that was written since it last did, at once,
//! and only then reports it: a power cut loses nothing that was shown or acknowledged.
//!
//! Each file is synced by itself (fdatasync, some at a time, so that they share the commits of the file system's
//! journal), then the directory if there are new ones. One syncfs were cheaper for many files, but it waits for all
//! that any process has written to the same file system, agents too, and fails by others' errors.
//!
//! After a failed sync it is unknown what is on disk, and a second one would succeed all the same. So failure is for
//! good: what was not on disk is cut off, nothing is acknowledged any more, and the next service begins with what is
//! there.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentd_policy::names::SessionId;
use tokio::sync::{oneshot, watch};

use super::ballast::Ballast;
use super::log::Log;
use super::output::OutputLog;
use super::record;
use super::remove;
use crate::metrics::metrics;
use crate::sync::lock;

/// How long events that are not urgent wait for others.
const PAUSE: Duration = Duration::from_millis(10);
/// Files that are synced at the same time, if there are many.
const AT_ONCE: usize = 4;
/// How many are few: threads of their own cost more than they save.
const FEW: usize = 8;

/// An event file that is longer than what is on disk of it.
pub(super) struct Grown {
    pub(super) log: Arc<Log>,
    /// The one that was written by: it knows of errors.
    pub(super) file: Arc<File>,
    pub(super) end: u64,
    /// It may be new in the directory.
    pub(super) created: bool,
}

/// A session whose output is to be deleted, and its record, unless that is to be kept.
struct Forgotten {
    session: SessionId,
    keep: bool,
    done: oneshot::Sender<()>,
}

/// What the disk is to take.
#[derive(Default)]
struct Batch {
    logs: HashMap<SessionId, Grown>,
    /// First records of sessions.
    created: HashMap<SessionId, Arc<File>>,
    /// Records that take the place of others.
    replaced: HashMap<SessionId, Vec<u8>>,
    forgotten: Vec<Forgotten>,
    /// A task waits for it.
    urgent: bool,
    /// Nothing more will come.
    closed: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.logs.is_empty()
            && self.created.is_empty()
            && self.replaced.is_empty()
            && self.forgotten.is_empty()
    }
}

/// The disk under the store.
pub(super) struct Disk {
    dir: PathBuf,
    waiting: Mutex<Batch>,
    wake: Condvar,
    failed: AtomicBool,
    grown: watch::Sender<()>,
    /// What writes fall back on.
    pub(super) ballast: Ballast,
    #[cfg(test)]
    pub(super) gate: super::gate::Gate,
}

impl Disk {
    /// The disk of the files in `dir`. Wakes `grown` when more of any event file is on disk.
    pub(super) fn new(dir: &Path, grown: watch::Sender<()>) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            waiting: Mutex::default(),
            wake: Condvar::new(),
            failed: AtomicBool::new(false),
            grown,
            ballast: Ballast::open(dir),
            #[cfg(test)]
            gate: super::gate::Gate::default(),
        })
    }

    /// Whether a sync has failed: then nothing comes to the disk any more.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// An event file has grown.
    pub(super) fn grown(&self, grown: Grown, urgent: bool) {
        self.ask(urgent, |batch| match batch.logs.get_mut(grown.log.session()) {
            Some(known) => known.end = grown.end,
            None => drop(batch.logs.insert(grown.log.session().clone(), grown)),
        });
    }

    /// A session has its first record.
    pub(super) fn created(&self, session: SessionId, record: File) {
        self.ask(false, |batch| drop(batch.created.insert(session, Arc::new(record))));
    }

    /// A session has another record, which is not written yet.
    pub(super) fn replace(&self, session: SessionId, record: Vec<u8>) {
        self.ask(true, |batch| drop(batch.replaced.insert(session, record)));
    }

    /// A session's output is to be deleted, and its record, unless that is to be kept.
    pub(super) fn forget(&self, session: SessionId, keep: bool, done: oneshot::Sender<()>) {
        self.ask(true, |batch| batch.forgotten.push(Forgotten { session, keep, done }));
    }

    /// Has the disk take what was written without a pause.
    pub(super) fn hurry(&self) {
        self.ask(true, |_| {});
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.ask(true, |batch| batch.closed = true);
    }

    fn ask(&self, urgent: bool, what: impl FnOnce(&mut Batch)) {
        let mut batch = lock(&self.waiting);
        let wake = batch.is_empty() || urgent && !batch.urgent;
        what(&mut batch);
        batch.urgent |= urgent;
        drop(batch);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Has the disk take what comes, until there will be no more.
    pub(super) fn run(&self) {
        while let Some(batch) = self.next() {
            self.settle(batch);
        }
    }

    fn next(&self) -> Option<Batch> {
        let idle = |batch: &mut Batch| batch.is_empty() && !batch.closed;
        let waiting = self.wake.wait_while(lock(&self.waiting), idle).unwrap_or_else(PoisonError::into_inner);
        let calm = |batch: &mut Batch| !batch.urgent && !batch.closed;
        let (mut waiting, _) =
            self.wake.wait_timeout_while(waiting, PAUSE, calm).unwrap_or_else(PoisonError::into_inner);
        let closed = waiting.closed;
        let batch = std::mem::replace(&mut *waiting, Batch { closed, ..Batch::default() });
        (!batch.is_empty()).then_some(batch)
    }

    fn settle(&self, mut batch: Batch) {
        let (kept, forgotten): (Vec<_>, Vec<_>) =
            std::mem::take(&mut batch.forgotten).into_iter().partition(|one| one.keep);
        for Forgotten { session, done, .. } in forgotten {
            batch.created.remove(&session);
            batch.replaced.remove(&session);
            remove(&record::path(&self.dir, &session));
            OutputLog::new(&self.dir, &session).remove();
            done.send(()).ok();
        }
        let done = if self.has_failed() { Ok(false) } else { self.write(&mut batch).map(|()| true) };
        if let Err(error) = &done {
            self.failed.store(true, Ordering::Release);
            tracing::error!(
                path = %self.dir.display(),
                %error,
                "the disk failed: no event is acknowledged and no session started any more until agentd starts anew"
            );
        }
        // Their last record is written by now.
        for Forgotten { session, done, .. } in kept {
            self.retire(&session);
            done.send(()).ok();
        }
        for grown in batch.logs.values() {
            match done {
                Ok(true) => grown.log.commit(grown.end),
                _ => grown.log.take_back(&grown.file),
            }
        }
        if !batch.logs.is_empty() {
            self.grown.send_replace(());
        }
    }

    /// Keeps a session's record under the name of those that were removed, and deletes its output.
    fn retire(&self, session: &SessionId) {
        OutputLog::new(&self.dir, session).remove();
        let (path, removed) = (record::path(&self.dir, session), record::removed(&self.dir, session));
        if let Err(error) = std::fs::rename(&path, &removed) {
            tracing::error!(%session, path = %path.display(), %error, "a record is not kept");
        }
    }

    /// Brings all of it to the disk. A record takes the place of the one before once it is there itself, and all
    /// events that it knows of.
    fn write(&self, batch: &mut Batch) -> io::Result<()> {
        let new = !batch.created.is_empty() || batch.logs.values().any(|grown| grown.created);
        let mut files: Vec<_> = batch.logs.values().map(|grown| grown.file.clone()).collect();
        let mut replaced = Vec::new();
        for (session, bytes) in &batch.replaced {
            let path = record::path(&self.dir, session);
            match self.ballast.room(|| record::write(&path, bytes)) {
                Ok(file) => {
                    files.push(Arc::new(file));
                    // The one before need not come to the disk first.
                    batch.created.remove(session);
                    replaced.push(path);
                }
                // The one before stays.
                Err(error) => {
                    tracing::error!(%session, path = %path.display(), %error, "a record was not written");
                }
            }
        }
        files.extend(batch.created.values().cloned());
        let began = Instant::now();
        self.sync_all(&files)?;
        for path in replaced {
            record::put(&path)?;
        }
        if new {
            self.sync(&File::open(&self.dir)?, true)?;
        }
        metrics().synced(began.elapsed());
        Ok(())
    }

    fn sync_all(&self, files: &[Arc<File>]) -> io::Result<()> {
        let each = |part: &[Arc<File>]| part.iter().try_for_each(|file| self.sync(file, false));
        if files.len() <= FEW {
            return each(files);
        }
        let (own, others) = files.split_at(files.len() / AT_ONCE);
        std::thread::scope(|scope| {
            let mut helpers = Vec::new();
            for part in others.chunks(others.len().div_ceil(AT_ONCE - 1)) {
                match std::thread::Builder::new().spawn_scoped(scope, move || each(part)) {
                    Ok(helper) => helpers.push(helper),
                    Err(_) => each(part)?,
                }
            }
            each(own)?;
            helpers.into_iter().try_for_each(|helper| {
                helper.join().unwrap_or_else(|_| Err(io::Error::other("a thread of it was lost")))
            })
        })
    }

    /// What is in the file, or all of it.
    fn sync(&self, file: &File, whole: bool) -> io::Result<()> {
        #[cfg(test)]
        self.gate.pass()?;
        if whole { file.sync_all() } else { file.sync_data() }
    }
}
