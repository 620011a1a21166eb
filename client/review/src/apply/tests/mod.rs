//! A workspace, what a session made of it, and a state directory: applied, stopped anywhere, and taken back.

mod attacks;
mod full;
mod killed;
mod ordinary;
mod random;
mod speed;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::record::Applied;
use super::{ApplyError, Conflict, Content as From, Step, Undo, applies, apply, recover, undo};
use crate::beneath::Tree;
use crate::calls::{Faults, NoFaults};
use crate::change::Change;
use crate::error::Side;
use crate::path::FilePath;
use crate::state::State;
use crate::tests::{Dir, open, session, workspace};
use crate::trees::{Stamp, Trees};

/// Every file of a tree: kind and permission bits, and a file's bytes or a link's target.
type Snapshot = BTreeMap<String, (u32, Vec<u8>)>;

pub(super) struct Scene {
    dir: Dir,
    workspace: PathBuf,
    state: State,
}

pub(super) fn path(text: &str) -> FilePath {
    FilePath::parse(text.as_bytes()).unwrap()
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    chmod(path, mode);
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mkdir(path: &Path, mode: u32) {
    std::fs::create_dir_all(path).unwrap();
    chmod(path, mode);
}

fn snapshot(top: &Path) -> Snapshot {
    fn add(top: &Path, below: &Path, into: &mut Snapshot) {
        for entry in std::fs::read_dir(top.join(below)).unwrap().map(Result::unwrap) {
            let below = below.join(entry.file_name());
            let meta = entry.metadata().unwrap();
            let content = match meta.file_type() {
                kind if kind.is_symlink() => {
                    std::fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
                }
                kind if kind.is_file() => std::fs::read(entry.path()).unwrap(),
                _ => vec![],
            };
            into.insert(below.to_str().unwrap().to_owned(), (meta.mode(), content));
            if meta.is_dir() {
                add(top, &below, into);
            }
        }
    }
    let mut all = Snapshot::new();
    add(top, Path::new(""), &mut all);
    all
}

fn tree(side: Side, at: &Path) -> Tree {
    Tree::new(side, open(at))
}

/// What a walk finds, by comparison of everything.
fn changes(before: &Tree, after: &Tree, names: impl Iterator<Item = String>) -> Vec<Change> {
    let look = |tree: &Tree, path: &FilePath| match super::look::look(tree, path) {
        Ok(found) => found.map(|found| found.entry),
        Err(_) => None,
    };
    let mut names: Vec<_> = names.map(|name| path(&name)).collect();
    names.sort();
    names.dedup();
    let change = |path: FilePath| {
        let (before, after) = (look(before, &path), look(after, &path));
        let differs = before != after;
        differs.then_some(Change { path, before, after, renamed_from: None, changed_underneath: false })
    };
    names.into_iter().filter_map(change).collect()
}

impl Scene {
    /// Both trees are what `before` and `after` make of a new directory.
    pub(super) fn new(before: impl Fn(&Path), after: impl Fn(&Path)) -> Self {
        let dir = Dir::new();
        let workspace = dir.path("workspace");
        for (at, make) in [(&workspace, &before as &dyn Fn(&Path)), (&dir.path("merged"), &after)] {
            mkdir(at, 0o755);
            make(at);
        }
        let state = State::at(&dir.path("state")).unwrap();
        Self { dir, workspace, state }
    }

    /// The same in a directory that is there: another process's.
    fn at(dir: Dir) -> Self {
        let state = State::at(&dir.path("state")).unwrap();
        Self { workspace: dir.path("workspace"), dir, state }
    }

    fn trees(&self) -> Trees {
        Trees {
            path: workspace(),
            workspace: tree(Side::Workspace, &self.workspace),
            upper: tree(Side::Upper, &self.dir.path("merged")),
            merged: tree(Side::Merged, &self.dir.path("merged")),
            began: Stamp { seconds: 0, nanoseconds: 0 },
            made: Default::default(),
        }
    }

    fn now(&self) -> Snapshot {
        snapshot(&self.workspace)
    }

    fn steps(&self) -> Vec<Step> {
        let trees = self.trees();
        let names = self.now().into_keys().chain(snapshot(&self.dir.path("merged")).into_keys());
        let changes = changes(&trees.workspace, &trees.merged, names);
        changes.into_iter().map(|change| Step { change, content: From::FromSession }).collect()
    }

    fn apply(&self, steps: Vec<Step>, faults: &mut dyn Faults) -> Result<Applied, ApplyError> {
        apply(&self.state, &self.trees(), &session(), steps, faults)
    }

    fn undo(&self) -> Result<Applied, ApplyError> {
        self.undo_with(&Undo::default(), &mut NoFaults)
    }

    fn undo_with(&self, which: &Undo, faults: &mut dyn Faults) -> Result<Applied, ApplyError> {
        undo(&self.state, &self.trees().workspace, (&session(), &workspace()), which, faults)
    }

    fn recover(&self, faults: &mut dyn Faults) -> Result<Option<super::Recovered>, ApplyError> {
        recover(&self.state, &self.trees().workspace, faults)
    }

    fn applies(&self) -> Vec<Applied> {
        applies(&self.state.review(&session(), &workspace()).unwrap()).unwrap()
    }

    /// Nothing is left in the workspace, and no journal.
    fn assert_clean(&self) {
        let left: Vec<_> = self.now().into_keys().filter(|name| name.contains(".agentd-apply-")).collect();
        assert!(left.is_empty(), "{left:?}");
        let journals: Vec<_> = std::fs::read_dir(self.dir.path("state/journals"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| !name.to_string_lossy().ends_with(".new"))
            .collect();
        assert!(journals.is_empty(), "{journals:?}");
    }

    fn conflicts(&self, steps: Vec<Step>) -> Vec<(String, Conflict)> {
        conflicts(self.apply(steps, &mut NoFaults))
    }
}

fn conflicts<T: std::fmt::Debug>(result: Result<T, ApplyError>) -> Vec<(String, Conflict)> {
    match result {
        Err(ApplyError::Conflicts(all)) => all.into_iter().map(|(path, is)| (path.to_string(), is)).collect(),
        other => panic!("{other:?}"),
    }
}

/// Calls a function before each call, with its number.
struct Each<F>(u32, F);

impl<F: FnMut(u32, &'static str) -> Result<(), rustix::io::Errno>> Faults for Each<F> {
    fn before(
        &mut self,
        call: &'static str,
        _: &Tree,
        _: Option<&FilePath>,
    ) -> Result<(), rustix::io::Errno> {
        let number = self.0;
        self.0 += 1;
        (self.1)(number, call)
    }
}

fn each<F: FnMut(u32, &'static str) -> Result<(), rustix::io::Errno>>(function: F) -> Each<F> {
    Each(0, function)
}

/// Of every kind of change at least one.
fn mixed_before(top: &Path) {
    write(&top.join("modified"), b"old", 0o644);
    write(&top.join("deleted"), b"gone", 0o600);
    write(&top.join("moved"), b"the same", 0o644);
    write(&top.join("mode"), b"#!", 0o644);
    write(&top.join("old dir/sub/file"), b"1", 0o644);
    write(&top.join("old dir/file"), b"2", 0o640);
    write(&top.join("readonly/file"), b"3", 0o444);
    chmod(&top.join("readonly"), 0o555);
    write(&top.join("becomes dir"), b"4", 0o644);
    write(&top.join("becomes file/x"), b"5", 0o644);
    write(&top.join("becomes link"), b"6", 0o644);
    std::os::unix::fs::symlink("deleted", top.join("link")).unwrap();
    mkdir(&top.join("dir mode"), 0o755);
    write(&top.join("kept"), b"untouched", 0o644);
    mkdir(&top.join("empty"), 0o700);
}

fn mixed_after(top: &Path) {
    write(&top.join("modified"), b"new and longer", 0o644);
    write(&top.join("to/moved"), b"the same", 0o644);
    write(&top.join("mode"), b"#!", 0o755);
    write(&top.join("new dir/sub/file"), &[7; 200_000], 0o644);
    write(&top.join("-rf"), b"a name", 0o644);
    write(&top.join("new\nline"), b"another", 0o644);
    write(&top.join("becomes dir/inside/file"), b"8", 0o644);
    write(&top.join("becomes file"), b"9", 0o644);
    std::os::unix::fs::symlink("kept", top.join("becomes link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", top.join("link")).unwrap();
    mkdir(&top.join("dir mode"), 0o700);
    write(&top.join("kept"), b"untouched", 0o644);
    write(&top.join("sealed/file"), b"10", 0o444);
    chmod(&top.join("sealed"), 0o555);
}

fn mixed() -> Scene {
    Scene::new(mixed_before, mixed_after)
}
