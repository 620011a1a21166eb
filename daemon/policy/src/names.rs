//! Names that were checked once and cannot be wrong afterwards.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::rule::Rule;

/// A name that broke its rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than the kernel or we allow.
    #[error("{kind} is longer than {max} bytes")]
    TooLong {
        /// What kind of name.
        kind: &'static str,
        /// The longest, in bytes.
        max: usize,
    },
    /// Not of the form that such names have.
    #[error("{kind} {value:?} {rule}")]
    Form {
        /// What kind of name.
        kind: &'static str,
        /// The name as it came.
        value: String,
        /// What such a name must be.
        rule: &'static str,
    },
}

impl NameError {
    /// The refusal under `rule`, with the value at fault.
    pub fn refusal(&self, rule: Rule) -> Refusal {
        Refusal::new(self.to_string(), rule, "give one of the form that the rule names")
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and keeps it.
            ///
            /// # Errors
            /// [`NameError`] with the rule that `text` breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check($kind, text)?;
                Ok(Self(text.to_owned()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $check($kind, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A session's identity: 12 lower-case hexadecimal digits, random, unique on the host.
    SessionId, "session id", check_session
);
name!(
    /// A name that a user gave a session: `[a-z0-9][a-z0-9_.-]{0,62}`.
    SessionName, "session name", check_label
);
name!(
    /// A profile's name: `[a-z0-9][a-z0-9_.-]{0,62}`; a file of the site's is found by it.
    ProfileName, "profile name", check_label
);
name!(
    /// A login name as `passwd(5)` can hold it: no colon, no control character, at most 32 bytes.
    UserName, "user name", check_user
);
name!(
    /// An absolute path without `.`, `..`, empty components or control characters; at most 4095 bytes.
    AbsPath, "path", check_abs
);
name!(
    /// A path below some directory, in the same canonical form, without a leading slash.
    RelPath, "relative path", check_rel
);

impl SessionId {
    /// The identity that 6 random bytes stand for. It begins with a letter: it is the session's host name too, and
    /// one of digits alone is taken for an address (`inet_aton(3)`).
    pub fn from_random(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (0xa0 + ((bytes[0] >> 4) % 6) * 0x10) | (bytes[0] & 0xf);
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl AbsPath {
    /// The components from the root on; none for `/`.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|c| !c.is_empty())
    }

    /// Whether `self` is `other` or lies below it.
    pub fn starts_with(&self, other: &AbsPath) -> bool {
        other.0 == "/"
            || self.0 == other.0
            || self.0.strip_prefix(&other.0).is_some_and(|r| r.starts_with('/'))
    }

    /// What follows `other`, if `self` is `other` (then nothing) or lies below it.
    pub fn below(&self, other: &AbsPath) -> Option<Option<RelPath>> {
        let rest = match other.0.as_str() {
            "/" => self.0.strip_prefix('/')?,
            _ => self.0.strip_prefix(&other.0)?,
        };
        match rest.strip_prefix('/') {
            _ if rest.is_empty() => Some(None),
            None if other.0 == "/" => Some(Some(RelPath(rest.to_owned()))),
            Some(rest) => Some(Some(RelPath(rest.to_owned()))),
            None => None,
        }
    }

    /// The path `rest` below this one.
    ///
    /// # Errors
    /// If it would be too long.
    pub fn join(&self, rest: &RelPath) -> Result<AbsPath, NameError> {
        match self.0.as_str() {
            "/" => Self::try_from(format!("/{rest}")),
            base => Self::try_from(format!("{base}/{rest}")),
        }
    }

    /// The directory that holds this path; `None` for `/`.
    pub fn parent(&self) -> Option<AbsPath> {
        let cut = self.0.rfind('/')?;
        match (self.0.as_str(), cut) {
            ("/", _) => None,
            (_, 0) => Some(AbsPath("/".into())),
            _ => Some(AbsPath(self.0[..cut].to_owned())),
        }
    }
}

impl RelPath {
    /// Whether `self` is `other` or lies below it.
    pub fn is_in(&self, other: &RelPath) -> bool {
        self.0.strip_prefix(&other.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What follows `other`, if `self` lies below it.
    pub fn below(&self, other: &RelPath) -> Option<RelPath> {
        self.0.strip_prefix(&other.0)?.strip_prefix('/').map(|rest| Self(rest.to_owned()))
    }

    /// The components, at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
}

fn form(kind: &'static str, value: &str, rule: &'static str) -> NameError {
    NameError::Form { kind, value: value.chars().take(64).collect(), rule }
}

fn check_session(kind: &'static str, text: &str) -> Result<(), NameError> {
    let ok = text.len() == 12 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ok.then_some(()).ok_or_else(|| form(kind, text, "is not 12 hexadecimal digits"))
}

fn check_label(kind: &'static str, text: &str) -> Result<(), NameError> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b));
    let ok = first && rest && text.len() <= 63;
    ok.then_some(()).ok_or_else(|| form(kind, text, "is not of the form [a-z0-9][a-z0-9_.-]{0,62}"))
}

fn check_user(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.len() > 32 {
        return Err(NameError::TooLong { kind, max: 32 });
    }
    let ok = !text.is_empty()
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-@\\$+".contains(&b));
    ok.then_some(()).ok_or_else(|| form(kind, text, "has characters that no login name has"))
}

fn check_abs(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text == "/" {
        return Ok(());
    }
    match text.strip_prefix('/') {
        Some(rest) => check_rel(kind, rest),
        None => Err(form(kind, text, "is not absolute")),
    }
}

fn check_rel(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.len() > 4094 {
        return Err(NameError::TooLong { kind, max: 4095 });
    }
    if text.chars().any(char::is_control) {
        return Err(form(kind, text, "holds a control character"));
    }
    for component in text.split('/') {
        match component {
            "" => return Err(form(kind, text, "has an empty component")),
            "." | ".." => return Err(form(kind, text, "has a `.` or `..` component")),
            c if c.len() > 255 => return Err(NameError::TooLong { kind, max: 255 }),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_begin_with_a_letter_and_are_valid() {
        for byte in 0..=255 {
            let id = SessionId::from_random([byte, 0x12, 0x34, 0x56, 0x78, 0x90]);
            assert!(id.as_str().starts_with(|c: char| c.is_ascii_lowercase()), "{id}");
            assert_eq!(SessionId::parse(id.as_str()).unwrap(), id);
        }
    }
    use proptest::prelude::*;

    #[test]
    fn paths_are_canonical() {
        for ok in ["/", "/a", "/a/b.c", "/ü x"] {
            assert!(AbsPath::parse(ok).is_ok(), "{ok}");
        }
        for bad in ["", "a", "//", "/a/", "/a//b", "/a/../b", "/./a", "/a\n", "/a\0b", "/.."] {
            assert!(AbsPath::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RelPath::parse("/a").is_err());
        assert!(RelPath::parse("").is_err());
    }

    #[test]
    fn below_means_below() {
        let path = |t| AbsPath::parse(t).unwrap();
        assert!(path("/home/u/x").starts_with(&path("/home/u")));
        assert!(!path("/home/user").starts_with(&path("/home/u")));
        assert!(path("/x").starts_with(&path("/")));
        assert_eq!(path("/a").parent(), Some(path("/")));
        assert_eq!(path("/").parent(), None);
    }

    #[test]
    fn user_names_cannot_forge_passwd_lines() {
        for bad in ["", "a:0", "a\n", "-x", "a b", "ü"] {
            assert!(UserName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(UserName::parse("alice").is_ok());
    }

    proptest! {
        #[test]
        fn a_path_that_parses_is_its_components(text in "(/[a-zA-Z0-9._ -]{0,8}){0,6}") {
            if let Ok(path) = AbsPath::parse(&text) {
                let again = format!("/{}", path.components().collect::<Vec<_>>().join("/"));
                prop_assert_eq!(again, text);
            }
        }

        #[test]
        fn what_is_below_joins_again(base in "(/[a-b]{1,2}){0,3}", rest in "[a-b]{1,2}(/[a-b]{1,2}){0,2}") {
            let base = AbsPath::parse(if base.is_empty() { "/" } else { &base }).unwrap();
            let rest = RelPath::parse(&rest).unwrap();
            let path = base.join(&rest).unwrap();
            prop_assert_eq!(path.below(&base), Some(Some(rest)));
            prop_assert_eq!(base.below(&base), Some(None));
            prop_assert_eq!(base.below(&path), None);
            prop_assert!(path.starts_with(&base));
        }
    }
}
