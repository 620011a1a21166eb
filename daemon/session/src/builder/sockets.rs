//! Unix sockets in a directory that is given as it is: its listeners would be reachable.

use std::os::fd::BorrowedFd;

use agentd_policy::names::RelPath;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::fault::{At, Fault};

/// The most entries that are looked at.
const MAX_ENTRIES: usize = 200_000;
/// The deepest directory.
const MAX_DEPTH: usize = 128;

/// Refuses a tree that holds a Unix socket other than those in `accepted`, or is too large to search. To be
/// called with the file system ids of the agent. Sockets that appear later are not seen.
pub fn refuse(tree: BorrowedFd<'_>, path: &str, accepted: &[RelPath]) -> Result<(), Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(tree, ".", flags, Mode::empty()).at(Step::Workspace, path)?;
    let mut left = MAX_ENTRIES;
    // One open directory a level: the one that is being read, and those above it.
    let mut stack = vec![(Dir::new(top).at(Step::Workspace, path)?, String::new())];
    while let Some((dir, below)) = stack.last_mut() {
        let Some(entry) = dir.read() else {
            stack.pop();
            continue;
        };
        let entry = entry.at(Step::Workspace, path)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        left = left.checked_sub(1).ok_or_else(|| too_large(path))?;
        let label = match below.as_str() {
            "" => name.to_string_lossy().into_owned(),
            below => format!("{below}/{}", name.to_string_lossy()),
        };
        let fd = dir.fd().at(Step::Workspace, path)?;
        match kind(fd, &entry) {
            FileType::Socket if !accepted.iter().any(|a| a.as_str() == label) => {
                return Err(Fault::caller(
                    format!("{path}/{label} is a Unix socket"),
                    Rule::WorkspaceSocket,
                    "use mode overlay, or name it in `sockets` of the profile's workspace",
                ));
            }
            FileType::Directory => {
                match rustix::fs::openat(fd, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(_) if stack.len() >= MAX_DEPTH => return Err(too_large(path)),
                    Ok(child) => stack.push((Dir::new(child).at(Step::Workspace, path)?, label)),
                    // Its owner could open it again, or may know the names in it.
                    Err(rustix::io::Errno::ACCESS) => {
                        return Err(Fault::caller(
                            format!("{path}/{label} cannot be searched for Unix sockets"),
                            Rule::WorkspaceClosed,
                            "make it readable, move it away, or use mode overlay",
                        ));
                    }
                    // Gone, or replaced.
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
                    Err(errno) => return Err(Fault::host(Step::Workspace, &label, errno)),
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn kind(dir: BorrowedFd<'_>, entry: &rustix::fs::DirEntry) -> FileType {
    match entry.file_type() {
        FileType::Unknown => match rustix::fs::statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(_) => FileType::Unknown,
        },
        known => known,
    }
}

fn too_large(path: &str) -> Fault {
    Fault::caller(
        format!("{path} has more than {MAX_ENTRIES} files or is deeper than {MAX_DEPTH} directories"),
        Rule::WorkspaceLarge,
        "use mode overlay: it is too large to be searched for Unix sockets in time",
    )
}
