//! What is done in which order, and what stands against it: no system call is made here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conflict::Conflict;
use super::look::Found;
use crate::change::{Content, Entry, Kind};
use crate::path::FilePath;
use crate::trees::Stamp;

/// Where the bytes of a regular file come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file at this path in the tree that is applied.
    Tree(FilePath),
    /// The caller: a merge, or chosen parts.
    Bytes(Vec<u8>),
}

/// What a file is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// With the mode that it gets: see [`mode`].
    pub entry: Entry,
    /// Of use for regular files alone.
    pub origin: Origin,
    /// When it was modified; `None`: now.
    pub modified: Option<Stamp>,
}

/// One file's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The file, below the workspace.
    pub path: FilePath,
    /// What it must be now.
    pub before: Option<Entry>,
    /// What it becomes.
    pub after: Option<After>,
}

/// A task, and the file as it was found: as the task has it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What is to be done.
    pub task: Task,
    /// `None` if there is no file.
    pub found: Option<Found>,
}

/// One change to the workspace that the kernel makes as a whole. `N` is what is known of the new file: what it becomes,
/// or what was staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act<N> {
    /// Sets a directory's permission bits.
    Chmod {
        /// Those that it has.
        from: u32,
        /// Those that it gets.
        to: u32,
    },
    /// Removes an empty directory.
    Rmdir {
        /// The directory, as it was found.
        was: Found,
    },
    /// Moves a file or link into its slot.
    Remove {
        /// The file that goes, as it was found.
        was: Found,
    },
    /// Moves what was staged from its slot to where nothing is.
    Place {
        /// The file that comes.
        new: N,
    },
    /// Exchanges what was staged with the file.
    Exchange {
        /// The file that goes, as it was found.
        was: Found,
        /// The file that comes.
        new: N,
    },
}

/// An act and its file. Its number in the list is the name of its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op<N> {
    /// The file, below the workspace.
    pub path: FilePath,
    /// What is done.
    pub act: Act<N>,
}

/// The mode that a file of the session's gets. Set-user-id, set-group-id and sticky bits never come from a session: a
/// file has none, a directory those that it had. A permission that `umask` takes is given only where the workspace's
/// file had it. `inherited` is what a new directory gets besides (`02000` in a set-group-id workspace).
pub fn mode(before: Option<&Entry>, after: &Entry, umask: u32, inherited: u32) -> u32 {
    let same_kind = before.filter(|before| before.kind == after.kind);
    let had = same_kind.map_or(0, |before| before.mode);
    let bits = after.mode & 0o777 & (!umask | had);
    match (after.kind, same_kind) {
        (Kind::Symlink, _) => 0o777,
        (Kind::Directory, Some(before)) => bits | before.mode & 0o7000,
        (Kind::Directory, None) => bits | inherited,
        _ => bits,
    }
}

/// What stands against a change of a file that was `before` and is `found` now.
pub fn differs(before: Option<&Entry>, found: Option<&Entry>) -> Option<Conflict> {
    match (before, found) {
        (None, None) => None,
        (None, Some(_)) => Some(Conflict::Added),
        (Some(_), None) => Some(Conflict::Deleted),
        (Some(before), Some(found)) if before.kind != found.kind => Some(Conflict::Kind),
        (Some(before), Some(found))
            if before.content == Content::Unreadable || found.content == Content::Unreadable =>
        {
            Some(Conflict::Unreadable)
        }
        (Some(before), Some(found)) => (before != found).then_some(Conflict::ChangedUnderneath),
    }
}

/// What stands against a task by itself, whatever the workspace has.
pub fn inadmissible(task: &Task) -> Option<Conflict> {
    let states =
        || [task.before.as_ref(), task.after.as_ref().map(|after| &after.entry)].into_iter().flatten();
    if states().any(|entry| matches!(entry.kind, Kind::Device | Kind::Fifo | Kind::Socket)) {
        return Some(Conflict::Special);
    }
    states().any(|entry| entry.content == Content::Unreadable).then_some(Conflict::Unreadable)
}

/// What stands between tasks: one path twice, or a file in a directory that becomes none.
pub fn clashes(tasks: &[Task]) -> Vec<(FilePath, Conflict)> {
    let mut by_path = BTreeMap::new();
    let mut all = Vec::new();
    for task in tasks {
        if by_path.insert(&task.path, task).is_some() {
            all.push((task.path.clone(), Conflict::Repeated));
        }
    }
    let is_directory =
        |task: &Task| task.after.as_ref().is_some_and(|after| after.entry.kind == Kind::Directory);
    for task in tasks.iter().filter(|task| task.after.is_some()) {
        let parent = task.path.parent().and_then(|parent| by_path.get(&parent));
        if parent.is_some_and(|parent| !is_directory(parent)) {
            all.push((task.path.clone(), Conflict::Parent));
        }
    }
    all
}

/// The acts, in an order in which each finds its parent: directories are opened for writing, files and then emptied
/// directories go, from the deepest on; what comes is placed, a directory before what is in it; and directories get
/// their modes, from the deepest on. `checked` is in the order of paths.
pub fn order(checked: Vec<Checked>) -> Vec<Op<After>> {
    let mut acts: [Vec<Op<After>>; 4] = Default::default();
    let [opened, removed, placed, modes] = &mut acts;
    let paths: Vec<_> = checked.iter().map(|checked| checked.task.path.clone()).collect();
    for (at, Checked { task, found }) in checked.into_iter().enumerate() {
        let has_more = paths.get(at + 1).is_some_and(|next| next.is_within(&task.path));
        let path = &task.path;
        let op = |act| Op { path: path.clone(), act };
        let is_directory = |entry: &Entry| entry.kind == Kind::Directory;
        let old = found.as_ref().filter(|found| is_directory(&found.entry));
        // The mode that the directory has while it is worked in.
        let mut mode = old.map(|old| old.entry.mode);
        if let Some(from) = mode.filter(|mode| has_more && mode & 0o700 != 0o700) {
            opened.push(op(Act::Chmod { from, to: from | 0o700 }));
            mode = Some(from | 0o700);
        }
        match (found, task.after) {
            (Some(_), Some(after)) if mode.is_some() && is_directory(&after.entry) => {
                if let Some(from) = mode.filter(|from| *from != after.entry.mode) {
                    modes.push(op(Act::Chmod { from, to: after.entry.mode }));
                }
            }
            (Some(mut was), after) if mode.is_some() => {
                // If it is made again, then with the mode in which what was in it can be put back.
                was.entry.mode = mode.unwrap_or(was.entry.mode);
                removed.push(op(Act::Rmdir { was }));
                placed.extend(after.map(|new| op(Act::Place { new })));
            }
            (Some(was), None) => removed.push(op(Act::Remove { was })),
            (found, Some(mut new)) => {
                let to = new.entry.mode;
                if is_directory(&new.entry) && to & 0o700 != 0o700 {
                    new.entry.mode |= 0o700;
                    modes.push(op(Act::Chmod { from: new.entry.mode, to }));
                }
                placed.push(op(match found {
                    Some(was) => Act::Exchange { was, new },
                    None => Act::Place { new },
                }));
            }
            (None, None) => {}
        }
    }
    removed.reverse();
    modes.reverse();
    acts.into_iter().flatten().collect()
}

/// Whether the workspace has already what the task makes of it.
pub fn is_done(task: &Task) -> bool {
    task.before.as_ref() == task.after.as_ref().map(|after| &after.entry)
}
