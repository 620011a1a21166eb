//! The caller's directories in the session: direct, read-only or copy-on-write, with names masked and
//! protected in them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount::{self, Tree};
use agentd_policy::lease::Lease;
use agentd_policy::names::RelPath;
use agentd_policy::plan::{Mode as WorkspaceMode, Workspace};
use rustix::fs::{FileType, Mode, OFlags};

use super::Owner;
use super::access::Access;
use super::fault::{self, At, Fault};
use super::fs_ids::FsIds;
use super::paths::{Placeholders, Source};
use super::root::{EMPTY_DIR, EMPTY_FILE, PROGRAMS, READ_ONLY, Root, WORKSHOP, open_beneath};
use super::view::{self, cannot_layer, cannot_map};

/// How often a name is looked at again that goes at the moment in which it is covered.
const TRIES: u32 = 8;

/// What places callers' directories.
pub struct Placer<'a> {
    /// Where.
    pub root: &'a mut Root,
    /// The map of everything that can be written through.
    pub writable: BorrowedFd<'a>,
    /// The map of the caller's paths that are only read.
    pub owners: BorrowedFd<'a>,
    /// Whose session it is.
    pub owner: Owner,
    /// Whose ids placeholders are made with.
    pub lease: &'a Lease,
    /// The names that were covered in directories that are given as they are.
    pub covered: Vec<String>,
    /// Whom names are told to that are made in directories of the caller.
    pub placeholders: Placeholders<'a>,
}

impl Placer<'_> {
    /// A workspace, with its masks. Its rule for Landlock sits on the directory that holds it, so that it
    /// outlives what is mounted there later; at the root's top level on itself.
    pub fn workspace(&mut self, workspace: &Workspace, source: &Source) -> Result<(), Fault> {
        let path = workspace.path.as_str();
        let access = match workspace.mode {
            WorkspaceMode::Ro => Access::ReadExec,
            WorkspaceMode::Overlay | WorkspaceMode::Direct => Access::WriteExec,
        };
        let tree = match workspace.mode {
            WorkspaceMode::Direct => {
                source.tree.restrict(WORKSHOP, Some(self.writable)).map_err(|e| cannot_map(path, &e))?;
                let agent = FsIds::assume(self.lease.agent.get());
                super::sockets::refuse(source.tree.as_fd(), path, &workspace.sockets)?;
                drop(agent);
                None
            }
            WorkspaceMode::Ro => Some(view::of(self.root, &source.tree, self.owners, path)?),
            WorkspaceMode::Overlay => Some(self.overlay(source)?),
        };
        self.root.attach(path, tree.as_ref().unwrap_or(&source.tree), true, access)?;
        if let Some(parent) = workspace.path.parent().filter(|p| p.as_str() != "/") {
            self.root.access.push((parent.as_str().to_owned(), access));
        }
        if workspace.mode != WorkspaceMode::Ro && mount::is_read_only(path).at("workspace", path)? {
            return Err(Fault::host("workspace", path, "the kernel mounted it read-only"));
        }
        self.cover(workspace, source)
    }

    /// A directory or file to read.
    pub fn input(&mut self, source: &Source) -> Result<(), Fault> {
        let path = source.path.as_str();
        let Some(name) = &source.name else {
            let tree = view::of(self.root, &source.tree, self.owners, path)?;
            return self.root.attach(path, &tree, true, Access::ReadExec);
        };
        let tree = view::of_file(self.root, (&source.tree, name), &source.stat, self.owners, path)?;
        let access = if source.stat.st_mode & 0o111 == 0 { Access::Read } else { Access::ReadExec };
        self.root.attach(path, &tree, false, access)
    }

    /// Copy-on-write: what is written goes to an upper directory of the session.
    fn overlay(&mut self, source: &Source) -> Result<Tree, Fault> {
        let path = source.path.as_str();
        let own = source.upper.as_ref().ok_or_else(|| Fault::host("overlay", path, "no upper"))?;
        source.tree.restrict(PROGRAMS, Some(self.writable)).map_err(|e| cannot_map(path, &e))?;
        own.tree.restrict(WORKSHOP, Some(self.writable)).map_err(|e| cannot_map(path, &e))?;
        let attributes = WORKSHOP.within(source.tree.as_fd()).at("overlay", path)?;
        let lower = view::layer(self.root, "lower", &source.tree)?;
        let upper = view::layer(self.root, "upper", &own.tree)?;
        let writes = format!("{upper}{}", own.path);
        let options = [
            ("lowerdir", lower.clone()),
            ("upperdir", format!("{writes}/upper")),
            ("workdir", format!("{writes}/work")),
            ("userxattr", String::new()),
        ];
        let options: Vec<_> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let mounter = FsIds::of_mounter(self.owner, self.lease.agent.get()).at("overlay", path)?;
        let overlay = Tree::new("overlay", &options, attributes).map_err(|e| cannot_layer(path, e));
        drop(mounter);
        mount::detach(&lower).at("overlay", &lower)?;
        mount::detach(&upper).at("overlay", &upper)?;
        overlay
    }

    /// Covers the masked and protected names. Every ancestor of such a name becomes a mount point itself, so
    /// that no rename gets around it (`EBUSY`).
    fn cover(&mut self, workspace: &Workspace, source: &Source) -> Result<(), Fault> {
        // With the agent's rights over files: what it could not see must not be told by how this ends.
        let _agent = FsIds::assume(self.lease.agent.get());
        let mut points = BTreeSet::new();
        let names =
            workspace.mask.iter().map(|n| (n, true)).chain(workspace.protect.iter().map(|n| (n, false)));
        for (name, mask) in names {
            let full = format!("{}/{name}", workspace.path);
            let mut tries = 0;
            while let Some(place) = self.descend((workspace, source), name, mask, &mut points)? {
                let covered = if mask { cover_empty(&place) } else { cover_read_only(&place) };
                // Another session's placeholder, taken away at that moment: look again.
                let gone = rustix::fs::fstat(&place).is_ok_and(|stat| stat.st_nlink == 0);
                tries += 1;
                if covered.is_err() && gone && tries < TRIES {
                    continue;
                }
                covered.at(if mask { "mask" } else { "protect" }, &full)?;
                if workspace.mode == WorkspaceMode::Direct {
                    self.covered.push(full);
                }
                break;
            }
        }
        Ok(())
    }

    /// Goes down to `name`, making mount points of the directories on the way; what is to be covered. `None`
    /// if there is nothing to cover: in an overlay, what appears later is looked at in review.
    fn descend(
        &mut self,
        (workspace, source): (&Workspace, &Source),
        name: &RelPath,
        mask: bool,
        points: &mut BTreeSet<String>,
    ) -> Result<Option<OwnedFd>, Fault> {
        let top = workspace.path.as_str();
        let mut dir = mount::place(top).at("workspace", top)?;
        let mut walked = String::new();
        let mut components = name.components().peekable();
        while let Some(component) = components.next() {
            let last = components.peek().is_none();
            walked = if walked.is_empty() { component.to_owned() } else { format!("{walked}/{component}") };
            let place = match open_beneath(dir.as_fd(), component) {
                Ok(place) => place,
                Err(rustix::io::Errno::NOENT) => {
                    let held = match workspace.mode {
                        WorkspaceMode::Ro => false,
                        WorkspaceMode::Overlay => last && !mask,
                        WorkspaceMode::Direct => true,
                    };
                    if !held {
                        return Ok(None);
                    }
                    if workspace.mode == WorkspaceMode::Direct {
                        self.placeholders.announce(source, &walked)?;
                    }
                    match self.placeholder(dir.as_fd(), component, last) {
                        // Another session was faster.
                        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                        Err(errno) => return Err(placeholder_fault(top, &walked, &errno)),
                    }
                    fault::here("placeholder")?;
                    open_beneath(dir.as_fd(), component).at("placeholder", &walked)?
                }
                // Its owner could open it again and find what was to be covered.
                Err(rustix::io::Errno::ACCESS) => {
                    return Err(Fault::caller(
                        format!("{top}/{walked} cannot be looked at"),
                        "workspace.closed",
                        "make the directories on the way to masked and protected names searchable",
                    ));
                }
                Err(rustix::io::Errno::LOOP) => {
                    return Err(Fault::caller(
                        format!("{top}/{walked} is a symbolic link"),
                        "workspace.symlink",
                        "masked and protected names must not lead through links; replace it by what it names",
                    ));
                }
                Err(errno) => return Err(Fault::host("workspace", &walked, errno)),
            };
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&place).at("workspace", &walked)?.st_mode);
            if last || kind != FileType::Directory {
                return Ok(Some(place));
            }
            if points.insert(walked.clone()) {
                let own = Tree::copy_of(place.as_fd()).at("protect", &walked)?;
                own.attach(place.as_fd()).at("protect", &walked)?;
            }
            dir = open_beneath(dir.as_fd(), component).at("protect", &walked)?;
        }
        Ok(None)
    }

    /// Makes a missing name, with no more rights than the caller has: an empty file, or a directory on the
    /// way to one.
    fn placeholder(&self, dir: BorrowedFd<'_>, name: &str, last: bool) -> rustix::io::Result<()> {
        if last {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        } else {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))
        }
    }
}

fn placeholder_fault(top: &str, name: &str, errno: &rustix::io::Errno) -> Fault {
    Fault::caller(
        format!("{top}/{name} does not exist and cannot be held free: {errno}"),
        "workspace.placeholder",
        "create it, or use a workspace that you may write to",
    )
}

/// Covers `place` by itself, read-only.
fn cover_read_only(place: &OwnedFd) -> Result<(), String> {
    let stat = rustix::fs::fstat(place).map_err(|e| e.to_string())?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let attributes = if directory { PROGRAMS } else { READ_ONLY };
    let cover = Tree::copy_of(place.as_fd()).map_err(|e| e.to_string())?;
    cover.restrict(attributes, None).and_then(|()| cover.attach(place.as_fd())).map_err(|e| e.to_string())
}

/// What was covered for `path`: itself, or the file that stands where a directory on the way would be.
fn covered_place(path: &str) -> std::io::Result<OwnedFd> {
    match (mount::place(path), path.rsplit_once('/')) {
        (Err(error), Some((parent, _))) if error.kind() == std::io::ErrorKind::NotADirectory => {
            covered_place(parent)
        }
        (place, _) => place,
    }
}

/// Whether every cover in a directory that others change too is still there: what went before anybody watched
/// went unseen.
pub fn verify_covered(covered: &[String]) -> Result<(), Fault> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    for path in covered {
        let place = covered_place(path).at("protect", path)?;
        let stat = rustix::fs::statx(&place, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .at("protect", path)?;
        if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(Fault::caller(
                format!("{path} was replaced while the session was built"),
                "workspace.changed",
                "ask again",
            ));
        }
    }
    Ok(())
}

/// Covers `place` by something empty and read-only of its own kind.
fn cover_empty(place: &OwnedFd) -> Result<(), String> {
    let stat = rustix::fs::fstat(place).map_err(|e| e.to_string())?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let empty = mount::place(if directory { EMPTY_DIR } else { EMPTY_FILE }).map_err(|e| e.to_string())?;
    let cover = Tree::copy_of(empty.as_fd()).map_err(|e| e.to_string())?;
    cover.restrict(READ_ONLY, None).and_then(|()| cover.attach(place.as_fd())).map_err(|e| e.to_string())
}
