//! What git needs of the repository that a workspace belongs to and that lies outside of it: a linked working tree's
//! common directory, a submodule's own, the one above a subdirectory, the object stores of alternates. No program is
//! run, and what
//! `.git` says is not believed: an agent that had the workspace before, or who packed it, may have written it. A
//! directory is offered only if what is in it, out of their reach, leads back to the workspace; all else is shown with
//! the flag that would allow it.

mod alternates;
mod guards;
mod look;
mod search;
mod store;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::git::read;
use agentd_policy::git::{Part, Place, Use};
use agentd_policy::mode::Mode;
use agentd_policy::names::AbsPath;
use agentd_policy::plan::Plan;

use look::{Dir, Why};
use search::{Kind, Repository};

use crate::show::word;

/// What of a common directory is given as it is in mode `direct`: what commits, and nothing else, are made of.
const DATA: [&str; 5] = ["objects", "refs", "logs", "reftable", "lfs"];

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// By path: how it is used, the directory if it has to be opened, and why the session has it.
    places: BTreeMap<AbsPath, Held>,
    /// What is to be said of what is not followed, and of what the session sees that nobody named.
    pub notes: Vec<String>,
}

#[derive(Debug)]
struct Held {
    used: Use,
    dir: Option<OwnedFd>,
    why: String,
}

impl Found {
    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What is to be asked for.
    pub fn places(&self) -> Vec<Place> {
        self.places.iter().map(|(path, held)| Place { path: path.clone(), used: held.used }).collect()
    }

    /// Each place that a session gets, with why.
    pub fn reasons(&self) -> impl Iterator<Item = (Place, &str)> {
        self.places
            .iter()
            .map(|(path, held)| (Place { path: path.clone(), used: held.used }, held.why.as_str()))
    }

    /// Leaves out all but what is to be guarded: a session without these places is one that git does not work in.
    pub fn forgo(&mut self, why: &Refusal) {
        let before = self.places.len();
        self.places.retain(|_, held| held.used == Use::Guard);
        if self.places.len() < before {
            self.notes.push(format!("git: the repository of the workspace is not offered: {why}"));
        }
    }

    /// Whether `path` is one that a session gets.
    pub fn has(&self, path: &AbsPath) -> bool {
        self.places.get(path).is_some_and(|held| matches!(held.used, Use::Work(..) | Use::Read))
    }

    /// The directory of one, opened when it was looked at.
    pub fn take(&mut self, path: &AbsPath) -> Option<OwnedFd> {
        self.places.get_mut(path)?.dir.take()
    }

    fn worked(&self) -> impl Iterator<Item = &AbsPath> {
        self.places.iter().filter(|(_, held)| matches!(held.used, Use::Work(..))).map(|(path, _)| path)
    }
}

/// What the workspaces of `plan` need.
///
/// # Errors
/// If what git outside would run from a workspace in mode `direct` is unknown.
pub fn find(plan: &Plan, bounds: &Bounds) -> Result<Found, Refusal> {
    let real = |path: &AbsPath| {
        let real = Path::new(path.as_str()).canonicalize().ok();
        real.and_then(|path| AbsPath::parse(path.to_str()?).ok()).unwrap_or_else(|| path.clone())
    };
    let workspaces: Vec<(AbsPath, Mode)> = plan.workspaces.iter().map(|w| (real(&w.path), w.mode)).collect();
    let inputs = plan.inputs.iter().flat_map(|i| [i.path.clone(), real(&i.path)]).collect();
    let uid = rustix::process::geteuid().as_raw();
    Finder {
        home: real(&plan.home),
        uid,
        bounds,
        workspaces,
        inputs,
        borrowed: Vec::new(),
        found: Found::default(),
    }
    .run()
}

struct Finder<'a> {
    home: AbsPath,
    uid: u32,
    bounds: &'a Bounds,
    workspaces: Vec<(AbsPath, Mode)>,
    inputs: Vec<AbsPath>,
    /// Object stores that workspaces in mode `direct` borrow from.
    borrowed: Vec<AbsPath>,
    found: Found,
}

/// What is not followed, and why.
struct Unfollowed {
    what: AbsPath,
    why: String,
    /// The top of the working tree, and what its `.git` leads to.
    leads: Option<Box<(AbsPath, Dir)>>,
}

impl Unfollowed {
    fn of(what: &AbsPath, why: String) -> Self {
        Self { what: what.clone(), why, leads: None }
    }
}

impl Finder<'_> {
    fn run(mut self) -> Result<Found, Refusal> {
        for (path, mode) in self.workspaces.clone() {
            self.workspace(&path, mode)?;
        }
        self.real_objects();
        // Objects that are read for one workspace are where another's are written.
        let worked: Vec<AbsPath> = self.found.worked().cloned().collect();
        let read = |path: &AbsPath| worked.iter().any(|dir| path.starts_with(dir));
        self.found.places.retain(|path, held| held.used != Use::Read || !read(path));
        Ok(self.found)
    }

    fn workspace(&mut self, path: &AbsPath, mode: Mode) -> Result<(), Refusal> {
        match self.repository(path) {
            Ok(None) => {}
            Ok(Some(repository)) => {
                // In a repository of its own the search of the workspace finds them.
                if mode == Mode::Direct && !matches!(repository.kind, Kind::Own) {
                    self.guards(path, &repository.top, &repository.git)?;
                }
                self.add_repository(path, mode, repository);
            }
            Err(Unfollowed { what, why, leads }) => {
                if let Some(leads) = leads.filter(|_| mode == Mode::Direct) {
                    self.guards(path, &leads.0, &leads.1)?;
                }
                self.note(&what, &why);
            }
        }
        Ok(())
    }

    fn add_repository(&mut self, workspace: &AbsPath, mode: Mode, repository: Repository) {
        let Repository { top, git, kind } = repository;
        let data = if let Kind::Linked(common) = &kind { common } else { &git };
        if let Ok(objects) = data.child("objects") {
            self.alternates(&objects, mode, 0);
        }
        if let Kind::Own = kind {
            return;
        }
        let needed = match (&kind, mode) {
            (Kind::Linked(_), Mode::Direct) => [Mode::Overlay, Mode::Direct].to_vec(),
            _ => vec![mode],
        };
        if let Some(forbidden) = needed.iter().find(|mode| self.bounds.modes_forbidden.contains(mode)) {
            return self
                .note(&git.path, &format!("needs mode {}, which this site forbids", forbidden.as_str()));
        }
        let outer = top != *workspace;
        if outer && matches!(kind, Kind::Linked(_) | Kind::Separate) {
            let why = format!("{} is in the working tree", word(workspace.as_str()));
            self.add(git_in(&top), Use::Read, None, &why);
        }
        match (kind, mode) {
            (Kind::Linked(common), Mode::Direct) => self.add_parts(&top, git, common),
            (Kind::Linked(common), _) => {
                let why = format!("{} is a working tree of it", word(top.as_str()));
                self.add_dir(common, Use::Work(Part::Repository, mode), &why);
            }
            (_, _) => {
                let why = format!("{} belongs to it", word(top.as_str()));
                self.add_dir(git, Use::Work(Part::Repository, mode), &why);
            }
        }
        if outer {
            self.add_top(top, workspace);
        }
    }

    /// A linked working tree in mode `direct`: its own part and what commits are made of are given as they are, the
    /// rest of the common directory as a copy.
    fn add_parts(&mut self, top: &AbsPath, git: Dir, common: Dir) {
        let why = format!("{} is a working tree of it", word(top.as_str()));
        for name in DATA {
            match common.child(name) {
                Ok(dir) => self.add_dir(dir, Use::Work(Part::Data, Mode::Direct), &why),
                Err(Why::Missing) => {}
                Err(error) => self.found.notes.push(format!(
                    "git: {} {error}: what git writes there is not kept",
                    common.join(name).map_or_else(String::new, |path| word(path.as_str()).into_owned())
                )),
            }
        }
        self.add_dir(git, Use::Work(Part::Repository, Mode::Direct), &why);
        self.add_dir(common, Use::Work(Part::Common, Mode::Overlay), &why);
    }

    /// The working tree around a workspace: nobody offered what else is in it.
    fn add_top(&mut self, top: AbsPath, workspace: &AbsPath) {
        let why = format!("{} is in it", word(workspace.as_str()));
        if !self.is_covered(&top) {
            let shown = word(top.as_str()).into_owned();
            self.found.notes.push(format!(
                "git: of {shown} the session has {} and its history, nothing else: git lists the other files as deleted, \
                 and `git add -A` or `commit -a` would record that (--read {shown} shows them, read-only)",
                word(workspace.as_str())
            ));
        }
        self.add(top, Use::Top, None, &why);
    }

    /// Whether the session has `path` anyway.
    fn is_covered(&self, path: &AbsPath) -> bool {
        self.workspaces.iter().any(|(workspace, _)| path.starts_with(workspace)) || self.is_input(path)
    }

    fn is_input(&self, path: &AbsPath) -> bool {
        self.inputs.iter().any(|input| path.starts_with(input))
    }

    fn add_dir(&mut self, dir: Dir, used: Use, why: &str) {
        let path = dir.path.clone();
        self.add(path, used, Some(dir.into_fd()), why);
    }

    /// One more, unless a workspace has it, or it was asked for by itself.
    fn add(&mut self, path: AbsPath, used: Use, dir: Option<OwnedFd>, why: &str) {
        let given = self.workspaces.iter().any(|(workspace, _)| path.starts_with(workspace));
        let less = self.found.places.get(&path).is_none_or(|held| rank(held.used) < rank(used));
        let asked = matches!(used, Use::Guard | Use::Top) || !(given || self.inputs.contains(&path));
        if asked && less {
            self.found.places.insert(path, Held { used, dir, why: why.to_owned() });
        }
    }

    fn note(&mut self, what: &AbsPath, why: &str) {
        if self.is_covered(what) {
            return;
        }
        let what = word(what.as_str());
        self.found
            .notes
            .push(format!("git: {what} {why}: the session does not have it (--read {what} allows it)"));
    }
}

/// Of two uses of one path the one that gives more is had.
fn rank(used: Use) -> u8 {
    match used {
        Use::Guard => 0,
        Use::Top => 1,
        Use::Read => 2,
        Use::Work(_, Mode::Ro) => 3,
        Use::Work(Part::Common, _) => 5,
        Use::Work(_, Mode::Overlay) => 4,
        Use::Work(_, Mode::Direct) => 6,
    }
}

/// The name `.git` in the directory `top`.
fn git_in(top: &AbsPath) -> AbsPath {
    read::resolve(top, ".git").unwrap_or_else(|| top.clone())
}

#[cfg(test)]
mod tests;
