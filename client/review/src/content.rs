//! Contents of files, read within bounds and as they were when they were compared.

use std::io::Read as _;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, OFlags};

use crate::beneath::Tree;
use crate::change::{Change, Content, Entry, Kind};
use crate::digest::Digest;
use crate::error::ReviewError;
use crate::path::FilePath;
use crate::trees::Trees;

/// What one side of a change holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// There is no file, or it is a directory, FIFO, socket or device.
    Nothing,
    /// The bytes of a regular file, or the target of a link.
    Bytes(Vec<u8>),
    /// More than was asked for: the size in bytes.
    Large(u64),
    /// Something else than when the trees were compared: another review is needed.
    Changed,
    /// The caller may not read it.
    Unreadable,
    /// Not looked at: the budget of the review was used up.
    Skipped,
}

/// The largest file that is shown as text, in bytes.
pub const MAX_TEXT: u64 = 8 << 20;

/// What one review reads and compares at most. Files beyond it are listed, with their sizes, but not looked into.
#[derive(Debug)]
pub struct Budget {
    /// The largest file, in bytes.
    pub file: u64,
    /// Bytes of all files together that are still to be read.
    pub bytes: u64,
    /// When to stop.
    pub until: Instant,
}

impl Default for Budget {
    /// 8 MiB a file, 256 MiB together, 30 s.
    fn default() -> Self {
        let now = Instant::now();
        let until = now.checked_add(Duration::from_secs(30)).unwrap_or(now);
        Self { file: MAX_TEXT, bytes: 256 << 20, until }
    }
}

impl Budget {
    /// Nothing is read: sizes are known all the same.
    #[must_use]
    pub fn none() -> Self {
        Self { file: 0, bytes: 0, until: Instant::now() }
    }

    /// Takes what `entries` are going to cost; `false` if there is not as much left.
    fn take<'e>(&mut self, entries: impl IntoIterator<Item = &'e Entry>) -> bool {
        let cost = entries.into_iter().map(|entry| entry.size).filter(|size| *size <= self.file);
        let cost = cost.fold(0, u64::saturating_add);
        let left = self.bytes.checked_sub(cost).filter(|_| Instant::now() < self.until);
        self.bytes = left.unwrap_or(self.bytes);
        left.is_some()
    }
}

/// What both sides of a change hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sides {
    /// In the workspace, perhaps where the file was moved from.
    pub before: Held,
    /// For the session.
    pub after: Held,
}

impl Sides {
    /// Reads both, within `budget`.
    pub fn read(change: &Change, trees: &Trees, budget: &mut Budget) -> Self {
        // A file that was moved away is as large as the one that came.
        let moved = change.after.iter().filter(|_| change.renamed_from.is_some());
        match budget.take(change.before.iter().chain(&change.after).chain(moved)) {
            true => {
                Self { before: before(change, trees, budget.file), after: after(change, trees, budget.file) }
            }
            false => Self { before: Held::Skipped, after: Held::Skipped },
        }
    }
}

/// The regular file `path` of `tree` if it has at most `max` bytes, else its size. Never waits for a FIFO, and follows
/// no link.
///
/// # Errors
/// As [`Tree::open`] and `read(2)`.
pub fn read(tree: &Tree, path: &FilePath, max: u64) -> Result<Held, ReviewError> {
    let failed = |errno| tree.error("read", Some(path), errno);
    let file = tree.open(Some(path), OFlags::RDONLY)?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Held::Changed);
    }
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    if size > max {
        return Ok(Held::Large(size));
    }
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    let read = std::fs::File::from(file).take(max.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| failed(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)))?;
    let read = bytes.len() as u64;
    Ok(if read > max { Held::Large(read) } else { Held::Bytes(bytes) })
}

/// What `path` of `tree` holds, which was found to be `entry`: other bytes than then are [`Held::Changed`].
pub fn held(tree: &Tree, path: &FilePath, entry: Option<&Entry>, max: u64) -> Held {
    let Some(entry) = entry else { return Held::Nothing };
    match (&entry.content, entry.kind) {
        (Content::Target(target), _) => Held::Bytes(target.clone()),
        (Content::Unreadable, _) => Held::Unreadable,
        (Content::Bytes(_), Kind::File) if entry.size > max => Held::Large(entry.size),
        (Content::Bytes(digest), Kind::File) => match read(tree, path, max) {
            Ok(Held::Bytes(bytes)) if Digest::of_bytes(&bytes) != *digest => Held::Changed,
            Ok(held) => held,
            Err(ReviewError::Io { errno: rustix::io::Errno::ACCESS, .. }) => Held::Unreadable,
            Err(_) => Held::Changed,
        },
        _ => Held::Nothing,
    }
}

/// The file that was moved to where `change` is: the workspace's, as it is now.
fn source(change: &Change, trees: &Trees, max: u64) -> Option<Held> {
    let from = change.renamed_from.as_ref()?;
    let is_link = change.after.as_ref().is_some_and(|after| after.kind == Kind::Symlink);
    match is_link {
        true => trees.workspace.read_link(from).ok().map(Held::Bytes),
        false => read(&trees.workspace, from, max).ok(),
    }
}

/// What the file held that became `change`'s: at its own path, or, if there was none, where it was moved from.
pub fn before(change: &Change, trees: &Trees, max: u64) -> Held {
    match held(&trees.workspace, &change.path, change.before.as_ref(), max) {
        Held::Nothing if change.before.is_none() => source(change, trees, max).unwrap_or(Held::Nothing),
        held => held,
    }
}

/// What the file holds for the session.
pub fn after(change: &Change, trees: &Trees, max: u64) -> Held {
    held(&trees.merged, &change.path, change.after.as_ref(), max)
}

/// Whether the regular file `path` of `tree` begins with `bytes`.
///
/// # Errors
/// As [`read`].
pub fn starts_with(tree: &Tree, path: &FilePath, bytes: &[u8]) -> Result<bool, ReviewError> {
    let failed = |errno| tree.error("read", Some(path), errno);
    let file = tree.open(Some(path), OFlags::RDONLY)?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(false);
    }
    let mut start = Vec::new();
    let read = std::fs::File::from(file).take(bytes.len() as u64).read_to_end(&mut start);
    read.map_err(|error| failed(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)))?;
    Ok(start == bytes)
}
