//! What the caller's last `diff` showed, so that `apply` can refuse what changed since.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::calls::{Calls, NoFaults};
use crate::change::{Change, Changes, MAX_CHANGES};
use crate::digest::Digest;
use crate::error::ReviewError;
use crate::frame;
use crate::path::FilePath;
use crate::state::{self, Review};

const FILE: &str = "seen";
/// Of this form; another one is as no file.
const VERSION: u8 = 1;

/// One digest of everything that a list of changes would apply. Its text has 12 hexadecimal digits: for a person to
/// compare, not to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(pub Digest);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The digest over all of `changes`.
pub fn of(changes: &Changes) -> Shown {
    let mut sum = Sha256::new();
    for digest in changes.0.iter().filter_map(digest) {
        sum.update(digest.0);
    }
    Shown(Digest(sum.finalize().into()))
}

/// The changes that were shown, by path: of each a digest of everything that would be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen(BTreeMap<FilePath, Digest>);

impl Seen {
    /// What a `diff` of all changes shows.
    pub fn new(changes: &Changes) -> Self {
        let one = |change: &Change| Some((change.path.clone(), digest(change)?));
        Self(changes.0.iter().filter_map(one).collect())
    }

    /// What is known after a `diff` of some more paths.
    #[must_use]
    pub fn and(mut self, changes: &Changes) -> Self {
        self.0.extend(Self::new(changes).0);
        self
    }

    /// What the last `diff` kept; `None` if there was none. A file that is damaged, or of another version, is as if
    /// nothing had been shown.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn load(review: &Review) -> Result<Option<Self>, ReviewError> {
        let bytes = state::read(review.tree(), &state::name(FILE)?, frame::MAX_RECORD)?;
        Ok(bytes.map(|bytes| match frame::decode::<(u8, Self)>(&bytes) {
            Some(((VERSION, seen), [])) => seen,
            _ => Self::default(),
        }))
    }

    /// Keeps it, in place of what was kept.
    ///
    /// # Errors
    /// As `write(2)` and `fsync(2)`; then what was kept is as it was.
    pub fn store(&self, review: &Review) -> Result<(), ReviewError> {
        let many = ReviewError::TooMuch { what: "changes", max: MAX_CHANGES as u64 };
        let bytes = frame::encode(&(VERSION, self)).ok_or(many)?;
        state::write(&mut Calls::new(&mut NoFaults), review.tree(), &state::name(FILE)?, &bytes)
    }
}

/// The changes that are not as they were shown, or were not shown.
pub fn unseen(seen: &Seen, changes: &Changes) -> Vec<FilePath> {
    let is_seen = |change: &Change| digest(change).is_some_and(|now| seen.0.get(&change.path) == Some(&now));
    changes.0.iter().filter(|change| !is_seen(change)).map(|change| change.path.clone()).collect()
}

/// Of everything that is applied. Whether it changed underneath is a fact about the caller's own side.
fn digest(change: &Change) -> Option<Digest> {
    let Change { path, before, after, renamed_from, changed_underneath: _ } = change;
    let bytes = postcard::to_stdvec(&(path, before, after, renamed_from)).ok()?;
    Some(Digest(Sha256::digest(bytes).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Content, Entry, Kind};

    fn change(path: &str, content: &[u8], mode: u32) -> Change {
        let content = Content::Bytes(Digest::of_bytes(content));
        Change {
            path: FilePath::parse(path.as_bytes()).unwrap(),
            before: None,
            after: Some(Entry { kind: Kind::File, mode, size: 1, content }),
            renamed_from: None,
            changed_underneath: false,
        }
    }

    #[test]
    fn what_differs_from_what_was_shown_is_unseen() {
        let shown = Changes(vec![change("a", b"1", 0o644), change("b", b"1", 0o644)]);
        let seen = Seen::new(&shown);
        assert!(unseen(&seen, &shown).is_empty());
        let now = Changes(vec![change("a", b"2", 0o644), change("b", b"1", 0o755), change("c", b"", 0o644)]);
        let paths: Vec<_> = unseen(&seen, &now).iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["a", "b", "c"]);
        assert!(unseen(&seen.and(&now), &now).is_empty());
        assert_ne!(of(&shown), of(&now));
        assert_eq!(of(&shown).to_string().len(), 12);
    }

    #[test]
    fn it_is_kept_and_a_damaged_file_is_as_none() {
        let dir = crate::tests::Dir::new();
        let state = state::State::at(&dir.path("state")).unwrap();
        let review = state.review(&crate::tests::session(), &crate::tests::workspace()).unwrap();
        assert_eq!(Seen::load(&review).unwrap(), None);
        let seen = Seen::new(&Changes(vec![change("a\nb", b"1", 0o644)]));
        seen.store(&review).unwrap();
        seen.store(&review).unwrap();
        assert_eq!(Seen::load(&review).unwrap(), Some(seen));
        let file = dir.find("seen");
        let whole = std::fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            assert_eq!(Seen::load(&review).unwrap(), Some(Seen::default()));
        }
    }
}
