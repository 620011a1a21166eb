//! Names that the site has no session reach, in files as others publish them: `hosts(5)` lines, which mean just those
//! names, or a name a line, which means all that is below it as well.
//!
//! A [`Reader`] takes a file's bytes, a [`Compiler`] makes one table of all files' names, and a [`Blocklist`] looks
//! names up in it by reading a few pages: processes that have its descriptor share them, and none of them parses
//! anything. The table holds a keyed hash of 64 bits for each name. Of a million names, one look-up of a name that is
//! not listed is mistaken once in 2^44, which denies it; a listed one is always found.

mod reader;
mod table;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{AbsPath, NameError};
pub use reader::{ListError, Reader, Summary, read};
pub use table::{Blocklist, Compiler, Full, HEADER, KEY, TableError};

/// The most files.
pub const MAX_LISTS: usize = 16;
/// The longest file, in bytes.
pub const MAX_FILE: u64 = 128 << 20;
/// The longest line, in bytes.
pub const MAX_LINE: usize = 4096;
/// The most names of all files together.
pub const MAX_NAMES: usize = 4 << 20;
/// The longest table, in bytes.
pub const MAX_TABLE: u64 = (HEADER + MAX_NAMES * 9) as u64;
/// The longest label, in bytes.
const MAX_LABEL: usize = 63;

/// What a listed name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The name itself, not those below it.
    Exact,
    /// Itself and every name below it.
    Below,
}

/// What a list is called in events: its file's name without the extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// A text that is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no list: give the file a name of at most {MAX_LABEL} letters, digits, dots, hyphens and underscores"
)]
pub struct LabelError(String);

impl Label {
    /// Checks `text`.
    ///
    /// # Errors
    /// What a label is, if this is none.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > MAX_LABEL || !text.bytes().all(plain) {
            return Err(LabelError(text.chars().take(MAX_LABEL + 1).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// It as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        Self::parse(&text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file with a list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListFile {
    /// Where it is.
    pub path: AbsPath,
    /// What it is called.
    pub label: Label,
}

/// A text that names no file with a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub enum ListFileError {
    /// It is no path.
    Path(#[from] NameError),
    /// The file's name is no label.
    Label(#[from] LabelError),
}

impl TryFrom<String> for ListFile {
    type Error = ListFileError;
    fn try_from(text: String) -> Result<Self, ListFileError> {
        let path = AbsPath::parse(&text)?;
        let name = text.rsplit('/').next().unwrap_or_default();
        let label = Label::parse(name.rsplit_once('.').map_or(name, |(stem, _)| stem))?;
        Ok(Self { path, label })
    }
}

/// Why a file is not taken for a list, and how to fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// A directory, a device or the like.
    #[error("is not a regular file")]
    Kind,
    /// Longer than [`MAX_FILE`].
    #[error("is longer than {} MiB", MAX_FILE >> 20)]
    TooLong,
    /// Somebody else than root can change it.
    #[error("must belong to root and be writable by nobody else (chown root, chmod 644)")]
    Writable,
    /// The process that reads it could not.
    #[error("must be readable by everybody: nothing reads it as root (chmod 644)")]
    Unreadable,
}

/// Whether a file may be taken for a list, by what `stat(2)` says of it.
///
/// # Errors
/// What is wrong, and how to fix it.
pub fn check_file(regular: bool, size: u64, owner: u32, mode: u32) -> Result<(), FileError> {
    match () {
        () if !regular => Err(FileError::Kind),
        () if size > MAX_FILE => Err(FileError::TooLong),
        () if owner != 0 || mode & 0o022 != 0 => Err(FileError::Writable),
        () if mode & 0o004 == 0 => Err(FileError::Unreadable),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests;
