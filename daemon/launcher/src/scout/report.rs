//! What a search tells.

use agentd_policy::Refusal;
use agentd_policy::event::Finding;
use agentd_policy::names::RelPath;
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
    /// Which.
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
}

/// From the search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromScout {
    /// At the start.
    Report(Report),
    /// At the start: the session is refused.
    Refused(Refusal),
    /// At the end: the first of what was found, and how many more.
    Found(Vec<(String, Finding)>, u64),
}
