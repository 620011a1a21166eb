//! The site's profiles in `profile_dirs`. Clients read and resolve them; here they are read to find their mistakes,
//! at start, at reload and by `agentd --check`.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::library::{Library, Text};
use agentd_policy::names::{AbsPath, ProfileName};
use agentd_policy::profile::{MAX_BYTES, Profile};
use agentd_policy::rule::Rule;
use rustix::fs::OFlags;

/// The most profiles of a site.
const MAX_SITE: usize = 1024;

/// The site's profiles, as they were when they were read. One that is malformed is known to be so: its name does not
/// fall to another of that name.
#[derive(Default)]
pub struct Profiles {
    all: BTreeMap<ProfileName, Result<Text, Refusal>>,
    /// What kept some from being read. Their names are unknown.
    unread: Vec<Refusal>,
}

impl Profiles {
    /// Reads `NAME.toml` in each of `dirs`; the first directory that has a name counts. One that is not there has none.
    pub fn read(dirs: &[AbsPath]) -> Self {
        let mut profiles = Self::default();
        for dir in dirs {
            if let Err(error) = profiles.read_dir(Path::new(dir.as_str())) {
                profiles.unread.push(unreadable(dir.as_str(), &error));
            }
        }
        profiles
    }

    fn read_dir(&mut self, dir: &Path) -> std::io::Result<()> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let file = entry?.file_name();
            let file = file.to_string_lossy();
            let Some(name) = file.strip_suffix(".toml").filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let label = format!("{}/{file}", dir.display());
            match ProfileName::parse(name) {
                Ok(_) if self.all.len() >= MAX_SITE => {
                    return Err(std::io::Error::other(format!("more than {MAX_SITE} profiles")));
                }
                Ok(name) => drop(self.all.entry(name).or_insert_with(|| text(label))),
                // No request can name it.
                Err(error) => tracing::debug!(path = ?label, %error, "a file is no profile"),
            }
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// What is wrong with them, each by itself or with its parents.
    pub fn mistakes(&self, bounds: &Bounds) -> Vec<Refusal> {
        let mut mistakes = self.unread.clone();
        let library = Library { files: &[], site: &|name| self.find(name), bounds };
        for (name, text) in &self.all {
            let found = text.as_ref().map_err(Refusal::clone).and_then(|_| library.resolve(name));
            mistakes.extend(found.err().filter(|mistake| !mistakes.contains(mistake)));
        }
        mistakes
    }

    fn find(&self, name: &ProfileName) -> Result<Option<Text>, Refusal> {
        match (self.all.get(name), self.unread.first()) {
            (_, Some(unread)) => Err(unread.clone()),
            (Some(text), None) => text.clone().map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The profile of a file.
fn text(label: String) -> Result<Text, Refusal> {
    let read = || -> std::io::Result<String> {
        let options = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&label)?;
        if !options.metadata()?.is_file() {
            return Err(std::io::Error::other("is not a regular file"));
        }
        let mut toml = String::new();
        // One byte more than allowed, so that the reader of the text sees that it is too long.
        options.take(MAX_BYTES as u64 + 1).read_to_string(&mut toml)?;
        Ok(toml)
    };
    let toml = read().map_err(|error| unreadable(&label, &error))?;
    Profile::parse(&label, &toml)?;
    Ok(Text { label, toml })
}

fn unreadable(label: &str, error: &std::io::Error) -> Refusal {
    let hint = "let the account of the service read it";
    Refusal::new(format!("profile {label}: {error}"), Rule::ProfileUnreadable, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_told_and_a_broken_name_falls_to_no_other() {
        let root = std::env::temp_dir().join(format!("agentd-profiles-{}", std::process::id()));
        let dirs = ["a", "b", "none"].map(|name| root.join(name));
        dirs[..2].iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
        for (file, text) in [
            ("a/good.toml", "schema = 1\nextends = ['default']"),
            ("a/default.toml", "schema = 1\nrubbish = 1"),
            ("a/.#good.toml", "an editor's"),
            ("a/good.toml~", "an editor's"),
            ("b/good.toml", "schema = 2"),
            ("b/orphan.toml", "schema = 1\nextends = ['nobody']"),
        ] {
            std::fs::write(root.join(file), text).unwrap();
        }
        std::fs::create_dir(root.join("b/dir.toml")).unwrap();
        let dirs = dirs.map(|dir| AbsPath::parse(dir.to_str().unwrap()).unwrap());
        let profiles = Profiles::read(&dirs);
        assert_eq!(profiles.len(), 4);
        let mistakes = profiles.mistakes(&Bounds::default());
        let rules: Vec<_> = mistakes.iter().map(|m| m.rule.name()).collect();
        assert_eq!(rules, ["profile.form", "profile.unreadable", "profile.unknown"], "{mistakes:?}");
        assert!(mistakes[0].what.contains("a/default.toml, line 2"), "{}", mistakes[0]);
        let find = |name: &str| profiles.find(&ProfileName::parse(name).unwrap());
        assert_eq!(find("default").unwrap_err().rule.name(), "profile.form");
        assert!(find("good").unwrap().unwrap().label.contains("/a/"));
        assert!(find("base").unwrap().is_none());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
