//! Names that are meant wherever they are below a workspace: `**/.env`, `**/.env.*`, `**/.aws/credentials`.

use serde::{Deserialize, Serialize};

/// Ends of names that say that a file is there to be copied: what has a `*` does not match them.
pub const EXAMPLES: &[&str] = &[".example", ".sample", ".template", ".dist"];
/// The longest pattern, in bytes.
const MAX_LENGTH: usize = 255;

/// `**/` and names, the last of which may have one `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern {
    /// The directories on the way, and the last name.
    components: Vec<String>,
}

impl NamePattern {
    /// Whether `text` begins as a pattern does.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with("**/")
    }

    /// The pattern that `text` is; `None` if it has any glob besides.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("**/")?;
        let components: Vec<String> = rest.split('/').map(str::to_owned).collect();
        let (last, before) = components.split_last()?;
        let literal = |name: &str| {
            !matches!(name, "" | "." | "..") && !name.contains(['*', '?', '[', '\\']) && !name.contains('\0')
        };
        let (start, end) = last.split_once('*').unwrap_or((last, "x"));
        let bounded = text.len() <= MAX_LENGTH;
        let fine = before.iter().all(|name| literal(name)) && !end.contains('*');
        (bounded && fine && literal(&format!("{start}{end}")) && start.len() + end.len() > 1)
            .then_some(Self { components })
    }

    /// Whether the file at this path, given by its names from the workspace on, is meant.
    pub fn matches<'a>(&self, path: impl DoubleEndedIterator<Item = &'a [u8]>) -> bool {
        let mut path = path.rev();
        let mut wanted = self.components.iter().rev();
        let last = wanted.next().zip(path.next()).is_some_and(|(wanted, name)| name_matches(wanted, name));
        last && wanted.all(|wanted| path.next().is_some_and(|name| name == wanted.as_bytes()))
    }
}

fn name_matches(wanted: &str, name: &[u8]) -> bool {
    match wanted.split_once('*') {
        None => name == wanted.as_bytes(),
        Some((start, end)) => {
            name.len() >= start.len() + end.len()
                && name.starts_with(start.as_bytes())
                && name.ends_with(end.as_bytes())
                && !EXAMPLES.iter().any(|example| name.ends_with(example.as_bytes()))
        }
    }
}

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form **/NAME")]
pub struct PatternError(String);

impl TryFrom<String> for NamePattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or(PatternError(text))
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.to_string()
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "**/{}", self.components.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        NamePattern::parse(pattern).unwrap().matches(path.split('/').map(str::as_bytes))
    }

    #[test]
    fn a_name_is_meant_at_any_depth() {
        assert!(matches("**/.env", ".env") && matches("**/.env", "api/v1/.env"));
        assert!(!matches("**/.env", ".envrc") && !matches("**/.env", ".env/x"));
        assert!(matches("**/.aws/credentials", "home/.aws/credentials"));
        assert!(
            !matches("**/.aws/credentials", "credentials")
                && !matches("**/.aws/credentials", "aws/credentials")
        );
    }

    #[test]
    fn one_star_stands_for_anything_but_an_example() {
        for name in [".env.local", ".env.production", "api/.env.a.b", ".env."] {
            assert!(matches("**/.env.*", name), "{name}");
        }
        for name in [".env", ".env.example", "api/.env.local.sample", "x.env.local"] {
            assert!(!matches("**/.env.*", name), "{name}");
        }
    }

    #[test]
    fn other_globs_are_no_patterns() {
        for text in ["**/", "**/*", "**/a*b*", "**/?", "**/*/x", "**/../x", "*/x", "**/[a]", "**//x", ".env"]
        {
            assert_eq!(NamePattern::parse(text), None, "{text}");
        }
        assert!(NamePattern::parse("**/*.pem").is_some());
    }

    #[test]
    fn the_wire_takes_only_patterns() {
        let bytes = postcard::to_allocvec("**/../x").unwrap();
        assert!(postcard::from_bytes::<NamePattern>(&bytes).is_err());
    }
}
