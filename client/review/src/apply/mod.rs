//! Applies a session's changes to the workspace, all or none, and takes them back.
//!
//! [`check`]: the workspace is as the review found it. [`stage`]: what comes is copied into a directory at the
//! workspace's top, with the digests that were reviewed. [`journal`]: what will be done is on disk. [`transaction`]: it
//! is done by renames, and each file that comes out is the one that was checked; or [`revert`] takes all of it back.
//! [`close`]: what was replaced is kept, on [`record`]. A process that is killed at any point leaves a journal, and
//! [`recover()`] ends the apply: taken back if the workspace was not touched yet, else made.
//!
//! Bytes, links and permission bits are applied ([`plan::mode`]), hard links become files of their own, and no extended
//! attribute, owner or time of the session's comes along. A file that is replaced loses the workspace's own extended
//! attributes and access control list, as with an editor that writes anew.

pub mod check;
pub mod close;
pub mod conflict;
pub mod journal;
pub mod look;
pub mod own;
pub mod plan;
pub mod record;
mod recover;
mod revert;
pub mod stage;
pub mod transaction;
mod undo;

#[cfg(test)]
mod tests;

use agentd_policy::names::{AbsPath, SessionId};
use rustix::io::Errno;

pub use conflict::{ApplyError, Conflict};
pub use record::{Applied, ApplyId, applies};
pub use recover::{Outcome, Recovered, recover};
pub use undo::{Undo, undo};

use self::close::Ended;
use self::journal::{Begin, Commit};
use self::plan::{After, Checked, Origin, Task};
use self::transaction::Transaction;
use crate::beneath::Tree;
use crate::calls::{Calls, Faults};
use crate::change::{Change, Content as Holds, Entry, Kind};
use crate::digest::Digest;
use crate::error::ReviewError;
use crate::state::State;
use crate::trees::Trees;

/// Where the bytes of a file come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The session's file, as it was reviewed.
    FromSession,
    /// The caller: merged, or some of the changed lines. For regular files alone.
    Bytes(Vec<u8>),
}

/// One change that is to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the review found. What the workspace has must be its `before`.
    pub change: Change,
    /// What the file gets.
    pub content: Content,
}

/// Applies `steps` to the workspace. Directories that a file is added in come with it. `faults` is
/// [`crate::calls::NoFaults`] but in tests.
///
/// # Errors
/// The workspace is as it was, unless the error is [`ApplyError::Partly`] or [`ApplyError::Stuck`].
pub fn apply(
    state: &State,
    trees: &Trees,
    session: &SessionId,
    steps: Vec<Step>,
    faults: &mut dyn Faults,
) -> Result<Applied, ApplyError> {
    let stat =
        rustix::fs::fstat(&trees.workspace).map_err(|errno| trees.workspace.error("stat", None, errno))?;
    let (umask, inherited) = (umask(&trees.workspace)?, stat.st_mode & 0o2000);
    let mode = |before: Option<&Entry>, after: &Entry| plan::mode(before, after, umask, inherited);
    let mut tasks: Vec<_> = steps.into_iter().map(|step| task(step, mode)).collect();
    tasks.extend(check::missing_parents(&trees.workspace, &trees.merged, &tasks, |entry| mode(None, entry))?);
    let job =
        Job { session, path: &trees.path, workspace: &trees.workspace, source: &trees.merged, undoes: None };
    run(state, job, tasks, &mut Calls::new(faults))
}

fn task(step: Step, mode: impl Fn(Option<&Entry>, &Entry) -> u32) -> Task {
    let Step { change: Change { path, before, after, .. }, content } = step;
    let after = after.map(|mut entry| {
        entry.mode = mode(before.as_ref(), &entry);
        let origin = match content {
            Content::Bytes(bytes) if entry.kind == Kind::File => {
                entry.content = Holds::Bytes(Digest::of_bytes(&bytes));
                entry.size = bytes.len() as u64;
                Origin::Bytes(bytes)
            }
            _ => Origin::Tree(path.clone()),
        };
        After { entry, origin, modified: None }
    });
    Task { path, before, after }
}

/// The process's umask, without changing it for other threads.
fn umask(tree: &Tree) -> Result<u32, ReviewError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = line.and_then(|value| u32::from_str_radix(value.trim(), 8).ok());
    umask.ok_or_else(|| tree.error("umask", None, Errno::NOSYS))
}

/// What is applied where.
struct Job<'a> {
    session: &'a SessionId,
    path: &'a AbsPath,
    workspace: &'a Tree,
    source: &'a Tree,
    undoes: Option<ApplyId>,
}

fn run(state: &State, job: Job<'_>, tasks: Vec<Task>, calls: &mut Calls<'_>) -> Result<Applied, ApplyError> {
    let _lock = state.lock(job.workspace)?.ok_or(ApplyError::Busy)?;
    if recover::unfinished(state, job.workspace)?.is_some() {
        return Err(ApplyError::Unfinished);
    }
    if let Some(name) = check::staging_there(job.workspace)? {
        return Err(ApplyError::Foreign(name));
    }
    let own = state.within(job.workspace)?;
    let checked = check::check(job.workspace, own.as_ref(), tasks)?;
    let stat = rustix::fs::fstat(job.workspace).map_err(|errno| job.workspace.error("stat", None, errno))?;
    let begin = Begin {
        id: record::next_id(&state.review(job.session, job.path)?)?,
        session: job.session.clone(),
        path: job.path.clone(),
        workspace: (stat.st_dev, stat.st_ino),
        at: look::now(),
        undoes: job.undoes,
    };
    let mut transaction = Transaction::begin(calls, state, job.workspace, begin)?;
    match prepare(&mut transaction, job.source, checked, calls) {
        Ok((slots, commit)) => match transaction.run(calls, &slots, &commit)? {
            Ended::Made(applied) => Ok(applied),
            Ended::TakenBack(None, why) => Err(why),
            Ended::TakenBack(Some(stands), why) => Err(ApplyError::Partly { why: Box::new(why), stands }),
        },
        Err(why) => {
            // If it cannot be removed now, it is by the next call: the journal is left.
            transaction.discard(calls).ok();
            Err(why)
        }
    }
}

/// Stages everything, and announces it in the journal.
fn prepare(
    transaction: &mut Transaction<'_>,
    source: &Tree,
    checked: Vec<Checked>,
    calls: &mut Calls<'_>,
) -> Result<(transaction::Slots, Commit), ApplyError> {
    let slots = transaction.make_slots(calls)?;
    let ops = stage::stage(calls, source, &slots.staging, plan::order(checked))?;
    if slots.copied {
        stage::copy_replaced(calls, transaction.workspace, &slots.kept, &ops)?;
        calls.sync_all(&slots.kept)?;
    }
    calls.sync_all(&slots.staging)?;
    let commit = Commit { copied: slots.copied, ops };
    transaction.journal.commit(calls, transaction.state, &commit)?;
    Ok((slots, commit))
}
