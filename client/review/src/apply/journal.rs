//! What an apply is about to do, on disk before it does it. A journal is a file of records that only grows; a record is
//! on disk before what it announces begins, so that a torn one announces nothing.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use agentd_policy::names::{AbsPath, SessionId};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::look::Identity;
use super::plan::Op;
use super::record::ApplyId;
use crate::calls::Calls;
use crate::change::Entry;
use crate::error::ReviewError;
use crate::frame;
use crate::path::FilePath;
use crate::state::{self, MAX_NAMES, State};
use crate::trees::Stamp;

/// The form of the records that follow.
const MAGIC: &[u8; 8] = b"agentdJ1";
const DIR: &str = "journals";

/// A file that lies in its slot, ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// What it is and holds.
    pub entry: Entry,
    /// Which one it is.
    pub identity: Identity,
}

/// Which apply a journal is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Its number and random part; staging directory and undo directory have their names of it.
    pub id: ApplyId,
    /// Whose changes are applied.
    pub session: SessionId,
    /// The workspace, as the session had it.
    pub path: AbsPath,
    /// The workspace's device and inode.
    pub workspace: (u64, u64),
    /// When it began.
    pub at: Stamp,
    /// The apply that this one takes back.
    pub undoes: Option<ApplyId>,
}

/// What is done in the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// What is replaced lies as a copy in the undo directory already: it is on another file system.
    pub copied: bool,
    /// In this order.
    pub ops: Vec<Op<Staged>>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Record<C> {
    Begin(Begin),
    Commit(C),
    Revert,
    Done,
}

/// How far an apply has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// Everything is staged, and the workspace may have been changed.
    pub commit: Option<Commit>,
    /// What was done is being taken back.
    pub reverting: bool,
    /// The workspace is as it shall be, on disk; the staging directory may still be there.
    pub done: bool,
}

/// One apply's journal, open for the next record.
#[derive(Debug)]
pub struct Journal {
    file: OwnedFd,
    path: FilePath,
    end: u64,
}

impl Journal {
    /// A new one, on disk.
    ///
    /// # Errors
    /// As `openat(2)`, `write(2)` and `fsync(2)`.
    pub fn begin(calls: &mut Calls<'_>, state: &State, begin: &Begin) -> Result<Self, ReviewError> {
        let path = FilePath::join(Some(&state.directory(None, DIR)?), OsStr::new(begin.id.as_str()))?;
        let record = frame::encode(&Record::Begin::<()>(begin.clone()));
        let bytes = [MAGIC.to_vec(), record.unwrap_or_default()].concat();
        state::write(calls, state.tree(), &path, &bytes)?;
        let file = state.tree().open(Some(&path), OFlags::RDWR)?;
        Ok(Self { file, path, end: bytes.len() as u64 })
    }

    /// The workspace is changed from now on.
    ///
    /// # Errors
    /// As `write(2)` and `fsync(2)`; [`ReviewError::TooMuch`] for a list that is too long.
    pub fn commit(
        &mut self,
        calls: &mut Calls<'_>,
        state: &State,
        commit: &Commit,
    ) -> Result<(), ReviewError> {
        self.append(calls, state, &Record::Commit(commit))
    }

    /// What was done is taken back from now on.
    ///
    /// # Errors
    /// As `write(2)` and `fsync(2)`.
    pub fn revert(&mut self, calls: &mut Calls<'_>, state: &State) -> Result<(), ReviewError> {
        self.append(calls, state, &Record::Revert::<()>)
    }

    /// Nothing is left to do in the workspace but to remove the staging directory.
    ///
    /// # Errors
    /// As `write(2)` and `fsync(2)`.
    pub fn done(&mut self, calls: &mut Calls<'_>, state: &State) -> Result<(), ReviewError> {
        self.append(calls, state, &Record::Done::<()>)
    }

    /// Removes it: the apply has ended.
    ///
    /// # Errors
    /// As `unlinkat(2)`.
    pub fn close(self, calls: &mut Calls<'_>, state: &State) -> Result<(), ReviewError> {
        calls.remove(state.tree(), &self.path, false)
    }

    fn append(
        &mut self,
        calls: &mut Calls<'_>,
        state: &State,
        record: &Record<impl Serialize>,
    ) -> Result<(), ReviewError> {
        let many = ReviewError::TooMuch { what: "bytes in a journal", max: frame::MAX_RECORD as u64 };
        let bytes = frame::encode(record).ok_or(many)?;
        // At the end of the last whole record: over what a failed write may have left.
        calls.write_at(state.tree(), &self.path, &self.file, &bytes, self.end)?;
        calls.sync(state.tree(), Some(&self.path), &self.file)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// The names of all journals.
    ///
    /// # Errors
    /// As `getdents64(2)`.
    pub fn all(state: &State) -> Result<Vec<FilePath>, ReviewError> {
        let dir = state.directory(None, DIR)?;
        let mut names = state.tree().names(Some(&dir), MAX_NAMES)?;
        names.sort();
        names.iter().map(|name| FilePath::join(Some(&dir), name)).collect()
    }

    /// The journal at `path`, with how far it came; `None` if it is damaged, of another version, or no journal. What it
    /// had staged is then as another's: nothing is applied beside it.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn read(state: &State, path: &FilePath) -> Result<Option<(Self, Begin, Progress)>, ReviewError> {
        let bytes = state::read(state.tree(), path, 2 * frame::MAX_RECORD)?.unwrap_or_default();
        let Some((begin, progress, end)) = parse(&bytes) else { return Ok(None) };
        let file = state.tree().open(Some(path), OFlags::RDWR)?;
        Ok(Some((Self { file, path: path.clone(), end: end as u64 }, begin, progress)))
    }
}

/// What a journal's bytes say, and where its last whole record ends; `None` for what no apply writes.
fn parse(bytes: &[u8]) -> Option<(Begin, Progress, usize)> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut begun = None;
    let mut progress = Progress::default();
    while let Some((record, next)) = frame::decode(rest) {
        match (record, &begun) {
            (Record::Begin(begin), None) => begun = Some(begin),
            (Record::Commit(commit), Some(_)) if progress.commit.is_none() => progress.commit = Some(commit),
            (Record::Revert, Some(_)) if progress.commit.is_some() && !progress.done => {
                progress.reverting = true
            }
            (Record::Done, Some(_)) if progress.commit.is_some() && !progress.done => progress.done = true,
            _ => return None,
        }
        rest = next;
    }
    begun.map(|begin| (begin, progress, bytes.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn begin() -> Begin {
        Begin {
            id: ApplyId::new(1, 7),
            session: crate::tests::session(),
            path: crate::tests::workspace(),
            workspace: (1, 2),
            at: Stamp { seconds: 1, nanoseconds: 2 },
            undoes: None,
        }
    }

    fn whole() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = MAGIC.to_vec();
        let mut ends = vec![];
        let commit = Commit { copied: false, ops: vec![] };
        for record in [Record::Begin(begin()), Record::Commit(commit), Record::Revert, Record::Done] {
            bytes.extend(frame::encode(&record).unwrap());
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn torn_at_every_byte() {
        let (bytes, ends) = whole();
        for cut in 0..=bytes.len() {
            let records = ends.iter().filter(|end| **end <= cut).count();
            let found = match parse(&bytes[..cut]) {
                None => 0,
                Some((found, progress, end)) => {
                    assert_eq!((found, end), (begin(), ends[records - 1]));
                    1 + [progress.commit.is_some(), progress.reverting, progress.done]
                        .iter()
                        .filter(|is| **is)
                        .count()
                }
            };
            assert_eq!(found, records, "cut at {cut}");
        }
    }

    #[test]
    fn what_no_apply_writes_is_no_journal() {
        let commit = || Record::Commit(Commit { copied: false, ops: vec![] });
        for records in [
            vec![commit()],
            vec![Record::Begin(begin()), Record::Begin(begin())],
            vec![Record::Begin(begin()), Record::Done],
            vec![Record::Begin(begin()), commit(), Record::Done, Record::Revert],
        ] {
            let frames = records.iter().flat_map(|record| frame::encode(record).unwrap());
            let bytes: Vec<u8> = MAGIC.iter().copied().chain(frames).collect();
            assert!(parse(&bytes).is_none());
        }
        assert!(parse(b"agentdJ2 of a later version").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes(tail in proptest::collection::vec(any::<u8>(), 0..200), keep in any::<prop::sample::Index>()) {
            let (mut bytes, _) = whole();
            bytes.truncate(keep.index(bytes.len() + 1));
            bytes.extend(tail);
            let _ = parse(&bytes);
        }
    }
}
