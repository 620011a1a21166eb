//! Whether two names are one file: by inode numbers, as far as these say it.

use rustix::fs::{FileType, Stat};

use crate::error::ReviewError;
use crate::trees::Trees;

/// File systems of which one has several inodes of one number: in subvolumes and snapshots of btrfs and bcachefs.
const WITH_SUBVOLUMES: [u64; 2] = [0x9123_683e, 0xca45_1a4e];

/// How the merged view numbers the workspace's inodes.
///
/// The kernel keeps a number whose file comes from the only file system of an overlay; of several ones, each but the
/// session's has its index in the number's highest bits (`xino`). The index of the upper, which is the view's first
/// layer, is seen at the top, where both numbers are known; the workspace's is the next.
#[derive(Clone, Copy, Debug)]
pub struct Inodes {
    /// What the view's number has besides the workspace's; nothing if its numbers are none of the layers'.
    tag: Option<u64>,
    /// Whether a number is one file.
    unique: bool,
}

impl Inodes {
    /// How the numbers of these trees are to be read.
    ///
    /// # Errors
    /// As `fstat(2)` and `fstatfs(2)`.
    pub fn of(trees: &Trees) -> Result<Self, ReviewError> {
        let number = |tree: &crate::beneath::Tree| {
            let stat = rustix::fs::fstat(tree).map_err(|errno| tree.error("stat", None, errno))?;
            Ok::<_, ReviewError>(stat.st_ino)
        };
        let system = rustix::fs::fstatfs(&trees.workspace)
            .map_err(|errno| trees.workspace.error("statfs", None, errno))?;
        let unique = !WITH_SUBVOLUMES.contains(&(system.f_type.cast_unsigned()));
        Ok(Self { tag: tag(number(&trees.merged)?, number(&trees.upper)?), unique })
    }

    /// Whether a name has the same file in view and workspace, by its numbers in their directories. True is certain.
    pub fn same_number(self, merged: u64, workspace: u64) -> bool {
        self.unique && self.number(merged) == Some(workspace)
    }

    /// The same, by more than numbers, and not of directories: below them anything may be another. True is certain.
    pub fn same_file(self, merged: &Stat, workspace: &Stat) -> bool {
        let ctime = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
        self.number(merged.st_ino) == Some(workspace.st_ino)
            && merged.st_mode == workspace.st_mode
            && merged.st_size == workspace.st_size
            && ctime(merged) == ctime(workspace)
            && FileType::from_raw_mode(merged.st_mode) != FileType::Directory
    }

    /// Which of the workspace's inodes has this number in the view, if it is one of them.
    pub fn number(self, merged: u64) -> Option<u64> {
        self.tag.map(|tag| merged ^ tag)
    }
}

/// The tag of the second layer, from the top's number in the view and in the first layer.
fn tag(merged: u64, upper: u64) -> Option<u64> {
    match merged ^ upper {
        0 => Some(0),
        first if first.is_power_of_two() && first > upper => first.checked_mul(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_seen_at_the_top() {
        assert_eq!(tag(5, 5), Some(0), "one file system");
        assert_eq!(tag(5 | 1 << 33, 5), Some(1 << 34), "numbers of 32 bits");
        assert_eq!(tag(5 | 1 << 62, 5), Some(1 << 63), "numbers of 61 bits");
        // None of these numbers was made so.
        for (merged, upper) in [(7, 5), (4, 5), (1 << 33, 1 << 34), (1 << 63, 0), (5 | 3 << 33, 5)] {
            assert_eq!(tag(merged, upper), None, "{merged} {upper}");
        }
    }

    #[test]
    fn in_doubt_it_is_another_file() {
        let inodes = Inodes { tag: Some(1 << 34), unique: true };
        assert!(inodes.same_number(9 | 1 << 34, 9));
        assert!(!inodes.same_number(9, 9) && !inodes.same_number(9 | 1 << 33, 9));
        assert!(!Inodes { unique: false, ..inodes }.same_number(9 | 1 << 34, 9));
        assert!(!Inodes { tag: None, ..inodes }.same_number(9, 9));
    }
}
