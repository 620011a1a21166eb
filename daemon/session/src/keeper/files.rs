//! The session's file systems, as far as the keeper looks after them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::leftovers::Leftovers;
use super::scratch::{Scratch, Scratches};

/// Mounts, scratches, and what a session leaves behind.
pub struct Files {
    /// Reports when a mount of the session goes, if names are covered in a directory that others change too.
    pub mounts: Option<OwnedFd>,
    /// The file systems in memory.
    pub scratches: Scratches,
    /// The work after the session's last process.
    pub leftovers: Leftovers,
    /// The session's mount namespace, held to the end: who holds it last takes it apart.
    pub root: OwnedFd,
}

impl Files {
    pub fn new(
        mounts: Option<OwnedFd>,
        scratches: Vec<Scratch>,
        leftovers: Leftovers,
        root: OwnedFd,
    ) -> Self {
        Self { mounts, scratches: Scratches::new(scratches), leftovers, root }
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let own = std::iter::once(self.root.as_fd()).chain(self.mounts.as_ref().map(AsFd::as_fd));
        own.chain(self.leftovers.descriptors()).chain(self.scratches.descriptors())
    }
}
