//! Files that applies wrote: a review does not count them as changed underneath.

use std::collections::{BTreeMap, BTreeSet};

use rustix::fs::{FileType, Stat};

use super::record::{Applied, ApplyId, Fingerprint};
use crate::beneath::Tree;
use crate::change::{Change, Changes, Kind};
use crate::error::ReviewError;
use crate::path::FilePath;
use crate::trees::{Stamp, Trees};

/// The files that a session's applies left in a workspace, as they left them.
#[derive(Clone, Debug, Default)]
pub struct Own(BTreeMap<FilePath, Left>);

/// A file as an apply left it.
#[derive(Clone, Copy, Debug)]
struct Left {
    fingerprint: Fingerprint,
    /// It was taken back: it is what the workspace had, with its time of modification.
    is_restored: bool,
}

impl Own {
    /// After these applies, the oldest first.
    pub fn new(applies: &[Applied]) -> Self {
        let mut own = BTreeMap::new();
        let mut restoring: BTreeSet<&ApplyId> = BTreeSet::new();
        for applied in applies {
            // What takes a taking back back applies again.
            let is_restored = applied.undoes.as_ref().is_some_and(|undone| !restoring.contains(undone));
            if is_restored {
                restoring.insert(&applied.id);
            }
            for file in &applied.files {
                match file.fingerprint {
                    Some(fingerprint) => own.insert(file.path.clone(), Left { fingerprint, is_restored }),
                    None => own.remove(&file.path),
                };
            }
        }
        Self(own)
    }

    /// Whether the file with this status is as an apply left it.
    pub fn is_own(&self, path: &FilePath, stat: &Stat) -> bool {
        self.0.get(path).is_some_and(|left| left.fingerprint == Fingerprint::of(stat))
    }

    /// Takes deletions away that are none: of files that an apply put where the session had moved them. The kernel
    /// looks for what is in a moved directory at the old place (a redirect is a path), where the apply left nothing.
    /// What the session deleted has a whiteout in its upper directory; a directory that it made anew over an applied
    /// one has none, and its files are not shown as deleted.
    ///
    /// # Errors
    /// As `fstatat(2)`.
    pub fn drop_moved(&self, changes: &mut Changes, trees: &Trees) -> Result<(), ReviewError> {
        let mut kept: Vec<Change> = Vec::new();
        // From the last: what is in a directory before the directory.
        for change in std::mem::take(&mut changes.0).into_iter().rev() {
            if !self.is_moved(&change, kept.last(), trees)? {
                kept.push(change);
            }
        }
        kept.reverse();
        changes.0 = kept;
        Ok(())
    }

    fn is_moved(&self, change: &Change, next: Option<&Change>, trees: &Trees) -> Result<bool, ReviewError> {
        if change.after.is_some() || !self.0.contains_key(&change.path) {
            return Ok(false);
        }
        let is_directory = change.before.as_ref().is_some_and(|entry| entry.kind == Kind::Directory);
        let stat = trees.workspace.stat(&change.path)?;
        let as_left = match is_directory {
            true => !next.is_some_and(|next| next.path.is_within(&change.path)),
            false => stat.is_some_and(|stat| self.is_own(&change.path, &stat)),
        };
        Ok(as_left && !has_whiteout(&trees.upper, &change.path)?)
    }

    /// Takes the mark "changed underneath" from the changes of such files. One that was taken back keeps it if it was
    /// modified after `began`: then it is what the user had made of it.
    ///
    /// # Errors
    /// As `fstatat(2)`.
    pub fn acknowledge(
        &self,
        changes: &mut Changes,
        workspace: &Tree,
        began: Stamp,
    ) -> Result<(), ReviewError> {
        for change in changes.0.iter_mut().filter(|change| change.changed_underneath) {
            let Some(left) = self.0.get(&change.path) else { continue };
            let Some(stat) = workspace.stat(&change.path)? else { continue };
            let is_users = left.is_restored && modified(&stat) >= began;
            change.changed_underneath = is_users || !self.is_own(&change.path, &stat);
        }
        Ok(())
    }
}

fn modified(stat: &Stat) -> Stamp {
    Stamp::new(stat.st_mtime, stat.st_mtime_nsec)
}

/// Whether the session deleted `path`, or a directory on the way to it: a character device 0:0 (`overlayfs`).
fn has_whiteout(upper: &Tree, path: &FilePath) -> Result<bool, ReviewError> {
    let mut at = Some(path.clone());
    while let Some(path) = at {
        let is_whiteout = |stat: Stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
        };
        if upper.stat(&path)?.is_some_and(is_whiteout) {
            return Ok(true);
        }
        at = path.parent();
    }
    Ok(false)
}
