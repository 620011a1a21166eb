//! What an offered descriptor is for, and how much of it a session gets.

use serde::{Deserialize, Serialize};

/// How a workspace is given to the agent, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Read-only: the agent changes nothing.
    Ro,
    /// Copy-on-write; the real directory stays as it is.
    Overlay,
    /// The real directory.
    Direct,
}

impl Mode {
    /// The word that profiles and flags use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ro => "ro",
            Self::Overlay => "overlay",
            Self::Direct => "direct",
        }
    }
}

/// What an offered descriptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A directory that the agent works in.
    Workspace,
    /// A file or directory that it may read.
    Input,
}

impl Role {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Input => "input",
        }
    }
}
