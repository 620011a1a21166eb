//! What was applied, and what it replaced: kept in the session's directory until the session is forgotten.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::journal::{Begin, Staged};
use super::look::Identity;
use super::plan::{Act, Op};
use crate::beneath::Tree;
use crate::calls::Calls;
use crate::change::{Content, Entry, Kind, MAX_CHANGES};
use crate::error::ReviewError;
use crate::frame;
use crate::path::FilePath;
use crate::state::{self, MAX_NAMES, Review};
use crate::trees::Stamp;

const DIR: &str = "applies";
const FILE: &str = "record";
const VERSION: u8 = 1;

/// Which apply of a session in a workspace: its number, and 16 random hexadecimal digits. They order by number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApplyId(String);

impl ApplyId {
    pub(super) fn new(number: u32, random: u64) -> Self {
        Self(format!("{number:08}-{random:016x}"))
    }

    /// The number and the random part, as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn number(&self) -> u32 {
        self.0.get(..8).and_then(|number| number.parse().ok()).unwrap_or(u32::MAX)
    }

    /// The part that nobody else could have chosen.
    pub(super) fn random(&self) -> &str {
        self.0.get(9..).unwrap_or_default()
    }
}

impl TryFrom<String> for ApplyId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let hexadecimal = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        let is_one = |(number, random): (&str, &str)| {
            number.len() == 8
                && number.bytes().all(|c| c.is_ascii_digit())
                && random.len() == 16
                && random.bytes().all(hexadecimal)
        };
        text.split_once('-').is_some_and(is_one).then_some(Self(text)).ok_or("not an apply's id")
    }
}

impl From<ApplyId> for String {
    fn from(id: ApplyId) -> Self {
        id.0
    }
}

impl fmt::Display for ApplyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file as an apply left it: until its `ctime` is another one, nobody touched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The inode's number.
    pub inode: u64,
    /// The inode's last change.
    pub changed: Stamp,
}

impl Fingerprint {
    /// The one of a file with this status.
    pub fn of(stat: &rustix::fs::Stat) -> Self {
        let changed = Stamp::new(stat.st_ctime, stat.st_ctime_nsec);
        Self { inode: stat.st_ino, changed }
    }
}

/// What was replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// What it was.
    pub entry: Entry,
    /// When it was modified.
    pub modified: Stamp,
    /// Its name in the undo directory; `None` for a directory.
    pub slot: Option<u32>,
}

/// One file that an apply changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The file, below the workspace.
    pub path: FilePath,
    /// What it was; `None` if there was none.
    pub before: Option<Replaced>,
    /// What it became; `None` if it was removed.
    pub after: Option<Entry>,
    /// Of what it became; `None` if that was gone already when the apply ended.
    pub fingerprint: Option<Fingerprint>,
}

/// One apply, or the taking back of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The one that records and journals name.
    pub id: ApplyId,
    /// When it began.
    pub at: Stamp,
    /// The apply that it took back; `None` if it applied a session's changes.
    pub undoes: Option<ApplyId>,
    /// What it changed, by path.
    pub files: Vec<Written>,
}

impl Applied {
    /// What the acts change, as far as `stands` says that they were made. `workspace` is as they left it.
    ///
    /// # Errors
    /// As `fstatat(2)`.
    pub(super) fn new(
        begin: &Begin,
        acts: &[Op<Staged>],
        stands: impl Fn(usize) -> bool,
        workspace: &Tree,
    ) -> Result<Self, ReviewError> {
        let mut files: BTreeMap<&FilePath, (Option<Replaced>, Option<Entry>)> = BTreeMap::new();
        for (number, Op { path, act }) in acts.iter().enumerate().filter(|(number, _)| stands(*number)) {
            let (before, after) = around(number, act);
            files.entry(path).or_insert((before, None)).1 = after;
        }
        // A directory that was opened for writing, and closed.
        files.retain(|_, (before, after)| before.as_ref().map(|before| &before.entry) != after.as_ref());
        let one = |(path, (before, after)): (&FilePath, (_, Option<Entry>))| {
            let stat = if after.is_some() { workspace.stat(path)? } else { None };
            Ok(Written { path: path.clone(), before, after, fingerprint: stat.as_ref().map(Fingerprint::of) })
        };
        let files = files.into_iter().map(one).collect::<Result<_, ReviewError>>()?;
        Ok(Self { id: begin.id.clone(), at: begin.at, undoes: begin.undoes.clone(), files })
    }

    /// Writes it into its undo directory: from then on it is in the list.
    ///
    /// # Errors
    /// As `write(2)`.
    pub(super) fn store(&self, calls: &mut Calls<'_>, kept: &Tree) -> Result<(), ReviewError> {
        let many = ReviewError::TooMuch { what: "changes", max: MAX_CHANGES as u64 };
        let bytes = frame::encode(&(VERSION, self)).ok_or(many)?;
        state::write(calls, kept, &state::name(FILE)?, &bytes)
    }
}

/// A file before and after one act.
fn around(number: usize, act: &Act<Staged>) -> (Option<Replaced>, Option<Entry>) {
    let directory = |mode| Entry { kind: Kind::Directory, mode, size: 0, content: Content::None };
    let none = Stamp { seconds: 0, nanoseconds: 0 };
    let replaced = |entry: &Entry, identity: &Identity| {
        let slot = u32::try_from(number).ok().filter(|_| entry.kind != Kind::Directory);
        Replaced { entry: entry.clone(), modified: identity.modified, slot }
    };
    match act {
        Act::Chmod { from, to } => {
            (Some(Replaced { entry: directory(*from), modified: none, slot: None }), Some(directory(*to)))
        }
        Act::Rmdir { was } | Act::Remove { was } => (Some(replaced(&was.entry, &was.identity)), None),
        Act::Place { new } => (None, Some(new.entry.clone())),
        Act::Exchange { was, new } => (Some(replaced(&was.entry, &was.identity)), Some(new.entry.clone())),
    }
}

/// Where what the apply `id` replaced is kept.
///
/// # Errors
/// As `mkdirat(2)`.
pub(super) fn place(review: &Review, id: &ApplyId) -> Result<FilePath, ReviewError> {
    FilePath::join(Some(&review.directory(DIR)?), OsStr::new(id.as_str()))
}

fn ids(review: &Review) -> Result<Vec<ApplyId>, ReviewError> {
    let names = review.tree().names(Some(&review.directory(DIR)?), MAX_NAMES)?;
    let id = |name: std::ffi::OsString| name.into_string().ok().and_then(|name| ApplyId::try_from(name).ok());
    let mut ids: Vec<_> = names.into_iter().filter_map(id).collect();
    ids.sort();
    Ok(ids)
}

/// The id after those that there are.
pub(super) fn next_id(review: &Review) -> Result<ApplyId, ReviewError> {
    let mut random = [0; 8];
    let filled = rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty());
    filled.map_err(|errno| review.tree().error("getrandom", None, errno))?;
    let last = ids(review)?.last().map_or(0, ApplyId::number);
    Ok(ApplyId::new(last.saturating_add(1), u64::from_le_bytes(random)))
}

/// The applies of a session in a workspace, the oldest first; takings-back are among them.
///
/// # Errors
/// As `read(2)`; [`ReviewError::Malformed`] for a record that is damaged.
pub fn applies(review: &Review) -> Result<Vec<Applied>, ReviewError> {
    let mut all = Vec::new();
    for id in ids(review)? {
        let path = FilePath::join(Some(&place(review, &id)?), OsStr::new(FILE))?;
        // Without a record it has not ended.
        let Some(bytes) = state::read(review.tree(), &path, frame::MAX_RECORD)? else { continue };
        match frame::decode::<(u8, Applied)>(&bytes) {
            Some(((VERSION, applied), [])) if applied.id == id => all.push(applied),
            _ => return Err(ReviewError::Malformed(path.to_string())),
        }
    }
    Ok(all)
}
