//! The mounts that a client sees. Each is attached once, in the worker's own namespace, and taken away again before the
//! client has it: what is attached nowhere any more cannot be changed, copied or attached elsewhere by anybody
//! (`mount_setattr(2)`, `open_tree(2)`, `move_mount(2)`), and nothing is above it. One that was never attached could be
//! made writable by any user with a user namespace.

use std::os::fd::{AsFd as _, OwnedFd};

use agentd_kernel::mount::{self, Attributes, Tree};
use agentd_session::error::{HostError, On as _};
use rustix::fs::Mode;
use rustix::mount::MountPropagationFlags;

use super::place::{Overlay, Place, READ_ONLY};

/// Where layers and what is made of them have names for a moment.
const PLACES: [&str; 3] = ["upper", "lower", "merged"];
/// Of all marks on the layers only those that the session's own overlay made have a meaning.
const OPTIONS: [(&str, &str); 6] = [
    ("lowerdir", "/upper:/lower"),
    ("xino", "on"),
    ("redirect_dir", "follow"),
    ("index", "off"),
    ("metacopy", "off"),
    ("nfs_export", "off"),
];

/// Leaves the host's mounts for a namespace in which nothing is but empty directories.
pub fn leave_host() -> Result<(), HostError> {
    mount::new_namespace()?;
    // Until then the copy is shared with the host.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .on("private")?;
    let root = Tree::tmpfs(4096, 0, 0o755, Attributes::WRITABLE)?;
    for name in PLACES {
        rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o500)).on(name)?;
    }
    Ok(mount::become_root(&root)?)
}

/// Copies of the upper directories, each from it down.
pub fn uppers(place: &Place, overlays: &[Overlay]) -> Result<Vec<Tree>, HostError> {
    // A mount that is attached nowhere cannot be copied before Linux 6.15.
    named(&place.tree, "upper", || {
        let copies = overlays.iter().map(|(name, ..)| {
            let path = format!("/upper{}/{name}/upper", place.path);
            let upper = mount::open_by_name(&path).on(&path)?;
            let copy = Tree::copy_of_one(upper.as_fd())?;
            copy.restrict(READ_ONLY, None)?;
            Ok(copy)
        });
        copies.collect()
    })
}

/// What a client gets of one overlay: its upper directory, and that over the workspace.
pub fn of(upper: &Tree, workspace: &Tree) -> Result<[OwnedFd; 2], HostError> {
    named(upper, "upper", || {
        let merged = named(workspace, "lower", || Ok(Tree::new("overlay", &OPTIONS, READ_ONLY)?))?;
        Ok([mount::place("/upper").on("upper")?, named(&merged, "merged", || Ok(mount::place("/merged")?))?])
    })
}

/// Does something while `tree` has a name.
fn named<T>(tree: &Tree, name: &str, act: impl FnOnce() -> Result<T, HostError>) -> Result<T, HostError> {
    let path = format!("/{name}");
    tree.attach(mount::place(&path).on(&path)?.as_fd())?;
    let done = act().on(&path)?;
    mount::detach(&path)?;
    Ok(done)
}
