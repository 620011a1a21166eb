//! The session's root, built from nothing in the builder's new mount namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use agentd_kernel::mount::{self, Attributes, Tree};
use agentd_policy::names::AbsPath;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::process::{Gid, Uid};

use super::fault::{At, Fault};
use super::fs_ids::FsIds;
use crate::init::Access;
use crate::keeper::Scratch;

/// Where empty things to cover others with are kept, and layers while an overlay is made.
pub const PRIVATE: &str = "/run/agentd";
/// An empty directory below [`PRIVATE`].
pub const EMPTY_DIR: &str = "/run/agentd/empty";
/// An empty file beside it.
pub const EMPTY_FILE: &str = "/run/agentd/empty-file";
/// What masks a directory: an empty one that nobody may open.
pub const MASKED_DIR: &str = "/run/agentd/masked";
/// What masks a file: a socket that nobody listens at, nor may connect to.
pub const MASKED_FILE: &str = "/run/agentd/masked-file";

/// A read-only view of files.
pub const READ_ONLY: Attributes =
    Attributes { read_only: true, no_exec: true, devices: false, no_symlinks: false };
/// A read-only view of programs.
pub const PROGRAMS: Attributes =
    Attributes { read_only: true, no_exec: false, devices: false, no_symlinks: false };
/// Files to write and programs to build.
pub const WRITABLE_EXEC: Attributes =
    Attributes { read_only: false, no_exec: false, devices: false, no_symlinks: false };
/// What /run holds at most, in bytes.
const RUN_SIZE: u64 = 16 << 20;
/// The root itself and /dev: nothing runs from there.
const DEVICES: Attributes = Attributes { read_only: false, no_exec: true, devices: true, no_symlinks: false };

/// The root while it is being filled.
#[derive(Debug)]
pub struct Root {
    tree: Tree,
    /// The file systems in memory that were made for this session: the only ones that anything is added to.
    own: Vec<u64>,
    /// Whose rights count in what is not ours.
    agent: u32,
    /// Whose all is that nobody else has: what shows as root's.
    owner: u32,
    pub access: Vec<(String, Access)>,
    /// The file systems in memory that the agent has for its own.
    pub scratches: Vec<Scratch>,
}

impl Root {
    /// Makes an empty root and enters it. `agent` is the agent's id, `owner` the one that shows as root's.
    pub fn new(agent: u32, owner: u32) -> Result<Self, Fault> {
        let attributes = Attributes::WRITABLE;
        let tree = Tree::tmpfs(32 << 20, owner, 0o755, attributes).at(Step::Root, "/")?;
        mount::become_root(&tree).at(Step::Root, "/")?;
        let own = vec![rustix::fs::fstat(&tree).at(Step::Root, "/")?.st_dev];
        let mut root =
            Self { tree, own, agent, owner, access: vec![("/".into(), Access::List)], scratches: Vec::new() };
        let run = Tree::tmpfs(RUN_SIZE, owner, 0o755, Attributes::WRITABLE).at(Step::Run, "/run")?;
        root.own.push(rustix::fs::fstat(&run).at(Step::Run, "/run")?.st_dev);
        root.cover("/run", &run, true)?;
        for dir in ["/dev", "/etc", "/proc", "/tmp", "/var", PRIVATE, EMPTY_DIR] {
            root.directory(dir)?;
        }
        let private = root.directory(PRIVATE)?;
        let _owner = FsIds::assume(owner);
        for (name, target) in [("/var/tmp", "../tmp"), ("/var/run", "/run"), ("/var/lock", "/run/lock")] {
            rustix::fs::symlink(target, name).at(Step::Root, name)?;
        }
        super::etc::file(private.as_fd(), "empty-file", b"")?;
        rustix::fs::mkdirat(&private, "masked", Mode::empty()).at(Step::Root, MASKED_DIR)?;
        rustix::fs::mknodat(&private, "masked-file", FileType::Socket, Mode::empty(), 0)
            .at(Step::Root, MASKED_FILE)?;
        Ok(root)
    }

    /// Makes `path` with its parents where the root is still ours, and opens it without following links.
    pub fn directory(&self, path: &str) -> Result<OwnedFd, Fault> {
        self.place(path, Kind::Directory)
    }

    /// The same for what `kind` says. In directories that are not ours the agent's rights count, and every answer is
    /// the same: root's would show what is in directories that are closed to the caller.
    fn place(&self, path: &str, kind: Kind) -> Result<OwnedFd, Fault> {
        let mut dir = self.tree.as_fd().try_clone_to_owned().at(Step::Root, path)?;
        let mut stat = rustix::fs::fstat(&dir).at(Step::Root, path)?;
        let mut components = path.split('/').filter(|c| !c.is_empty()).peekable();
        while let Some(name) = components.next() {
            let kind = if components.peek().is_some() { Kind::Directory } else { kind };
            (dir, stat) = if self.own.contains(&stat.st_dev) {
                match look_beneath(dir.as_fd(), name) {
                    Err(rustix::io::Errno::NOENT) => {
                        kind.make(dir.as_fd(), name, path)?;
                        belongs_as(dir.as_fd(), &stat, name, path)?;
                        look_beneath(dir.as_fd(), name)
                    }
                    other => other,
                }
                .at(Step::Root, path)?
            } else {
                let _agent = FsIds::assume(self.agent);
                look_beneath(dir.as_fd(), name).map_err(|_| nested(path))?
            };
            if !kind.is_of(&stat) {
                return Err(nested(path));
            }
        }
        Ok(dir)
    }

    /// Makes `path` a symbolic link to `target`, if the directory that it is in is ours and has no such name.
    pub fn link(&self, path: &str, target: impl AsRef<Path>) -> Result<(), Fault> {
        let mut dir = self.tree.as_fd().try_clone_to_owned().at(Step::Link, path)?;
        let mut components = path.split('/').filter(|c| !c.is_empty()).peekable();
        while let Some(name) = components.next() {
            let stat = rustix::fs::fstat(&dir).at(Step::Link, path)?;
            if !self.own.contains(&stat.st_dev) {
                return Ok(());
            }
            let last = components.peek().is_none();
            dir = match open_beneath(dir.as_fd(), name) {
                Ok(next) => next,
                Err(rustix::io::Errno::NOENT) if last => {
                    rustix::fs::symlinkat(target.as_ref(), &dir, name).at(Step::Link, path)?;
                    return belongs_as(dir.as_fd(), &stat, name, path);
                }
                Err(rustix::io::Errno::NOENT) => {
                    Kind::Directory.make(dir.as_fd(), name, path)?;
                    belongs_as(dir.as_fd(), &stat, name, path)?;
                    open_beneath(dir.as_fd(), name).at(Step::Link, path)?
                }
                // Another link on the way, or a file.
                Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => return Ok(()),
                Err(errno) => return Err(errno).at(Step::Link, path),
            };
        }
        Ok(())
    }

    /// Attaches `tree` at `path`, making the place for it, and notes what may be done there.
    pub fn attach(&mut self, path: &str, tree: &Tree, is_dir: bool, access: Access) -> Result<(), Fault> {
        self.cover(path, tree, is_dir)?;
        self.access.push((path.to_owned(), access));
        Ok(())
    }

    /// The same without a note.
    pub fn cover(&self, path: &str, tree: &Tree, is_dir: bool) -> Result<(), Fault> {
        let place = self.place(path, if is_dir { Kind::Directory } else { Kind::File })?;
        tree.attach(place.as_fd()).at(Step::Mount, path)
    }

    /// A minimal /dev; `terminals` is the session's own devpts.
    pub fn place_devices(&mut self, terminals: &Tree) -> Result<(), Fault> {
        let dev = Tree::tmpfs(1 << 20, self.owner, 0o755, DEVICES).at(Step::Dev, "/dev")?;
        self.own.push(rustix::fs::fstat(&dev).at(Step::Dev, "/dev")?.st_dev);
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            mount::device(dev.as_fd(), name, major, minor).at(Step::Dev, name)?;
            let owner = (Some(Uid::from_raw(self.owner)), Some(Gid::from_raw(self.owner)));
            rustix::fs::chownat(&dev, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
                .at(Step::Dev, name)?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            rustix::fs::symlinkat(target, dev.as_fd(), name).at(Step::Dev, name)?;
        }
        self.attach("/dev", &dev, true, Access::Device)?;
        self.attach("/dev/pts", terminals, true, Access::Device)?;
        self.directory("/dev/shm")?;
        self.directory("/dev/mqueue")?;
        mount::seal(dev.as_fd()).at(Step::Dev, "/dev")
    }

    /// What programs expect in /run: places where everybody may make locks and sockets, and the user's own. `uid` is
    /// the agent's number in the session.
    pub fn place_run(&mut self, uid: u32) -> Result<(), Fault> {
        let run = self.directory("/run")?;
        for name in ["lock", "screen"] {
            self.directory(&format!("/run/{name}"))?;
            let mode = Mode::from_raw_mode(0o1777);
            rustix::fs::chmodat(&run, name, mode, AtFlags::empty()).at(Step::Run, name)?;
        }
        let user = format!("/run/user/{uid}");
        let own = self.directory(&user)?;
        let owner = (Some(Uid::from_raw(self.agent)), Some(Gid::from_raw(self.agent)));
        rustix::fs::chownat(&own, "", owner.0, owner.1, AtFlags::EMPTY_PATH).at(Step::Run, &user)?;
        let user_dir = self.directory("/run/user")?;
        rustix::fs::chmodat(&user_dir, uid.to_string(), Mode::RWXU, AtFlags::empty()).at(Step::Run, &user)?;
        let places = ["/run/lock".to_owned(), "/run/screen".to_owned(), user];
        self.access.extend(places.map(|place| (place, Access::Write)));
        Ok(())
    }

    /// The session's POSIX message queues (`mq_overview(7)`), which Landlock knows by this mount alone.
    pub fn place_queues(&mut self, queues: &Tree) -> Result<(), Fault> {
        self.attach("/dev/mqueue", queues, true, Access::Write)
    }

    /// Shared memory of the agent's own.
    pub fn place_shared_memory(&mut self, size: u64, agent: u32) -> Result<(), Fault> {
        let path = AbsPath::parse("/dev/shm").map_err(std::io::Error::other).at(Step::Dev, "/dev/shm")?;
        let shared = Tree::tmpfs(size, agent, 0o1777, WRITABLE_EXEC).at(Step::Dev, "/dev/shm")?;
        self.scratches.push(scratch(&path, size, &shared)?);
        self.attach("/dev/shm", &shared, true, Access::WriteExec)
    }

    /// A directory in memory that belongs to the agent.
    pub fn place_scratch(&mut self, path: &AbsPath, size: u64, exec: bool, agent: u32) -> Result<(), Fault> {
        let (attributes, access) =
            if exec { (WRITABLE_EXEC, Access::WriteExec) } else { (Attributes::WRITABLE, Access::Write) };
        let mode = if path.as_str() == "/tmp" { 0o1777 } else { 0o700 };
        let tree = Tree::tmpfs(size, agent, mode, attributes).at(Step::Scratch, path.as_str())?;
        self.own.push(rustix::fs::fstat(&tree).at(Step::Scratch, path.as_str())?.st_dev);
        self.scratches.push(scratch(path, size, &tree)?);
        self.attach(path.as_str(), &tree, true, access)
    }

    /// Makes the root itself read-only: nothing can be added to it any more.
    pub fn seal(&self) -> Result<(), Fault> {
        mount::seal(self.tree.as_fd()).at(Step::Root, "/")
    }
}

fn scratch(path: &AbsPath, size: u64, tree: &Tree) -> Result<Scratch, Fault> {
    let mount = tree.as_fd().try_clone_to_owned().at(Step::Scratch, path.as_str())?;
    Ok(Scratch { path: path.to_owned(), size, mount })
}

/// What a mount covers: a directory or a file.
#[derive(Clone, Copy)]
enum Kind {
    Directory,
    File,
}

/// A place in a directory of the caller's that cannot be mounted on: because it is not there, of another kind, or out
/// of the agent's reach. Which of these it is, is not reported.
fn nested(path: &str) -> Fault {
    Fault::caller(
        format!("{path} cannot be mounted in the directory that holds it"),
        Rule::PathNested,
        "create it first, where the session may go: agentd adds nothing to your directories",
    )
}

impl Kind {
    /// Whether `place` can be covered by one of its kind.
    fn is_of(self, stat: &Stat) -> bool {
        let found = FileType::from_raw_mode(stat.st_mode);
        (found == FileType::Directory) == matches!(self, Self::Directory)
    }

    fn make(self, parent: BorrowedFd<'_>, name: &str, path: &str) -> Result<(), Fault> {
        match self {
            Self::Directory => {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).at(Step::Root, path)
            }
            Self::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o444))
                    .at(Step::Root, path)
                    .map(drop)
            }
        }
    }
}

/// Gives what was made in `dir` the owner of that: on the way to an input, in the scratch home, it is the agent's.
fn belongs_as(dir: BorrowedFd<'_>, of_dir: &Stat, name: &str, path: &str) -> Result<(), Fault> {
    if (of_dir.st_uid, of_dir.st_gid) == (0, 0) {
        return Ok(());
    }
    let owner = (Some(Uid::from_raw(of_dir.st_uid)), Some(Gid::from_raw(of_dir.st_gid)));
    rustix::fs::chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).at(Step::Root, path)
}

/// Opens `name` in `dir`, across mounts, but never through a symbolic link.
pub fn open_beneath(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    look_beneath(dir, name).map(|(fd, _)| fd)
}

fn look_beneath(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<(OwnedFd, Stat)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(rustix::io::Errno::LOOP);
    }
    Ok((fd, stat))
}
