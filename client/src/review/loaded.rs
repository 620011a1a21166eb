//! A session's changes, as every command on them begins: found, with what they run later, and what earlier commands
//! left to be finished.

use std::collections::BTreeSet;

use agentd_policy::rule::Rule;
use agentd_proto::v1::ReviewedRequest;
use agentd_review::apply::own::Own;
use agentd_review::apply::{ApplyError, Outcome, applies, recover};
use agentd_review::calls::NoFaults;
use agentd_review::change::{Change, Changes};
use agentd_review::content::Budget;
use agentd_review::danger::{Danger, Judge, dangers_among};
use agentd_review::error::ReviewError;
use agentd_review::show::summary::{Known, Totals, totals};
use agentd_review::show::{Count, counts};
use agentd_review::state::{Review, State};
use agentd_review::trees::Trees;
use agentd_review::walk::{Bounds, changes};

use super::open::open_review;
use crate::connect::{Client, Socket, answer};
use crate::failure::{Failure, say};
use crate::find::Found;

/// One workspace's changes.
#[derive(Debug)]
pub struct Workspace {
    /// The trees that were compared.
    pub trees: Trees,
    /// What is kept of earlier commands.
    pub kept: Review,
    /// All that changed.
    pub changes: Changes,
    /// Of each change, why it is set apart.
    pub dangers: Vec<BTreeSet<Danger>>,
}

/// All changes of a session.
#[derive(Debug)]
pub struct Loaded {
    /// The caller's state directory.
    pub state: State,
    /// Its overlay workspaces, at least one.
    pub workspaces: Vec<Workspace>,
}

impl Loaded {
    /// Opens the workspaces of a session, ends applies that were killed, and finds what changed.
    ///
    /// # Errors
    /// If the session has no overlay, or one of its trees cannot be read.
    pub fn load(socket: &Socket, found: &Found) -> Result<Self, Failure> {
        // The service knows the session: to the launcher it is unknown only if it has no overlay.
        let trees = match open_review(socket, &found.id) {
            Ok(trees) if !trees.is_empty() => trees,
            Err(failure) if !failure.is_by(Rule::SessionUnknown) => return Err(failure),
            _ => return Err(no_overlay(&found.label)),
        };
        let state = State::open().map_err(|error| failed(&error))?;
        let workspaces = trees.into_iter().map(|trees| workspace(&state, found, trees));
        let workspaces = workspaces.collect::<Result<_, _>>()?;
        Ok(Self { state, workspaces })
    }

    /// Sums up all workspaces; how long that may take is `budget`'s.
    pub fn totals(&self, budget: &mut Budget) -> Totals {
        let each = |workspace: &Workspace| {
            totals(&workspace.changes, &counts(&workspace.changes, &workspace.trees, budget))
        };
        self.workspaces.iter().map(each).fold(Totals::default(), Totals::and)
    }
}

impl Workspace {
    /// What is shown of each change besides itself.
    pub fn known(&self, counts: &[Count]) -> Vec<Known> {
        let known =
            |(count, dangers): (&Count, &BTreeSet<Danger>)| Known { count: *count, dangers: dangers.clone() };
        counts.iter().zip(&self.dangers).map(known).collect()
    }

    /// The changes that `is_meant` wants, with their dangers.
    pub fn only(&mut self, is_meant: impl Fn(&Change) -> bool) {
        let all = std::mem::take(&mut self.changes.0).into_iter().zip(std::mem::take(&mut self.dangers));
        (self.changes.0, self.dangers) = all.filter(|(change, _)| is_meant(change)).unzip();
    }
}

fn workspace(state: &State, found: &Found, trees: Trees) -> Result<Workspace, Failure> {
    finish(state, &trees)?;
    let failed = |error: ReviewError| of(&trees, &error);
    let kept = state.review(&found.id, &trees.path).map_err(failed)?;
    let mut all = changes(&trees, &[], &Bounds::default()).map_err(failed)?;
    let own = Own::new(&applies(&kept).map_err(failed)?);
    own.drop_moved(&mut all, &trees).map_err(failed)?;
    own.acknowledge(&mut all, &trees.workspace, trees.began).map_err(failed)?;
    let mut judge = Judge::default();
    let dangers = all.0.iter().map(|change| dangers_among(change, &trees, &mut judge)).collect();
    Ok(Workspace { trees, kept, changes: all, dangers })
}

/// Ends applies to a workspace that were killed, and says how.
fn finish(state: &State, trees: &Trees) -> Result<(), Failure> {
    loop {
        match recover(state, &trees.workspace, &mut NoFaults) {
            Ok(None) => return Ok(()),
            // What it applies is seen half or whole; it ends by itself.
            Err(ApplyError::Busy) => {
                say(&format!("another apply to {} is running", trees.path));
                return Ok(());
            }
            Ok(Some(recovered)) => {
                let how = match recovered.outcome {
                    Outcome::Finished(_) => "was finished",
                    Outcome::TakenBack { stands: None, .. } => "was taken back",
                    Outcome::TakenBack { stands: Some(_), .. } => {
                        "was taken back, but for files that were changed since"
                    }
                    Outcome::Abandoned => "was given up, because its staging directory is gone",
                };
                say(&format!(
                    "an apply of session {} to {} had been interrupted: it {how}",
                    recovered.session, trees.path
                ));
            }
            Err(error) => return Err(Failure::failed(format!("{}: {error}", trees.path))),
        }
    }
}

/// Tells the service what was done, for its record and for `ps`. That is no part of what was asked for: a failure is
/// said, and changes nothing.
pub async fn report(client: &Client, found: &Found, action: &str, files: u64, left: &Totals) {
    let request = ReviewedRequest {
        id: found.id.to_string(),
        action: action.to_owned(),
        files,
        remaining: left.files,
        remaining_bytes: left.bytes,
    };
    if let Err(failure) = answer(client.clone().reviewed(request)).await {
        say(&format!("this is not on record: {failure}"));
    }
}

/// An error of a review.
pub fn failed(error: &ReviewError) -> Failure {
    Failure::failed(error.to_string())
}

/// One about a workspace.
pub fn of(trees: &Trees, error: &ReviewError) -> Failure {
    Failure::failed(format!("{}: {error}", trees.path))
}

/// A session that writes to its workspaces themselves, or whose changes were thrown away.
fn no_overlay(label: &str) -> Failure {
    Failure::refused(
        format!("session {label}, which has no overlay"),
        Rule::ReviewNothing,
        "in mode direct changes are in the workspace already; discarded ones are gone",
    )
}
