//! Unix sockets in a directory that is given as it is: its listeners would be reachable.

use std::os::fd::BorrowedFd;

use agentd_policy::names::RelPath;
use rustix::fs::{FileType, Mode, openat};

use super::trouble::Trouble;
use super::walk::{DIRECTORY, Directory, walk};

/// The most entries that are looked at.
const MAX_ENTRIES: usize = 200_000;

/// Refuses a tree that holds a Unix socket other than those in `accepted`, or cannot be searched in full. Sockets that
/// appear later are not seen.
pub fn refuse(top: BorrowedFd<'_>, accepted: &[RelPath]) -> Result<(), Trouble> {
    let mut left = MAX_ENTRIES;
    let top = openat(top, ".", DIRECTORY, Mode::empty()).map_err(|e| Trouble::Host(Vec::new(), e))?;
    // In a directory that is closed somebody may know the names, whosever it is.
    walk(top, None, (), |dir: &Directory<'_>, ()| {
        left = left.checked_sub(dir.entries.len()).ok_or(Trouble::TooLarge(MAX_ENTRIES))?;
        let mut below = Vec::new();
        for (index, entry) in dir.entries.iter().enumerate() {
            let accepts = |path: &[u8]| accepted.iter().any(|accepted| accepted.as_str().as_bytes() == path);
            match entry.kind {
                FileType::Directory => below.push((index, ())),
                FileType::Socket if !accepts(&dir.below(&entry.name)) => {
                    return Err(Trouble::Socket(dir.below(&entry.name)));
                }
                _ => {}
            }
        }
        Ok(below)
    })
}
