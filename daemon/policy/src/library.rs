//! Where profiles are found by name, and the merging of a profile with its parents.

use std::sync::LazyLock;

use crate::Refusal;
use crate::config::Bounds;
use crate::names::ProfileName;
use crate::profile::Profile;
use crate::rule::Rule;

/// The longest chain of `extends`.
pub const MAX_DEPTH: usize = 8;
/// The most profiles that one resolution reads, so that wide trees end as well.
pub const MAX_READ: usize = 64;

/// The profiles that come with the service.
static BUILT_IN: LazyLock<Vec<(&str, Result<Profile, Refusal>)>> = LazyLock::new(|| {
    [("base", include_str!("../profiles/base.toml")), ("default", include_str!("../profiles/default.toml"))]
        .map(|(name, text)| (name, Profile::parse(name, text)))
        .into()
});

/// The names of the profiles that come with the service.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// The text of a profile, and what to call it in messages.
#[derive(Clone, Debug)]
pub struct Text {
    /// A label: the path of the file.
    pub label: String,
    /// The profile's text, as TOML.
    pub toml: String,
}

/// Who wrote a profile. Each may name profiles of its own kind and of those below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    BuiltIn,
    Site,
    Caller,
}

/// What profiles are resolved from.
pub struct Library<'a> {
    /// What the caller sent: its first is meant, the others may be named.
    pub files: &'a [Text],
    /// The site's profile of a name, if there is one.
    pub site: &'a dyn Fn(&ProfileName) -> Result<Option<Text>, Refusal>,
    /// The site's bounds; built-in limits are lowered to them.
    pub bounds: &'a Bounds,
}

/// A profile on the way from the one that was asked for to its furthest parent.
struct Step {
    origin: Origin,
    name: String,
}

impl Library<'_> {
    /// The profile that is meant, merged with its parents: the caller's first file, or else the site's or
    /// the built-in one of that name.
    ///
    /// # Errors
    /// A text that is no profile, a name that nobody knows, a circle, or too many parents.
    pub fn resolve(&self, name: &ProfileName) -> Result<Profile, Refusal> {
        let files: Vec<_> = self.files.iter().map(parse_caller).collect();
        let mut walk = Walk { library: self, files: &files, chain: Vec::new(), read: 0 };
        let merged = match files.first() {
            Some((label, profile)) => walk.merged(Origin::Caller, label.clone(), profile.clone()?)?,
            None => {
                let (origin, profile) = walk.find(name)?;
                walk.merged(origin, name.to_string(), profile)?
            }
        };
        Ok(Profile { extends: Vec::new(), ..merged })
    }
}

/// One of the caller's files, under the name that it gives itself or that its file has. One that is malformed
/// matters only if it is meant.
fn parse_caller(text: &Text) -> (String, Result<Profile, Refusal>) {
    let profile = Profile::parse(&text.label, &text.toml);
    let file = text.label.rsplit('/').next().unwrap_or(&text.label);
    let stem = file.strip_suffix(".toml").unwrap_or(file);
    let own = profile.as_ref().ok().and_then(|profile| profile.name.as_ref());
    (own.map_or_else(|| stem.to_owned(), ToString::to_string), profile)
}

struct Walk<'a> {
    library: &'a Library<'a>,
    files: &'a [(String, Result<Profile, Refusal>)],
    chain: Vec<Step>,
    read: usize,
}

impl Walk<'_> {
    /// `profile` laid over its parents, the later over the earlier.
    fn merged(&mut self, origin: Origin, name: String, profile: Profile) -> Result<Profile, Refusal> {
        self.read += 1;
        if self.chain.len() >= MAX_DEPTH || self.read > MAX_READ {
            return Err(Refusal::new(
                format!("profile {name}: more than {MAX_DEPTH} parents in a row, or {MAX_READ} in all"),
                Rule::ProfileDepth,
                "extend fewer profiles",
            ));
        }
        self.chain.push(Step { origin, name });
        let mut parents: Option<Profile> = None;
        for parent in &profile.extends {
            let (origin, found) = self.find(parent)?;
            let next = self.merged(origin, parent.to_string(), found)?;
            parents = Some(match parents {
                Some(before) => before.overlaid(next),
                None => next,
            });
            parents.iter().try_for_each(|p| p.check("with its parents"))?;
        }
        self.chain.pop();
        let merged = match parents {
            Some(parents) => parents.overlaid(profile),
            None => profile,
        };
        merged.check("with its parents")?;
        Ok(merged)
    }

    /// The profile that `name` means where the walk is: a profile that extends its own name means the one
    /// that it replaces.
    fn find(&self, name: &ProfileName) -> Result<(Origin, Profile), Refusal> {
        let from = self.chain.last().map_or(Origin::Site, |step| step.origin);
        let on_the_way =
            |origin| self.chain.iter().any(|step| step.origin == origin && step.name == name.as_str());
        let mut circle = false;
        if from == Origin::Caller {
            match self.files.iter().find(|(own, _)| own == name.as_str()) {
                Some(_) if on_the_way(Origin::Caller) => circle = true,
                Some((_, profile)) => return Ok((Origin::Caller, profile.clone()?)),
                None => {}
            }
        }
        if from >= Origin::Site {
            match (self.library.site)(name)? {
                Some(_) if on_the_way(Origin::Site) => circle = true,
                Some(text) => return Ok((Origin::Site, Profile::parse(&text.label, &text.toml)?)),
                None => {}
            }
        }
        match BUILT_IN.iter().find(|(own, _)| *own == name.as_str()) {
            Some(_) if on_the_way(Origin::BuiltIn) => circle = true,
            Some((_, profile)) => {
                return Ok((Origin::BuiltIn, profile.clone()?.lowered(self.library.bounds)));
            }
            None => {}
        }
        Err(if circle {
            Refusal::new(
                format!("profile {name} extends itself"),
                Rule::ProfileCircle,
                "break the circle of `extends`",
            )
        } else {
            Refusal::new(
                format!("profile {name}"),
                Rule::ProfileUnknown,
                "name one of the site's, `default` or `base`, or give the path of a file",
            )
        })
    }
}

#[cfg(test)]
#[path = "library_tests.rs"]
mod tests;
