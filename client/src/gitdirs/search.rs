//! Which repository a workspace belongs to, as git finds it (gitrepository-layout(5), git-worktree(1)), and whether
//! that one knows of it.

use agentd_policy::git::config;
use agentd_policy::git::read::{self, MAX_POINTER};
use agentd_policy::names::AbsPath;
use rustix::fs::FileType;

use super::look::{Dir, Why};
use super::{Finder, Unfollowed, git_in, store};

/// The longest configuration that is read.
pub const MAX_CONFIG: u64 = 1 << 20;

/// A repository that leads back to the working tree it was found from.
pub struct Repository {
    /// The top of the working tree.
    pub top: AbsPath,
    /// What git calls its directory.
    pub git: Dir,
    /// What that is.
    pub kind: Kind,
}

/// Where a repository's own directory is.
pub enum Kind {
    /// In the workspace.
    Own,
    /// The directory `.git` above the workspace.
    Above,
    /// Elsewhere, as a submodule's.
    Separate,
    /// It belongs to one of several working trees, whose common directory this is.
    Linked(Dir),
}

impl Finder<'_> {
    /// The repository of the workspace at `path`: found there, or above it up to the user's home and on its file
    /// system.
    pub(super) fn repository(&self, path: &AbsPath) -> Result<Option<Repository>, Unfollowed> {
        let mut at = path.clone();
        let mut device = None;
        loop {
            let Ok(dir) = Dir::open(&at) else { return Ok(None) };
            if *device.get_or_insert(dir.device) != dir.device || is_bare(&dir) {
                return Ok(None);
            }
            if let Some(found) = self.look_in(path, dir)? {
                return Ok(Some(found));
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => return Ok(None),
            }
        }
    }

    /// What `.git` in `dir` leads to; nothing if there is no such name, or nothing of git's.
    fn look_in(&self, workspace: &AbsPath, dir: Dir) -> Result<Option<Repository>, Unfollowed> {
        let file = git_in(&dir.path);
        let no = |why: String| Unfollowed::of(&file, why);
        let Some(stat) = dir.stat(".git").map_err(|why| no(why.to_string()))? else { return Ok(None) };
        let own = dir.path == *workspace;
        if !own && (self.home == dir.path || self.home.starts_with(&dir.path)) {
            return Err(no("is the repository of the directory that holds your home".into()));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        // As git does (safe.directory): what others put above a workspace is not its repository.
        if !own && (stat.st_uid != self.uid || dir.owner != self.uid) {
            return Err(no("or the directory that it is in belongs to another user".into()));
        }
        match kind {
            FileType::Directory => {
                let git = dir.child(".git").map_err(|why| no(why.to_string()))?;
                match (is_repository(&git), own) {
                    (true, true) => Ok(Some(self.own(dir.path, git)?)),
                    (true, false) if git.has("commondir", FileType::RegularFile) => {
                        Err(no("names a common directory".into()))
                    }
                    (true, false) => Ok(Some(Repository { top: dir.path, git, kind: Kind::Above })),
                    (false, _) => Ok(None),
                }
            }
            FileType::RegularFile => self.led(workspace, dir, &file).map(Some),
            FileType::Symlink => {
                let there = std::fs::canonicalize(file.as_str()).ok();
                let there = there.and_then(|there| AbsPath::parse(there.to_str()?).ok());
                match there {
                    // It is there inside as well.
                    Some(there) if there.starts_with(workspace) => Ok(None),
                    Some(there) => Err(Unfollowed::of(&there, "is where a symbolic link .git leads".into())),
                    None => Err(no("is a dangling symbolic link".into())),
                }
            }
            _ => Err(no(Why::Kind.to_string())),
        }
    }

    /// The repository in a workspace itself.
    fn own(&self, top: AbsPath, git: Dir) -> Result<Repository, Unfollowed> {
        let common = match git.read("commondir", MAX_POINTER) {
            Err(Why::Missing) => None,
            Ok(text) => read::pointer(&text, &git.path),
            Err(why) => return Err(Unfollowed::of(&git.path, format!("has a commondir that {why}"))),
        };
        match common.filter(|common| !common.starts_with(&top)) {
            Some(what) => {
                Err(Unfollowed::of(&what, "is named by a commondir that is no linked working tree's".into()))
            }
            None => Ok(Repository { top, git, kind: Kind::Own }),
        }
    }

    /// What the file `.git` in `dir` leads to.
    fn led(&self, workspace: &AbsPath, dir: Dir, file: &AbsPath) -> Result<Repository, Unfollowed> {
        let no = |why: String| Unfollowed::of(file, why);
        let text = dir.read(".git", MAX_POINTER).map_err(|why| no(why.to_string()))?;
        let there = read::gitfile(&text, &dir.path).ok_or_else(|| no("does not name a directory".into()))?;
        let git = Dir::open(&there).map_err(|why| Unfollowed::of(&there, why.to_string()))?;
        let top = dir.path;
        // A repository in the workspace is there inside as well; what it leads to is not.
        if there.starts_with(workspace) && !git.has("commondir", FileType::RegularFile) {
            return Ok(Repository { top, git, kind: Kind::Own });
        }
        match self.back(&top, &git) {
            Ok(kind) => Ok(Repository { top, git, kind }),
            Err(unfollowed) => Err(Unfollowed { leads: Some(Box::new((top, git))), ..unfollowed }),
        }
    }

    /// What the repository `git` is, if it leads back to the working tree `top`, whose `.git` leads there.
    fn back(&self, top: &AbsPath, git: &Dir) -> Result<Kind, Unfollowed> {
        let no = |why: &str| Unfollowed::of(&git.path, why.to_owned());
        if git.owner != self.uid {
            return Err(no("belongs to another user"));
        }
        if git.has("commondir", FileType::RegularFile) {
            return self.linked(top, git).map(Kind::Linked);
        }
        if !is_repository(git) {
            return Err(no("is no repository"));
        }
        if !names_worktree(git, top) {
            return Err(no("does not name this working tree (core.worktree)"));
        }
        Ok(Kind::Separate)
    }

    /// The common directory of a linked working tree: `git` is `worktrees/NAME` in it, and its `gitdir` names the
    /// working tree's `.git`.
    fn linked(&self, top: &AbsPath, git: &Dir) -> Result<Dir, Unfollowed> {
        let no = |why: &str| Unfollowed::of(&git.path, why.to_owned());
        if pointer(git, "gitdir").is_none_or(|back| back != git_in(top)) {
            return Err(no("does not name this working tree (gitdir)"));
        }
        let expected = git.path.parent().filter(|dir| dir.components().next_back() == Some("worktrees"));
        let expected = expected.and_then(|dir| dir.parent());
        if expected.is_none() || common_of(git) != expected {
            return Err(no("has a commondir that is not the repository that it lies in"));
        }
        let common = expected.ok_or_else(|| no("lies in no repository"))?;
        let no = |why: String| Unfollowed::of(&common, why);
        let dir = Dir::open(&common).map_err(|why| no(why.to_string()))?;
        if dir.owner != self.uid || !is_repository(&dir) || dir.has("commondir", FileType::RegularFile) {
            return Err(no("is no repository of yours".into()));
        }
        // What is called `.git`, or lies in such a directory, is git's alone.
        if !common.components().any(|name| name == ".git") {
            match store::only_a_repository(&dir) {
                Ok(true) => {}
                Ok(false) => return Err(no("holds more than a repository".into())),
                Err(why) => return Err(no(why.to_string())),
            }
        }
        Ok(dir)
    }
}

/// Where the file `name` in `git` leads.
fn pointer(git: &Dir, name: &str) -> Option<AbsPath> {
    let text = git.read(name, MAX_POINTER).ok()?;
    read::pointer(&text, &git.path)
}

/// What `git` says is its common directory.
pub(super) fn common_of(git: &Dir) -> Option<AbsPath> {
    pointer(git, "commondir")
}

/// Whether `dir` looks like a repository to git, itself and not by links.
fn is_repository(dir: &Dir) -> bool {
    dir.has("HEAD", FileType::RegularFile)
        && dir.has("objects", FileType::Directory)
        && dir.has("refs", FileType::Directory)
}

/// Whether a directory on the way up is itself a repository, or part of one.
fn is_bare(dir: &Dir) -> bool {
    is_repository(dir) || dir.path.components().next_back() == Some(".git")
}

/// Whether the configuration of the repository `git` says that its working tree is `top`.
fn names_worktree(git: &Dir, top: &AbsPath) -> bool {
    let named = |file: &str| {
        let text = git.read(file, MAX_CONFIG).ok()?;
        let variables = config::parse(&text)?;
        let last = variables.into_iter().rfind(|v| v.section == "core" && v.key == "worktree")?;
        read::resolve(&git.path, &last.value)
    };
    // What it says of this working tree alone counts more.
    named("config.worktree").or_else(|| named("config")).is_some_and(|named| named == *top)
}
