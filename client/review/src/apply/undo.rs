//! Takes an apply back: as an apply of what it replaced.

use agentd_policy::names::{AbsPath, SessionId};
use rustix::fs::OFlags;

use super::conflict::ApplyError;
use super::look::look;
use super::plan::{After, Origin, Task};
use super::record::{self, Applied, ApplyId, Written, applies};
use super::{Job, run, stage};
use crate::beneath::Tree;
use crate::calls::{Calls, Faults};
use crate::change::Kind;
use crate::error::{ReviewError, Side};
use crate::state::State;

/// Which apply is taken back, and how.
#[derive(Clone, Debug, Default)]
pub struct Undo {
    /// `None`: the last one. If that is a taking back, what it took back is applied again.
    pub id: Option<ApplyId>,
    /// Files that were changed since are replaced all the same; they are kept, as everything that is replaced.
    pub force: bool,
}

/// Takes back what a session's apply did in the workspace, which the session had at `path`. Files and links have their
/// modes and times of modification again, directories their modes.
///
/// # Errors
/// [`ApplyError::NothingApplied`] if there is no such apply; else as [`super::apply`].
pub fn undo(
    state: &State,
    workspace: &Tree,
    (session, path): (&SessionId, &AbsPath),
    which: &Undo,
    faults: &mut dyn Faults,
) -> Result<Applied, ApplyError> {
    let review = state.review(session, path)?;
    let mut all = applies(&review)?;
    let at = match &which.id {
        Some(id) => all.iter().position(|applied| applied.id == *id),
        None => all.len().checked_sub(1),
    };
    let applied = at.map(|at| all.swap_remove(at)).ok_or(ApplyError::NothingApplied)?;
    let place = record::place(&review, &applied.id)?;
    let kept = Tree::new(Side::State, review.tree().open(Some(&place), OFlags::RDONLY | OFlags::DIRECTORY)?);
    let task = |file| task(file, workspace, which.force);
    let tasks = applied.files.into_iter().map(task).collect::<Result<_, ReviewError>>()?;
    let job = Job { session, path, workspace, source: &kept, undoes: Some(applied.id) };
    run(state, job, tasks, &mut Calls::new(faults))
}

fn task(file: Written, workspace: &Tree, force: bool) -> Result<Task, ReviewError> {
    let Written { path, before, after, .. } = file;
    let before = before.map(|replaced| {
        let slot = stage::slot(replaced.slot.unwrap_or_default() as usize)?;
        let modified = (replaced.entry.kind != Kind::Directory).then_some(replaced.modified);
        Ok::<_, ReviewError>(After { entry: replaced.entry, origin: Origin::Tree(slot), modified })
    });
    let now = match force {
        true => look(workspace, &path)?.map(|found| found.entry),
        false => after,
    };
    Ok(Task { path, before: now, after: before.transpose()? })
}
