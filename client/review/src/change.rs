//! What a session changed, as facts: no text is made here.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::path::FilePath;

/// The most changes that one apply makes.
pub const MAX_CHANGES: usize = 250_000;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory; its content is in other entries.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO (`fifo(7)`).
    Fifo,
    /// A Unix socket.
    Socket,
    /// A block or character device.
    Device,
}

/// What a file holds, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A regular file's bytes.
    Bytes(Digest),
    /// Where a link points.
    Target(Vec<u8>),
    /// Nothing that is compared: a directory, FIFO, socket or device.
    None,
    /// It cannot be read as the caller (its mode, say): a review says so. Of a directory, that its names cannot be
    /// listed: what is in it is in no other entry.
    Unreadable,
}

/// One state of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky: `07777`.
    pub mode: u32,
    /// Size in bytes: of a file its content, of a link its target; else 0.
    pub size: u64,
    /// What it holds.
    pub content: Content,
}

impl Entry {
    /// Whether its content is [`Content::Unreadable`].
    pub fn is_unreadable(&self) -> bool {
        self.content == Content::Unreadable
    }
}

/// A file that is another one, or not there, for the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The file, below the workspace.
    pub path: FilePath,
    /// In the workspace, now.
    pub before: Option<Entry>,
    /// For the session. `before` and `after` are not both `None`, and differ, unless the content of one cannot be read:
    /// then nobody knows whether it changed.
    pub after: Option<Entry>,
    /// Where in the workspace the file was before the session moved it; that path's deletion is a change of its own.
    pub renamed_from: Option<FilePath>,
    /// Whether the workspace's file was changed (`ctime`), or made, since the session began. A directory changes with
    /// the names in it. False where the workspace has no file: whether one was there meanwhile, and was deleted or
    /// moved away, cannot be known.
    pub changed_underneath: bool,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// There was none.
    Added,
    /// There is none.
    Deleted,
    /// It holds something else, or may, because it cannot be read; perhaps it has another mode.
    Modified,
    /// Only its permission bits are others.
    Mode,
    /// It is of another kind.
    Type,
    /// It was elsewhere, with the same content or another.
    Renamed,
}

impl Change {
    /// What became of it.
    pub fn action(&self) -> Action {
        match (&self.before, &self.after) {
            (_, Some(_)) if self.renamed_from.is_some() => Action::Renamed,
            (None, _) => Action::Added,
            (_, None) => Action::Deleted,
            (Some(before), Some(after)) if before.kind != after.kind => Action::Type,
            (Some(before), Some(after)) if before.content == after.content && !after.is_unreadable() => {
                Action::Mode
            }
            _ => Action::Modified,
        }
    }
}

/// All changes of one workspace, by path: a directory before what is in it. Complete, or there are none: a list that
/// was cut would hide the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes(pub Vec<Change>);
