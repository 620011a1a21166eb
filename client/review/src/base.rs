//! What files held before the session changed them: the common ancestor of a three-way merge. Kept when a `diff` first
//! shows a file as modified while the workspace's own is still as the session found it, or as an apply left it.

use std::ffi::OsStr;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::beneath::Tree;
use crate::calls::{Calls, NoFaults};
use crate::change::{Action, Changes, Content};
use crate::digest::Digest;
use crate::error::ReviewError;
use crate::path::FilePath;
use crate::state::{self, MAX_NAMES, Review};

/// The largest file of which the base is kept, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// All bases of a session and workspace together, in bytes.
pub const MAX_ALL: u64 = 64 << 20;

const DIR: &str = "bases";

/// Keeps the bytes of each modified file that was not changed underneath, if they fit. `changes` have been through
/// [`crate::apply::own::Own::acknowledge`], if there were applies. A file that changes meanwhile is left out.
///
/// # Errors
/// As `write(2)` in the state directory; what was kept until then stays.
pub fn keep(review: &Review, workspace: &Tree, changes: &Changes) -> Result<(), ReviewError> {
    let dir = review.directory(DIR)?;
    let mut room = MAX_ALL;
    for name in review.tree().names(Some(&dir), MAX_NAMES)? {
        let stat = review.tree().stat(&FilePath::join(Some(&dir), &name)?)?;
        room = room.saturating_sub(stat.map_or(0, |stat| stat.st_size.unsigned_abs()));
    }
    let mut faults = NoFaults;
    let mut calls = Calls::new(&mut faults);
    for change in changes.0.iter().filter(|change| !change.changed_underneath) {
        let (Action::Modified, Some(before)) = (change.action(), &change.before) else { continue };
        let Content::Bytes(digest) = before.content else { continue };
        let at = place(&change.path)?;
        let kept = state::read(review.tree(), &at, MAX_FILE)?;
        let known = kept.as_ref().is_some_and(|bytes| Digest::of_bytes(bytes) == digest);
        let freed = kept.map_or(0, |bytes| bytes.len() as u64);
        if known || before.size > MAX_FILE as u64 || before.size > room + freed {
            continue;
        }
        let Some(bytes) = read(workspace, &change.path)? else { continue };
        if Digest::of_bytes(&bytes) == digest {
            state::write(&mut calls, review.tree(), &at, &bytes)?;
            room = (room + freed).saturating_sub(before.size);
        }
    }
    Ok(())
}

/// The base of `path`; `None` if none was kept.
///
/// # Errors
/// As `read(2)`.
pub fn base(review: &Review, path: &FilePath) -> Result<Option<Vec<u8>>, ReviewError> {
    state::read(review.tree(), &place(path)?, MAX_FILE)
}

/// A regular file's bytes; `None` if it is none any more, or larger.
fn read(workspace: &Tree, path: &FilePath) -> Result<Option<Vec<u8>>, ReviewError> {
    let regular = |stat: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
    if !workspace.stat(path)?.is_some_and(regular) {
        return Ok(None);
    }
    let file = std::fs::File::from(workspace.open(Some(path), OFlags::RDONLY)?);
    let mut bytes = Vec::new();
    let read = std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_FILE as u64 + 1), &mut bytes);
    Ok(read.is_ok_and(|length| length <= MAX_FILE).then_some(bytes))
}

fn place(path: &FilePath) -> Result<FilePath, ReviewError> {
    let name: String = Sha256::digest(path.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    FilePath::join(Some(&state::name(DIR)?), OsStr::new(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Entry, Kind};
    use crate::error::Side;

    fn modified(path: &str, before: &[u8], underneath: bool) -> Change {
        let entry = |bytes: &[u8]| Entry {
            kind: Kind::File,
            mode: 0o644,
            size: bytes.len() as u64,
            content: Content::Bytes(Digest::of_bytes(bytes)),
        };
        Change {
            path: FilePath::parse(path.as_bytes()).unwrap(),
            before: Some(entry(before)),
            after: Some(entry(b"other")),
            renamed_from: None,
            changed_underneath: underneath,
        }
    }

    #[test]
    fn what_fits_and_is_as_the_session_found_it_is_kept() {
        let dir = crate::tests::Dir::new();
        let state = state::State::at(&dir.path("state")).unwrap();
        let review = state.review(&crate::tests::session(), &crate::tests::workspace()).unwrap();
        let large = vec![1; MAX_FILE + 1];
        let files: [(&str, &[u8]); 4] = [("a", b"1"), ("b", b"2"), ("large", &large), ("swapped", b"new")];
        for (name, bytes) in files {
            dir.write(name, bytes);
        }
        let workspace = Tree::new(Side::Workspace, dir.open());
        let changes = Changes(vec![
            modified("a", b"1", false),
            modified("b", b"2", true),
            modified("large", &large, false),
            modified("swapped", b"old", false),
        ]);
        keep(&review, &workspace, &changes).unwrap();
        let of = |path: &str| base(&review, &FilePath::parse(path.as_bytes()).unwrap()).unwrap();
        assert_eq!((of("a"), of("b"), of("large"), of("swapped")), (Some(b"1".to_vec()), None, None, None));
        // An apply left another content: that is the base from then on.
        dir.write("a", b"applied");
        keep(&review, &workspace, &Changes(vec![modified("a", b"applied", false)])).unwrap();
        assert_eq!(of("a"), Some(b"applied".to_vec()));
    }
}
