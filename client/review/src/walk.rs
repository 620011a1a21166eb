//! Finds what a session changed, by walking what it wrote.

mod inodes;
mod look;
mod names;
mod renames;

use std::collections::BTreeSet;

use rustix::io::Errno;

use self::inodes::Inodes;
use self::look::{Fault, Look, Place};
use self::names::{Names, Seen};
use self::renames::Found;
use crate::beneath::Tree;
use crate::change::{Change, Changes, Content, Entry};
use crate::error::{ReviewError, Side};
use crate::path::{FilePath, MAX_PATH};
use crate::trees::{Stamp, Trees};

/// The most that is looked at: beyond it a review fails ([`ReviewError::TooMuch`]) instead of showing a part. How many
/// bytes are read has no bound but what files hold; holes are not read.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Names in the directories that are compared, counted in each tree.
    pub entries: u64,
    /// Changes in the result.
    pub changes: usize,
    /// Components of a directory's path.
    pub depth: usize,
    /// Names in one directory of one tree.
    pub names: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: 10_000_000, changes: 1_000_000, depth: 1_000, names: 1_000_000 }
    }
}

/// What the session changed in the workspace at or below the paths `only`, everywhere if there are none, ordered by
/// path.
///
/// Directories are compared that the session wrote in or moved; what it never touched is not read. A directory that
/// is there for one side alone has every file below it as a change. With `only`, the directories on the way that the
/// workspace lacks come along, and a file that was moved across its borders is an addition or a deletion. Owners,
/// times, extended attributes, hard links, device numbers and the top directory itself are not compared.
///
/// Both trees may change meanwhile: each file is taken as it was when it was looked at, and one that vanished is not
/// there.
///
/// # Errors
/// [`ReviewError::TooMuch`]; [`ReviewError::Io`] if the kernel refuses something else than reading a file or listing a
/// directory, which is a change with [`Content::Unreadable`] instead.
pub fn changes(trees: &Trees, only: &[FilePath], bounds: &Bounds) -> Result<Changes, ReviewError> {
    let top = |tree: &Tree| {
        let stat = rustix::fs::fstat(tree).map_err(|errno| tree.error("stat", None, errno))?;
        Ok::<_, ReviewError>(Some(Look::directory(stat)))
    };
    let role = if only.is_empty() { Role::Within } else { Role::OnTheWay };
    let (before, after) = (top(&trees.workspace)?, top(&trees.merged)?);
    let mut walk = Walk {
        trees,
        bounds,
        only: only.iter().cloned().collect(),
        inodes: Inodes::of(trees)?,
        entries: 0,
        todo: vec![Pair { path: None, role, made: false, before, after }],
        found: Vec::new(),
    };
    while let Some(pair) = walk.todo.pop() {
        walk.visit(pair)?;
    }
    Ok(walk.finish())
}

/// Why a path is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It was asked for.
    Within,
    /// What was asked for is below it.
    OnTheWay,
}

/// A path in both trees.
struct Pair {
    /// Nothing at the top.
    path: Option<FilePath>,
    role: Role,
    /// Whether agentd made it.
    made: bool,
    before: Option<Look>,
    after: Option<Look>,
}

/// A directory that is in a pair, where it is open.
struct Open<'a> {
    workspace: Option<Place<'a>>,
    merged: Option<Place<'a>>,
}

struct Walk<'a> {
    trees: &'a Trees,
    bounds: &'a Bounds,
    only: BTreeSet<FilePath>,
    inodes: Inodes,
    /// Names so far.
    entries: u64,
    /// Directories to compare: a list, because the session chose how deep they are.
    todo: Vec<Pair>,
    /// Changes, and whether each is one only if another is below it.
    found: Vec<(Found, bool)>,
}

impl Walk<'_> {
    /// Compares a directory's names.
    fn visit(&mut self, mut pair: Pair) -> Result<(), ReviewError> {
        match self.children(&pair) {
            Ok(children) => {
                self.record(&pair)?;
                for child in children {
                    match is_directory(&child.before) || is_directory(&child.after) {
                        true => self.enter(child)?,
                        false => self.record(&child)?,
                    }
                }
                Ok(())
            }
            Err(Fault::Review(error)) => Err(error),
            Err(Fault::Closed(side)) if pair.path.is_none() => {
                Err(ReviewError::Io { call: "read", side, path: None, errno: Errno::ACCESS })
            }
            Err(Fault::Closed(side)) => {
                // What is in it is in doubt, also what was asked for.
                pair.role = Role::Within;
                let path = pair.path.as_ref();
                for (look, tree) in
                    [(&mut pair.before, &self.trees.workspace), (&mut pair.after, &self.trees.merged)]
                {
                    let own = (side == Side::Workspace) == (tree.side() == Side::Workspace);
                    if let Some(look) = look.as_mut().filter(|look| look.is_directory())
                        && (own || names::is_closed(tree, path))
                    {
                        look.entry.content = Content::Unreadable;
                    }
                }
                self.record(&pair)
            }
        }
    }

    fn enter(&mut self, pair: Pair) -> Result<(), ReviewError> {
        let depth = pair.path.as_ref().map_or(0, |path| path.components().count());
        if depth > self.bounds.depth {
            return Err(ReviewError::TooMuch {
                what: "levels of directories",
                max: self.bounds.depth as u64,
            });
        }
        self.todo.push(pair);
        Ok(())
    }

    /// What differs in a directory, or is a directory that may.
    fn children(&mut self, pair: &Pair) -> Result<Vec<Pair>, Fault> {
        let path = pair.path.as_ref();
        let open = |tree, look: &Option<Look>| match look {
            look if is_directory(look) => Place::open(tree, path),
            _ => Ok(None),
        };
        let open = Open {
            workspace: open(&self.trees.workspace, &pair.before)?,
            merged: open(&self.trees.merged, &pair.after)?,
        };
        let upper = match &open {
            Open { workspace: Some(_), merged: Some(_) } => Place::open(&self.trees.upper, path)?,
            _ => None,
        };
        let mut names = Names::new();
        for (side, place) in
            [(Side::Workspace, &open.workspace), (Side::Merged, &open.merged), (Side::Upper, &upper)]
        {
            let Some(place) = place else { continue };
            self.entries += names::add(&mut names, side, place, path, self.bounds.names)?;
            if self.entries > self.bounds.entries {
                return Err(ReviewError::TooMuch { what: "names", max: self.bounds.entries }.into());
            }
        }
        let mut children = Vec::new();
        for (name, seen) in names {
            let same = |(merged, workspace)| self.inodes.same_number(merged, workspace);
            if !seen.upper && seen.merged.zip(seen.workspace).is_some_and(same) {
                continue;
            }
            if path.map_or(0, |path| path.as_bytes().len() + 1) + name.len() > MAX_PATH {
                return Err(ReviewError::TooMuch { what: "bytes in a path", max: MAX_PATH as u64 }.into());
            }
            let child = FilePath::join(path, &name)?;
            let Some(role) = self.role(&child, pair.role) else { continue };
            children.extend(self.child(&open, child, seen, role)?);
        }
        Ok(children)
    }

    /// A name that may differ, unless it does not.
    fn child(&self, open: &Open<'_>, path: FilePath, seen: Seen, role: Role) -> Result<Option<Pair>, Fault> {
        let merged = open.merged.as_ref().filter(|_| seen.merged.is_some());
        let workspace = open.workspace.as_ref().filter(|_| seen.workspace.is_some());
        let name = path.name().to_owned();
        if let (Some(merged), Some(workspace), false) = (merged, workspace, seen.upper) {
            let stats = merged.stat(&name, &path)?.zip(workspace.stat(&name, &path)?);
            if stats.is_some_and(|(merged, workspace)| self.inodes.same_file(&merged, &workspace)) {
                return Ok(None);
            }
        }
        let look = |place: Option<&Place<'_>>| place.map_or(Ok(None), |place| place.look(&name, &path));
        let after = look(merged)?;
        let made = self.trees.made.contains(&path);
        if made && !after.as_ref().is_some_and(Look::is_directory) {
            return Ok(None);
        }
        let before = look(workspace)?;
        Ok(Some(Pair { path: Some(path), role, made, before, after }))
    }

    /// Why `path` is looked at, if it is, in a directory that is for this reason.
    fn role(&self, path: &FilePath, parent: Role) -> Option<Role> {
        if parent == Role::Within || self.only.contains(path) {
            return Some(Role::Within);
        }
        // In order of components, what is below a path comes right after it.
        let next = self.only.range(path..).next();
        next.filter(|next| next.is_within(path)).map(|_| Role::OnTheWay)
    }

    fn record(&mut self, pair: &Pair) -> Result<(), ReviewError> {
        let Some(path) = &pair.path else { return Ok(()) };
        let entry = |look: &Option<Look>| look.as_ref().map(|look| look.entry.clone());
        let (before, after) = (entry(&pair.before), entry(&pair.after));
        let unreadable = [&before, &after].into_iter().flatten().any(Entry::is_unreadable);
        // Without it there is no place for what is below it.
        let needed = is_directory(&pair.after) && !is_directory(&pair.before);
        if !(unreadable || needed || (pair.role == Role::Within && before != after)) {
            return Ok(());
        }
        if self.found.len() >= self.bounds.changes {
            return Err(ReviewError::TooMuch { what: "changes", max: self.bounds.changes as u64 });
        }
        let inode = match (&pair.before, &pair.after) {
            (Some(before), _) => Some(before.stat.st_ino),
            (None, Some(after)) => self.inodes.number(after.stat.st_ino),
            (None, None) => None,
        };
        // What is in a directory is compared by itself, and stamps it: by our own applies, too.
        let changed_underneath = pair
            .before
            .as_ref()
            .is_some_and(|look| !look.is_directory() && changed(look) >= self.trees.began);
        let change = Change { path: path.clone(), before, after, renamed_from: None, changed_underneath };
        let with_others = !unreadable && (pair.made || pair.role == Role::OnTheWay);
        self.found.push((Found { change, inode }, with_others));
        Ok(())
    }

    fn finish(mut self) -> Changes {
        self.found.sort_by(|(one, _), (other, _)| one.change.path.cmp(&other.change.path));
        let mut kept: Vec<Found> = Vec::with_capacity(self.found.len());
        for (found, with_others) in self.found.into_iter().rev() {
            let below = || kept.last().is_some_and(|next| next.change.path.is_within(&found.change.path));
            if !with_others || below() {
                kept.push(found);
            }
        }
        kept.reverse();
        renames::assign(&mut kept);
        Changes(kept.into_iter().map(|found| found.change).collect())
    }
}

fn is_directory(look: &Option<Look>) -> bool {
    look.as_ref().is_some_and(Look::is_directory)
}

/// When it was last changed.
fn changed(look: &Look) -> Stamp {
    let nanoseconds = u32::try_from(look.stat.st_ctime_nsec).unwrap_or(0);
    Stamp { seconds: look.stat.st_ctime, nanoseconds }
}
