//! Which limit a session reached, as its event has it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::AbsPath;

/// The limits that an event can be about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is explained by its text")]
pub enum LimitKind {
    Memory,
    Pids,
    Disk,
    Inodes,
    /// What must stay free of the host's disk.
    DiskReserve,
    Timeout,
    Idle,
    /// The size of a file system in memory, by where it is mounted.
    Scratch(AbsPath),
}

impl fmt::Display for LimitKind {
    /// As events and records have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Disk => "disk",
            Self::Inodes => "inodes",
            Self::DiskReserve => "disk_reserve",
            Self::Timeout => "timeout",
            Self::Idle => "idle",
            Self::Scratch(path) => path.as_str(),
        })
    }
}
