//! Applies that were not made, as refusals.

use agentd_policy::rule::Rule;
use agentd_review::apply::{ApplyError, Conflict};
use agentd_review::path::FilePath;

use crate::failure::Failure;

/// How many files are named.
const NAMED: usize = 10;

/// What to do about a conflict of an apply, and of an undo.
pub const APPLY: &str =
    "nothing was changed: look again with agentctl diff, or name the paths that are to be applied";
/// The same for what is taken back.
pub const UNDO: &str = "nothing was changed: --undo --theirs replaces files that were changed since, and keeps them; \
    a directory with files of yours stays until they are elsewhere";

/// An apply to the workspace at `top` that was not made.
pub fn failure(top: &str, error: &ApplyError, hint: &str) -> Failure {
    let conflicts = match error {
        ApplyError::Conflicts(conflicts) => conflicts,
        // Something stands: it says what.
        ApplyError::Partly { .. } | ApplyError::Stuck { .. } => {
            return Failure::failed(format!("{top}: {error}"));
        }
        _ => return Failure::failed(format!("{top}: {error}; nothing was changed")),
    };
    let one = |(path, conflict): &(FilePath, Conflict)| format!("{path} ({})", reason(*conflict));
    let shown: Vec<_> = conflicts.iter().take(NAMED).map(one).collect();
    let more = match conflicts.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Failure::refused(format!("{top}: {}{more}", shown.join(", ")), Rule::ReviewConflict, hint)
}

fn reason(conflict: Conflict) -> &'static str {
    match conflict {
        Conflict::ChangedUnderneath => "changed in the workspace",
        Conflict::Deleted => "gone from the workspace",
        Conflict::Added => "new in the workspace",
        Conflict::Kind => "of another kind in the workspace",
        Conflict::NotEmpty => "a directory with files that are not among the changes",
        Conflict::Parent => "its directory is none any more, or a link",
        Conflict::MountPoint => "a mount point",
        Conflict::Special => "a device, FIFO or socket",
        Conflict::Unreadable => "cannot be read",
        Conflict::Reserved => "a name of agentd's own",
        Conflict::Moved => "changed by the session since",
        Conflict::Repeated => "named twice",
    }
}
