//! What a session left, said to the user who ran it.

use std::time::{Duration, Instant};

use agentd_proto::v1::RemoveRequest;
use agentd_review::content::Budget;
use agentd_review::show::summary::Totals;

use super::ask;
use super::loaded::{Loaded, report};
use crate::connect::{Client, Socket, answer};
use crate::failure::{Failure, say};
use crate::find::{Found, find};
use crate::signals::Signals;

/// How long lines are counted for.
const COUNTING: Duration = Duration::from_secs(1);

/// What becomes of a session once it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It stays, with what it changed.
    Keep,
    /// It is removed (`--rm`). What it changed goes with it, if the caller agrees.
    Remove,
}

/// Says what a session that has ended changed in its overlays, if it changed anything, and removes it if that was asked
/// for.
///
/// # Errors
/// If it cannot be looked at: then it is there still.
pub async fn ended(
    socket: &Socket,
    client: &Client,
    found: &Found,
    after: After,
    quiet: bool,
) -> Result<(), Failure> {
    let loaded = Loaded::load(socket, found)?;
    let none = loaded.workspaces.iter().all(|workspace| workspace.changes.0.is_empty());
    let there = if none { Totals::default() } else { loaded.totals(&mut budget()) };
    if after == After::Remove {
        return remove(client, found, &there, quiet).await;
    }
    if none {
        return Ok(());
    }
    if !quiet {
        let label = &found.label;
        say(&format!("{there}, kept in {label}: agentctl diff {label} | apply {label} | discard {label}"));
    }
    report(client, found, "seen", 0, &there).await;
    Ok(())
}

/// Looks at what a session left on a thread of its own, until the caller has enough of it (Ctrl-C): then, and if it
/// cannot be looked at, it is there still.
pub async fn unless_interrupted(
    signals: &mut Signals,
    looking: impl Future<Output = Result<(), Failure>> + Send + 'static,
) {
    let runtime = tokio::runtime::Handle::current();
    let looking = tokio::task::spawn_blocking(move || runtime.block_on(looking));
    let why = tokio::select! {
        looked = looking => match looked {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure.to_string(),
            Err(error) => error.to_string(),
        },
        number = signals.next_ending() => format!("interrupted by signal {number}"),
    };
    say(&format!("what it changed was not looked at: {why}"));
}

/// The same for a session that somebody attached to. One that is gone, or has no overlay, left nothing to say.
///
/// # Errors
/// As [`ended`].
pub async fn attached_ended(socket: &Socket, client: &Client, id: &str, quiet: bool) -> Result<(), Failure> {
    let Ok(found) = find(client, id).await else { return Ok(()) };
    match found.mounts.iter().any(|mount| mount.mode == "overlay") {
        true => ended(socket, client, &found, After::Keep, quiet).await,
        false => Ok(()),
    }
}

/// Removes it. With changes, and a terminal to ask on, only if the caller says so.
async fn remove(client: &Client, found: &Found, there: &Totals, quiet: bool) -> Result<(), Failure> {
    let label = &found.label;
    if there.files > 0 {
        let question = format!("agentctl: {there}; delete them with session {label} (--rm)?");
        if ask::can_ask() && !ask::yes(&question)? {
            say(&format!("kept in {label}: agentctl diff {label} | apply {label} | rm {label}"));
            report(client, found, "seen", 0, there).await;
            return Ok(());
        }
        if !quiet {
            say(&format!("{there}, deleted with session {label} (--rm)"));
        }
    }
    let request = RemoveRequest { id: found.id.to_string(), force: false };
    answer(client.clone().remove(request)).await.map(drop)
}

fn budget() -> Budget {
    let now = Instant::now();
    Budget { until: now.checked_add(COUNTING).unwrap_or(now), ..Budget::default() }
}
