//! Everything that an apply needs, copied into the staging directory before the workspace is touched: what is reviewed
//! is what comes, whatever a session that still runs does to its files meanwhile.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::conflict::{ApplyError, Conflict};
use super::journal::Staged;
use super::look::{Identity, kind};
use super::plan::{Act, After, Op, Origin};
use crate::beneath::Tree;
use crate::calls::Calls;
use crate::change::{Content, Entry, Kind};
use crate::digest::Digest;
use crate::error::ReviewError;
use crate::path::FilePath;
use crate::state;

/// The name of act number `number` in the staging and the undo directory.
///
/// # Errors
/// None: a number is a name.
pub fn slot(number: usize) -> Result<FilePath, ReviewError> {
    state::name(&number.to_string())
}

/// Puts what comes into its slots. The bytes of `source` must have the digests that the acts have.
///
/// # Errors
/// [`Conflict::Moved`] for a file that is another one by now; as the calls that it is made of.
pub fn stage(
    calls: &mut Calls<'_>,
    source: &Tree,
    staging: &Tree,
    acts: Vec<Op<After>>,
) -> Result<Vec<Op<Staged>>, ApplyError> {
    let mut staged = Vec::with_capacity(acts.len());
    for (number, Op { path, act }) in acts.into_iter().enumerate() {
        let mut make = |new: After| one(calls, source, (staging, &slot(number)?), &path, new);
        let act = match act {
            Act::Chmod { from, to } => Act::Chmod { from, to },
            Act::Rmdir { was } => Act::Rmdir { was },
            Act::Remove { was } => Act::Remove { was },
            Act::Place { new } => Act::Place { new: make(new)? },
            Act::Exchange { was, new } => Act::Exchange { was, new: make(new)? },
        };
        staged.push(Op { path, act });
    }
    Ok(staged)
}

fn one(
    calls: &mut Calls<'_>,
    source: &Tree,
    (staging, slot): (&Tree, &FilePath),
    path: &FilePath,
    new: After,
) -> Result<Staged, ApplyError> {
    let After { entry, origin, modified } = new;
    match (entry.kind, &entry.content, origin) {
        (Kind::File, Content::Bytes(_), Origin::Tree(from)) => {
            copy(calls, (source, &from), (staging, slot), &entry, path)?;
        }
        (Kind::File, _, Origin::Bytes(bytes)) => {
            let file = calls.create(staging, slot)?;
            calls.write_at(staging, slot, &file, &bytes, 0)?;
            calls.chmod(staging, slot, &file, entry.mode)?;
        }
        (Kind::Symlink, Content::Target(target), _) => calls.symlink(staging, slot, target)?,
        (Kind::Directory, ..) => drop(calls.make_dir(staging, slot, entry.mode)?),
        _ => return Err(ApplyError::one(path, Conflict::Special)),
    }
    if let Some(modified) = modified {
        calls.set_modified(staging, slot, modified)?;
    }
    let stat = staging.stat(slot)?.ok_or_else(|| staging.error("stat", Some(slot), Errno::NOENT))?;
    Ok(Staged { entry, identity: Identity::of(&stat) })
}

/// Copies what acts replace into the undo directory, for one that is on another file system.
///
/// # Errors
/// [`Conflict::Moved`] for a file that is another one by now; as the calls that it is made of.
pub fn copy_replaced<N>(
    calls: &mut Calls<'_>,
    workspace: &Tree,
    kept: &Tree,
    acts: &[Op<N>],
) -> Result<(), ApplyError> {
    for (number, Op { path, act }) in acts.iter().enumerate() {
        let (Act::Remove { was } | Act::Exchange { was, .. }) = act else { continue };
        let slot = slot(number)?;
        match &was.entry.content {
            Content::Target(target) => calls.symlink(kept, &slot, target)?,
            _ => drop(copy(calls, (workspace, path), (kept, &slot), &was.entry, path)?),
        }
        calls.set_modified(kept, &slot, was.identity.modified)?;
    }
    Ok(())
}

enum Stop {
    Read(Errno),
    Larger,
    Write(ReviewError),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Read(errno)
    }
}

/// A new file with the content and mode of `expected`, holes left out, blocks shared where the file system can.
/// No attribute but the mode is copied. The errors are about `path`.
fn copy(
    calls: &mut Calls<'_>,
    (source, from): (&Tree, &FilePath),
    (tree, to): (&Tree, &FilePath),
    expected: &Entry,
    path: &FilePath,
) -> Result<OwnedFd, ApplyError> {
    let moved = || ApplyError::one(path, Conflict::Moved);
    let read = source.open(Some(from), OFlags::RDONLY)?;
    let stat = rustix::fs::fstat(&read).map_err(|errno| source.error("stat", Some(from), errno))?;
    if kind(&stat) != Kind::File {
        return Err(moved());
    }
    let file = calls.create(tree, to)?;
    let copied = match calls.clone_blocks(tree, to, &file, &read)? {
        true => Digest::of_file(&file).map_err(Stop::Read),
        false => blocks(calls, read.as_fd(), (tree, to), &file, expected.size),
    };
    let (digest, size) = copied.map_err(|stop| match stop {
        Stop::Read(errno) => source.error("read", Some(from), errno).into(),
        Stop::Larger => moved(),
        Stop::Write(error) => ApplyError::Review(error),
    })?;
    if expected.content != Content::Bytes(digest) || expected.size != size {
        return Err(moved());
    }
    calls.chmod(tree, to, &file, expected.mode)?;
    Ok(file)
}

/// Copies block by block, and makes the digest of what it copies; no more than `max` bytes.
fn blocks(
    calls: &mut Calls<'_>,
    from: impl AsFd,
    (tree, to): (&Tree, &FilePath),
    file: impl AsFd,
    max: u64,
) -> Result<(Digest, u64), Stop> {
    let mut written = 0;
    let (digest, size) = Digest::of_blocks(from, |offset, bytes| {
        written = offset + bytes.len() as u64;
        if written > max {
            return Err(Stop::Larger);
        }
        calls.write_at(tree, to, &file, bytes, offset).map_err(Stop::Write)
    })?;
    if size != written {
        calls.set_size(tree, to, &file, size).map_err(Stop::Write)?;
    }
    Ok((digest, size))
}
