//! What git follows in a repository: its own files, and those that its configuration names.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use agentd_policy::event::Finding;
use agentd_policy::git::config::{self, Variable, without_secrets};
use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use super::MAX_COPIES;
use super::index::{self, GITLINK, TYPE};
use super::report::Missing;
use super::search::{Search, resolve};
use super::trouble::Trouble;
use super::walk::{DIRECTORY, Directory, join, read_file};

/// The longest configuration that is read.
const MAX_CONFIG: u64 = 1 << 20;
/// The longest index.
const MAX_INDEX: u64 = 64 << 20;
/// The most entries of one that matter.
const MAX_MATTER: usize = 10_000;
/// The most hooks that are looked at.
const MAX_HOOKS: usize = 1024;
/// How deep configurations include each other (git's own bound is 10).
const MAX_INCLUDES: u32 = 10;
/// Sections whose values lead to other repositories or are no paths.
const NO_PROGRAMS: &[&str] = &["remote", "branch", "submodule", "url", "user", "gui"];
/// What names other object stores to read from.
const ALTERNATES: &str = "objects/info/alternates";
/// Directories of a rebase that was begun: what goes on with it runs its list of commands.
const UNFINISHED: &[&str] = &["rebase-merge", "rebase-apply"];

impl Search<'_> {
    /// A directory that is a repository, or looks like one.
    pub(super) fn repository(&mut self, dir: &Directory<'_>) -> Result<(), Trouble> {
        let below = |name: &str| join(dir.path, name.as_bytes());
        let linked = dir.entry("commondir").is_some() && dir.entry("objects").is_none();
        // The next session's client follows its alternates.
        let first = self.workspace.git.is_some() || dir.path == b".git";
        let held: &[(&str, Missing)] = if linked {
            // A working tree's own part: the rest is read from its common directory.
            &[("commondir", Missing::Leave), ("gitdir", Missing::Leave), ("config.worktree", Missing::File)]
        } else {
            &[
                ("config", Missing::File),
                ("hooks", Missing::Directory),
                ("commondir", Missing::CommonDir),
                ("config.worktree", Missing::File),
                ("gitdir", Missing::Leave),
                ("info/attributes", Missing::Leave),
                (ALTERNATES, if first { Missing::Empty } else { Missing::Leave }),
                ("remotes", Missing::Leave),
                ("branches", Missing::Leave),
            ]
        };
        for (name, missing) in held {
            self.guard(below(name), *missing);
            self.note(dir, &below(name), name.as_bytes(), Finding::Git);
        }
        if self.workspace.git.is_some() && dir.path.is_empty() && !linked {
            // Those of other working trees, which `git gc` would take for gone.
            self.guard(b"worktrees".to_vec(), Missing::Leave);
        }
        for name in UNFINISHED {
            self.note(dir, &below(name), name.as_bytes(), Finding::Rebase);
        }
        if self.workspace.git.is_some() && linked {
            // Its commits are among objects that are no part of this search.
            self.note(dir, &below("logs/HEAD"), b"logs/HEAD", Finding::Unsearched);
        }
        self.note(dir, dir.path, b".", Finding::Repository);
        self.hooks(dir)?;
        let tree = match dir.path.strip_suffix(b".git".as_slice()).filter(|_| dir.name() == b".git") {
            Some(parent) => parent.strip_suffix(b"/").unwrap_or(parent).to_vec(),
            None => dir.path.to_vec(),
        };
        let mut variables = Vec::new();
        for name in ["config", "config.worktree"] {
            variables.extend(self.configuration(dir.fd, name.as_bytes(), &below(name))?);
        }
        let sha256 = variables.iter().any(|v| {
            v.section == "extensions" && v.key == "objectformat" && v.value.eq_ignore_ascii_case("sha256")
        });
        let tree = match variables.iter().find(|v| v.section == "core" && v.key == "worktree") {
            Some(v) => resolve(&self.workspace.path, dir.path, v.value.as_bytes()).unwrap_or(tree),
            None => tree,
        };
        self.follow(dir, variables, (dir.path, &tree), 0)?;
        let hash = if sha256 { 32 } else { 20 };
        self.history(dir, hash);
        self.index(dir, hash)
    }

    /// Objects, references or logs that are given by themselves: where else objects are read from.
    pub(super) fn data(&mut self, dir: &Directory<'_>) {
        if dir.entry("pack").is_some() {
            let alternates = b"info/alternates";
            self.guard(alternates.to_vec(), Missing::Empty);
            self.note(dir, alternates, alternates, Finding::Git);
        }
    }

    fn configuration(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Vec<Variable>, Trouble> {
        let unreadable = |why: &str| Trouble::Unreadable(path.to_vec(), why.to_owned());
        match read_file(dir, name, MAX_CONFIG) {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(text)) => {
                let variables =
                    config::parse(&text).ok_or_else(|| unreadable("it has too many variables"))?;
                let own = matches!(name, b"config" | b"config.worktree");
                if own && self.direct && self.before.is_none() && self.configurations.len() < MAX_COPIES {
                    self.configurations.extend(without_secrets(&text).map(|text| (path.to_vec(), text)));
                }
                Ok(variables)
            }
            Err(Errno::FBIG) => Err(unreadable("it is too long")),
            Err(errno) => Err(Trouble::Host(path.to_vec(), errno)),
        }
    }

    /// What the configuration of the repository `git` leads to, whose programs run in `tree`.
    fn follow(
        &mut self,
        dir: &Directory<'_>,
        variables: Vec<Variable>,
        (git, tree): (&[u8], &[u8]),
        depth: u32,
    ) -> Result<(), Trouble> {
        for Variable { section, key, value, .. } in variables {
            let at = |from: &[u8], value: &str| resolve(&self.workspace.path, from, value.as_bytes());
            match (section.as_str(), key.as_str()) {
                ("include" | "includeif", "path") => {
                    let Some(path) = at(git, &value) else { continue };
                    self.guard(path.clone(), Missing::File);
                    let Some((parent, name)) = self.open_parent(dir, &path) else { continue };
                    let more = self.configuration(parent.as_fd(), name, &path)?;
                    if depth >= MAX_INCLUDES {
                        return Err(Trouble::Unreadable(
                            path,
                            "configurations include each other too deep".into(),
                        ));
                    }
                    let from = path.len().saturating_sub(name.len() + 1);
                    let from = path.get(..from).unwrap_or_default().to_vec();
                    self.follow(dir, more, (&from, tree), depth + 1)?;
                }
                ("core", "hookspath") => {
                    if let Some(path) = at(tree, &value) {
                        self.guard(path, Missing::Directory);
                    }
                }
                (section, _) if NO_PROGRAMS.contains(&section) => {}
                _ => {
                    for word in value.split(|c: char| c.is_whitespace() || "!'\"();&|<>`$=".contains(c)) {
                        if let Some(path) = at(tree, word).filter(|_| !word.is_empty())
                            && self.is_file(dir, &path)
                        {
                            self.guards.entry(path).or_insert(Missing::Leave);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The directory of `path` in the workspace, by way of `dir`, and the last name; through no link.
    fn open_parent<'p>(&self, dir: &Directory<'_>, path: &'p [u8]) -> Option<(OwnedFd, &'p [u8])> {
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(cut) => (path.get(..cut)?, path.get(cut + 1..)?),
            None => (&[][..], path),
        };
        let mut at = rustix::fs::openat(dir.fd, ".", DIRECTORY, Mode::empty()).ok()?;
        for _ in dir.path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            at = rustix::fs::openat(&at, "..", DIRECTORY, Mode::empty()).ok()?;
        }
        for step in parent.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            at = rustix::fs::openat(&at, step, DIRECTORY, Mode::empty()).ok()?;
        }
        Some((at, name))
    }

    fn is_file(&self, dir: &Directory<'_>, path: &[u8]) -> bool {
        self.open_parent(dir, path).is_some_and(|(parent, name)| {
            rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        })
    }

    /// Every program among the hooks.
    fn hooks(&mut self, dir: &Directory<'_>) -> Result<(), Trouble> {
        let Ok(hooks) = rustix::fs::openat(dir.fd, "hooks", DIRECTORY, Mode::empty()) else {
            return Ok(());
        };
        let path = join(dir.path, b"hooks");
        let host = |errno| Trouble::Host(path.clone(), errno);
        let listed = rustix::fs::openat(&hooks, ".", DIRECTORY, Mode::empty()).map_err(host)?;
        for entry in Dir::new(listed).map_err(host)?.take(MAX_HOOKS) {
            let entry = entry.map_err(host)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || name.ends_with(b".sample") {
                continue;
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let Ok(stat) = rustix::fs::statat(&hooks, name, flags) else { continue };
            if stat.st_mode & 0o111 != 0 {
                self.state.files.insert(join(&path, name), (Finding::Hook, (&stat).into()));
            }
        }
        Ok(())
    }

    /// The entries of the index that matter.
    fn index(&mut self, dir: &Directory<'_>, hash: usize) -> Result<(), Trouble> {
        let path = join(dir.path, b"index");
        let Ok(Some(bytes)) = read_file(dir.fd, b"index", MAX_INDEX) else {
            if dir.entry("index").is_some() {
                self.note(dir, &path, b"index", Finding::Unsearched);
            }
            return Ok(());
        };
        let mut matter = Vec::new();
        let read = index::entries(&bytes, hash, |entry| {
            let finding = match entry.mode & TYPE {
                GITLINK => Finding::Gitlink,
                _ if self.is_covered_name(&entry.path) => Finding::Index,
                _ => return,
            };
            if matter.len() <= MAX_MATTER {
                matter.push((entry, finding));
            }
        });
        let many = matter.len() > MAX_MATTER;
        for (entry, finding) in matter {
            let key = [path.as_slice(), b": ", &entry.path].concat();
            self.state.entries.insert(key, (finding, entry.mode, entry.object));
        }
        if read.is_none() || many || dir.entries.iter().any(|e| e.name.starts_with(b"sharedindex.")) {
            self.note(dir, &path, b"index", Finding::Unsearched);
        }
        Ok(())
    }
}
