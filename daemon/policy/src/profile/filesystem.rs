//! Directories and files of a profile.

use serde::{Deserialize, Serialize};

use super::merge::{Item, Overlay as _, table};
use crate::quantity::Size;

table! {
    /// `[filesystem]`: directories and files of a session.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Filesystem {
        /// The home directory.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub home: Option<Home>,
        /// What may be read besides.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub read: Vec<String>,
        /// Directories in mode `direct` besides.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub write: Vec<String>,
        /// Directories to work in.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub workspace: Vec<Workspace>,
        /// Directories in memory.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub scratch: Vec<Scratch>,
    }
}

/// What a session finds at its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Home {
    /// An empty directory in memory.
    Scratch,
    /// One that is kept for the user and the profile.
    Kept,
}

table! {
    /// `[[filesystem.workspace]]`: a directory to work in.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Workspace {
        /// `"."` is the caller's directory, `~` the caller's home.
        pub path: String,
        /// How it is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub mode: Option<WorkspaceMode>,
        /// Names below it that appear empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub mask: Vec<String>,
        /// Names below it that are read-only.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub protect: Vec<String>,
        /// Unix sockets below it that are accepted in mode `direct`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub sockets: Vec<String>,
    }
}

/// How a workspace is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceMode {
    /// Read-only: the agent changes nothing.
    Ro,
    /// Copy-on-write: the real directory stays as it is.
    Overlay,
    /// The real directory.
    Direct,
    /// A repository of its own on its own branch.
    Worktree,
}

table! {
    /// `[[filesystem.scratch]]`: a directory in memory.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Scratch {
        /// Where it is mounted: absolute, or below `~` or `.`.
        pub path: String,
        /// What it may hold.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub size: Option<Size>,
        /// Whether programs in it may run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub exec: Option<bool>,
    }
}

/// One of the same path is the same.
impl Item for Workspace {
    fn is_same(&self, other: &Self) -> bool {
        self.path == other.path
    }

    fn merge(&mut self, child: Self) {
        self.overlay(child);
    }
}

/// One of the same path is the same.
impl Item for Scratch {
    fn is_same(&self, other: &Self) -> bool {
        self.path == other.path
    }

    fn merge(&mut self, child: Self) {
        self.overlay(child);
    }
}
