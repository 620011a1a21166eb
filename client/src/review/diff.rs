//! `agentctl diff`: what a session changed, for a person, for programs, for git.

use agentd_policy::names::AbsPath;
use agentd_policy::rule::Rule;
use agentd_review::base;
use agentd_review::change::Changes;
use agentd_review::content::{Budget, Sides};
use agentd_review::seen::{self, Seen};
use agentd_review::show::summary::{self, Totals, totals};
use agentd_review::show::text::Style;
use agentd_review::show::{Count, counts, json as shown_json, patch, stat, text};

use super::loaded::{Loaded, Workspace, of, report};
use super::pager::Output;
use super::select::{Selection, select};
use crate::cli::{Colour, DiffArgs};
use crate::connect::Socket;
use crate::failure::{Failure, say};
use crate::find::find;
use crate::show::{colours, json};

/// Shows what a session changed.
///
/// # Errors
/// If there is no such session, or a tree cannot be read.
pub async fn diff(socket: &Socket, args: DiffArgs) -> Result<(), Failure> {
    if (args.git || args.nul) && rustix::termios::isatty(rustix::stdio::stdout()) {
        let hint = "it has the bytes that the agent wrote: redirect it to a file or a program";
        return Err(Failure::refused("a patch or raw names on a terminal", Rule::ReviewUnseen, hint));
    }
    let client = socket.connect().await?;
    let found = find(&client, &args.id).await?;
    let mut loaded = Loaded::load(socket, &found)?;
    if args.paths.is_empty() {
        let all = loaded.totals(&mut Budget::none());
        report(&client, &found, "seen", 0, &all).await;
    }
    let selections = selections(&loaded, &args.paths)?;
    for (workspace, selection) in loaded.workspaces.iter_mut().zip(&selections) {
        // What merges need is kept while the workspace still has it.
        base::keep(&workspace.kept, &workspace.trees.workspace, &workspace.changes)
            .map_err(|error| of(&workspace.trees, &error))?;
        workspace.only(|change| selection.has(&change.path));
    }
    let style = Style { colours: takes_colours(args.color) && !args.git && !args.json };
    let machine = args.json || args.git || args.name_only;
    let mut output = Output::open(machine || args.no_pager)?;
    let several = loaded.workspaces.len() > 1;
    let mut shown = Vec::new();
    for (workspace, selection) in loaded.workspaces.iter().zip(&selections) {
        if *selection == Selection::Nothing {
            continue;
        }
        if several && !machine {
            output.write(format!("{}\n", workspace.trees.path).as_bytes())?;
        }
        shown.push((workspace, selection, one(workspace, &args, style, &mut output)?));
    }
    output.finish()?;
    for (workspace, selection, changes) in shown {
        let Some(changes) = changes else { continue };
        let kept = |error| of(&workspace.trees, &error);
        let before = match selection {
            Selection::Within(_) => Seen::load(&workspace.kept).map_err(kept)?.unwrap_or_default(),
            _ => Seen::default(),
        };
        before.and(&changes).store(&workspace.kept).map_err(kept)?;
    }
    Ok(())
}

/// What `paths` mean of the workspaces.
///
/// # Errors
/// As [`select`]; if the current directory is gone.
pub fn selections(loaded: &Loaded, paths: &[std::ffi::OsString]) -> Result<Vec<Selection>, Failure> {
    let tops: Vec<&AbsPath> = loaded.workspaces.iter().map(|workspace| &workspace.trees.path).collect();
    let cwd =
        std::env::current_dir().or_else(|error| if paths.is_empty() { Ok("/".into()) } else { Err(error) });
    select(&tops, &cwd.map_err(|error| Failure::failed(format!("the current directory: {error}")))?, paths)
}

fn takes_colours(when: Colour) -> bool {
    match when {
        Colour::Auto => colours(),
        Colour::Always => true,
        Colour::Never => false,
    }
}

/// Shows a workspace. The changes of which the content was there to be seen; `None` if only names and counts were.
fn one(
    workspace: &Workspace,
    args: &DiffArgs,
    style: Style,
    output: &mut Output,
) -> Result<Option<Changes>, Failure> {
    let Workspace { trees, changes, .. } = workspace;
    let mut budget = Budget::default();
    if args.name_only {
        output.write(&stat::names(changes, args.nul))?;
        return Ok(None);
    }
    if args.git {
        let left = patch::write(changes, trees, &mut budget, output);
        let left = left.map_err(|error| Failure::output("stdout", &error))?;
        left.iter().for_each(|left| say(&left.to_string()));
        return match left.is_empty() {
            true => Ok(Some(changes.clone())),
            false => Err(Failure::failed("the patch does not have all changes")),
        };
    }
    if !args.stat && !args.json {
        return whole(workspace, style, output).map(Some);
    }
    let counts = counts(changes, trees, &mut budget);
    let sum = totals(changes, &counts);
    if args.stat {
        output.write(stat::stat(changes, &counts, &sum, style).as_bytes())?;
        return Ok(None);
    }
    for row in shown_json::rows(trees.path.as_str(), changes, &workspace.known(&counts)) {
        output.write((json(&row)? + "\n").as_bytes())?;
    }
    let digest = seen::of(changes).to_string();
    let sum = serde_json::json!({ "summary": shown_json::Summary::from(&sum), "digest": digest });
    output.write((json(&sum)? + "\n").as_bytes())?;
    Ok(Some(compared(changes, &counts)))
}

/// Those that were not left out because they changed meanwhile or were too many to be compared.
fn compared(changes: &Changes, counts: &[Count]) -> Changes {
    let all = changes.0.iter().zip(counts);
    let shown = all.filter(|(_, count)| !matches!(count, Count::Changed | Count::Skipped));
    Changes(shown.map(|(change, _)| change.clone()).collect())
}

/// Each change as text, then the summary of all.
fn whole(workspace: &Workspace, style: Style, output: &mut Output) -> Result<Changes, Failure> {
    let Workspace { trees, changes, .. } = workspace;
    let mut budget = Budget::default();
    let mut counts = Vec::with_capacity(changes.0.len());
    for (change, listed) in changes.0.iter().zip(summary::listed(changes)) {
        let sides = Sides::read(change, trees, &mut budget);
        counts.push(Count::of(change, &sides));
        if listed {
            output.write(text::change(change, &sides, style).as_bytes())?;
            output.write(b"\n")?;
        }
    }
    let sum: Totals = totals(changes, &counts);
    let rows = summary::rows(changes, &workspace.known(&counts));
    output.write(summary::text(&rows, &sum, style).as_bytes())?;
    let digest = if changes.0.is_empty() { String::new() } else { format!("digest {}\n", seen::of(changes)) };
    output.write(digest.as_bytes())?;
    Ok(compared(changes, &counts))
}
