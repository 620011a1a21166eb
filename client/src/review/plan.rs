//! Which of a workspace's changes are applied, and which are left out for which reason.

use std::collections::{BTreeMap, BTreeSet};

use agentd_policy::rule::Rule;
use agentd_review::apply::check::is_staging;
use agentd_review::apply::{Content, Step};
use agentd_review::base;
use agentd_review::change::{Action, Change, Changes, Entry, Kind};
use agentd_review::content::{Held, MAX_TEXT, after, before};
use agentd_review::danger::Danger;
use agentd_review::merge::three_way;
use agentd_review::path::FilePath;
use agentd_review::seen::{Seen, unseen};

use super::ask::{self, Answer};
use super::left::Left;
use super::loaded::{Workspace, of};
use crate::cli::Prefer;
use crate::failure::Failure;

/// How many paths a refusal names.
const NAMED: usize = 10;

/// What is wanted besides the paths.
#[derive(Clone, Copy, Debug)]
pub struct Wishes<'a> {
    /// Kinds that are applied though they run later.
    pub including: &'a BTreeSet<Danger>,
    /// Whose version is taken in a conflict.
    pub prefer: Option<Prefer>,
    /// Also what no diff showed.
    pub unseen: bool,
    /// Ask for each hunk.
    pub patch: bool,
    /// What the session is called.
    pub label: &'a str,
}

/// What becomes of one workspace.
#[derive(Debug, Default)]
pub struct Planned {
    /// What is applied.
    pub steps: Vec<Step>,
    /// What was meant and is not.
    pub left: BTreeMap<FilePath, Left>,
    /// Files in which a merge has markers.
    pub marked: Vec<FilePath>,
    /// Whether a diff has ever shown changes of this workspace.
    pub was_shown: bool,
}

impl Planned {
    /// Decides on each change that `is_meant`.
    ///
    /// # Errors
    /// If something changed since it was shown, or contradicts the workspace, and nothing says what to do then.
    pub fn new(
        workspace: &Workspace,
        is_meant: impl Fn(&FilePath) -> bool,
        wishes: Wishes<'_>,
    ) -> Result<Self, Failure> {
        let failed = |error| of(&workspace.trees, &error);
        let mut planned = Self::default();
        let all = workspace.changes.0.iter().zip(&workspace.dangers);
        let mut chosen = Vec::new();
        for (change, dangers) in all.filter(|(change, _)| is_meant(&change.path)) {
            match apart(change, dangers, wishes) {
                Some(left) => drop(planned.left.insert(change.path.clone(), left)),
                None => chosen.push(change.clone()),
            }
        }
        let seen = Seen::load(&workspace.kept).map_err(failed)?;
        planned.was_shown = seen.is_some();
        if let Some(seen) = seen.filter(|_| !wishes.unseen) {
            refuse_unseen(&unseen(&seen, &Changes(chosen.clone())), wishes.label)?;
        }
        planned.drop_halves(&workspace.changes, &mut chosen);
        let mut refused = Vec::new();
        for change in chosen {
            match resolve(workspace, &change, wishes)? {
                Resolved::Content(content, markers) => {
                    planned.marked.extend(markers.then(|| change.path.clone()));
                    planned.steps.push(Step { change, content });
                }
                Resolved::Refused => refused.push(change.path),
            }
        }
        refuse_conflicts(&refused, wishes)?;
        if wishes.patch {
            planned.ask(workspace)?;
        }
        Ok(planned)
    }

    /// Leaves out deletions by which a file would be lost: of what was moved to where it is not applied, and of
    /// directories that something is left in.
    fn drop_halves(&mut self, all: &Changes, chosen: &mut Vec<Change>) {
        let kept: BTreeSet<&FilePath> = chosen.iter().map(|change| &change.path).collect();
        let lost = all.0.iter().filter(|change| !kept.contains(&change.path));
        let sources: BTreeSet<FilePath> =
            lost.clone().filter_map(|change| change.renamed_from.clone()).collect();
        let mut stay: BTreeSet<FilePath> =
            lost.filter(|change| change.before.is_some()).map(|change| change.path.clone()).collect();
        stay.extend(sources.iter().cloned());
        let goes = |change: &Change| {
            let was_directory = change.before.as_ref().is_some_and(|entry| entry.kind == Kind::Directory);
            let is_directory = change.after.as_ref().is_some_and(|entry| entry.kind == Kind::Directory);
            (change.after.is_none() && sources.contains(&change.path))
                || (was_directory && !is_directory && has_within(&stay, &change.path))
        };
        let (together, rest) = std::mem::take(chosen).into_iter().partition(goes);
        *chosen = rest;
        let together: Vec<Change> = together;
        self.left.extend(together.into_iter().map(|change| (change.path, Left::Together)));
    }

    /// Asks for each change, and for each hunk of a text.
    fn ask(&mut self, workspace: &Workspace) -> Result<(), Failure> {
        let mut chosen = Vec::new();
        let mut over = false;
        for step in std::mem::take(&mut self.steps) {
            let path = step.change.path.clone();
            let answer = if over { Answer::No } else { ask::about(workspace, step)? };
            match answer {
                Answer::Yes(step) => chosen.push(*step),
                Answer::Last(step) => {
                    over = true;
                    chosen.push(*step);
                }
                Answer::No => drop(self.left.insert(path, Left::Declined)),
                Answer::Quit => {
                    over = true;
                    self.left.insert(path, Left::Declined);
                }
            }
        }
        let mut changes: Vec<Change> = chosen.iter().map(|step| step.change.clone()).collect();
        self.drop_halves(&workspace.changes, &mut changes);
        chosen.retain(|step| changes.contains(&step.change));
        self.steps = chosen;
        Ok(())
    }
}

/// Whether one of `paths` is `dir` or within it: they are in order.
fn has_within(paths: &BTreeSet<FilePath>, dir: &FilePath) -> bool {
    paths.range(dir..).next().is_some_and(|path| path.is_within(dir))
}

/// Why a change is left out whatever the workspace has.
fn apart(change: &Change, dangers: &BTreeSet<Danger>, wishes: Wishes<'_>) -> Option<Left> {
    if is_staging(&change.path) {
        return Some(Left::Reserved);
    }
    let entries = || change.before.iter().chain(&change.after);
    let special = |entry: &Entry| matches!(entry.kind, Kind::Fifo | Kind::Socket | Kind::Device);
    if dangers.contains(&Danger::Device) || entries().any(special) {
        return Some(Left::Never(Danger::Device));
    }
    if dangers.contains(&Danger::Unreadable) || entries().any(Entry::is_unreadable) {
        return Some(Left::Never(Danger::Unreadable));
    }
    let unnamed: BTreeSet<Danger> = dangers.difference(wishes.including).copied().collect();
    match (unnamed.is_empty(), wishes.prefer) {
        (false, _) => Some(Left::SetApart(unnamed)),
        (true, Some(Prefer::Ours)) if change.changed_underneath => Some(Left::Ours),
        _ => None,
    }
}

/// What a change puts in the workspace.
enum Resolved {
    /// This, and whether there are markers in it.
    Content(Content, bool),
    /// Both sides changed the file.
    Refused,
}

fn resolve(workspace: &Workspace, change: &Change, wishes: Wishes<'_>) -> Result<Resolved, Failure> {
    match wishes.prefer {
        _ if !change.changed_underneath => Ok(Resolved::Content(Content::FromSession, false)),
        Some(Prefer::Theirs) => Ok(Resolved::Content(Content::FromSession, false)),
        Some(Prefer::Merge) if change.action() == Action::Modified => merged(workspace, change, wishes.label),
        _ => Ok(Resolved::Refused),
    }
}

fn merged(workspace: &Workspace, change: &Change, label: &str) -> Result<Resolved, Failure> {
    let Workspace { trees, kept, .. } = workspace;
    let sides = (before(change, trees, MAX_TEXT), after(change, trees, MAX_TEXT));
    let (Held::Bytes(ours), Held::Bytes(theirs)) = sides else { return Ok(Resolved::Refused) };
    let base = base::base(kept, &change.path).map_err(|error| of(trees, &error))?;
    Ok(match three_way(base.as_deref(), &ours, &theirs, label) {
        Some(merged) => Resolved::Content(Content::Bytes(merged.bytes), merged.conflicts > 0),
        None => Resolved::Refused,
    })
}

fn refuse_unseen(paths: &[FilePath], label: &str) -> Result<(), Failure> {
    if paths.is_empty() {
        return Ok(());
    }
    let what = format!("{}, not as `agentctl diff` showed it", named(paths));
    let hint = format!("look again (agentctl diff {label}), or apply it unseen (--unseen)");
    Err(Failure::refused(what, Rule::ReviewUnseen, hint))
}

fn refuse_conflicts(paths: &[FilePath], wishes: Wishes<'_>) -> Result<(), Failure> {
    if paths.is_empty() {
        return Ok(());
    }
    let what = format!("{}, changed in the workspace since the session began", named(paths));
    let hint = match wishes.prefer {
        Some(Prefer::Merge) => {
            "it cannot be merged by lines: take the workspace's (--ours) or the session's (--theirs)"
        }
        _ => "keep the workspace's (--ours), take the session's (--theirs), or merge lines (--merge)",
    };
    Err(Failure::refused(what, Rule::ReviewConflict, hint))
}

/// Some paths in a sentence.
pub fn named(paths: &[FilePath]) -> String {
    let shown: Vec<_> = paths.iter().take(NAMED).map(ToString::to_string).collect();
    match paths.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
