//! Going through a workspace: within a budget, following no link, one open directory a level.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::trouble::Trouble;

/// The most names that are looked at.
const MAX_ENTRIES: usize = 1_000_000;
/// The deepest directory.
const MAX_DEPTH: usize = 256;

/// What opens a directory that was seen a moment ago.
pub const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name in a directory.
pub struct Entry {
    pub name: Vec<u8>,
    /// What it is.
    pub kind: FileType,
    /// The number of its file, as the directory has it.
    pub ino: u64,
}

/// A directory and everything in it.
pub struct Directory<'a> {
    pub fd: BorrowedFd<'a>,
    /// Its path from the workspace on; empty for the workspace.
    pub path: &'a [u8],
    /// What is in it.
    pub entries: &'a [Entry],
}

impl Directory<'_> {
    /// Its last name.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name.as_bytes())
    }

    /// The path of one of its names.
    pub fn below(&self, name: &[u8]) -> Vec<u8> {
        join(self.path, name)
    }
}

/// `name` in the directory `path`, which is empty for the workspace.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        [] => name.to_vec(),
        path => [path, name].join(&b'/'),
    }
}

struct Pending<T> {
    parent: Rc<OwnedFd>,
    name: Vec<u8>,
    path: Vec<u8>,
    depth: usize,
    mark: T,
}

/// Visits every directory from `top` on. `visit` is given each with the mark that its parent gave it, and says which of
/// its directories are gone into, by their index, with which mark. `own` is the uid whose closed directories could be
/// opened with its rights; without it, every closed directory is trouble.
pub fn walk<T>(
    top: OwnedFd,
    own: Option<u32>,
    first: T,
    mut visit: impl FnMut(&Directory<'_>, &T) -> Result<Vec<(usize, T)>, Trouble>,
) -> Result<(), Trouble> {
    let mut left = MAX_ENTRIES;
    let mut stack: Vec<Pending<T>> = Vec::new();
    let mut next = Some((Rc::new(top), Vec::new(), 0, first));
    loop {
        if let Some((fd, path, depth, mark)) = next.take() {
            let entries = read(fd.as_fd(), &path, &mut left)?;
            let below = visit(&Directory { fd: fd.as_fd(), path: &path, entries: &entries }, &mark)?;
            for (index, mark) in below {
                let Some(entry) = entries.get(index) else { continue };
                let below = join(&path, &entry.name);
                if depth >= MAX_DEPTH {
                    return Err(Trouble::TooDeep(below));
                }
                let parent = Rc::clone(&fd);
                stack.push(Pending { parent, name: entry.name.clone(), path: below, depth: depth + 1, mark });
            }
        }
        let Some(Pending { parent, name, path, depth, mark }) = stack.pop() else { return Ok(()) };
        match rustix::fs::openat(&*parent, name.as_slice(), DIRECTORY, Mode::empty()) {
            Ok(fd) => next = Some((Rc::new(fd), path, depth, mark)),
            Err(Errno::ACCESS) => {
                let stat = rustix::fs::statat(&*parent, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
                if own.is_none_or(|own| stat.is_ok_and(|stat| stat.st_uid == own)) {
                    return Err(Trouble::Closed(path));
                }
            }
            // Gone, or replaced.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(Trouble::Host(path, errno)),
        }
    }
}

fn read(fd: BorrowedFd<'_>, path: &[u8], left: &mut usize) -> Result<Vec<Entry>, Trouble> {
    let host = |errno| Trouble::Host(path.to_vec(), errno);
    let mut entries = Vec::new();
    let listed = rustix::fs::openat(fd, ".", DIRECTORY, Mode::empty()).map_err(host)?;
    for entry in Dir::new(listed).map_err(host)? {
        let entry = entry.map_err(host)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        *left = left.checked_sub(1).ok_or(Trouble::TooLarge(MAX_ENTRIES))?;
        let kind = match entry.file_type() {
            FileType::Unknown => match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => continue,
            },
            known => known,
        };
        entries.push(Entry { name: name.to_bytes().to_vec(), kind, ino: entry.ino() });
    }
    Ok(entries)
}

/// The content of a regular file of at most `most` bytes; `None` if it is no such file.
pub fn read_file(dir: BorrowedFd<'_>, name: &[u8], most: u64) -> Result<Option<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::NXIO | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let stat = rustix::fs::fstat(&fd)?;
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    if size > most {
        return Err(Errno::FBIG);
    }
    read_part(&fd, 0, usize::try_from(size).map_err(|_| Errno::FBIG)?).map(Some)
}

/// `length` bytes of a file from `at` on, or as many as there are.
pub fn read_part(fd: &OwnedFd, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let mut count = 0;
    while let Some(rest) = bytes.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(fd, rest, at + count as u64)? {
            0 => break,
            more => count += more,
        }
    }
    bytes.truncate(count);
    Ok(bytes)
}
