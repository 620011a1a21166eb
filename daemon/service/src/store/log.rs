//! The event file of one session: what of it is written, and what of that is on disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use agentd_policy::names::SessionId;
use tokio::sync::watch;

use super::disk::{Disk, Grown};
use super::tail::{self, Tail};
use super::{Live, StoreError};
use crate::sync::lock;

/// The file of one session.
pub struct Log {
    path: PathBuf,
    session: SessionId,
    live: Live,
    /// Bytes that hold whole events, for a service that starts anew.
    written: AtomicU64,
    /// Of them, those that a power cut leaves: what is shown and acknowledged.
    committed: watch::Sender<u64>,
    file: Mutex<Option<Arc<File>>>,
}

impl Log {
    pub(super) fn new(path: PathBuf, session: SessionId, live: Live) -> Arc<Self> {
        let (written, committed) = (AtomicU64::new(0), watch::Sender::new(0));
        Arc::new(Self { path, session, live, written, committed, file: Mutex::new(None) })
    }

    /// The file, to be read up to [`committed`](Self::committed).
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn session(&self) -> &SessionId {
        &self.session
    }

    /// How much of the file is written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// How much of it is on disk.
    pub fn committed(&self) -> u64 {
        *self.committed.borrow()
    }

    /// Wakes when more of it is on disk.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// Nothing more will be written. What is written comes to the disk still.
    pub fn close(&self) {
        *lock(&self.file) = None;
        lock(&self.live).remove(&self.session);
    }

    /// Where the file stands. What a writer that was killed left of a line at its end is cut off. What is there
    /// may not be on disk, unless it is `settled`.
    pub(super) fn take_up(self: &Arc<Self>, settled: bool, disk: &Disk) -> io::Result<Tail> {
        let tail = tail::read(&self.path)?;
        self.written.store(tail.length, Ordering::Release);
        if settled {
            self.commit(tail.length);
        } else if tail.length > 0 {
            let file = self.open(tail.length)?;
            *lock(&self.file) = Some(file.clone());
            disk.grown(Grown { log: self.clone(), file, end: tail.length, created: true }, false);
        }
        Ok(tail)
    }

    /// Appends `lines`. They are not on disk yet: that is what the answer is for.
    pub(super) fn write(self: &Arc<Self>, lines: &[u8], disk: &Disk) -> Result<Grown, StoreError> {
        let fail = |source| StoreError::File { path: self.path.clone(), source };
        let mut slot = lock(&self.file);
        if disk.has_failed() {
            return Err(StoreError::Failed);
        }
        let before = self.written();
        let file = match slot.take() {
            Some(file) => file,
            None => disk.ballast.room(|| self.open(before)).map_err(fail)?,
        };
        // Half a line must not stay before the next one.
        let append = || (&*file).write_all(lines).or_else(|error| file.set_len(before).and(Err(error)));
        if let Err(source) = disk.ballast.room(append) {
            // If it does now, that is looked at again.
            if file.metadata().is_ok_and(|file| file.len() == before) {
                *slot = Some(file);
            }
            return Err(fail(source));
        }
        *slot = Some(file.clone());
        let end = before + lines.len() as u64;
        self.written.store(end, Ordering::Release);
        Ok(Grown { log: self.clone(), file, end, created: before == 0 })
    }

    /// The file is on disk up to `end`.
    pub(super) fn commit(&self, end: u64) {
        self.committed.send_replace(end);
    }

    /// Cuts off what did not come to the disk: it is unknown what a page holds whose writing has failed, and the
    /// events in it are still where they came from.
    pub(super) fn take_back(&self, file: &File) {
        let _slot = lock(&self.file);
        let committed = self.committed();
        if let Err(error) = file.set_len(committed) {
            tracing::error!(session = %self.session, path = %self.path.display(), %error, "half an event stays");
        }
        self.written.store(committed, Ordering::Release);
        // Wakes those that wait for more.
        self.committed.send_replace(committed);
    }

    #[cfg(test)]
    pub(super) fn fill(&self, length: u64) {
        self.written.store(length, Ordering::Release);
    }

    fn open(&self, length: u64) -> io::Result<Arc<File>> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.set_len(length)?;
        Ok(Arc::new(file))
    }
}
