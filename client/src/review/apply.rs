//! `agentctl apply`: which changes, with or without a question, and what became of them.

use std::collections::BTreeSet;

use agentd_review::apply as transaction;
use agentd_review::calls::NoFaults;
use agentd_review::change::Changes;
use agentd_review::content::Budget;
use agentd_review::danger::Danger;
use agentd_review::path::FilePath;
use agentd_review::show::counts;
use agentd_review::show::summary::{Known, Totals, rows, text, totals};
use agentd_review::show::text::Style;
use serde_json::json;

use super::ask;
use super::conflict::{APPLY, failure};
use super::diff::selections;
use super::loaded::{Loaded, Workspace, report};
use super::plan::{Planned, Wishes, named};
use crate::cli::ApplyArgs;
use crate::connect::Socket;
use crate::failure::{Failure, say};
use crate::find::{Found, find};
use crate::show::{colours, json as line, print};

/// How many changes of one kind that are left out are named.
const NAMED: usize = 10;

/// Takes a session's changes into its workspaces.
///
/// # Errors
/// If nothing of a workspace is applied that was to be.
pub async fn apply(socket: &Socket, args: ApplyArgs) -> Result<(), Failure> {
    let client = socket.connect().await?;
    let found = find(&client, &args.id).await?;
    if args.undo {
        return super::undo::undo(socket, &client, &found, &args).await;
    }
    let loaded = Loaded::load(socket, &found)?;
    let including = including(&args.including);
    let wishes = Wishes {
        including: &including,
        prefer: args.prefer(),
        unseen: args.unseen,
        patch: args.patch,
        label: &found.label,
    };
    let selections = selections(&loaded, &args.paths)?;
    let plan = |(workspace, selection): (&Workspace, &super::select::Selection)| {
        Planned::new(workspace, |path| selection.has(path), wishes)
    };
    let planned = loaded.workspaces.iter().zip(&selections).map(plan).collect::<Result<Vec<_>, _>>()?;
    let pairs = || loaded.workspaces.iter().zip(&planned);
    let asks = !args.yes && !args.patch && ask::can_ask() && planned.iter().any(|one| !one.was_shown);
    if args.dry_run || asks {
        pairs().try_for_each(|(workspace, planned)| preview(workspace, planned))?;
    }
    if planned.iter().all(|one| one.steps.is_empty()) {
        pairs().try_for_each(|(workspace, planned)| {
            done(workspace, planned, &Totals::default(), &found, &args)
        })?;
        return if args.json { Ok(()) } else { print("nothing to apply\n") };
    }
    if args.dry_run || (asks && !ask::yes("apply these changes?")?) {
        pairs().for_each(|(_, planned)| say_left(planned, &found));
        return if args.dry_run { Ok(()) } else { Err(Failure::failed("nothing was applied")) };
    }
    let mut files = 0;
    let mut failed = None;
    for (workspace, planned) in pairs().filter(|(_, planned)| !planned.steps.is_empty()) {
        let changes = Changes(planned.steps.iter().map(|step| step.change.clone()).collect());
        let sum = totals(&changes, &counts(&changes, &workspace.trees, &mut Budget::default()));
        let steps = planned.steps.clone();
        let made = transaction::apply(&loaded.state, &workspace.trees, &found.id, steps, &mut NoFaults);
        if let Err(error) = made {
            failed = Some(failure(workspace.trees.path.as_str(), &error, APPLY));
            break;
        }
        files += sum.files;
        // It is made: that it cannot be said changes nothing.
        if let Err(failure) = done(workspace, planned, &sum, &found, &args) {
            failed = Some(failure);
        }
    }
    for (workspace, planned) in pairs().filter(|(_, planned)| planned.steps.is_empty()) {
        done(workspace, planned, &Totals::default(), &found, &args)?;
    }
    if files > 0 {
        match Loaded::load(socket, &found) {
            Ok(now) => report(&client, &found, "applied", files, &now.totals(&mut Budget::none())).await,
            Err(failure) => say(&format!("applied, but what is left cannot be counted: {failure}")),
        }
    }
    failed.map_or(Ok(()), Err)
}

fn including(words: &[String]) -> BTreeSet<Danger> {
    let each = |word: &String| match word.as_str() {
        "all" => Danger::ALL.to_vec(),
        word => Danger::parse(word).into_iter().collect(),
    };
    words.iter().flat_map(each).collect()
}

/// What would be applied, in rows.
fn preview(workspace: &Workspace, planned: &Planned) -> Result<(), Failure> {
    let changes = Changes(planned.steps.iter().map(|step| step.change.clone()).collect());
    let counts = counts(&changes, &workspace.trees, &mut Budget::default());
    let known: Vec<_> =
        counts.iter().map(|count| Known { count: *count, dangers: BTreeSet::new() }).collect();
    let shown = text(&rows(&changes, &known), &totals(&changes, &counts), Style { colours: colours() });
    print(&format!("{}\n{shown}", workspace.trees.path))
}

/// Says what became of a workspace.
fn done(
    workspace: &Workspace,
    planned: &Planned,
    sum: &Totals,
    found: &Found,
    args: &ApplyArgs,
) -> Result<(), Failure> {
    let top = &workspace.trees.path;
    if args.json {
        let path = |path: &FilePath| agentd_policy::text::from_bytes(path.as_bytes());
        let applied: Vec<_> = planned.steps.iter().map(|step| path(&step.change.path)).collect();
        let marked: Vec<_> = planned.marked.iter().map(path).collect();
        let left = planned
            .left
            .iter()
            .map(|(file, why)| json!({ "path": path(file), "why": why.word(), "dangers": why.dangers() }));
        let row = json!({
            "session": found.id.as_str(), "workspace": top, "applied": applied, "marked": marked,
            "left": left.collect::<Vec<_>>(),
        });
        return print(&(line(&row)? + "\n"));
    }
    if !planned.steps.is_empty() {
        let undo = format!("agentctl apply {} --undo", found.label);
        print(&format!("{top}: applied, {sum}; {undo} takes it back\n"))?;
    }
    if !planned.marked.is_empty() {
        say(&format!("with markers of a merge: {}", named(&planned.marked)));
    }
    say_left(planned, found);
    Ok(())
}

/// Says what was left out and why, and how to apply it all the same.
fn say_left(planned: &Planned, found: &Found) {
    let mut by_reason: Vec<(String, Vec<&FilePath>)> = Vec::new();
    for (path, why) in &planned.left {
        let reason = why.sentence(&found.label);
        match by_reason.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, paths)) => paths.push(path),
            None => by_reason.push((reason, vec![path])),
        }
    }
    for (reason, paths) in by_reason {
        let shown: Vec<_> = paths.iter().take(NAMED).map(ToString::to_string).collect();
        let more = match paths.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        say(&format!("left out: {}{more}: {reason}", shown.join(", ")));
    }
}
