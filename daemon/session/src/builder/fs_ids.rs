//! Touching files as somebody else (`setfsuid(2)`): without root's rights over them.

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::order::Owner;

/// As long as it lives, files are opened and made with another's ids; the kernel takes the capabilities
/// over files out of the effective set and gives them back with id 0.
#[derive(Debug)]
pub struct FsIds {
    /// What to take back in the end, where that is not for the kernel to do.
    rights: Option<CapabilitySets>,
}

impl FsIds {
    /// Assumes `id` as file system uid and gid.
    pub fn assume(id: u32) -> Self {
        Self::assume_both(id, id)
    }

    /// Root's own for a while, where another's are assumed.
    pub fn own() -> Restored {
        let uid = nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
        let gid = nix::unistd::setfsgid(nix::unistd::Gid::from_raw(0));
        Restored { uid, gid }
    }

    fn assume_both(uid: u32, gid: u32) -> Self {
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(gid));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
        Self { rights: None }
    }

    /// The ids that a mounter of overlays needs, with root's rights over files: the kernel makes the overlay's own
    /// files with them on the upper layer, where a caller's 0 is the agent's, a member's is a leased one, and root's
    /// has no place. All that is written to the overlay later is written with the mounter's rights. `CAP_SYS_RESOURCE`
    /// is none of them: with it the kernel lets pass what a quota does not allow, and gives out the blocks that a file
    /// system keeps for root.
    pub fn of_mounter(owner: Owner, agent: u32) -> rustix::io::Result<Self> {
        let rights = rustix::thread::capabilities(None)?;
        let of = |other: bool| if other { agent } else { 0 };
        let member = owner.gid == 0 || owner.groups.iter().any(|group| group == 0);
        let mut assumed = Self::assume_both(of(owner.uid == 0), of(member));
        let mut less = rights;
        less.effective.remove(CapabilitySet::SYS_RESOURCE);
        rustix::thread::set_capabilities(None, less)?;
        assumed.rights = Some(rights);
        Ok(assumed)
    }
}

/// As long as it lives, files are touched with root's ids; then with those of before.
#[derive(Debug)]
pub struct Restored {
    uid: nix::unistd::Uid,
    gid: nix::unistd::Gid,
}

impl Drop for Restored {
    fn drop(&mut self) {
        nix::unistd::setfsgid(self.gid);
        nix::unistd::setfsuid(self.uid);
    }
}

impl Drop for FsIds {
    fn drop(&mut self) {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(0));
        if let Some(rights) = self.rights
            && let Err(errno) = rustix::thread::set_capabilities(None, rights)
        {
            tracing::error!(error = %errno, "rights cannot be taken back");
        }
    }
}
