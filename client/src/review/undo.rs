//! `agentctl apply --undo`, and `agentctl discard`.

use std::os::fd::OwnedFd;

use agentd_policy::names::{AbsPath, SessionId};
use agentd_policy::rule::Rule;
use agentd_review::apply::record::Written;
use agentd_review::apply::{Applied, Undo, applies, undo as take_back};
use agentd_review::beneath::Tree;
use agentd_review::calls::NoFaults;
use agentd_review::change::Kind;
use agentd_review::content::Budget;
use agentd_review::error::Side;
use agentd_review::show::summary::Totals;
use agentd_review::state::State;
use rustix::fs::{Mode, OFlags};

use super::ask;
use super::conflict::{UNDO, failure};
use super::loaded::{Loaded, failed, report};
use super::open::discard as delete;
use super::select::{Selection, select};
use crate::cli::{ApplyArgs, DiscardArgs};
use crate::connect::{Client, Socket};
use crate::failure::{Failure, say};
use crate::find::{Found, find};
use crate::several::{All, print_id};
use crate::show::print;

/// A workspace in which something was applied.
struct Done {
    path: AbsPath,
    workspace: Tree,
    last: Applied,
}

/// Takes the last apply of a session back. What the session wrote is not needed for that: it may be discarded by now.
/// Of several workspaces with applies, one is named.
///
/// # Errors
/// If nothing was applied, or files that were changed since stand against it.
pub async fn undo(socket: &Socket, client: &Client, found: &Found, args: &ApplyArgs) -> Result<(), Failure> {
    let state = State::open().map_err(|error| failed(&error))?;
    let mut all = Vec::new();
    for path in overlays(found) {
        let kept = state.review(&found.id, &path).map_err(|error| failed(&error))?;
        let Some(last) = applies(&kept).map_err(|error| failed(&error))?.pop() else { continue };
        let top = open(&path)
            .map_err(|errno| Failure::failed(format!("{path}: {}", std::io::Error::from(errno))))?;
        all.push(Done { path, workspace: Tree::new(Side::Workspace, top), last });
    }
    let chosen = choose(all, &args.paths, found)?;
    if args.dry_run {
        return print(&format!(
            "{}: {} would be taken back\n",
            chosen.path,
            number_of(files_in(&chosen.last))
        ));
    }
    let Done { path, workspace, last } = chosen;
    let which = Undo { id: Some(last.id.clone()), force: args.theirs };
    let applied = take_back(&state, &workspace, (&found.id, &path), &which, &mut NoFaults)
        .map_err(|error| failure(path.as_str(), &error, UNDO))?;
    // What takes a taking back back applies again.
    let what = if last.undoes.is_some() { "applied again" } else { "taken back" };
    let count = files_in(&applied);
    print(&format!("{path}: {} {what}\n", number_of(count)))?;
    match Loaded::load(socket, found) {
        Ok(loaded) => report(client, found, "undone", count, &loaded.totals(&mut Budget::none())).await,
        // Discarded: nothing is left to differ.
        Err(failure) if failure.is_by(Rule::ReviewNothing) => {
            report(client, found, "undone", count, &Totals::default()).await;
        }
        Err(failure) => say(&format!("{what}, but what differs now cannot be counted: {failure}")),
    }
    Ok(())
}

/// The workspace whose last apply is taken back.
fn choose(mut all: Vec<Done>, paths: &[std::ffi::OsString], found: &Found) -> Result<Done, Failure> {
    let tops: Vec<&AbsPath> = all.iter().map(|done| &done.path).collect();
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let selected = select(&tops, &cwd, paths)?;
    let mut meant = (0..all.len()).filter(|at| selected.get(*at) != Some(&Selection::Nothing));
    match (meant.next(), meant.next()) {
        (Some(one), None) => Ok(all.swap_remove(one)),
        (None, _) => Err(Failure::refused(
            format!("the last apply of session {}", found.label),
            Rule::ReviewNothing,
            "nothing of it was applied",
        )),
        (Some(_), Some(_)) => Err(Failure::refused(
            format!("the last apply of session {}: it has several workspaces", found.label),
            Rule::ReviewPath,
            format!("name one: {}", tops.iter().map(|top| top.as_str()).collect::<Vec<_>>().join(", ")),
        )),
    }
}

fn number_of(files: u64) -> String {
    format!("{files} {}", if files == 1 { "file" } else { "files" })
}

/// Files, without directories.
fn files_in(applied: &Applied) -> u64 {
    let kind = |file: &Written| {
        let before = file.before.as_ref().map(|replaced| &replaced.entry);
        file.after.as_ref().or(before).map(|entry| entry.kind)
    };
    applied.files.iter().map(|file| u64::from(kind(file) != Some(Kind::Directory))).sum()
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
    let there = match Loaded::load(socket, &found) {
        Ok(loaded) => Ok(loaded.totals(&mut Budget::none())),
        Err(failure) if failure.is_by(Rule::ReviewNothing) => return Err(failure),
        // An agent can make what it wrote impossible to review: it can be thrown away all the same.
        Err(failure) => Err(failure),
    };
    let what = match &there {
        Ok(there) => format!("{} that it changed", number_of(there.files)),
        Err(failure) => format!("what it changed, which cannot be looked at ({failure})"),
    };
    let is_empty = there.as_ref().is_ok_and(|there| there.files == 0);
    if !args.yes && !is_empty {
        if !ask::can_ask() {
            let hint = "give -y where nobody can be asked";
            return Err(Failure::refused(format!("to delete {what}"), Rule::ReviewUnseen, hint));
        }
        if !ask::yes(&format!("{}: delete {what}?", found.label))? {
            say("nothing was deleted");
            return Ok(None);
        }
    }
    delete(socket, &found)?;
    let files = there.map_or(0, |there| there.files);
    report(client, &found, "discarded", files, &Totals::default()).await;
    Ok(Some(found.id.to_string()))
}

/// Forgets what is kept of the reviews of a session that was removed.
pub fn forget(id: &SessionId) {
    if let Err(error) = State::open().and_then(|state| state.forget(id)) {
        say(&format!("what was kept for `apply --undo` stays: {error}"));
    }
}
