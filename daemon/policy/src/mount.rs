//! What a plan mounts of the host: workspaces, inputs, scratch directories.

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::config::Bounds;
use crate::git::Part;
use crate::mode::Mode;
use crate::names::{AbsPath, RelPath};
use crate::pattern::NamePattern;
use crate::rule::Rule;

/// The most mounts of each kind that a plan may ask for.
pub const MAX_MOUNTS: usize = 64;
/// The most mask and protect names of one workspace.
pub const MAX_NAMES: usize = 256;
/// The most mount points of masked and protected names, of all workspaces together.
pub const MAX_POINTS: usize = 1024;
/// The most that one session's scratch may hold, besides the memory limit, which it counts towards.
pub const MAX_SCRATCH: u64 = 1 << 40;

/// A directory that the agent works in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Where it appears: its own path.
    pub path: AbsPath,
    /// Which of the offered descriptors it is.
    pub descriptor: u16,
    /// How it is given.
    pub mode: Mode,
    /// Names below it that appear empty and read-only.
    pub mask: Vec<RelPath>,
    /// Files that are masked wherever they are below it.
    pub mask_anywhere: Vec<NamePattern>,
    /// Names below it that are read-only.
    pub protect: Vec<RelPath>,
    /// Unix sockets below it that the profile accepts by name (mode `direct`).
    pub sockets: Vec<RelPath>,
    /// What it is to git, if the session has it because another workspace leads there.
    pub git: Option<Part>,
}

/// A file or directory that the agent may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where it appears: its own path.
    pub path: AbsPath,
    /// The name that it was asked for by, if that leads through symbolic links: it is a link to the path.
    pub link: Option<AbsPath>,
    /// Which of the offered descriptors it is.
    pub descriptor: u16,
}

/// A directory in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// Where it appears.
    pub path: AbsPath,
    /// Bytes that it may hold.
    pub size: u64,
    /// Whether programs in it may run.
    pub exec: bool,
}

impl Workspace {
    pub(crate) fn check(&self, bounds: &Bounds) -> Result<(), Refusal> {
        if bounds.modes_forbidden.contains(&self.mode) {
            return Err(Refusal::new(
                format!("workspace {} in mode {}", self.path, self.mode.as_str()),
                Rule::BoundsModesForbidden,
                "the administrator forbids this mode; choose another",
            ));
        }
        let fits = match self.git {
            Some(Part::Common) => self.mode == Mode::Overlay,
            Some(Part::Data) => self.mode == Mode::Direct,
            Some(Part::Repository) | None => true,
        };
        if !fits {
            return Err(Refusal::new(
                format!("a part of a repository in mode {}", self.mode.as_str()),
                Rule::PlanGit,
                "objects and references are given as they are, what working trees share as a copy",
            ));
        }
        let names = self.mask.len() + self.mask_anywhere.len() + self.protect.len() + self.sockets.len();
        if names > MAX_NAMES {
            return Err(Refusal::new(
                format!("{names} mask and protect names for {}", self.path),
                Rule::PlanNames,
                format!("give at most {MAX_NAMES}"),
            ));
        }
        Ok(())
    }
}
