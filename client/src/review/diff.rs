//! `agentctl diff`: what a session changed, for a person, for programs, for git.

use agentd_policy::names::AbsPath;
use agentd_review::base;
use agentd_review::content::{Budget, Sides};
use agentd_review::seen::{self, Seen};
use agentd_review::show::summary::{self, Totals, totals};
use agentd_review::show::text::Style;
use agentd_review::show::{counts, json as shown_json, patch, stat, text};

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
    for (workspace, _) in loaded.workspaces.iter().zip(&selections).filter(|(_, s)| **s != Selection::Nothing)
    {
        if several && !machine {
            output.write(format!("{}\n", workspace.trees.path).as_bytes())?;
        }
        one(workspace, &args, style, &mut output)?;
    }
    output.finish()?;
    // Only what was shown whole was seen.
    for (workspace, selection) in loaded.workspaces.iter().zip(&selections) {
        let before = match selection {
            Selection::Nothing => continue,
            Selection::All => Seen::default(),
            Selection::Within(_) => {
                Seen::load(&workspace.kept).map_err(|error| of(&workspace.trees, &error))?
            }
        };
        before
            .and(&workspace.changes)
            .store(&workspace.kept)
            .map_err(|error| of(&workspace.trees, &error))?;
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

fn one(workspace: &Workspace, args: &DiffArgs, style: Style, output: &mut Output) -> Result<(), Failure> {
    let Workspace { trees, changes, .. } = workspace;
    let mut budget = Budget::default();
    if args.name_only {
        return output.write(&stat::names(changes, args.nul));
    }
    if args.git {
        let left = patch::write(changes, trees, &mut budget, output);
        let left = left.map_err(|error| Failure::output("stdout", &error))?;
        left.iter().for_each(|left| say(&left.to_string()));
        return match left.is_empty() {
            true => Ok(()),
            false => Err(Failure::failed("the patch does not have all changes")),
        };
    }
    if !args.stat && !args.json {
        return whole(workspace, style, output);
    }
    let counts = counts(changes, trees, &mut budget);
    let sum = totals(changes, &counts);
    if args.stat {
        return output.write(stat::stat(changes, &counts, &sum, style).as_bytes());
    }
    for row in shown_json::rows(trees.path.as_str(), changes, &workspace.known(&counts)) {
        output.write((json(&row)? + "\n").as_bytes())?;
    }
    let sum = serde_json::json!({ "summary": shown_json::Summary::from(&sum), "digest": seen::of(changes).to_string() });
    output.write((json(&sum)? + "\n").as_bytes())
}

/// Each change as text, then the summary of all.
fn whole(workspace: &Workspace, style: Style, output: &mut Output) -> Result<(), Failure> {
    let Workspace { trees, changes, .. } = workspace;
    let mut budget = Budget::default();
    let mut counts = Vec::with_capacity(changes.0.len());
    for (change, listed) in changes.0.iter().zip(summary::listed(changes)) {
        let sides = Sides::read(change, trees, &mut budget);
        counts.push(agentd_review::show::Count::of(change, &sides));
        if listed {
            output.write(text::change(change, &sides, style).as_bytes())?;
            output.write(b"\n")?;
        }
    }
    let sum: Totals = totals(changes, &counts);
    let rows = summary::rows(changes, &workspace.known(&counts));
    output.write(summary::text(&rows, &sum, style).as_bytes())?;
    let digest = if changes.0.is_empty() { String::new() } else { format!("digest {}\n", seen::of(changes)) };
    output.write(digest.as_bytes())
}
