//! The names of one directory in all trees.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use rustix::io::Errno;

use super::look::{Fault, Place, is_gone};
use crate::beneath::Tree;
use crate::error::{ReviewError, Side};
use crate::path::FilePath;

/// In which trees a name is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Its inode's number in the workspace's directory.
    pub workspace: Option<u64>,
    /// Its inode's number in the view's directory.
    pub merged: Option<u64>,
    /// Whether the session's own directory has it, be it a whiteout.
    pub upper: bool,
}

/// Whether the caller may not list directory `path` of `tree`.
pub fn is_closed(tree: &Tree, path: Option<&FilePath>) -> bool {
    match Place::open(tree, path) {
        Ok(Some(place)) => matches!(rustix::fs::Dir::read_from(&place.dir), Err(Errno::ACCESS | Errno::PERM)),
        Ok(None) => false,
        Err(fault) => matches!(fault, Fault::Closed(_)),
    }
}

/// All names of one directory, in order.
pub type Names = BTreeMap<OsString, Seen>;

/// Adds the names of `place`, the directory `path` on this side; their number.
///
/// # Errors
/// As `getdents64(2)`; [`ReviewError::TooMuch`] from `max` names on.
pub fn add(
    names: &mut Names,
    side: Side,
    place: &Place<'_>,
    path: Option<&FilePath>,
    max: usize,
) -> Result<u64, Fault> {
    let failed = |errno| Fault::from(place.error("read", path, errno));
    let mut count = 0;
    // It is opened anew through `.`, which proves that the caller may search it.
    for entry in rustix::fs::Dir::read_from(&place.dir).map_err(failed)? {
        let entry = match entry {
            // It was deleted meanwhile.
            Err(errno) if is_gone(errno) => break,
            entry => entry.map_err(failed)?,
        };
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        count += 1;
        if count > max {
            return Err(ReviewError::TooMuch { what: "names in one directory", max: max as u64 }.into());
        }
        let seen = names.entry(OsStr::from_bytes(name).to_owned()).or_default();
        match side {
            Side::Workspace => seen.workspace = Some(entry.ino()),
            Side::Merged => seen.merged = Some(entry.ino()),
            Side::Upper | Side::Staging | Side::State => seen.upper = true,
        }
    }
    Ok(count as u64)
}
