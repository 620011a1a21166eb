//! Paths of files in a workspace: bytes that the agent chose.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use serde::{Deserialize, Serialize};

use crate::error::ReviewError;

/// The longest path, in bytes (`PATH_MAX` without the NUL).
pub const MAX_PATH: usize = 4095;

/// A path relative to a workspace's top: one component or more, none of them empty, `.` or `..`; any other bytes but
/// NUL. It orders by its components, so that a directory comes right before what is in it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// Checks `bytes` and keeps them.
    ///
    /// # Errors
    /// [`ReviewError::Path`] if it is no such path.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReviewError> {
        let fits = !bytes.is_empty() && bytes.len() <= MAX_PATH && !bytes.contains(&0);
        let component = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
        match fits && bytes.split(|byte| *byte == b'/').all(component) {
            true => Ok(Self(bytes.to_vec())),
            false => Err(ReviewError::Path(escaped(bytes))),
        }
    }

    /// `name` in the directory `parent`; `None` is the top.
    ///
    /// # Errors
    /// As [`FilePath::parse`]; also if `name` has a `/`.
    pub fn join(parent: Option<&Self>, name: &OsStr) -> Result<Self, ReviewError> {
        if name.as_bytes().contains(&b'/') {
            return Err(ReviewError::Path(escaped(name.as_bytes())));
        }
        match parent {
            None => Self::parse(name.as_bytes()),
            Some(parent) => Self::parse(&[parent.as_bytes(), b"/", name.as_bytes()].concat()),
        }
    }

    /// The path as the file system has it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For system calls.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The last component.
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.components().next_back().unwrap_or(&self.0))
    }

    /// The directory that it is in; `None` is the top.
    pub fn parent(&self) -> Option<Self> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/')?;
        self.0.get(..slash).map(|parent| Self(parent.to_vec()))
    }

    /// Its components, never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// Whether it is `dir` itself or below it.
    pub fn is_within(&self, dir: &Self) -> bool {
        self.0.strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }
}

impl Ord for FilePath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for FilePath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// For a person, on one line: control characters, bidirectional overrides, quotes, backslashes and what is no UTF-8 are
/// escaped as in git's quoted paths, and then the whole is in double quotes.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.0))
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilePath({self})")
    }
}

impl TryFrom<Vec<u8>> for FilePath {
    type Error = ReviewError;
    fn try_from(bytes: Vec<u8>) -> Result<Self, ReviewError> {
        Self::parse(&bytes)
    }
}

impl From<FilePath> for Vec<u8> {
    fn from(path: FilePath) -> Self {
        path.0
    }
}

impl From<FilePath> for OsString {
    fn from(path: FilePath) -> Self {
        Self::from_vec(path.0)
    }
}

/// `bytes` as git quotes them where they need it (`core.quotePath=false`, and more: see [`FilePath`]'s `Display`).
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend(['\\', character]),
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                hidden if hidden.is_control() || is_invisible(hidden) => {
                    let mut buffer = [0; 4];
                    for byte in hidden.encode_utf8(&mut buffer).bytes() {
                        out.push_str(&format!("\\{byte:03o}"));
                    }
                }
                plain => out.push(plain),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\{byte:03o}"));
        }
    }
    match out.as_bytes() == bytes {
        true => out,
        false => format!("\"{out}\""),
    }
}

/// Whether a terminal or an editor shows nothing for it, or reorders what is around it (Unicode's `Bidi_Control`,
/// default-ignorable format characters, tags and line separators: CVE-2021-42574).
pub fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> FilePath {
        FilePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b"] {
            assert!(FilePath::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(FilePath::parse(&[b'a'; MAX_PATH + 1]).is_err());
        assert!(FilePath::join(Some(&path("a")), OsStr::new("b/c")).is_err());
        assert_eq!(FilePath::join(Some(&path("a")), OsStr::new("b")).unwrap(), path("a/b"));
    }

    #[test]
    fn parts() {
        assert_eq!(path("a/b/c").name(), "c");
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), None);
        assert!(path("a/b").is_within(&path("a")) && path("a").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
        assert!(path("a/b") < path("a.b"), "a directory comes before its siblings");
    }

    #[test]
    fn names_are_shown_harmlessly() {
        assert_eq!(path("plain é").to_string(), "plain é");
        assert_eq!(path("a\u{202e}b").to_string(), "\"a\\342\\200\\256b\"");
        assert_eq!(path("a\x1b[0m").to_string(), "\"a\\033[0m\"");
        assert_eq!(FilePath::parse(b"\xff\"").unwrap().to_string(), "\"\\377\\\"\"");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = FilePath::parse(&bytes) {
                prop_assert!(!path.to_string().chars().any(|c| c.is_control() || is_invisible(c)));
                prop_assert_eq!(path.as_bytes(), &bytes[..]);
            }
        }
    }
}
