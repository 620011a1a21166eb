//! The end of an apply: what was replaced goes to the undo directory, and the rest away.

use super::conflict::ApplyError;
use super::journal::{Commit, Staged};
use super::plan::{Act, Op};
use super::record::Applied;
use super::stage::slot;
use super::transaction::{Slots, Transaction};
use crate::calls::Calls;
use crate::change::{Kind, MAX_CHANGES};
use crate::error::ReviewError;
use crate::path::FilePath;
use crate::state;

/// How an apply ended.
#[derive(Debug)]
pub enum Ended {
    /// Every act was made; this is on record.
    Made(Applied),
    /// No act stands but those in the record, if there is one: somebody changed their files since.
    TakenBack(Option<Applied>, ApplyError),
}

impl Transaction<'_> {
    /// Makes all acts, or takes all back. The staging directory is left if it cannot be removed: the journal is left
    /// with it.
    ///
    /// # Errors
    /// [`ApplyError::Stuck`] if they could be neither made nor taken back.
    pub fn run(mut self, calls: &mut Calls<'_>, slots: &Slots, commit: &Commit) -> Result<Ended, ApplyError> {
        let all = |_: usize| true;
        let made = self.make(calls, slots, commit).and_then(|()| Ok(self.settle(calls, slots, commit, all)?));
        match made {
            Ok(applied) => {
                self.close(calls).ok();
                Ok(Ended::Made(applied))
            }
            Err(why) => self.revert(calls, slots, commit, why),
        }
    }

    /// Takes back what was made.
    ///
    /// # Errors
    /// [`ApplyError::Stuck`] if it could not be.
    pub fn revert(
        mut self,
        calls: &mut Calls<'_>,
        slots: &Slots,
        commit: &Commit,
        why: ApplyError,
    ) -> Result<Ended, ApplyError> {
        // If this cannot be written and the process is killed, the next one tries to make the acts once more: the
        // workspace is as before or after then too.
        self.journal.revert(calls, self.state).ok();
        let mut back = || {
            let standing = self.take_back(calls, slots, commit)?;
            match standing.is_empty() {
                true => {
                    calls.sync_all(self.workspace)?;
                    self.journal.done(calls, self.state)?;
                    Ok(None)
                }
                false => self.settle(calls, slots, commit, |number| standing.contains(&number)).map(Some),
            }
        };
        match back() {
            Err(failure) => Err(ApplyError::Stuck { why: Box::new(why), failure }),
            Ok(applied) => {
                if applied.is_none() {
                    self.forget_kept(calls).ok();
                }
                self.close(calls).ok();
                Ok(Ended::TakenBack(applied, why))
            }
        }
    }

    /// Keeps what the acts replaced that stand, and puts them on record. All of it is on disk when this returns.
    fn settle(
        &mut self,
        calls: &mut Calls<'_>,
        slots: &Slots,
        commit: &Commit,
        stands: impl Fn(usize) -> bool,
    ) -> Result<Applied, ReviewError> {
        let replaces = |op: &Op<Staged>| matches!(op.act, Act::Remove { .. } | Act::Exchange { .. });
        let moved = commit.ops.iter().enumerate().filter(|(number, op)| replaces(op) && stands(*number));
        for (number, _) in moved.filter(|_| !slots.copied) {
            let slot = slot(number)?;
            if slots.staging.stat(&slot)?.is_some() {
                calls.rename((&slots.staging, &slot), (&slots.kept, &slot), false)?;
            }
        }
        let applied = Applied::new(&self.begin, &commit.ops, stands, self.workspace)?;
        applied.store(calls, &slots.kept)?;
        calls.sync_all(&slots.kept)?;
        calls.sync_all(self.workspace)?;
        self.journal.done(calls, self.state)?;
        Ok(applied)
    }

    /// Ends one of which nothing was made: staging and undo directory go.
    ///
    /// # Errors
    /// As `unlinkat(2)`; the journal is left then.
    pub fn discard(self, calls: &mut Calls<'_>) -> Result<(), ReviewError> {
        self.forget_kept(calls)?;
        self.close(calls)
    }

    fn forget_kept(&self, calls: &mut Calls<'_>) -> Result<(), ReviewError> {
        state::remove_all(calls, self.review.tree(), &self.kept_path, 2)
    }

    /// Removes the staging directory, and then the journal. No directory in it is removed that is not empty.
    ///
    /// # Errors
    /// As `unlinkat(2)`; the journal is left then.
    pub fn close(self, calls: &mut Calls<'_>) -> Result<(), ReviewError> {
        if self.workspace.stat(&self.staging_path)?.is_some() {
            // Checked to be the caller's own.
            let staging = self.open_staging()?;
            for name in staging.names(None, 2 * MAX_CHANGES)? {
                let path = FilePath::join(None, &name)?;
                let is_directory =
                    staging.stat(&path)?.is_some_and(|stat| super::look::kind(&stat) == Kind::Directory);
                calls.remove(&staging, &path, is_directory)?;
            }
            calls.remove(self.workspace, &self.staging_path, true)?;
        }
        self.journal.close(calls, self.state)
    }
}
