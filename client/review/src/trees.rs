//! The trees that a review compares.

use std::collections::BTreeSet;

use agentd_policy::names::AbsPath;

use crate::beneath::Tree;
use crate::path::FilePath;

/// A moment on the clock that file systems stamp with: seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// The rest, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl Stamp {
    /// As the kernel has it; a part of a second that is none counts as the end of that second.
    pub fn new(seconds: i64, nanoseconds: impl TryInto<u32>) -> Self {
        let nanoseconds = nanoseconds.try_into().unwrap_or(u32::MAX).min(999_999_999);
        Self { seconds, nanoseconds }
    }
}

/// One overlay workspace of a session.
#[derive(Debug)]
pub struct Trees {
    /// Its path, as the session had it.
    pub path: AbsPath,
    /// The caller's directory, opened by the caller.
    pub workspace: Tree,
    /// The session's upper directory, read-only: where to look, never what to believe.
    pub upper: Tree,
    /// The upper over the workspace in an overlay of the kernel's, read-only: what the session saw.
    pub merged: Tree,
    /// When the session was built. What in the workspace was changed (`ctime`) then or later was changed underneath.
    pub began: Stamp,
    /// Names that agentd made in the session (placeholders of masks): never a change of the agent's.
    pub made: BTreeSet<FilePath>,
}
