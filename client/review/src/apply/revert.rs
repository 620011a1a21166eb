//! Takes acts back. What the user changed since in a file that came is the user's: it stays, and so does that act.

use rustix::io::Errno;

use super::journal::{Commit, Staged};
use super::look::{Identity, kind};
use super::plan::{Act, Op};
use super::stage::slot;
use super::transaction::{Made, Slots, Transaction};
use crate::calls::Calls;
use crate::change::Kind;
use crate::error::ReviewError;
use crate::path::FilePath;

impl Transaction<'_> {
    /// Takes all acts back that were made, the last first. The numbers of those that stand, because somebody changed
    /// the file since.
    ///
    /// # Errors
    /// What the kernel refused: the rest is still to be taken back.
    pub fn take_back(
        &self,
        calls: &mut Calls<'_>,
        slots: &Slots,
        commit: &Commit,
    ) -> Result<Vec<usize>, ReviewError> {
        let mut standing = Vec::new();
        for (number, op) in commit.ops.iter().enumerate().rev() {
            self.back_from_kept(calls, slots, number, op)?;
            let stays = match self.made(slots, number, op) {
                Ok(Made::No) => false,
                Ok(Made::Yes) => match self.back(calls, slots, number, op) {
                    Err(error) if is_users(&error) => true,
                    other => other?,
                },
                Err(error) if is_users(&error) => true,
                Err(error) => return Err(error),
            };
            if stays {
                standing.push(number);
            }
        }
        Ok(standing)
    }

    /// Moves what was replaced back from the undo directory into its slot.
    fn back_from_kept(
        &self,
        calls: &mut Calls<'_>,
        slots: &Slots,
        number: usize,
        op: &Op<Staged>,
    ) -> Result<(), ReviewError> {
        let slot = slot(number)?;
        let moves = !slots.copied && matches!(op.act, Act::Remove { .. } | Act::Exchange { .. });
        if moves && slots.staging.stat(&slot)?.is_none() && slots.kept.stat(&slot)?.is_some() {
            calls.rename((&slots.kept, &slot), (&slots.staging, &slot), false)?;
        }
        Ok(())
    }

    /// Takes one act back; whether it stands all the same.
    fn back(
        &self,
        calls: &mut Calls<'_>,
        slots: &Slots,
        number: usize,
        op: &Op<Staged>,
    ) -> Result<bool, ReviewError> {
        let (slot, path) = (&slot(number)?, &op.path);
        let there = self.workspace.stat(path)?;
        match &op.act {
            Act::Chmod { from, .. } => self.chmod(calls, path, *from).map(|()| false),
            Act::Rmdir { was } => match there {
                Some(stat) => Ok(kind(&stat) != Kind::Directory),
                None => {
                    // In its slot first: it has its mode when it appears.
                    if slots.staging.stat(slot)?.is_none() {
                        calls.make_dir(&slots.staging, slot, 0o700)?;
                    }
                    let dir = slots.staging.open(Some(slot), rustix::fs::OFlags::RDONLY)?;
                    calls.chmod(&slots.staging, slot, &dir, was.entry.mode | 0o700)?;
                    calls.rename((&slots.staging, slot), (self.workspace, path), false)?;
                    if was.entry.mode & 0o700 != 0o700 {
                        self.chmod(calls, path, was.entry.mode)?;
                    }
                    Ok(false)
                }
            },
            Act::Remove { .. } => {
                calls.rename((&slots.staging, slot), (self.workspace, path), false).map(|()| false)
            }
            Act::Place { new } => {
                let Some(stat) = there else { return Ok(false) };
                if !is_ours(new, &Identity::of(&stat)) {
                    return Ok(true);
                }
                if kind(&stat) == Kind::Directory {
                    // Not moved: what somebody put into it meanwhile would go with it.
                    return calls.remove(self.workspace, path, true).map(|()| false);
                }
                calls.rename((self.workspace, path), (&slots.staging, slot), false)?;
                self.unless_ours(calls, slots, (slot, path), new, false)
            }
            Act::Exchange { new, .. } => {
                let Some(stat) = there else { return Ok(true) };
                if !is_ours(new, &Identity::of(&stat)) {
                    return Ok(true);
                }
                calls.rename((&slots.staging, slot), (self.workspace, path), true)?;
                self.unless_ours(calls, slots, (slot, path), new, true)
            }
        }
    }

    /// What came out is looked at once more, and put back if it is not what was staged: it stands then.
    fn unless_ours(
        &self,
        calls: &mut Calls<'_>,
        slots: &Slots,
        (slot, path): (&FilePath, &FilePath),
        new: &Staged,
        exchange: bool,
    ) -> Result<bool, ReviewError> {
        let stat = slots.staging.stat(slot)?;
        let is_directory = new.entry.kind == Kind::Directory;
        let is_empty =
            !is_directory || slots.staging.names(Some(slot), 1).is_ok_and(|names| names.is_empty());
        if is_empty && stat.is_some_and(|stat| is_ours(new, &Identity::of(&stat))) {
            return Ok(false);
        }
        calls.rename((&slots.staging, slot), (self.workspace, path), exchange).map(|()| true)
    }
}

/// Whether a file is the one that was staged, and nobody wrote to it. A directory's mode is set later.
fn is_ours(new: &Staged, now: &Identity) -> bool {
    let without_mode = |identity: &Identity| (identity.inode, identity.size, identity.modified);
    match new.entry.kind {
        Kind::Directory => without_mode(&new.identity) == without_mode(now),
        _ => new.identity == *now,
    }
}

/// Whether an error is about what somebody did in the workspace, rather than about the system.
fn is_users(error: &ReviewError) -> bool {
    let errnos =
        [Errno::EXIST, Errno::NOTEMPTY, Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::BUSY];
    matches!(error, ReviewError::Io { errno, .. } if errnos.contains(errno))
}
