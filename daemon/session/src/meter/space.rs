//! What a file system says of itself, and what must stay free of it.

use std::ops::Add;
use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

/// The reserve where the site names none: so much, or this part of the file system if that is less.
const RESERVE: u64 = 1 << 30;
const PART: u64 = 20;
/// The same of its inodes.
const RESERVED_INODES: u64 = 10_000;

/// Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// On the disk, whatever the sizes of the files are.
    pub bytes: u64,
    /// Files, directories and links: each name counts.
    pub inodes: u64,
}

impl Usage {
    /// What both together exceed, if anything.
    pub fn exceeds(self, limit: Self) -> Option<super::Excess> {
        if self.bytes > limit.bytes {
            return Some(super::Excess::Bytes);
        }
        (self.inodes > limit.inodes).then_some(super::Excess::Inodes)
    }

    /// What is left of it without `other`.
    pub fn less(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            inodes: self.inodes.saturating_sub(other.inodes),
        }
    }

    /// The less of both, each for itself.
    pub fn min(self, other: Self) -> Self {
        Self { bytes: self.bytes.min(other.bytes), inodes: self.inodes.min(other.inodes) }
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// A file system at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// What is taken of it, by whomever.
    pub used: Usage,
    /// What anybody but root may take still; `inodes` is the greatest number where the file system has no bound.
    pub free: Usage,
    /// All of it.
    pub size: Usage,
}

impl Space {
    /// Of the file system that `fd` lies on.
    pub fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstatfs(fd)?;
        let block = u64::try_from(stat.f_bsize).unwrap_or(0);
        let bytes = |blocks: u64| blocks.saturating_mul(block);
        let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_ffree };
        Ok(Self {
            used: Usage {
                bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
                inodes: stat.f_files.saturating_sub(stat.f_ffree),
            },
            free: Usage { bytes: bytes(stat.f_bavail), inodes },
            size: Usage { bytes: bytes(stat.f_blocks), inodes: stat.f_files },
        })
    }
}

/// What must stay free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve(pub Usage);

impl Reserve {
    /// Of `size`, as the site has it.
    pub fn of(size: Usage, configured: Option<u64>) -> Self {
        Self(Usage {
            bytes: configured.unwrap_or(RESERVE.min(size.bytes / PART)),
            inodes: RESERVED_INODES.min(size.inodes / PART),
        })
    }

    /// Whether less is free.
    pub fn is_touched(self, space: &Space) -> bool {
        space.free.bytes < self.0.bytes || space.free.inodes < self.0.inodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_part_of_a_small_file_system() {
        let small = Usage { bytes: 200 << 20, inodes: 1000 };
        assert_eq!(Reserve::of(small, None).0, Usage { bytes: 10 << 20, inodes: 50 });
        let large = Usage { bytes: 1 << 40, inodes: 1 << 30 };
        assert_eq!(Reserve::of(large, None).0, Usage { bytes: 1 << 30, inodes: 10_000 });
        assert_eq!(Reserve::of(large, Some(7)).0.bytes, 7);
        // One without a bound on inodes is never short of them.
        assert_eq!(Reserve::of(Usage { bytes: 1 << 40, inodes: 0 }, None).0.inodes, 0);
    }

    #[test]
    fn each_exceeds_for_itself() {
        let limit = Usage { bytes: 10, inodes: 10 };
        assert_eq!(limit.exceeds(limit), None);
        assert_eq!(Usage { bytes: 11, inodes: 0 }.exceeds(limit), Some(crate::meter::Excess::Bytes));
        assert_eq!(Usage { bytes: 0, inodes: 11 }.exceeds(limit), Some(crate::meter::Excess::Inodes));
    }
}
