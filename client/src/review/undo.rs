//! `agentctl apply --undo`, and `agentctl discard`.

use std::os::fd::OwnedFd;

use agentd_policy::names::{AbsPath, SessionId};
use agentd_policy::rule::Rule;
use agentd_review::apply::record::Written;
use agentd_review::apply::{Applied, ApplyError, Undo, applies, undo as take_back};
use agentd_review::beneath::Tree;
use agentd_review::calls::NoFaults;
use agentd_review::change::Kind;
use agentd_review::content::Budget;
use agentd_review::error::Side;
use agentd_review::show::summary::Totals;
use agentd_review::state::State;
use rustix::fs::{Mode, OFlags};

use super::ask;
use super::conflict::failure;
use super::loaded::{Loaded, failed, report};
use super::open::discard as delete;
use crate::cli::{ApplyArgs, DiscardArgs};
use crate::connect::{Client, Socket};
use crate::failure::{Failure, say};
use crate::find::{Found, find};
use crate::several::{All, print_id};
use crate::show::print;

/// Takes the last apply back in each workspace of the session that has one. What the session wrote is not needed for
/// that: it may be discarded by now.
pub async fn undo(socket: &Socket, client: &Client, found: &Found, args: &ApplyArgs) -> Result<(), Failure> {
    let state = State::open().map_err(|error| failed(&error))?;
    let which = Undo { id: None, force: args.theirs };
    let mut files = 0;
    for path in overlays(found) {
        let Ok(top) = open(&path) else { continue };
        let workspace = Tree::new(Side::Workspace, top);
        match take_back(&state, &workspace, (&found.id, &path), &which, &mut NoFaults) {
            Ok(applied) => {
                let count = files_in(&applied);
                files += count;
                let what =
                    if is_again(&state, found, &path, &applied)? { "applied again" } else { "taken back" };
                let noun = if count == 1 { "file" } else { "files" };
                print(&format!("{path}: {count} {noun} {what}\n"))?;
            }
            Err(ApplyError::NothingApplied) => {}
            Err(error) => return Err(failure(path.as_str(), &error)),
        }
    }
    if files == 0 {
        return Err(Failure::refused(
            format!("the last apply of session {}", found.label),
            Rule::ReviewNothing,
            "nothing of it was applied, or its workspaces are not where they were",
        ));
    }
    let left =
        Loaded::load(socket, found).map(|loaded| loaded.totals(&mut Budget::none())).unwrap_or_default();
    report(client, found, "undone", files, &left).await;
    Ok(())
}

/// Files, without directories.
fn files_in(applied: &Applied) -> u64 {
    let kind = |file: &Written| {
        let before = file.before.as_ref().map(|replaced| &replaced.entry);
        file.after.as_ref().or(before).map(|entry| entry.kind)
    };
    applied.files.iter().filter(|file| kind(file) != Some(Kind::Directory)).map(|_| 1).sum()
}

/// Whether what was taken back now was a taking back itself.
fn is_again(state: &State, found: &Found, path: &AbsPath, applied: &Applied) -> Result<bool, Failure> {
    let all =
        state.review(&found.id, path).and_then(|kept| applies(&kept)).map_err(|error| failed(&error))?;
    let undone = all.into_iter().find(|one| Some(&one.id) == applied.undoes.as_ref());
    Ok(undone.is_some_and(|one| one.undoes.is_some()))
}

/// The paths of a session's workspaces.
fn overlays(found: &Found) -> Vec<AbsPath> {
    let mounts = found.mounts.iter();
    let overlays = mounts.filter(|mount| mount.kind == "workspace" && mount.mode == "overlay");
    overlays.filter_map(|mount| AbsPath::parse(&mount.path).ok()).collect()
}

fn open(path: &AbsPath) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path.as_str(), flags, Mode::empty())
}

/// Throws the changes of ended sessions away.
///
/// # Errors
/// The first refusal; the other sessions have their turn.
pub async fn discard(socket: &Socket, args: DiscardArgs) -> Result<(), Failure> {
    let client = socket.connect().await?;
    let mut all = All::default();
    for id in &args.ids {
        match one(socket, &client, id, &args).await {
            Ok(Some(id)) => print_id(&id, args.json)?,
            Ok(None) => {}
            Err(failure) => all.failed(failure),
        }
    }
    all.done()
}

async fn one(
    socket: &Socket,
    client: &Client,
    id: &str,
    args: &DiscardArgs,
) -> Result<Option<String>, Failure> {
    let found = find(client, id).await?;
    let there = Loaded::load(socket, &found)?.totals(&mut Budget::none());
    let question = format!("{}: delete what it changed, {there}?", found.label);
    if !args.yes && there.files > 0 && ask::can_ask() && !ask::yes(&question)? {
        return Ok(None);
    }
    delete(socket, &found)?;
    report(client, &found, "discarded", there.files, &Totals::default()).await;
    Ok(Some(found.id.to_string()))
}

/// Forgets what is kept of the reviews of a session that was removed.
pub fn forget(id: &str) {
    let Ok(id) = SessionId::parse(id) else { return };
    if let Err(error) = State::open().and_then(|state| state.forget(&id)) {
        say(&format!("what was kept for `apply --undo` stays: {error}"));
    }
}
