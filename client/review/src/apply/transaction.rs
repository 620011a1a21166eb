//! An apply whose acts are staged and journalled: made, or taken back. How far it came is read from the slots, in a
//! directory that only the caller writes to: an act can be made, and taken back, any number of times.

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::check::STAGING;
use super::conflict::{ApplyError, Conflict};
use super::journal::{Begin, Commit, Journal, Staged};
use super::look::{Found, Identity, conflict, kind, look};
use super::plan::{Act, Op, differs};
use super::record;
use super::stage::slot;
use crate::beneath::Tree;
use crate::calls::Calls;
use crate::change::Kind;
use crate::error::{ReviewError, Side};
use crate::path::FilePath;
use crate::state::{self, Review, State};

/// The directories of one apply, and its journal.
#[derive(Debug)]
pub struct Transaction<'a> {
    pub(super) state: &'a State,
    pub(super) workspace: &'a Tree,
    pub(super) review: Review,
    pub(super) begin: Begin,
    pub(super) journal: Journal,
    /// The staging directory's path in the workspace.
    pub(super) staging_path: FilePath,
    /// The undo directory's path in the review's.
    pub(super) kept_path: FilePath,
}

/// The directories that acts are made with.
#[derive(Debug)]
pub struct Slots {
    pub(super) staging: Tree,
    pub(super) kept: Tree,
    /// As in [`Commit`].
    pub(super) copied: bool,
}

/// Whether an act was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    No,
    Yes,
}

impl<'a> Transaction<'a> {
    /// Begins one: its journal is on disk, its directories are not made.
    ///
    /// # Errors
    /// As the journal's calls.
    pub fn begin(
        calls: &mut Calls<'_>,
        state: &'a State,
        workspace: &'a Tree,
        begin: Begin,
    ) -> Result<Self, ReviewError> {
        let journal = Journal::begin(calls, state, &begin)?;
        Self::with(state, workspace, begin, journal)
    }

    /// One that an earlier process began.
    ///
    /// # Errors
    /// As `openat2(2)` in the state directory.
    pub fn with(
        state: &'a State,
        workspace: &'a Tree,
        begin: Begin,
        journal: Journal,
    ) -> Result<Self, ReviewError> {
        let review = state.review(&begin.session, &begin.path)?;
        let staging_path = state::name(&format!("{STAGING}{}", begin.id.random()))?;
        let kept_path = record::place(&review, &begin.id)?;
        Ok(Self { state, workspace, review, begin, journal, staging_path, kept_path })
    }

    /// Makes its directories.
    ///
    /// # Errors
    /// As `mkdirat(2)`; what is there already is not ours, and is an error.
    pub fn make_slots(&self, calls: &mut Calls<'_>) -> Result<Slots, ReviewError> {
        calls.make_dir(self.review.tree(), &self.kept_path, 0o700)?;
        calls.make_dir(self.workspace, &self.staging_path, 0o700)?;
        let mut slots = self.open_slots(false)?;
        // Whether a file can be moved from one to the other is the kernel's to say: mounts and quotas forbid it too.
        let probe = slot(0)?;
        calls.make_dir(&slots.staging, &probe, 0o700)?;
        slots.copied = match calls.rename((&slots.staging, &probe), (&slots.kept, &probe), false) {
            Ok(()) => false,
            Err(ReviewError::Io { errno: Errno::XDEV, .. }) => true,
            Err(error) => return Err(error),
        };
        calls.remove(if slots.copied { &slots.staging } else { &slots.kept }, &probe, true)?;
        Ok(slots)
    }

    /// Opens its directories.
    ///
    /// # Errors
    /// As `openat2(2)`; [`ReviewError::State`] if the staging directory is not the caller's alone.
    pub fn open_slots(&self, copied: bool) -> Result<Slots, ReviewError> {
        let kept = self.review.tree().open(Some(&self.kept_path), OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Slots { staging: self.open_staging()?, kept: Tree::new(Side::State, kept), copied })
    }

    pub(super) fn open_staging(&self) -> Result<Tree, ReviewError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let staging = Tree::new(Side::Staging, self.workspace.open(Some(&self.staging_path), flags)?);
        let stat = rustix::fs::fstat(&staging).map_err(|errno| staging.error("stat", None, errno))?;
        state::private(&stat)
            .map_err(|wrong| ReviewError::State { path: self.staging_path.to_string(), wrong })?;
        Ok(staging)
    }

    /// Makes all acts that were not made.
    ///
    /// # Errors
    /// [`ApplyError::Conflicts`] for the first that cannot be made: it is as it was, those before it are made. Or what
    /// the kernel refused.
    pub fn make(&self, calls: &mut Calls<'_>, slots: &Slots, commit: &Commit) -> Result<(), ApplyError> {
        for (number, op) in commit.ops.iter().enumerate() {
            let about = |error: ReviewError| match conflict(&error) {
                Some(Conflict::Deleted) if matches!(op.act, Act::Place { .. }) => {
                    ApplyError::one(&op.path, Conflict::Parent)
                }
                Some(conflict) => ApplyError::one(&op.path, conflict),
                None => error.into(),
            };
            match self.made(slots, number, op).map_err(about)? {
                Made::Yes => self.verify(calls, slots, number, op)?,
                Made::No => {
                    self.act(calls, slots, number, op).map_err(about)?;
                    self.verify(calls, slots, number, op)?;
                }
            }
        }
        Ok(())
    }

    /// Whether an act was made.
    ///
    /// # Errors
    /// As `fstatat(2)`.
    pub(super) fn made(&self, slots: &Slots, number: usize, op: &Op<Staged>) -> Result<Made, ReviewError> {
        let slot = slot(number)?;
        let in_slot = || slots.staging.stat(&slot);
        let is_made = match &op.act {
            // A directory that is gone was opened for what was in it, and then removed.
            Act::Chmod { to, .. } => {
                let stat = self.workspace.stat(&op.path)?.filter(|stat| kind(stat) == Kind::Directory);
                stat.is_none_or(|stat| stat.st_mode & 0o7777 == *to)
            }
            Act::Rmdir { .. } => {
                self.workspace.stat(&op.path)?.is_none_or(|stat| kind(&stat) != Kind::Directory)
            }
            Act::Place { .. } => in_slot()?.is_none(),
            Act::Exchange { new, .. } => in_slot()?.is_none_or(|stat| stat.st_ino != new.identity.inode),
            Act::Remove { .. } => {
                in_slot()?.is_some() || (!slots.copied && slots.kept.stat(&slot)?.is_some())
            }
        };
        Ok(if is_made { Made::Yes } else { Made::No })
    }

    fn act(
        &self,
        calls: &mut Calls<'_>,
        slots: &Slots,
        number: usize,
        op: &Op<Staged>,
    ) -> Result<(), ReviewError> {
        let (slot, path) = (&slot(number)?, &op.path);
        match &op.act {
            Act::Chmod { to, .. } => self.chmod(calls, path, *to),
            Act::Rmdir { .. } => calls.remove(self.workspace, path, true),
            Act::Remove { .. } => calls.rename((self.workspace, path), (&slots.staging, slot), false),
            Act::Place { .. } => calls.rename((&slots.staging, slot), (self.workspace, path), false),
            Act::Exchange { .. } => calls.rename((&slots.staging, slot), (self.workspace, path), true),
        }
    }

    /// Sets the mode of a directory.
    pub(super) fn chmod(&self, calls: &mut Calls<'_>, path: &FilePath, mode: u32) -> Result<(), ReviewError> {
        let dir = self.workspace.open(Some(path), OFlags::RDONLY | OFlags::DIRECTORY)?;
        calls.chmod(self.workspace, path, &dir, mode)
    }

    /// Whether what came out is what the check found. If not, it is put back.
    fn verify(
        &self,
        calls: &mut Calls<'_>,
        slots: &Slots,
        number: usize,
        op: &Op<Staged>,
    ) -> Result<(), ApplyError> {
        let (Act::Remove { was } | Act::Exchange { was, .. }) = &op.act else { return Ok(()) };
        let slot = slot(number)?;
        let Some(stat) = slots.staging.stat(&slot)? else {
            // It was verified, and moved on to the undo directory.
            return Ok(());
        };
        if is_what_was(&slots.staging, &slot, was, Identity::of(&stat))? {
            return Ok(());
        }
        let is_exchange = matches!(op.act, Act::Exchange { .. });
        calls.rename((&slots.staging, &slot), (self.workspace, &op.path), is_exchange)?;
        Err(ApplyError::one(&op.path, Conflict::ChangedUnderneath))
    }
}

/// By its identity, or in doubt by its content.
fn is_what_was(tree: &Tree, slot: &FilePath, was: &Found, now: Identity) -> Result<bool, ReviewError> {
    if now == was.identity && !was.racy {
        return Ok(true);
    }
    let found = look(tree, slot)?;
    Ok(differs(Some(&was.entry), found.as_ref().map(|found| &found.entry)).is_none())
}
