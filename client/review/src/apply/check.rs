//! Whether the workspace is as the review found it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use super::conflict::{ApplyError, Conflict};
use super::look::{conflict, look};
use super::plan::{self, After, Checked, Origin, Task};
use crate::beneath::Tree;
use crate::change::{Content, Entry, Kind, MAX_CHANGES};
use crate::error::ReviewError;
use crate::path::FilePath;

/// What the name of every staging directory begins with, at the workspace's top.
pub const STAGING: &str = ".agentd-apply-";

/// The tasks in the order of paths, with what the workspace has. What is done already is left out. `state` is where
/// agentd's state directory is in the workspace.
///
/// # Errors
/// [`ApplyError::Conflicts`] with all of them; or what the kernel refused.
pub fn check(
    workspace: &Tree,
    state: Option<&FilePath>,
    mut tasks: Vec<Task>,
) -> Result<Vec<Checked>, ApplyError> {
    if tasks.len() > MAX_CHANGES {
        return Err(ReviewError::TooMuch { what: "changes", max: MAX_CHANGES as u64 }.into());
    }
    tasks.extend(closed_parents(workspace, &tasks)?);
    tasks.sort_by(|a, b| a.path.cmp(&b.path));
    let mut conflicts = plan::clashes(&tasks);
    conflicts.extend(not_empty(workspace, &tasks)?);
    let is_directory = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.kind == Kind::Directory);
    let comes = |task: &&Task| {
        is_directory(task.after.as_ref().map(|after| &after.entry)) && !is_directory(task.before.as_ref())
    };
    // What is there instead, a link perhaps, has nothing in it.
    let new_directories: BTreeSet<_> = tasks.iter().filter(comes).map(|task| task.path.clone()).collect();
    let mut checked = Vec::with_capacity(tasks.len());
    for task in tasks {
        let found = match is_reserved(&task.path, state)
            .then_some(Conflict::Reserved)
            .or(plan::inadmissible(&task))
        {
            Some(conflict) => Err(conflict),
            None if task.path.parent().is_some_and(|parent| new_directories.contains(&parent)) => Ok(None),
            None => match look(workspace, &task.path) {
                Ok(found) => Ok(found),
                Err(error) => Err(conflict(&error).ok_or(error)?),
            },
        };
        let differs = |found: &Option<_>| {
            plan::differs(task.before.as_ref(), found.as_ref().map(|found: &super::look::Found| &found.entry))
        };
        match found.and_then(|found| differs(&found).map_or(Ok(found), Err)) {
            Err(conflict) => conflicts.push((task.path, conflict)),
            // A directory that stays as it is may have to be opened for writing.
            Ok(_) if plan::is_done(&task) && !is_directory(task.before.as_ref()) => {}
            Ok(found) => checked.push(Checked { task, found }),
        }
    }
    match conflicts.is_empty() {
        true => Ok(checked),
        false => {
            conflicts.sort();
            conflicts.dedup();
            Err(ApplyError::Conflicts(conflicts))
        }
    }
}

/// Whether it is a staging directory by its name, or in one. Where case is ignored, too.
pub fn is_staging(path: &FilePath) -> bool {
    let first = path.components().next().unwrap_or_default();
    first.get(..STAGING.len()).is_some_and(|name| name.eq_ignore_ascii_case(STAGING.as_bytes()))
}

/// Whether nothing may be applied to this path: it is agentd's own.
fn is_reserved(path: &FilePath, state: Option<&FilePath>) -> bool {
    // A directory above the state directory may change its mode, but can be no other kind of file: it is not empty.
    is_staging(path) || state.is_some_and(|state| path.is_within(state))
}

/// Directories that go, with something in them that does not.
fn not_empty(workspace: &Tree, tasks: &[Task]) -> Result<Vec<(FilePath, Conflict)>, ReviewError> {
    let gone: BTreeSet<_> = tasks.iter().filter(|task| task.after.is_none()).map(|task| &task.path).collect();
    let mut conflicts = Vec::new();
    for Task { path, before, after } in tasks {
        let is_directory = |entry: &Entry| entry.kind == Kind::Directory;
        if !before.as_ref().is_some_and(is_directory)
            || after.as_ref().is_some_and(|after| is_directory(&after.entry))
        {
            continue;
        }
        let names = match workspace.names(Some(path), MAX_CHANGES) {
            Ok(names) => names,
            // What it is instead is met when it is looked at.
            Err(error) if conflict(&error).is_some() => continue,
            Err(error) => return Err(error),
        };
        let stays =
            |name: &OsString| FilePath::join(Some(path), name).is_ok_and(|path| !gone.contains(&path));
        if names.iter().any(stays) {
            conflicts.push((path.clone(), Conflict::NotEmpty));
        }
    }
    Ok(conflicts)
}

/// Tasks that change nothing, for the caller's own directories in which something changes and the caller may not write:
/// a session that made them writable for a while left them as they were.
fn closed_parents(workspace: &Tree, tasks: &[Task]) -> Result<Vec<Task>, ReviewError> {
    let mut known: BTreeSet<_> = tasks.iter().map(|task| task.path.clone()).collect();
    let mut closed = Vec::new();
    for path in tasks.iter().filter_map(|task| task.path.parent()) {
        if !known.insert(path.clone()) {
            continue;
        }
        let stat = match workspace.stat(&path) {
            Ok(Some(stat)) => stat,
            Ok(None) => continue,
            // What stands in the way is met when the file is looked at.
            Err(error) if conflict(&error).is_some() => continue,
            Err(error) => return Err(error),
        };
        let is_own = stat.st_uid == rustix::process::geteuid().as_raw();
        if super::look::kind(&stat) == Kind::Directory && is_own && stat.st_mode & 0o700 != 0o700 {
            let (kind, content) = (Kind::Directory, Content::None);
            let entry = Entry { kind, mode: stat.st_mode & 0o7777, size: 0, content };
            let after = After { entry: entry.clone(), origin: Origin::Bytes(Vec::new()), modified: None };
            closed.push(Task { path, before: Some(entry), after: Some(after) });
        }
    }
    Ok(closed)
}

/// Tasks for the directories that files are added in and that neither the workspace nor `tasks` have: with the modes
/// that `merged` has, through `mode`.
///
/// # Errors
/// As `openat2(2)`.
pub fn missing_parents(
    workspace: &Tree,
    merged: &Tree,
    tasks: &[Task],
    mode: impl Fn(&Entry) -> u32,
) -> Result<Vec<Task>, ReviewError> {
    let mut known: BTreeSet<_> = tasks.iter().map(|task| task.path.clone()).collect();
    let mut missing = Vec::new();
    for task in tasks.iter().filter(|task| task.after.is_some()) {
        let mut at = task.path.parent();
        while let Some(path) = at.filter(|path| known.insert(path.clone())) {
            let stat = match workspace.stat(&path) {
                // What stands in the way is met when the file is looked at.
                Err(error) if conflict(&error).is_some() => break,
                stat => stat?,
            };
            let seen = if stat.is_none() { merged.stat(&path)? } else { None };
            if let Some(stat) = seen.filter(|stat| super::look::kind(stat) == Kind::Directory) {
                let (kind, content) = (Kind::Directory, Content::None);
                let mut entry = Entry { kind, mode: stat.st_mode & 0o7777, size: 0, content };
                entry.mode = mode(&entry);
                let after = After { entry, origin: Origin::Bytes(Vec::new()), modified: None };
                missing.push(Task { path: path.clone(), before: None, after: Some(after) });
            }
            at = path.parent();
        }
    }
    Ok(missing)
}

/// A staging directory's name, if another apply left or has one in the workspace.
///
/// # Errors
/// As `getdents64(2)`.
pub fn staging_there(workspace: &Tree) -> Result<Option<FilePath>, ReviewError> {
    let names = workspace.names(None, 4 * MAX_CHANGES)?;
    let found = names.iter().find(|name| name.as_bytes().starts_with(STAGING.as_bytes()));
    found.map(|name| FilePath::join(None, name)).transpose()
}
