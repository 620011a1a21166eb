//! Short-lived children that delete: root's loop itself never walks a tree that an agent has filled.

mod placeholders;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use agentd_kernel::creds::NoHostRights;
use agentd_kernel::packets::Packets;
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_policy::names::{AbsPath, SessionId};
use agentd_session::error::HostError;
use agentd_session::{Owner, log};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};

/// How deep a tree is gone into. What is deeper is moved up first: an agent can make it as deep as it likes.
const MAX_DEPTH: usize = 512;

/// Closes sockets with the descriptors that wait in them, in a child: for some files that takes as long as the
/// client likes. The child is the last to hold them, because it waits until the launcher's handles are gone.
pub fn close(token: SingleThreaded, sockets: Vec<Packets>) -> std::io::Result<Child> {
    let (wait, go) = std::io::pipe()?;
    let child = process::spawn(token, CloneArgs::default(), || {
        let mut keep: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        keep.push(wait.as_fd());
        let closed = process::close_all_but(&keep);
        // An end of file: nobody writes.
        let waited = rustix::io::read(&wait, &mut [0; 1]);
        i32::from(closed.is_err() || waited.is_err())
    })?;
    drop(sockets);
    drop(go);
    Ok(child)
}

/// Deletes `name` in `parent`, which is of `session`, with everything in it, following no link and crossing no mount.
/// Ends with 0 if nothing is left.
pub fn delete(
    token: SingleThreaded,
    parent: &OwnedFd,
    name: &str,
    session: Option<&SessionId>,
) -> std::io::Result<Child> {
    // Whoever comes after a launcher that ends begins anew.
    process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
        session.into_iter().for_each(log::belong_to);
        let delete = || -> Result<(), HostError> {
            process::close_all_but(&[parent.as_fd()])?;
            keep_file_capabilities()?;
            Ok(delete_tree(parent.as_fd(), name)?)
        };
        match delete() {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!(%error, name, "not everything could be deleted");
                1
            }
        }
    })
}

/// Of root's rights, only those over files of others.
fn keep_file_capabilities() -> rustix::io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let kept = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}

/// Deletes `name` in `parent` with everything in it, as [`delete`] does, in a process that may take its time.
/// Goes down and up with one descriptor a level, so that no path length matters.
pub fn delete_tree(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut stack: Vec<(OwnedFd, std::ffi::CString)> = Vec::new();
    let top = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(top) => top,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    stack.push((top, std::ffi::CString::default()));
    let mut moved = 0_u64;
    while let Some((dir, _)) = stack.last() {
        match empty_but_directories(dir.as_fd())? {
            Some(below) => {
                if let Some((top, _)) = stack.first().filter(|_| stack.len() >= MAX_DEPTH) {
                    move_up((dir.as_fd(), &below), top.as_fd(), &mut moved)?;
                    continue;
                }
                let child = rustix::fs::openat(dir, &below, flags, Mode::empty())?;
                stack.push((child, below));
            }
            None => {
                let Some((_, done)) = stack.pop() else { break };
                match stack.last() {
                    Some((dir, _)) => rustix::fs::unlinkat(dir, &done, AtFlags::REMOVEDIR)?,
                    None => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?,
                }
            }
        }
    }
    Ok(())
}

/// Moves a directory up to the top under a name that nothing has there.
fn move_up(
    (dir, below): (BorrowedFd<'_>, &std::ffi::CStr),
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        let name = format!("{moved}.deep");
        match rustix::fs::renameat_with(dir, below, top, name, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => {}
            other => return other,
        }
    }
}

/// Removes what is no directory; a directory that is left, if there is one.
fn empty_but_directories(dir: BorrowedFd<'_>) -> rustix::io::Result<Option<std::ffi::CString>> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            _ => false,
        };
        if is_dir {
            return Ok(Some(name.to_owned()));
        }
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    }
    Ok(None)
}

/// Where a placeholder is.
#[derive(Debug)]
pub enum Place {
    /// In this directory.
    Open {
        /// It, held once for all names in it.
        dir: Rc<OwnedFd>,
        /// Its file system.
        dev: u64,
        /// Its number there.
        ino: u64,
    },
    /// In the directory that had this path, if it is still the same one.
    Named {
        path: AbsPath,
        /// Its file system.
        dev: u64,
        /// Its number there.
        ino: u64,
    },
}

/// Takes a session's placeholders away again, as who made them, where they are still as they were made.
pub fn remove_placeholders(
    token: SingleThreaded,
    (session, caller): (Option<&SessionId>, Owner),
    placeholders: &[(Place, String)],
) -> std::io::Result<Child> {
    process::spawn(token, CloneArgs::default(), || {
        session.into_iter().for_each(log::belong_to);
        let groups: Vec<u32> = caller.groups.iter().collect();
        let open = placeholders.iter().filter_map(|(place, _)| match place {
            Place::Open { dir, .. } => Some(dir.as_fd()),
            Place::Named { .. } => None,
        });
        let become_caller = || -> Result<NoHostRights, HostError> {
            process::close_all_but(&open.collect::<Vec<_>>())?;
            Ok(NoHostRights::of(caller.uid, caller.gid, &groups)?)
        };
        let none = match become_caller() {
            Ok(none) => none,
            Err(error) => {
                tracing::error!(user = caller.uid, %error, "placeholders stay: the child cannot become its caller");
                return 1;
            }
        };
        placeholders::remove(&none, placeholders);
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_tree_goes_and_its_links_stay_unfollowed() {
        let base = std::env::temp_dir().join(format!("agentd-delete-{}", std::process::id()));
        let keep = base.join("keep");
        std::fs::create_dir_all(&keep).unwrap();
        std::fs::write(keep.join("file"), "x").unwrap();
        let tree = base.join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::os::unix::fs::symlink(&keep, tree.join("a/link")).unwrap();
        std::os::unix::fs::symlink(&keep, tree.join("a/b/-rf")).unwrap();
        std::fs::write(tree.join("a/\u{1b}[2J\n"), "x").unwrap();
        let parent = rustix::fs::open(&base, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        // Deeper than any path may be long.
        let mut dir = rustix::fs::open(&tree, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        std::fs::create_dir(tree.join("1.deep")).unwrap();
        for _ in 0..3 * MAX_DEPTH {
            let name = "x".repeat(100);
            rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o700)).unwrap();
            dir = rustix::fs::openat(&dir, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        delete_tree(parent.as_fd(), "tree").unwrap();
        assert!(!tree.exists());
        assert_eq!(std::fs::read_to_string(keep.join("file")).unwrap(), "x");
        delete_tree(parent.as_fd(), "tree").unwrap();
        std::fs::remove_dir_all(&base).unwrap();
    }
}
