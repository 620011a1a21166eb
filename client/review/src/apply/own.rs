//! Files that applies wrote: a review does not count them as changed underneath.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;

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

    /// Takes changes away that the session did not make. The kernel looks for what is in a moved directory at its old
    /// place (a redirect is a path): once an apply or the user has moved it, the session's view has something else
    /// there, or nothing. So what an apply wrote, and nobody touched since, is as the session has it; and a file that
    /// the user made or changed since the session began was not deleted by it: unless its upper directory says so, by
    /// an entry, a whiteout, or another kind of file on the way.
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
        let Some(before) = &change.before else { return Ok(false) };
        let stat = trees.workspace.stat(&change.path)?;
        // What was taken back is what the workspace had: the session's change of it is shown again.
        let is_restored = self.0.get(&change.path).is_some_and(|left| left.is_restored);
        let as_left = match before.kind {
            Kind::Directory => {
                change.after.is_none()
                    && self.0.contains_key(&change.path)
                    && !next.is_some_and(|next| next.path.is_within(&change.path))
            }
            _ => stat.is_some_and(|stat| self.is_own(&change.path, &stat)),
        };
        let is_users = change.after.is_none() && change.changed_underneath;
        Ok(((as_left && !is_restored) || is_users) && !says(&trees.upper, &change.path)?)
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

/// Whether the session's upper directory says something of `path`: it has the file, or a whiteout (a character device
/// 0:0), or something on the way to it that is no directory.
fn says(upper: &Tree, path: &FilePath) -> Result<bool, ReviewError> {
    let mut at: Option<FilePath> = None;
    for component in path.components() {
        let next = FilePath::join(at.as_ref(), std::ffi::OsStr::from_bytes(component))?;
        match upper.stat(&next)? {
            None => return Ok(false),
            Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => return Ok(true),
            Some(_) => at = Some(next),
        }
    }
    Ok(true)
}
