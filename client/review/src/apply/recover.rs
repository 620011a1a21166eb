//! Ends an apply that a killed process left.

use agentd_policy::names::SessionId;

use super::check::STAGING;
use super::close::Ended;
use super::conflict::ApplyError;
use super::journal::{Begin, Journal, Progress};
use super::record::{Applied, ApplyId};
use super::transaction::Transaction;
use crate::beneath::Tree;
use crate::calls::{Calls, Faults};
use crate::error::ReviewError;
use crate::state::{self, State};

/// What became of an apply that had not ended.
#[derive(Debug)]
pub struct Recovered {
    /// Which apply it was.
    pub id: ApplyId,
    /// Whose changes it applied.
    pub session: SessionId,
    /// How it has ended now.
    pub outcome: Outcome,
}

/// How a killed apply has ended.
#[derive(Debug)]
pub enum Outcome {
    /// All of it is in the workspace; `None` if that was on record before.
    Finished(Option<Applied>),
    /// Nothing of it is in the workspace, but for files that somebody changed since.
    TakenBack {
        /// Those files, on record as an apply.
        stands: Option<Applied>,
        /// Why it could not be finished; `None` if it had not touched the workspace, or was being taken back.
        why: Option<ApplyError>,
    },
    /// Its staging directory is gone: the workspace is as it was when somebody removed that.
    Abandoned,
}

/// Ends one apply to this workspace that a killed process left: it is made if the workspace may have been touched, and
/// taken back if not, or if it cannot be made any more. `None` if there is none; call until then.
///
/// # Errors
/// [`ApplyError::Busy`] while its process lives. What the kernel refused: the next call goes on.
pub fn recover(
    state: &State,
    workspace: &Tree,
    faults: &mut dyn Faults,
) -> Result<Option<Recovered>, ApplyError> {
    let calls = &mut Calls::new(faults);
    let _lock = state.lock(workspace)?.ok_or(ApplyError::Busy)?;
    let Some((journal, begin, progress)) = unfinished(state, workspace)? else { return Ok(None) };
    let (id, session) = (begin.id.clone(), begin.session.clone());
    let transaction = Transaction::with(state, workspace, begin, journal)?;
    let outcome = match progress {
        Progress { done: true, reverting, .. } => {
            transaction.close(calls)?;
            match reverting {
                true => Outcome::TakenBack { stands: None, why: None },
                false => Outcome::Finished(None),
            }
        }
        Progress { commit: None, .. } => {
            transaction.discard(calls)?;
            Outcome::TakenBack { stands: None, why: None }
        }
        Progress { commit: Some(_), .. } if workspace.stat(&transaction.staging_path)?.is_none() => {
            transaction.close(calls)?;
            Outcome::Abandoned
        }
        Progress { commit: Some(commit), reverting, .. } => {
            let slots = transaction.open_slots(commit.copied)?;
            let ended = match reverting {
                false => transaction.run(calls, &slots, &commit)?,
                true => transaction.revert(calls, &slots, &commit, ApplyError::Unfinished)?,
            };
            match ended {
                Ended::Made(applied) => Outcome::Finished(Some(applied)),
                Ended::TakenBack(stands, why) => {
                    Outcome::TakenBack { stands, why: Some(why).filter(|_| !reverting) }
                }
            }
        }
    };
    Ok(Some(Recovered { id, session, outcome }))
}

/// The journal of an apply to this workspace that has not ended: by the workspace's device and inode, or, where devices
/// have other numbers since the last boot, by its staging directory.
///
/// # Errors
/// As `read(2)`.
pub(super) fn unfinished(
    state: &State,
    workspace: &Tree,
) -> Result<Option<(Journal, Begin, Progress)>, ReviewError> {
    let stat = rustix::fs::fstat(workspace).map_err(|errno| workspace.error("stat", None, errno))?;
    for path in Journal::all(state)? {
        let Some((journal, begin, progress)) = Journal::read(state, &path)? else { continue };
        let staging = state::name(&format!("{STAGING}{}", begin.id.random()))?;
        // Numbers can be another directory's by now, and its path leads there still.
        let leads_elsewhere = || {
            let found = rustix::fs::stat(begin.path.as_str());
            found.is_ok_and(|found| (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino))
        };
        let same = begin.workspace == (stat.st_dev, stat.st_ino) && !leads_elsewhere();
        if same || workspace.stat(&staging)?.is_some() {
            return Ok(Some((journal, begin, progress)));
        }
    }
    Ok(None)
}
