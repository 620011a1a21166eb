//! What a search reports.

use std::ops::RangeInclusive;

use agentd_policy::Refusal;
use agentd_policy::event::{Aside, Finding};
use agentd_policy::names::RelPath;
use agentd_policy::wire::Message;
use serde::{Deserialize, Serialize};

/// What stands for a name that is missing and must not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// Nothing: it may be made.
    Leave,
    /// An empty file, or nothing that programs would take for one.
    File,
    /// An empty file, which means nothing.
    Empty,
    /// A socket that nobody listens at, where nobody else sees it: it is not listed as a file.
    Socket,
    /// A file that says `.`: git reads it as a path, to where it is already.
    CommonDir,
    /// An empty directory.
    Directory,
}

/// A name to be read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    pub path: RelPath,
    /// If it is missing.
    pub missing: Missing,
}

/// What is to be covered, besides what the plan names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Names to mask.
    pub mask: Vec<RelPath>,
    /// Names to protect.
    pub protect: Vec<Guard>,
    /// Covered files that have more names than were found: how many.
    pub unfound: Vec<(RelPath, u64)>,
    /// Configurations of git's, as a session may have them to change.
    pub configurations: Vec<Configuration>,
}

/// A configuration of git's, without passwords and headers, in the file that the search was given for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Its path in the workspace, such as `.git/config`.
    pub path: RelPath,
    /// Where its text lies in that file.
    pub part: Part,
}

/// A part of a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it begins.
    pub at: u64,
    pub length: u64,
}

/// From the search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromScout {
    /// At the start.
    Report(Report),
    /// At the start: the session is refused.
    Refused(Refusal),
    /// At the end.
    Found(Found),
}

impl Message for FromScout {
    fn descriptors(&self) -> RangeInclusive<usize> {
        0..=0
    }
}

/// What was found at the end: the first of each kind by its path in the workspace, and how many more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What programs outside would follow.
    pub left: Vec<(String, Finding)>,
    /// How many more.
    pub more_left: u64,
    /// What changed in copies alone.
    pub aside: Vec<(String, Aside)>,
    /// How many more.
    pub more_aside: u64,
}

/// To the search: its workspace is to be searched once more. Descriptors: those of each copy, in order.
#[derive(Debug, Serialize, Deserialize)]
pub struct SearchAgain {
    /// The copies of what is in the workspace.
    pub copies: Vec<CopyOf>,
}

impl Message for SearchAgain {
    fn descriptors(&self) -> RangeInclusive<usize> {
        let count = self.copies.iter().map(|copy| copy.kind.descriptors()).sum();
        count..=count
    }
}

/// A copy that a session could change.
#[derive(Debug, Serialize, Deserialize)]
pub struct CopyOf {
    /// The path in the workspace that it covered.
    pub name: String,
    /// What it is.
    pub kind: CopyKind,
}

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyKind {
    /// A configuration. Descriptors: the directory that it lies in as `config`, and a file of which this part is what
    /// it was at first.
    Config(Part),
    /// Hooks. Descriptor: the upper directory of their overlay.
    Hooks,
}

impl CopyKind {
    /// How many descriptors come with it.
    pub fn descriptors(self) -> usize {
        match self {
            Self::Config(_) => 2,
            Self::Hooks => 1,
        }
    }
}
