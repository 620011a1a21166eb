//! What every session sees of the host's system: programs and public data, read-only, with the caller's own ids mapped
//! to nobody's, so that its private files there are no more the agent's than another user's.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use agentd_kernel::mount::{self, Tree};
use agentd_kernel::mountinfo::Mounts;
use agentd_policy::step::Step;
use rustix::fs::FileType;

use super::fault::{At, Fault};
use super::root::{PROGRAMS, Root};
use super::view::{self, Over};
use crate::init::Access;

/// Directories whose files packages replace while sessions run. A bind shows one state of them, a view would mix old
/// and new libraries.
const BOUND: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// Directories that are views.
const VIEWED: &[&str] = &["/opt", "/var/lib/dpkg", "/var/lib/rpm"];
const ROOT: &str = "/";

/// One system directory, before it has its place.
#[derive(Debug)]
enum Entry {
    /// A link such as `/bin` to `usr/bin`.
    Link(&'static str, OsString),
    /// A copy of the mount, with all that is mounted below.
    Bound(&'static str, Tree),
    /// A copy of the mount alone, from a directory down, and the paths that come out of a view of that.
    Viewed(&'static str, Tree, Vec<&'static str>),
}

/// The host's system, taken in its own mount namespace.
#[derive(Debug)]
pub struct System(Vec<Entry>);

impl System {
    /// Copies the mounts; must be called in the host's mount namespace. `proc` is the host's.
    pub fn take(proc: BorrowedFd<'_>) -> Result<Self, Fault> {
        let mounts = Mounts::read(proc).at(Step::System, "mountinfo")?;
        let mut entries = Vec::with_capacity(BOUND.len() + VIEWED.len());
        // One view for all that is on one mount: each is a file system of its own, to be made and taken apart.
        let mut tops: Vec<(&'static str, u64, Vec<&'static str>)> = vec![(ROOT, mount_of(ROOT)?, Vec::new())];
        for path in BOUND.iter().chain(VIEWED) {
            // A view would show what lies under the mounts below it.
            let bound = BOUND.contains(path) || mounts.below(Path::new(path)).is_some();
            match look(path)? {
                None => {}
                Some(Found::Link(target)) => entries.push(Entry::Link(path, target)),
                Some(Found::There) if bound => entries.push(Entry::Bound(path, bind(path)?)),
                Some(Found::There) => {
                    let mount = mount_of(path)?;
                    match tops.iter_mut().find(|(_, of, _)| *of == mount) {
                        Some((_, _, paths)) => paths.push(path),
                        None => tops.push((path, mount, vec![path])),
                    }
                }
            }
        }
        for (top, _, paths) in tops.into_iter().filter(|(_, _, paths)| !paths.is_empty()) {
            let place = mount::place(top).at(Step::System, top)?;
            let tree = Tree::copy_of_one(place.as_fd()).at(Step::System, top)?;
            entries.push(Entry::Viewed(top, tree, paths));
        }
        Ok(Self(entries))
    }

    /// Places all of it in `root`. `map` shows root's files as root's, and everybody else's as nobody's.
    pub fn place(self, root: &mut Root, map: BorrowedFd<'_>) -> Result<(), Fault> {
        for entry in self.0 {
            match entry {
                Entry::Link(path, target) => root.link(path, target)?,
                Entry::Bound(path, tree) => {
                    tree.restrict(PROGRAMS, Some(map)).at(Step::System, path)?;
                    put(root, path, &tree)?;
                }
                Entry::Viewed(top, tree, paths) => {
                    tree.restrict(PROGRAMS, Some(map)).at(Step::System, top)?;
                    let source = match view::over(root, &tree, top)? {
                        Over::View(view) => view,
                        Over::Refused(error, tree) if view::refused_by_overlay(&error) => tree,
                        Over::Refused(error, _) => return Err(Fault::host(Step::System, top, error)),
                    };
                    let names: Vec<_> = paths.iter().map(|path| below(top, path)).collect();
                    for (path, copy) in paths.iter().zip(view::aside(root, &source, &names)?) {
                        // What went meanwhile is not there.
                        let Some(copy) = copy else { continue };
                        copy.restrict(PROGRAMS, None).at(Step::System, path)?;
                        put(root, path, &copy)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The mount that `path` is on.
fn mount_of(path: &str) -> Result<u64, Fault> {
    let place = mount::place(path).at(Step::System, path)?;
    Ok(mount::identity(place.as_fd()).at(Step::System, path)?.mount)
}

/// `path` as a name in `top`.
fn below<'a>(top: &str, path: &'a str) -> &'a str {
    match path.strip_prefix(top).map(|rest| rest.trim_start_matches('/')) {
        None | Some("") => ".",
        Some(name) => name,
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
            let target = std::fs::read_link(path).at(Step::System, path)?;
            Ok(Some(Found::Link(target.into_os_string())))
        }
        Ok(_) => Ok(Some(Found::There)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::host(Step::System, path, error)),
    }
}

fn bind(path: &str) -> Result<Tree, Fault> {
    let top = mount::place(path).at(Step::System, path)?;
    Tree::copy_of(top.as_fd()).at(Step::System, path)
}

/// Attaches `tree` at its place, and says to Landlock what it is.
fn put(root: &mut Root, path: &str, tree: &Tree) -> Result<(), Fault> {
    let stat = rustix::fs::fstat(tree).at(Step::System, path)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    root.attach(path, tree, is_dir, Access::ReadExec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_directory_that_a_view_is_of() {
        assert_eq!(below("/", "/var/lib/dpkg"), "var/lib/dpkg");
        assert_eq!(below("/opt", "/opt"), ".");
    }
}
