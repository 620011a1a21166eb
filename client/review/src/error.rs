//! Why a review fails.

use std::fmt;

use rustix::io::Errno;

use crate::path::FilePath;

/// Which tree an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The caller's own directory.
    Workspace,
    /// What the session wrote.
    Upper,
    /// What the session saw.
    Merged,
    /// Where `apply` prepares and keeps what it replaces.
    Staging,
    /// The caller's state directory of agentd.
    State,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workspace => "the workspace",
            Self::Upper => "the session's changes",
            Self::Merged => "the session's view",
            Self::Staging => "the staging directory",
            Self::State => "agentd's state directory",
        })
    }
}

/// A review that cannot go on. Nothing was changed, unless its own type says so.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The kernel refused something.
    #[error("{call} {} in {side}: {errno}", .path.as_ref().map_or_else(|| ".".to_owned(), ToString::to_string))]
    Io {
        /// The system call.
        call: &'static str,
        /// In which of the trees.
        side: Side,
        /// The file; `None` for the top.
        path: Option<FilePath>,
        /// What the kernel answered.
        errno: Errno,
    },
    /// More than is looked at in one go; nothing is shown, because a part would hide the rest.
    #[error("more than {max} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The most that there may be.
        max: u64,
    },
    /// The state directory is not one that only the caller writes to.
    #[error("{path}: {wrong}")]
    State {
        /// The directory, as it was named.
        path: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// A file of agentd's own that is damaged, or of a later version.
    #[error("{0} in agentd's state directory: malformed")]
    Malformed(String),
    /// A name that no workspace can have: empty, `.`, `..`, with `/` or NUL, or over 4,095 bytes as a path.
    #[error("{0}: not a path in a workspace")]
    Path(String),
}
