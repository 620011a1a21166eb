//! The callers' descriptors: what they are, and copies of the mounts that they lie on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use agentd_kernel::mount::{self, Identity, Tree};
use agentd_kernel::mountinfo::Mounts;
use agentd_kernel::packets::Packets;
use agentd_kernel::procfs;
use agentd_policy::mode::{Mode as WorkspaceMode, Role};
use agentd_policy::mount::Workspace;
use agentd_policy::names::AbsPath;
use agentd_policy::offer::Grant;
use agentd_policy::plan::Plan;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use agentd_policy::wire::encode;
use rustix::fs::{FileType, OFlags, Stat};

use super::fault::{At, Fault};
use super::root::open_beneath;
use super::uppers::{Upper, Uppers};
use crate::order::Reply;

/// A path of the plan, proved by its descriptor, copied while the builder was still in the namespace that
/// the descriptor belongs to.
#[derive(Debug)]
pub struct Source {
    /// Where it appears.
    pub path: AbsPath,
    /// The copy, in no namespace yet; of a file's directory, if it is a file.
    pub tree: Tree,
    /// The name of the file in it.
    pub name: Option<String>,
    /// What it is.
    pub stat: Stat,
    /// For mode direct: the caller's own descriptor, in which placeholders are taken away again.
    pub direct: Option<OwnedFd>,
    /// For an overlay: where it writes to.
    pub upper: Option<Upper>,
}

/// All of a plan's paths.
#[derive(Debug)]
pub struct Sources {
    /// With its workspace.
    pub workspaces: Vec<(Workspace, Source)>,
    /// What may be read besides.
    pub inputs: Vec<Source>,
}

/// Checks every descriptor that the plan names against what was offered, and copies the mounts. Each is
/// used once.
pub fn take(
    plan: &Plan,
    offered: Vec<(Grant, OwnedFd)>,
    uppers: Option<&Uppers>,
    proc: BorrowedFd<'_>,
) -> Result<Sources, Fault> {
    // Read while the descriptors are held: no mount of theirs can go, and its id to another.
    let mounts = match plan.workspaces.is_empty() && plan.inputs.is_empty() {
        true => Mounts::default(),
        false => Mounts::read(proc).at(Step::Paths, "mountinfo")?,
    };
    let mut offered: Vec<_> = offered.into_iter().map(Some).collect();
    let mut claim = |index: u16, path: &AbsPath, role: Role, mode: WorkspaceMode| {
        let slot = offered.get_mut(usize::from(index)).and_then(Option::take);
        let Some((grant, fd)) = slot else {
            return Err(Fault::caller(
                format!("{path}: no descriptor {index} was offered, or it is used twice"),
                Rule::OfferMissing,
                "offer each path once",
            ));
        };
        if grant.role != role || grant.mode < mode {
            return Err(Fault::caller(
                format!("{path}: offered for less than the plan asks"),
                Rule::OfferMode,
                "offer it with the role and mode that the request names",
            ));
        }
        prove(fd, path, role, proc, &mounts)
    };
    let mut sources = Sources { workspaces: Vec::new(), inputs: Vec::new() };
    for workspace in &plan.workspaces {
        let mut source = claim(workspace.descriptor, &workspace.path, Role::Workspace, workspace.mode)?;
        if workspace.mode != WorkspaceMode::Direct {
            no_submounts(&source, &mounts)?;
            source.direct = None;
        }
        if let (WorkspaceMode::Overlay, Some(uppers)) = (workspace.mode, uppers) {
            let number = sources.workspaces.len();
            source.upper = Some(uppers.make(number, &source.stat, workspace.path.as_str())?);
        }
        sources.workspaces.push((workspace.clone(), source));
    }
    for input in &plan.inputs {
        let source = claim(input.descriptor, &input.path, Role::Input, WorkspaceMode::Ro)?;
        if source.name.is_none() {
            no_submounts(&source, &mounts)?;
        }
        sources.inputs.push(source);
    }
    Ok(sources)
}

/// What is made in callers' directories. The launcher gets each name before it is made, and takes it away at the
/// session's end, however that comes.
#[derive(Clone, Copy, Debug)]
pub struct Placeholders<'a>(pub &'a Packets);

impl Placeholders<'_> {
    /// `name` is going to be made in the directory of `source`.
    pub fn announce(self, source: &Source, name: &str) -> Result<(), Fault> {
        let dir = source.direct.as_ref();
        let dir = dir.ok_or_else(|| Fault::unfit(Step::Placeholder, name, "not a directory to write to"))?;
        let stat = rustix::fs::fstat(dir).at(Step::Placeholder, name)?;
        let placed = Reply::Placed {
            workspace: source.path.clone(),
            name: name.to_owned(),
            dev: stat.st_dev,
            ino: stat.st_ino,
        };
        let placed = encode(&placed).at(Step::Placeholder, name)?;
        self.0.send(&placed, &[dir.as_fd()]).at(Step::Placeholder, "launcher")
    }
}

/// The descriptor is an open directory (or, as an input, a regular file), opened for reading, and is where
/// the label says.
fn prove(
    fd: OwnedFd,
    path: &AbsPath,
    role: Role,
    proc: BorrowedFd<'_>,
    mounts: &Mounts,
) -> Result<Source, Fault> {
    let flags = rustix::fs::fcntl_getfl(&fd).at(Step::Paths, path.as_str())?;
    if flags.contains(OFlags::PATH) || !matches!(flags & OFlags::RWMODE, OFlags::RDONLY | OFlags::RDWR) {
        return Err(Fault::caller(
            format!("{path}: the descriptor does not prove the right to read"),
            Rule::OfferUnreadable,
            "open it for reading",
        ));
    }
    let stat = rustix::fs::fstat(&fd).at(Step::Paths, path.as_str())?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let fits = match role {
        Role::Workspace => kind == FileType::Directory,
        Role::Input => matches!(kind, FileType::Directory | FileType::RegularFile),
    };
    if !fits {
        return Err(Fault::caller(
            format!("{path} is a {}", kind_name(kind)),
            Rule::PathKind,
            "a workspace is a directory, an input a directory or a regular file",
        ));
    }
    let named =
        procfs::link(proc, "self", &format!("fd/{}", fd.as_raw_fd())).at(Step::Paths, path.as_str())?;
    if named != path.as_str() {
        return Err(moved(format!("{path}: the descriptor is {named}")));
    }
    let identity = mount::identity(fd.as_fd()).at(Step::Paths, path.as_str())?;
    // A mount of a caller's own namespaces names itself as it likes.
    if !mounts.contains(identity.mount) {
        return Err(foreign(path));
    }
    let is_dir = kind == FileType::Directory;
    let (place, name) = by_name(path, is_dir, identity)?;
    let copied = if is_dir { Tree::copy_of(place.as_fd()) } else { Tree::copy_of_one(place.as_fd()) };
    let tree = copied.map_err(|e| match e.errno() {
        Some(22) => foreign(path),
        _ => Fault::host(Step::Paths, path.as_str(), e),
    })?;
    Ok(Source { path: path.clone(), tree, name, stat, direct: Some(fd), upper: None })
}

/// Opens a directory, or the directory of a file, by the name that its descriptor has, and the name in it. What is
/// found there must be what the descriptor is, by the same mount: another mount may cover it by now.
fn by_name(path: &AbsPath, is_dir: bool, identity: Identity) -> Result<(OwnedFd, Option<String>), Fault> {
    let covered = || moved(format!("{path}: the descriptor is of something else than that path leads to"));
    let same = |place: &OwnedFd| mount::identity(place.as_fd()).is_ok_and(|found| found == identity);
    if is_dir {
        let place = mount::open_by_name(path.as_str()).ok().filter(same).ok_or_else(covered)?;
        return Ok((place, None));
    }
    let (parent, name) = path.parent().zip(path.components().next_back()).ok_or_else(covered)?;
    let dir = mount::open_by_name(parent.as_str()).map_err(|_| covered())?;
    open_beneath(dir.as_fd(), name).ok().filter(same).ok_or_else(covered)?;
    if mount::identity(dir.as_fd()).at(Step::Paths, path.as_str())?.mount != identity.mount {
        return Err(Fault::caller(
            format!("{path} is a mount of its own"),
            Rule::PathSubmount,
            "name the file that is mounted there, or a copy of it",
        ));
    }
    Ok((dir, Some(name.to_owned())))
}

fn moved(what: String) -> Fault {
    Fault::caller(what, Rule::OfferMoved, "the path changed while the session was asked for; ask again")
}

fn foreign(path: &AbsPath) -> Fault {
    Fault::caller(
        format!("{path} is in another mount namespace than agentd"),
        Rule::PathNamespace,
        "run agentctl outside containers and private mount namespaces",
    )
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::RegularFile => "regular file",
        _ => "file of another kind",
    }
}

/// An overlay shows what lies under the mounts of its lower layer: such a directory is refused.
fn no_submounts(source: &Source, mounts: &Mounts) -> Result<(), Fault> {
    match mounts.below(Path::new(source.path.as_str())) {
        None => Ok(()),
        Some(mount) => Err(Fault::caller(
            format!("{} has a mount below it: {}", source.path, mount.point.display()),
            Rule::PathSubmount,
            "unmount it, or use a workspace in mode direct, which carries mounts along",
        )),
    }
}
