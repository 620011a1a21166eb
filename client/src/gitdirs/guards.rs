//! What the configuration of a repository outside of a workspace has git run or read in it. In mode `direct` the agent
//! must not write there: git outside would run it.

use agentd_policy::Refusal;
use agentd_policy::git::config::{self, Variable};
use agentd_policy::git::{Use, read};
use agentd_policy::names::AbsPath;
use agentd_policy::rule::Rule;
use rustix::fs::FileType;

use super::Finder;
use super::look::{Dir, Why};
use super::search::{MAX_CONFIG, common_of};

/// How deep configurations include each other (git's own bound).
const MAX_INCLUDES: usize = 10;
/// The most names that are guarded.
const MAX_GUARDS: usize = 128;
/// Sections whose values lead to other repositories or are no paths.
const NO_PROGRAMS: &[&str] = &["remote", "branch", "submodule", "url", "user", "gui"];

/// Where values are seen from.
struct Seen<'a> {
    /// The file that they are in.
    file: AbsPath,
    dir: AbsPath,
    /// The top of the working tree.
    top: &'a AbsPath,
    workspace: &'a AbsPath,
}

impl Finder<'_> {
    /// Guards what the configuration of `git`, whose working tree is `top`, leads to in `workspace`. Whether the
    /// session gets the repository does not matter: git outside follows it.
    ///
    /// # Errors
    /// If the configuration cannot be read as git would.
    pub(super) fn guards(&mut self, workspace: &AbsPath, top: &AbsPath, git: &Dir) -> Result<(), Refusal> {
        let common = common_of(git).and_then(|common| Dir::open(&common).ok());
        for dir in [Some(git), common.as_ref()].into_iter().flatten() {
            for name in ["config", "config.worktree"] {
                let file = dir.join(name).unwrap_or_else(|| dir.path.clone());
                match dir.read(name, MAX_CONFIG) {
                    Ok(text) => {
                        let seen = Seen { file, dir: dir.path.clone(), top, workspace };
                        self.guards_of(&text, &seen, 0)?;
                    }
                    Err(Why::Missing) => {}
                    Err(why) => return Err(unreadable(&file, &why.to_string())),
                }
            }
        }
        Ok(())
    }

    fn guards_of(&mut self, text: &[u8], from: &Seen<'_>, depth: usize) -> Result<(), Refusal> {
        let variables =
            config::parse(text).ok_or_else(|| unreadable(&from.file, "it has too many variables"))?;
        for Variable { section, key, value, .. } in variables {
            match (section.as_str(), key.as_str()) {
                ("include" | "includeif", "path") => {
                    let Some(path) = self.at(&from.dir, &value) else { continue };
                    self.guard(&path, from)?;
                    self.included(path, from, depth)?;
                }
                ("core", "hookspath") => {
                    if let Some(path) = self.at(from.top, &value) {
                        self.guard(&path, from)?;
                    }
                }
                (section, _) if NO_PROGRAMS.contains(&section) => {}
                _ => {
                    let words = value.split(|c: char| c.is_whitespace() || "!'\"();&|<>`$=".contains(c));
                    for word in words.filter(|word| !word.is_empty()) {
                        if let Some(path) = self.at(from.top, word).filter(is_file) {
                            self.guard(&path, from)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn included(&mut self, file: AbsPath, from: &Seen<'_>, depth: usize) -> Result<(), Refusal> {
        let Some((dir, name)) = file.parent().zip(file.components().next_back()) else { return Ok(()) };
        match Dir::open(&dir).and_then(|dir| dir.read(name, MAX_CONFIG)) {
            Ok(_) if depth >= MAX_INCLUDES => {
                Err(unreadable(&file, "configurations include each other too deep"))
            }
            Ok(text) => self.guards_of(&text, &Seen { file: file.clone(), dir, ..*from }, depth + 1),
            // Git passes over what is not there.
            Err(Why::Missing) => Ok(()),
            Err(why) => Err(unreadable(&file, &why.to_string())),
        }
    }

    /// Where a value leads, seen from `dir`.
    fn at(&self, dir: &AbsPath, value: &str) -> Option<AbsPath> {
        match value.strip_prefix("~/") {
            Some(rest) => read::resolve(&self.home, rest),
            None => read::resolve(dir, value),
        }
    }

    fn guard(&mut self, path: &AbsPath, from: &Seen<'_>) -> Result<(), Refusal> {
        if !path.starts_with(from.workspace) {
            return Ok(());
        }
        let count = self.found.places.values().filter(|held| held.used == Use::Guard).count();
        if count >= MAX_GUARDS {
            return Err(unreadable(&from.file, "it names too many files of the workspace"));
        }
        self.add(path.clone(), Use::Guard, None, "the configuration of its repository leads there");
        Ok(())
    }
}

/// What git would run from there is unknown, so that it could not be protected from the agent.
fn unreadable(file: &AbsPath, why: &str) -> Refusal {
    Refusal::new(
        format!("{file}: {why}"),
        Rule::WorkspaceGit,
        "fix it, or use mode overlay: what git would follow from there is unknown",
    )
}

fn is_file(path: &AbsPath) -> bool {
    let dir = path.parent().and_then(|dir| Dir::open(&dir).ok());
    dir.zip(path.components().next_back()).is_some_and(|(dir, name)| dir.has(name, FileType::RegularFile))
}
