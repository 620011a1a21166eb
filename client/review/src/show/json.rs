//! Changes for programs. Field names and values are those of [docs/json.md](../../../../docs/json.md).

use agentd_policy::text::from_bytes;
use serde::Serialize;

use super::summary::{Known, Totals};
use super::{Count, word};
use crate::change::{Change, Changes, Content, Entry, Kind};
use crate::danger::Danger;

/// One change: an object a line. Absent fields are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The workspace, as the session had it.
    pub workspace: String,
    /// Below the workspace; a byte that is not UTF-8 as `\xNN` (see [`agentd_policy::text`]).
    pub path: String,
    /// `added`, `deleted`, `modified`, `mode`, `type`, `renamed`.
    pub action: &'static str,
    /// Where the file was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renamed_from: Option<String>,
    /// In the workspace, now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<State>,
    /// For the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<State>,
    /// `text`, `binary`, `none`, or why it was not compared: `large`, `skipped`, `changed`, `unreadable`.
    pub content: &'static str,
    /// New lines of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// Lines of a text that are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
    /// Whether the workspace's file was changed since the session began.
    pub changed_underneath: bool,
    /// Why it is set apart, as the words of `--including`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dangers: Vec<&'static str>,
}

/// A file on one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// What it is.
    pub kind: Kind,
    /// Four octal digits.
    pub mode: String,
    /// Bytes of a file's content or a link's target.
    pub size: u64,
    /// Where a link points, as [`Row::path`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// SHA-256 of a file's content as [`crate::digest::Digest`] has it, in hexadecimal: of its size and its blocks, so
    /// that it is comparable with itself alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// All changes together: the last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Files, and directories without a changed file in them.
    pub files: u64,
    /// New lines of texts.
    pub added: u64,
    /// Lines of texts that are gone.
    pub removed: u64,
    /// Files that are no text.
    pub binary: u64,
    /// Files that were not compared.
    pub not_compared: u64,
    /// Bytes of files that are there.
    pub bytes: u64,
    /// Bytes of files that are gone.
    pub bytes_deleted: u64,
}

impl From<&Totals> for Summary {
    fn from(totals: &Totals) -> Self {
        let Totals { files, by_action: _, added, removed, binary, not_compared, bytes, bytes_deleted } =
            *totals;
        Self { files, added, removed, binary, not_compared, bytes, bytes_deleted }
    }
}

/// A row for each change, directories and deletions of moved files among them; `known` is one for each.
pub fn rows<'a>(
    workspace: &'a str,
    changes: &'a Changes,
    known: &'a [Known],
) -> impl Iterator<Item = Row> + 'a {
    changes.0.iter().zip(known).map(|(change, known)| row(workspace, change, known))
}

fn row(workspace: &str, change: &Change, known: &Known) -> Row {
    let (content, added, removed) = match known.count {
        Count::Lines { added, removed } => ("text", Some(added), Some(removed)),
        Count::Binary => ("binary", None, None),
        Count::Large(_) => ("large", None, None),
        Count::Skipped => ("skipped", None, None),
        Count::Changed => ("changed", None, None),
        Count::Unreadable => ("unreadable", None, None),
        Count::Nothing => ("none", None, None),
    };
    Row {
        workspace: workspace.to_owned(),
        path: from_bytes(change.path.as_bytes()),
        action: word(change.action()),
        renamed_from: change.renamed_from.as_ref().map(|from| from_bytes(from.as_bytes())),
        before: change.before.as_ref().map(state),
        after: change.after.as_ref().map(state),
        content,
        added,
        removed,
        changed_underneath: change.changed_underneath,
        dangers: known.dangers.iter().copied().map(Danger::word).collect(),
    }
}

fn state(entry: &Entry) -> State {
    let (target, digest) = match &entry.content {
        Content::Target(target) => (Some(from_bytes(target)), None),
        Content::Bytes(digest) => (None, Some(format!("{digest:?}"))),
        Content::None | Content::Unreadable => (None, None),
    };
    State { kind: entry.kind, mode: format!("{:04o}", entry.mode), size: entry.size, target, digest }
}
