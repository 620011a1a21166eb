//! Touching files as somebody else (`setfsuid(2)`): without root's rights over them.

/// As long as it lives, files are opened and made with another's ids; the kernel takes the capabilities
/// over files out of the effective set and gives them back with id 0.
#[derive(Debug)]
pub struct FsIds(());

impl FsIds {
    /// Assumes `id` as file system uid and gid.
    pub fn assume(id: u32) -> Self {
        Self::assume_both(id, id)
    }

    /// Assumes two.
    pub fn assume_both(uid: u32, gid: u32) -> Self {
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(gid));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
        Self(())
    }
}

impl Drop for FsIds {
    fn drop(&mut self) {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(0));
    }
}
