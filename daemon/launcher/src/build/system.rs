//! What every session sees of the host's system: programs and public data, read-only, with the caller's own ids mapped
//! to nobody's, so that its private files there are no more the agent's than another user's.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use agentd_kernel::mount::{self, Tree};
use agentd_kernel::mountinfo::Mounts;
use rustix::fs::FileType;

use super::access::Access;
use super::etc::MOUNTED;
use super::fault::{At, Fault};
use super::root::{PROGRAMS, READ_ONLY, Root};
use super::view;

/// Directories whose files packages replace while sessions run. A bind shows one state of them, a view would mix old
/// and new libraries.
const BOUND: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Directories that are views.
const VIEWED: &[&str] = &["/opt"];
/// The directory that one view is made of, for all names of it.
const ETC: &str = "/etc";

/// One system directory, before it has its place.
#[derive(Debug)]
enum Entry {
    /// A link such as `/bin` to `usr/bin`.
    Link(&'static str, OsString),
    /// A copy of the mount, with all that is mounted below.
    Bound(&'static str, Tree),
    /// A copy of the mount alone, which nothing is mounted below.
    Viewed(&'static str, Tree),
}

/// The host's system, taken in its own mount namespace.
#[derive(Debug)]
pub struct System {
    entries: Vec<Entry>,
    /// `/etc`, and the names in it that come out of a view of it.
    etc: Option<(Tree, Vec<&'static str>)>,
}

impl System {
    /// Copies the mounts; must be called in the host's mount namespace. `proc` is the host's.
    pub fn take(proc: BorrowedFd<'_>) -> Result<Self, Fault> {
        let mounts = Mounts::read(proc).at("system", "mountinfo")?;
        let mut entries = Vec::with_capacity(BOUND.len() + VIEWED.len());
        for path in BOUND.iter().chain(VIEWED) {
            match look(path)? {
                None => {}
                Some(Found::Link(target)) => entries.push(Entry::Link(path, target)),
                // A view would show what lies under the mounts below it.
                Some(Found::There) if BOUND.contains(path) || mounts.below(Path::new(path)).is_some() => {
                    entries.push(Entry::Bound(path, bind(path)?));
                }
                Some(Found::There) => {
                    let top = mount::place(path).at("system", path)?;
                    entries.push(Entry::Viewed(path, Tree::copy_of_one(top.as_fd()).at("system", path)?));
                }
            }
        }
        let mut names = Vec::with_capacity(MOUNTED.len());
        for path in MOUNTED {
            let mounted = |path: &Path| mounts.at(path).or_else(|| mounts.below(path)).is_some();
            match look(path)? {
                None => {}
                Some(Found::Link(target)) => entries.push(Entry::Link(path, target)),
                Some(Found::There) if mounted(Path::new(path)) => {
                    entries.push(Entry::Bound(path, bind(path)?));
                }
                Some(Found::There) => names.push(*path),
            }
        }
        let etc = match names.is_empty() {
            true => None,
            false => {
                let top = mount::place(ETC).at("system", ETC)?;
                Some((Tree::copy_of_one(top.as_fd()).at("system", ETC)?, names))
            }
        };
        Ok(Self { entries, etc })
    }

    /// Places all of it in `root`. `map` shows root's files as root's, and everybody else's as nobody's.
    pub fn place(self, root: &mut Root, map: BorrowedFd<'_>) -> Result<(), Fault> {
        for entry in self.entries {
            match entry {
                Entry::Link(path, target) => {
                    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                    let parent = root.directory(parent)?;
                    rustix::fs::symlinkat(target, parent, name).at("system", path)?;
                }
                Entry::Bound(path, tree) => {
                    tree.restrict(attributes(path), Some(map)).at("system", path)?;
                    put(root, path, &tree)?;
                }
                Entry::Viewed(path, tree) => {
                    tree.restrict(PROGRAMS, Some(map)).at("system", path)?;
                    let tree = match view::over(root, &tree, path)? {
                        Ok(view) => view,
                        Err(error) if view::refused_by_overlay(&error) => tree,
                        Err(error) => return Err(Fault::host("system", path, error)),
                    };
                    put(root, path, &tree)?;
                }
            }
        }
        if let Some((tree, paths)) = self.etc {
            tree.restrict(READ_ONLY, Some(map)).at("system", ETC)?;
            let view = view::over(root, &tree, ETC)?.at("system", ETC)?;
            let names: Vec<_> = paths.iter().filter_map(|path| path.rsplit('/').next()).collect();
            for (path, copy) in paths.iter().zip(view::aside(root, &view, &names)?) {
                // What went meanwhile is not there.
                let Some(copy) = copy else { continue };
                copy.restrict(READ_ONLY, None).at("system", path)?;
                put(root, path, &copy)?;
            }
        }
        root.access.push((ETC.to_owned(), Access::Read));
        Ok(())
    }
}

/// What the host has at a path.
enum Found {
    Link(OsString),
    There,
}

fn look(path: &str) -> Result<Option<Found>, Fault> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            let target = std::fs::read_link(path).at("system", path)?;
            Ok(Some(Found::Link(target.into_os_string())))
        }
        Ok(_) => Ok(Some(Found::There)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::host("system", path, error)),
    }
}

fn bind(path: &str) -> Result<Tree, Fault> {
    let top = mount::place(path).at("system", path)?;
    Tree::copy_of(top.as_fd()).at("system", path)
}

fn is_etc(path: &str) -> bool {
    path.strip_prefix(ETC).is_some_and(|rest| rest.starts_with('/'))
}

fn attributes(path: &str) -> mount::Attributes {
    if is_etc(path) { READ_ONLY } else { PROGRAMS }
}

/// Attaches `tree` at its place, and says to Landlock what it is, unless the rule of /etc does.
fn put(root: &mut Root, path: &str, tree: &Tree) -> Result<(), Fault> {
    let stat = rustix::fs::fstat(tree).at("system", path)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    root.cover(path, tree, is_dir)?;
    if !is_etc(path) {
        root.access.push((path.to_owned(), Access::ReadExec));
    }
    Ok(())
}
