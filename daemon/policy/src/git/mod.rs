//! What a session has of a repository because a workspace leads there: a linked working tree, a submodule, a
//! subdirectory. The client finds it ([`read`] is how it reads git's files), agrees to it, and opens it.

pub mod changed;
pub mod config;
pub mod read;

use serde::{Deserialize, Serialize};

use crate::mode::Mode;
use crate::names::AbsPath;

/// What a directory of a plan is to git, if a session has it for git alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A repository's own directory, or what belongs to one of its linked working trees.
    Repository,
    /// The directory that linked working trees share, where [`Part::Data`] of it is given as it is: the rest is
    /// copy-on-write, but `packed-refs` and `shallow`, which say what the data mean, stay as they are.
    Common,
    /// Objects, references or logs.
    Data,
}

/// How a session has a path of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A directory that git works in.
    Work(Part, Mode),
    /// To read: the objects of another repository, or the file `.git` of a working tree.
    Read,
    /// The top of a working tree that a workspace is a part of: an empty directory in memory, where git may put files.
    Top,
    /// What the repository's configuration names in a workspace, and git runs or follows: not written to in mode
    /// `direct`.
    Guard,
}

/// A path of a repository that a session has besides its workspaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it is, and where it appears.
    pub path: AbsPath,
    /// What the session has it for.
    pub used: Use,
}

impl Use {
    /// Every use there is, with the words that the API has for it: what, and in which mode.
    const ALL: [(Self, &'static str, &'static str); 8] = [
        (Self::Work(Part::Repository, Mode::Ro), "repository", "ro"),
        (Self::Work(Part::Repository, Mode::Overlay), "repository", "overlay"),
        (Self::Work(Part::Repository, Mode::Direct), "repository", "direct"),
        (Self::Work(Part::Common, Mode::Overlay), "common", "overlay"),
        (Self::Work(Part::Data, Mode::Direct), "data", "direct"),
        (Self::Read, "read", "ro"),
        (Self::Top, "top", ""),
        (Self::Guard, "guard", ""),
    ];

    /// The words of the API.
    pub fn words(self) -> (&'static str, &'static str) {
        let words = Self::ALL.iter().find(|(used, ..)| *used == self).map(|(_, part, mode)| (*part, *mode));
        words.unwrap_or(("", ""))
    }

    /// What the words mean; nothing if there is no such use.
    pub fn parse(part: &str, mode: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, p, m)| (*p, *m) == (part, mode)).map(|(used, ..)| *used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_has_words_of_its_own() {
        for (used, part, mode) in Use::ALL {
            assert_eq!((used.words(), Use::parse(part, mode)), ((part, mode), Some(used)));
        }
        for (part, mode) in
            [("common", "direct"), ("data", "overlay"), ("read", "direct"), ("", ""), ("top", "ro")]
        {
            assert_eq!(Use::parse(part, mode), None);
        }
    }
}
