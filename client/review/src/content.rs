//! Contents of files, read within bounds and as they were when they were compared.

use std::io::Read as _;

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
