//! The rules by which something is refused: one name for each, dotted, which programs compare and people look up in
//! agentd-rules(7). The table is in `table.rs`, and nowhere else does a rule's name stand in the code.

#[cfg(test)]
mod page;
mod table;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::Limit;
use crate::step::Step;
pub use table::Rule;

/// What a refusal means to who asked, whatever the rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// There is no such object, or none for this caller.
    NotFound,
    /// This caller may not.
    PermissionDenied,
    /// A quota or a queue is full: later, or after something has ended, it may pass.
    ResourceExhausted,
    /// A part of the daemon does not answer or cannot write: later it may pass.
    Unavailable,
    /// It is not kept any more.
    OutOfRange,
    /// The request itself is malformed.
    InvalidArgument,
    /// What was asked for, or what it was asked of, has to be changed first.
    FailedPrecondition,
}

/// A name that is none of a rule's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no rule is called {0:?}")]
pub struct UnknownRule(String);

impl Rule {
    /// The rule of this name.
    ///
    /// # Errors
    /// If there is none, with the beginning of the name.
    pub fn parse(name: &str) -> Result<Self, UnknownRule> {
        let known = Self::all().find(|rule| rule.name() == name);
        known.ok_or_else(|| UnknownRule(name.chars().take(64).collect()))
    }

    /// All of them, in the order of agentd-rules(7).
    pub fn all() -> impl Iterator<Item = Self> {
        let table = Self::SECTIONS.iter().flat_map(|(_, rules)| rules.iter().copied());
        let table = table.chain(Limit::ALL.iter().copied().map(Self::Bounds));
        table.chain(Step::ALL.iter().copied().map(Self::Build))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.name().to_owned()
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Rule {
    /// By its name. One that is of a rule's form and unknown is another version's, whose processes live on through an
    /// upgrade: [`Rule::HostVersion`]. Anything else is malformed.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Self::parse(&name).or_else(|unknown| match is_of_form(&name) {
            true => Ok(Self::HostVersion),
            false => Err(serde::de::Error::custom(unknown)),
        })
    }
}

/// Whether `name` could be a rule's: words of lower case, at least two, with a dot between them, 64 bytes at most.
fn is_of_form(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
    };
    name.len() <= 64 && name.contains('.') && name.split('.').all(word)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_rule_has_a_name_of_its_own_that_comes_back() {
        let names: BTreeSet<_> = Rule::all().map(Rule::name).collect();
        assert_eq!(names.len(), Rule::all().count());
        for rule in Rule::all() {
            assert_eq!(Rule::parse(rule.name()), Ok(rule));
            let sent = postcard::to_stdvec(&rule).unwrap();
            assert_eq!(postcard::from_bytes::<Rule>(&sent), Ok(rule));
            assert!(rule.text().ends_with('.'), "{rule}: {}", rule.text());
            let dotted = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._- ".contains(c);
            assert!(rule.name().chars().all(dotted), "{rule}");
        }
    }

    #[test]
    fn a_name_that_is_unknown_is_refused() {
        for name in
            ["", "bounds", "bounds.memory ", "BOUNDS.MEMORY", "build.", "bounds.\u{1b}[2J", "a..b", ".a"]
        {
            assert!(Rule::parse(name).is_err(), "{name:?}");
            let sent = postcard::to_stdvec(name).unwrap();
            assert!(postcard::from_bytes::<Rule>(&sent).is_err(), "{name:?}");
        }
        assert!(Rule::parse(&"x".repeat(1 << 16)).unwrap_err().to_string().len() < 100);
    }

    #[test]
    fn a_rule_of_another_version_is_a_refusal_all_the_same() {
        for name in ["bounds.of_tomorrow", "build.tomorrow", "a.b.c-d"] {
            assert!(Rule::parse(name).is_err(), "{name:?}");
            let sent = postcard::to_stdvec(name).unwrap();
            assert_eq!(postcard::from_bytes::<Rule>(&sent), Ok(Rule::HostVersion), "{name:?}");
        }
    }

    #[test]
    fn what_a_rule_means_to_the_caller() {
        for (rule, class) in [
            (Rule::SessionUnknown, Class::NotFound),
            (Rule::CallerRoot, Class::PermissionDenied),
            (Rule::BoundsMaxSessions, Class::ResourceExhausted),
            (Rule::HostLauncher, Class::Unavailable),
            (Rule::AttachGone, Class::OutOfRange),
            (Rule::Bounds(Limit::Memory), Class::FailedPrecondition),
        ] {
            assert_eq!(rule.class(), class, "{rule}");
        }
        for rule in Rule::all() {
            let request = rule.name().starts_with("request.");
            assert_eq!(rule.class() == Class::InvalidArgument, request, "{rule}");
        }
        assert_eq!(Rule::Build(Step::Idmap).name(), "build.idmap");
    }
}
