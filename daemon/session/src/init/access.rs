//! What may be done where: the session's mounts once more, as Landlock takes them.

use agentd_kernel::landlock::Class;
use serde::{Deserialize, Serialize};

/// What a directory tree allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    List,
    Read,
    /// Reading and running.
    ReadExec,
    /// Reading, writing, making and removing.
    Write,
    /// All of it.
    WriteExec,
    /// Reading, writing, and `ioctl(2)` on devices.
    Device,
}

impl Access {
    /// The class of Landlock rules.
    pub fn class(self) -> Class {
        match self {
            Self::List => Class::ListOnly,
            Self::Read => Class::ReadOnly,
            Self::ReadExec => Class::ReadExec,
            Self::Write => Class::ReadWrite,
            Self::WriteExec => Class::ReadWriteExec,
            Self::Device => Class::Device,
        }
    }
}
