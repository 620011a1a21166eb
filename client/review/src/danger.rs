//! What is set apart: changes that run something later by themselves, or that are not what they look like.
//!
//! A change is judged by its name, kind and mode in the merged tree. A deletion is set apart only where the absence
//! itself has an effect: what a git control file, a hook, an agent's settings or a package manager's configuration
//! refused is no longer refused.

use std::collections::BTreeSet;
use std::fmt;

use crate::change::{Action, Change, Content, Entry, Kind};
use crate::content::{self, Held};
use crate::path::FilePath;
use crate::trees::Trees;

mod lookalike;
mod manifest;
mod symlink;
mod table;

pub use manifest::Manifest;
pub use table::{by_name, is_git};

/// The largest manifest whose fields are compared; a larger one is set apart.
const MANIFEST: u64 = 1 << 20;

/// Why a change is set apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Danger {
    /// A file that directs git.
    Git,
    /// A hook of git or of a manager of hooks.
    Hooks,
    /// A pipeline of a CI service.
    Ci,
    /// A build script or what configures one.
    Build,
    /// A package's scripts and entry points, or what configures its package manager.
    Scripts,
    /// Code that Python runs to install, to test, or at each start.
    Python,
    /// Environment variables and tool versions that a shell takes on entering the directory.
    Environment,
    /// Tasks and settings of an editor.
    Editor,
    /// Instructions, settings, hooks and MCP servers of an AI agent.
    Agent,
    /// A start-up file of a shell or of a program that runs commands at start.
    Shell,
    /// A file that can now be executed, or an executable that became a binary.
    Executable,
    /// A symbolic link that leads out of the workspace or into `.git`, or replaces a directory.
    Symlink,
    /// A name that looks like another, hides characters, or means another on some file systems.
    Name,
    /// A set-user-ID or set-group-ID bit.
    SetId,
    /// A device, FIFO or socket.
    Device,
    /// A content that the caller may not read: nobody has seen it.
    Unreadable,
}

impl Danger {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 16] = [
        Self::Git,
        Self::Hooks,
        Self::Ci,
        Self::Build,
        Self::Scripts,
        Self::Python,
        Self::Environment,
        Self::Editor,
        Self::Agent,
        Self::Shell,
        Self::Executable,
        Self::Symlink,
        Self::Name,
        Self::SetId,
        Self::Device,
        Self::Unreadable,
    ];

    /// The word for `--including`, also in JSON.
    pub fn word(self) -> &'static str {
        self.texts().0
    }

    /// What such a change does, as a sentence without its subject and full stop.
    pub fn sentence(self) -> &'static str {
        self.texts().1
    }

    /// The danger that `word` names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|danger| danger.word() == word)
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Git => ("git", "directs what git does, or runs, in this directory"),
            Self::Hooks => ("hooks", "runs by itself on commit, push or checkout"),
            Self::Ci => ("ci", "runs on a CI service, with its secrets, once it is pushed"),
            Self::Build => ("build", "runs when the project is built"),
            Self::Scripts => ("scripts", "runs when packages are installed, built or tested"),
            Self::Python => ("python", "runs when Python installs, tests or starts"),
            Self::Environment => ("environment", "sets variables or tools on entering the directory"),
            Self::Editor => ("editor", "runs or configures commands in an editor"),
            Self::Agent => ("agent", "instructs an AI agent or configures what it may do"),
            Self::Shell => ("shell", "runs when a shell or program starts"),
            Self::Executable => ("executable", "can be executed, and could not before"),
            Self::Symlink => ("symlink", "leads out of the workspace or into .git, or replaces a directory"),
            Self::Name => ("name", "has a name that looks like or stands for another"),
            Self::SetId => ("setid", "runs with its owner's or group's rights"),
            Self::Device => ("device", "is a device, FIFO or socket"),
            Self::Unreadable => ("unreadable", "cannot be read, so that nobody has seen its content"),
        }
    }
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is kept from one change of a review to the next: names of directories, and what may still be looked at. When
/// that is used up, links and manifests are set apart without a look.
#[derive(Debug)]
pub struct Judge {
    /// Whether the workspace is a directory of git's own; unknown until the first change.
    of_git: Option<bool>,
    names: lookalike::Names,
    /// Names that links lead to.
    look_ups: u64,
    /// Bytes of manifests.
    bytes: u64,
}

impl Default for Judge {
    fn default() -> Self {
        Self { of_git: None, names: lookalike::Names::default(), look_ups: 2_000_000, bytes: 256 << 20 }
    }
}

/// Why `change` is set apart; empty if it is not. For many changes of one review, [`dangers_among`] reads each
/// directory once and is bounded over all of them.
pub fn dangers(change: &Change, trees: &Trees) -> BTreeSet<Danger> {
    dangers_among(change, trees, &mut Judge::default())
}

/// As [`dangers`], for the changes of one review in the order of [`crate::change::Changes`].
pub fn dangers_among(change: &Change, trees: &Trees, judge: &mut Judge) -> BTreeSet<Danger> {
    let kind = change.after.as_ref().or(change.before.as_ref()).map(|entry| entry.kind);
    let mut found = table::by_name(&trees.path, &change.path, kind == Some(Kind::Directory));
    if *judge.of_git.get_or_insert_with(|| is_of_git(trees)) {
        found.insert(Danger::Git);
    }
    let Some(after) = &change.after else {
        found.retain(|danger| table::EVEN_DELETED.contains(danger));
        return found;
    };
    let before = change.before.as_ref();
    match after.kind {
        Kind::File => of_file(change, after, trees, judge, &mut found),
        Kind::Symlink => {
            let target = match &after.content {
                Content::Target(target) => target.as_slice(),
                _ => b"/",
            };
            let replaces = before.is_some_and(|before| before.kind == Kind::Directory);
            if replaces || symlink::leads_out(&change.path, target, trees, &mut judge.look_ups) {
                found.insert(Danger::Symlink);
            }
            let name = change.path.components().next_back().unwrap_or_default();
            found.extend(table::below_link(name));
            // What it points at may become anything.
            found.extend(Manifest::of(&change.path).map(Manifest::danger));
        }
        Kind::Fifo | Kind::Socket | Kind::Device => drop(found.insert(Danger::Device)),
        Kind::Directory => {}
    }
    let set_id = |entry: &Entry| entry.mode & 0o6000;
    let runs = after.kind == Kind::File && change.action() != Action::Mode;
    if set_id(after) & !before.map_or(0, set_id) != 0 || (runs && set_id(after) != 0) {
        found.insert(Danger::SetId);
    }
    if after.content == Content::Unreadable {
        found.insert(Danger::Unreadable);
    }
    if judge.names.is_deceptive(change, trees) {
        found.insert(Danger::Name);
    }
    found
}

/// Whether the workspace itself is a directory of git's, in which everything directs git: a repository, bare or not,
/// one of a submodule or of a linked working tree. Whatever cannot be looked at may be there.
fn is_of_git(trees: &Trees) -> bool {
    let has = |name: &str| {
        let path = FilePath::parse(name.as_bytes());
        path.is_ok_and(|path| !matches!(trees.workspace.stat(&path), Ok(None)))
    };
    let within = trees.path.as_str().split('/').any(|component| component.eq_ignore_ascii_case(".git"));
    within || (has("HEAD") && (has("commondir") || (has("objects") && has("refs"))))
}

/// What only regular files are.
fn of_file(change: &Change, after: &Entry, trees: &Trees, judge: &mut Judge, found: &mut BTreeSet<Danger>) {
    let executable = |entry: &Entry| entry.kind == Kind::File && entry.mode & 0o111 != 0;
    if executable(after) {
        let was = change.before.as_ref().is_some_and(executable);
        if !was || became_binary(change, trees) {
            found.insert(Danger::Executable);
        }
    }
    let Some(manifest) = Manifest::of(&change.path) else { return };
    let cost = change.before.iter().chain([after]).map(|entry| entry.size.min(MANIFEST)).sum();
    let Some(left) = judge.bytes.checked_sub(cost) else {
        found.insert(manifest.danger());
        return;
    };
    judge.bytes = left;
    let text = |held| match held {
        Held::Nothing => Some(Vec::new()),
        Held::Bytes(bytes) => Some(bytes),
        _ => None,
    };
    // Of a moved one all runs something else: it did not run there.
    let before = text(content::held(&trees.workspace, &change.path, change.before.as_ref(), MANIFEST));
    let after = text(content::after(change, trees, MANIFEST));
    if before.zip(after).is_none_or(|(before, after)| manifest.runs_something_else(&before, &after)) {
        found.insert(manifest.danger());
    }
}

/// Whether the bytes that say how a file is executed are now an ELF binary's, and were not.
fn became_binary(change: &Change, trees: &Trees) -> bool {
    const ELF: &[u8] = b"\x7fELF";
    let starts = |tree, path: &FilePath| content::starts_with(tree, path, ELF).unwrap_or(true);
    change.action() == Action::Modified
        && starts(&trees.merged, &change.path)
        && !content::starts_with(&trees.workspace, &change.path, ELF).unwrap_or(false)
}

#[cfg(test)]
mod tests;
