//! Views: what is only read, as an overlay without an upper directory. Its inodes are its own, so no watch, lock,
//! lease, socket or FIFO of the host is reached through it, and its top has the source's owner, mode and times.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::mount::{self, Attributes, MountError, Tree};
use agentd_policy::step::Step;
use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::fault::{At, Fault};
use super::root::{EMPTY_DIR, PRIVATE, PROGRAMS, READ_ONLY, Root};
use agentd_policy::rule::Rule;

/// Where a view of a directory is while one file of it is copied.
const ASIDE: &str = "/run/agentd/view";

/// A view of `source`, which has no mounts below it that matter, with its ids mapped by `map`.
pub fn of(root: &Root, source: &Tree, map: BorrowedFd<'_>, path: &str) -> Result<Tree, Fault> {
    source.restrict(PROGRAMS, Some(map)).map_err(|e| cannot_map(path, &e))?;
    match over(root, source, path)? {
        Over::View(view) => Ok(view),
        Over::Refused(error, _) => Err(cannot_layer(path, error)),
    }
}

/// What came of a view.
pub enum Over {
    /// It is there.
    View(Tree),
    /// What overlayfs said of the source, and the source once more.
    Refused(MountError, Tree),
}

/// Every option that could give a layer's attributes a meaning, or make numbers of inodes unlike the layer's.
const OPTIONS: [(&str, &str); 5] = [
    ("xino", "on"),
    ("redirect_dir", "nofollow"),
    ("index", "off"),
    ("metacopy", "off"),
    ("nfs_export", "off"),
];

/// The same for what can be written. What is changed is marked by attributes `trusted.overlay.*`, which the agent can
/// neither read nor set; `user.overlay.*`, which it can, mean nothing. A directory of the lower layer is renamed by a
/// redirect instead of being refused (`EXDEV`): without `userxattr`, which rules redirects out
/// (Documentation/filesystems/overlayfs.rst).
pub const COPY_ON_WRITE: [(&str, &str); 5] =
    [("xino", "on"), ("redirect_dir", "on"), ("index", "off"), ("metacopy", "off"), ("nfs_export", "off")];

/// A view of `source` without a name of it. A single layer is refused; the first one is what the top looks like.
fn of_descriptors(source: &Tree, attributes: Attributes) -> Result<Tree, MountError> {
    let empty = open(rustix::fs::CWD, EMPTY_DIR)?;
    two_layers(source.as_fd(), empty.as_fd(), attributes)
}

/// A directory by name, to be a layer.
pub fn open(from: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(from, path, flags, Mode::empty()).map_err(|e| MountError::new("open layer", e))
}

fn two_layers(
    first: BorrowedFd<'_>,
    last: BorrowedFd<'_>,
    attributes: Attributes,
) -> Result<Tree, MountError> {
    let (first, last) = (open(first, ".")?, open(last, ".")?);
    let layers = [("lowerdir+", first.as_fd()), ("lowerdir+", last.as_fd())];
    Tree::of_layers("overlay", &layers, &OPTIONS, attributes)
}

/// What is in `over` or, where it has nothing of that name, in `under`. Neither has mounts below it.
pub fn merged(root: &Root, over: &Tree, under: &Tree, attributes: Attributes) -> Result<Tree, Fault> {
    if let Ok(merged) = two_layers(over.as_fd(), under.as_fd(), attributes) {
        return Ok(merged);
    }
    let (first, last) = (layer(root, "upper", over)?, layer(root, "lower", under)?);
    let layers = format!("{first}:{last}");
    let options: Vec<_> = std::iter::once(("lowerdir", layers.as_str())).chain(OPTIONS).collect();
    let merged = Tree::new("overlay", &options, attributes).at(Step::View, &layers);
    mount::detach(&first).at(Step::View, &first)?;
    mount::detach(&last).at(Step::View, &last)?;
    merged
}

/// The same of a tree whose ids are mapped already.
pub fn over(root: &Root, source: &Tree, path: &str) -> Result<Over, Fault> {
    let attributes = PROGRAMS.within(source.as_fd()).at(Step::View, path)?;
    if let Ok(view) = of_descriptors(source, attributes) {
        return Ok(Over::View(view));
    }
    // An older kernel wants a name; what is wrong with the layer it says again.
    let lower = layer(root, "lower", source)?;
    let layers = format!("{lower}:{EMPTY_DIR}");
    let options: Vec<_> = std::iter::once(("lowerdir", layers.as_str())).chain(OPTIONS).collect();
    let made = match Tree::new("overlay", &options, attributes) {
        Ok(view) => Over::View(view),
        Err(error) => {
            let place = mount::place(&lower).at(Step::View, &lower)?;
            Over::Refused(error, Tree::copy_of_one(place.as_fd()).at(Step::View, path)?)
        }
    };
    mount::detach(&lower).at(Step::View, &lower)?;
    Ok(made)
}

/// The regular file `name` out of a view of its directory; `stat` is what was proved of it.
pub fn of_file(
    root: &Root,
    (dir, name): (&Tree, &str),
    stat: &Stat,
    map: BorrowedFd<'_>,
    path: &str,
) -> Result<Tree, Fault> {
    let view = of(root, dir, map, path)?;
    let file = aside(root, &view, &[name])?.pop().flatten().ok_or_else(|| replaced(path))?;
    let found = rustix::fs::fstat(&file).at(Step::View, path)?;
    // Layers differ by bits above those of most file systems' numbers.
    let low = |stat: &Stat| stat.st_ino & u64::from(u32::MAX);
    let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    if !regular || low(&found) != low(stat) {
        return Err(replaced(path));
    }
    let runs = stat.st_mode & 0o111 != 0;
    file.restrict(if runs { PROGRAMS } else { READ_ONLY }, None).at(Step::View, path)?;
    Ok(file)
}

/// Copies of `names` in `view`; nothing for a name that is not there.
pub fn aside(root: &Root, view: &Tree, names: &[&str]) -> Result<Vec<Option<Tree>>, Fault> {
    let place = root.directory(ASIDE)?;
    view.attach(place.as_fd()).at(Step::View, ASIDE)?;
    let top = mount::place(ASIDE).at(Step::View, ASIDE)?;
    let copies = names
        .iter()
        .map(|name| match Tree::copy_of_name(top.as_fd(), name) {
            Ok(tree) => Ok(Some(tree)),
            Err(error) if error.errno() == Some(rustix::io::Errno::NOENT.raw_os_error()) => Ok(None),
            Err(error) => Err(Fault::host(Step::View, name, error)),
        })
        .collect();
    mount::detach(ASIDE).at(Step::View, ASIDE)?;
    copies
}

/// Gives a layer a name for as long as an overlay is being made, which keeps a copy of its own.
pub fn layer(root: &Root, name: &str, tree: &Tree) -> Result<String, Fault> {
    let path = format!("{PRIVATE}/{name}");
    let place = root.directory(&path)?;
    tree.attach(place.as_fd()).at(Step::Overlay, &path)?;
    Ok(path)
}

fn replaced(path: &str) -> Fault {
    Fault::caller(
        format!("{path} was replaced while the session was built"),
        Rule::OfferMoved,
        "the path changed while the session was asked for; ask again",
    )
}

/// A file system whose ids cannot be mapped.
pub fn cannot_map(path: &str, error: &MountError) -> Fault {
    Fault::caller(
        format!("{path} is on a file system that cannot be id-mapped, or has one mounted below it: {error}"),
        Rule::PathIdmap,
        "use a directory on ext4, xfs or btrfs (tmpfs from Linux 6.3 on)",
    )
}

/// What overlayfs says of a layer such as vfat, whose names are not what was written; else it is the host's fault.
pub fn cannot_layer(path: &str, error: MountError) -> Fault {
    if !refused_by_overlay(&error) {
        return Fault::host(Step::Overlay, path, error);
    }
    Fault::caller(
        format!("{path} is on a file system that cannot be a layer of an overlay: {error}"),
        Rule::PathOverlay,
        "use a directory on ext4, xfs, btrfs or tmpfs, or mode direct",
    )
}

/// Whether overlayfs cannot work with the source at all.
pub fn refused_by_overlay(error: &MountError) -> bool {
    error.errno() == Some(rustix::io::Errno::INVAL.raw_os_error())
}
