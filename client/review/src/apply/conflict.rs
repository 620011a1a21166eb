//! Why an apply was refused, or was taken back.

use super::record::Applied;
use crate::error::ReviewError;
use crate::path::FilePath;

/// What about a file stands against a change, at the check or when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Conflict {
    /// The workspace's file holds something else than the review found, or has another mode.
    ChangedUnderneath,
    /// The workspace's file is gone.
    Deleted,
    /// The workspace has a file where there was none; with names that differ in case alone too, if case is ignored.
    Added,
    /// The workspace's file is of another kind.
    Kind,
    /// A directory that goes has something in it that is not among the changes: the session never saw it, or it was
    /// left out.
    NotEmpty,
    /// The directory that it would be in is no directory, is a link, or is removed by the same apply.
    Parent,
    /// It is a mount point, or within another mount.
    MountPoint,
    /// A device, FIFO or socket: never made, never removed. The caller can leave it out.
    Special,
    /// It cannot be read as the caller, so that nobody can say what would be applied or lost.
    Unreadable,
    /// A name of agentd's own: a staging directory, or something in its state directory.
    Reserved,
    /// The session changed it since it was looked at: what would be applied is not what was reviewed.
    Moved,
    /// Two changes name it.
    Repeated,
}

/// An apply that was not made. The workspace is as it was, unless it is [`ApplyError::Partly`] or
/// [`ApplyError::Stuck`].
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel refused something, or a bound was exceeded.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// Files that stand against it: at least one.
    #[error("{} of the changes conflict with the workspace", .0.len())]
    Conflicts(Vec<(FilePath, Conflict)>),
    /// Another process applies to this workspace.
    #[error("another apply to this workspace is running")]
    Busy,
    /// An earlier apply was killed: [`recover`](super::recover()) first, then review again.
    #[error("an earlier apply to this workspace has not ended")]
    Unfinished,
    /// A staging directory of an apply that this state directory knows nothing of: another user's, or one that lost its
    /// state directory. It may hold the only copy of a file.
    #[error("{0} in the workspace: another apply's staging directory")]
    Foreign(FilePath),
    /// It was taken back, but for files that somebody changed while it ran: those stay, and what they replaced is kept.
    #[error("{why}; {} files were changed meanwhile, and stay", .stands.files.len())]
    Partly {
        /// Why it was taken back.
        why: Box<ApplyError>,
        /// What stands, on record as an apply.
        stands: Applied,
    },
    /// There is no apply that could be taken back.
    #[error("nothing was applied")]
    NothingApplied,
    /// What was done could not be taken back: the workspace is between two states until
    /// [`recover`](super::recover()).
    #[error("{why}; and what was done could not be taken back yet: {failure}")]
    Stuck {
        /// Why it was to be taken back.
        why: Box<ApplyError>,
        /// What failed then.
        failure: ReviewError,
    },
}

impl ApplyError {
    /// One conflict, met while changes were made.
    pub(super) fn one(path: &FilePath, conflict: Conflict) -> Self {
        Self::Conflicts(vec![(path.clone(), conflict)])
    }
}
