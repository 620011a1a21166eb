//! Files that applies wrote: a review does not count them as changed underneath.

use std::collections::BTreeMap;

use rustix::fs::Stat;

use super::record::{Applied, Fingerprint};
use crate::beneath::Tree;
use crate::change::Changes;
use crate::error::ReviewError;
use crate::path::FilePath;

/// The files that a session's applies left in a workspace, as they left them.
#[derive(Clone, Debug, Default)]
pub struct Own(BTreeMap<FilePath, Fingerprint>);

impl Own {
    /// After these applies, the oldest first.
    pub fn new(applies: &[Applied]) -> Self {
        let mut own = BTreeMap::new();
        for file in applies.iter().flat_map(|applied| &applied.files) {
            match file.fingerprint {
                Some(fingerprint) => own.insert(file.path.clone(), fingerprint),
                None => own.remove(&file.path),
            };
        }
        Self(own)
    }

    /// Whether the file with this status is as an apply left it.
    pub fn is_own(&self, path: &FilePath, stat: &Stat) -> bool {
        self.0.get(path) == Some(&Fingerprint::of(stat))
    }

    /// Takes the mark "changed underneath" from the changes of such files.
    ///
    /// # Errors
    /// As `fstatat(2)`.
    pub fn acknowledge(&self, changes: &mut Changes, workspace: &Tree) -> Result<(), ReviewError> {
        for change in changes.0.iter_mut().filter(|change| change.changed_underneath) {
            if self.0.contains_key(&change.path) {
                let stat = workspace.stat(&change.path)?;
                change.changed_underneath = !stat.is_some_and(|stat| self.is_own(&change.path, &stat));
            }
        }
        Ok(())
    }
}
