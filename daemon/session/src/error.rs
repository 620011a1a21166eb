//! Why something failed on this host, for its administrator.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::num::ParseIntError;

use agentd_kernel::cgroup::CgroupError;
use agentd_kernel::creds::CredsError;
use agentd_kernel::descriptor::WrongKind;
use agentd_kernel::lockdown::LockdownError;
use agentd_kernel::mount::MountError;
use agentd_kernel::nflog::NflogError;
use agentd_kernel::packets::PacketError;
use agentd_kernel::rlimits::RlimitError;
use agentd_kernel::seccomp::SeccompError;
use agentd_policy::wire::WireError;

/// What failed on this host. Its text is one line, for the log and the launcher's standard error.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Something failed on an object: a path, a name in a directory of ours, a facility.
    #[error("{object}: {cause}")]
    On {
        /// The object's name.
        object: String,
        /// What failed on it.
        cause: Box<Self>,
    },
    /// An object is not as it has to be.
    #[error("{0}")]
    Unfit(Cow<'static, str>),
    /// Something failed, and so did what takes it back.
    #[error("{0}; then {1}")]
    Then(Box<Self>, Box<Self>),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file or directory of a cgroup hierarchy.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Ids, capabilities, a keyring.
    #[error(transparent)]
    Creds(#[from] CredsError),
    /// What a child takes from itself.
    #[error(transparent)]
    Lockdown(#[from] LockdownError),
    /// An operation on a mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A file that does not hold the number that it should.
    #[error(transparent)]
    Number(#[from] ParseIntError),
    /// Packets that nftables logged.
    #[error(transparent)]
    Nflog(#[from] NflogError),
    /// A packet that was not sent or received.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// A resource limit.
    #[error(transparent)]
    Rlimit(#[from] RlimitError),
    /// A filter of system calls.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// A descriptor that another process sent for something else.
    #[error(transparent)]
    Kind(#[from] WrongKind),
    /// A message that is malformed, or too long to send.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl HostError {
    /// Something is not as it has to be, and why.
    pub fn unfit(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Unfit(why.into())
    }

    /// The same error, on `object`.
    pub fn on(self, object: impl Display) -> Self {
        Self::On { object: object.to_string(), cause: Box::new(self) }
    }

    /// The same error, with what then went wrong while something was taken back.
    pub fn then(self, undone: Result<(), impl Into<Self>>) -> Self {
        match undone {
            Ok(()) => self,
            Err(more) => Self::Then(Box::new(self), Box::new(more.into())),
        }
    }
}

impl From<rustix::io::Errno> for HostError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<nix::errno::Errno> for HostError {
    fn from(errno: nix::errno::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Names the object that something failed on.
pub trait On<T> {
    /// The error on `object`.
    fn on(self, object: impl Display) -> Result<T, HostError>;
}

impl<T, E: Into<HostError>> On<T> for Result<T, E> {
    fn on(self, object: impl Display) -> Result<T, HostError> {
        self.map_err(|error| error.into().on(object))
    }
}
