//! One search of a workspace: what is to be covered in it, and what there is that programs outside would run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::BorrowedFd;

use agentd_policy::event::Finding;
use agentd_policy::git::Part;
use agentd_policy::mode::Mode as WorkspaceMode;
use agentd_policy::mount::Workspace;
use agentd_policy::names::{AbsPath, RelPath};
use agentd_policy::pattern::NamePattern;
use rustix::fs::{AtFlags, FileType, Mode, Stat, openat};

use super::history::History;
use super::report::{Guard, Missing, Report};
use super::tools::{Tools, attributes_name_programs};
use super::trouble::Trouble;
use super::walk::{DIRECTORY, Directory, Entry, read_file, walk};

/// The most names that one search covers.
const MAX_NAMES: usize = 1024;
/// The longest `.gitattributes` that is read.
const MAX_ATTRIBUTES: u64 = 1 << 20;

/// What a file is known by: any change of it changes one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    ino: u64,
    mode: u32,
    /// Size and times; nothing of a directory, which changes by what is in it.
    rest: Option<(i64, i64, u64, i64, u64)>,
}

impl From<&Stat> for Signature {
    fn from(stat: &Stat) -> Self {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let times = (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        let mode = if directory { stat.st_mode & 0o170_000 } else { stat.st_mode };
        Self { ino: stat.st_ino, mode, rest: (!directory).then_some(times) }
    }
}

/// What programs outside would follow, as it was when it was looked at.
#[derive(Debug, Default)]
pub struct State {
    /// Files and directories.
    pub files: BTreeMap<Vec<u8>, (Finding, Signature)>,
    /// Entries of indexes that matter: links to repositories, and names that are covered.
    pub entries: BTreeMap<Vec<u8>, (Finding, u32, Vec<u8>)>,
    pub histories: BTreeMap<Vec<u8>, History>,
}

/// What covers a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    Nothing,
    Mask,
    Protection,
}

/// A file with several names, of which one is covered.
pub(super) struct Linked {
    path: Vec<u8>,
    mask: bool,
    links: u64,
    found: u64,
}

/// A search that goes on.
pub struct Search<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) direct: bool,
    /// What there was at the start, at the end.
    pub(super) before: Option<&'a State>,
    patterns: &'a [NamePattern],
    tools: Tools,
    masked: BTreeSet<&'a [u8]>,
    protected: BTreeSet<Vec<u8>>,
    linked: HashMap<(u64, u64), Linked>,
    pub(super) guards: BTreeMap<Vec<u8>, Missing>,
    masks: BTreeSet<Vec<u8>>,
    /// Configurations of git's as a session may have them, by path.
    pub configurations: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What there is.
    pub state: State,
}

impl<'a> Search<'a> {
    /// Of `workspace`; `before` is what there was at the start.
    pub fn of(workspace: &'a Workspace, before: Option<&'a State>) -> Self {
        Self {
            workspace,
            direct: workspace.mode == WorkspaceMode::Direct,
            before,
            patterns: &workspace.mask_anywhere,
            tools: Tools::new(),
            masked: workspace.mask.iter().map(|name| name.as_str().as_bytes()).collect(),
            protected: workspace.protect.iter().map(|name| name.as_str().as_bytes().to_vec()).collect(),
            linked: HashMap::new(),
            guards: BTreeMap::new(),
            masks: BTreeSet::new(),
            configurations: BTreeMap::new(),
            state: State::default(),
        }
    }

    /// Searches the directory `top`; `own` is the agent's uid.
    pub fn run(&mut self, top: BorrowedFd<'_>, own: u32) -> Result<(), Trouble> {
        let open = || openat(top, ".", DIRECTORY, Mode::empty()).map_err(|e| Trouble::Host(Vec::new(), e));
        walk(open()?, Some(own), Inside::Nothing, |dir, inside| self.visit(dir, *inside))?;
        if !self.linked.is_empty() {
            walk(open()?, Some(own), (), |dir, ()| Ok(self.names_of_linked(dir)))?;
        }
        if self.guards.len() + self.masks.len() > MAX_NAMES {
            return Err(Trouble::TooMany);
        }
        Ok(())
    }

    /// What is to be covered.
    pub fn report(&self) -> Result<Report, Trouble> {
        let name = |path: &[u8]| match std::str::from_utf8(path).map(RelPath::parse) {
            Ok(Ok(name)) => Ok(name),
            _ => Err(Trouble::NotUtf8(path.to_vec())),
        };
        let mut report = Report::default();
        for path in &self.masks {
            report.mask.push(name(path)?);
        }
        for (path, missing) in &self.guards {
            report.protect.push(Guard { path: name(path)?, missing: *missing });
        }
        for linked in self.linked.values().filter(|linked| linked.found < linked.links) {
            report.unfound.push((name(&linked.path)?, linked.links - linked.found));
        }
        report.unfound.sort();
        Ok(report)
    }

    fn visit(&mut self, dir: &Directory<'_>, inside: Inside) -> Result<Vec<(usize, Inside)>, Trouble> {
        if self.workspace.git == Some(Part::Data) {
            self.data(dir);
            return Ok(Vec::new());
        }
        let repository = is_repository(dir);
        if repository && self.direct && inside == Inside::Nothing {
            self.repository(dir)?;
        }
        let mut below = Vec::new();
        for (index, entry) in dir.entries.iter().enumerate() {
            let path = dir.below(&entry.name);
            let is_dir = entry.kind == FileType::Directory;
            let mut mark = inside;
            if self.masked.contains(path.as_slice()) {
                mark = Inside::Mask;
            } else if inside == Inside::Nothing {
                if !is_dir && self.patterns.iter().any(|p| p.matches(path.split(|b| *b == b'/'))) {
                    self.mask(dir, &path, &entry.name, entry.kind)?;
                    mark = Inside::Mask;
                } else if self.protected.contains(&path)
                    || self.guards.contains_key(&path)
                    || (self.direct && self.runs_later(dir, &path, entry)?)
                {
                    mark = Inside::Protection;
                }
            }
            if mark != Inside::Nothing && entry.kind == FileType::RegularFile {
                self.note_links(dir, &path, &entry.name, mark == Inside::Mask);
            }
            let objects =
                repository && matches!(entry.name.as_slice(), b"objects" | b"refs" | b"logs" | b"lfs");
            if is_dir && !objects {
                below.push((index, mark));
            }
        }
        Ok(below)
    }

    /// A name that a pattern means. What a link leads to, here, is masked: the link alone shows nothing.
    fn mask(&mut self, dir: &Directory<'_>, path: &[u8], name: &[u8], kind: FileType) -> Result<(), Trouble> {
        if kind != FileType::Symlink {
            self.masks.insert(path.to_vec());
            return Ok(());
        }
        if let Some(target) = self.target(dir, name)
            && !self.masked.contains(target.as_slice())
        {
            self.masks.insert(target);
        }
        Ok(())
    }

    /// Where the link `name` leads to, if that is below the workspace.
    fn target(&self, dir: &Directory<'_>, name: &[u8]) -> Option<Vec<u8>> {
        let target = rustix::fs::readlinkat(dir.fd, name, Vec::new()).ok()?;
        resolve(&self.workspace.path, dir.path, target.to_bytes())
    }

    /// Whether programs run or follow what is at `path`; then it is protected.
    fn runs_later(&mut self, dir: &Directory<'_>, path: &[u8], entry: &Entry) -> Result<bool, Trouble> {
        let gitlink = entry.name == b".git" && entry.kind != FileType::Directory;
        let attributes = entry.name == b".gitattributes"
            && read_file(dir.fd, &entry.name, MAX_ATTRIBUTES)
                .map_or(true, |text| text.is_some_and(|text| attributes_name_programs(&text)));
        if !gitlink && !attributes && !self.tools.has(path) {
            return Ok(false);
        }
        self.note(dir, path, &entry.name, if gitlink { Finding::Repository } else { Finding::RunsLater });
        if entry.kind == FileType::Symlink {
            if gitlink {
                return Err(Trouble::Link(path.to_vec()));
            }
            // A link cannot be covered: what it leads to is, and another in its place is found in the end.
            if let Some(target) = self.target(dir, &entry.name) {
                self.guards.entry(target).or_insert(Missing::Leave);
            }
            return Ok(false);
        }
        self.guard(path.to_vec(), Missing::Leave);
        Ok(true)
    }

    /// A name to protect.
    pub(super) fn guard(&mut self, path: Vec<u8>, missing: Missing) {
        self.guards.insert(path, missing);
    }

    /// What is at a name now.
    pub(super) fn note(&mut self, dir: &Directory<'_>, path: &[u8], name: &[u8], finding: Finding) {
        if let Ok(stat) = rustix::fs::statat(dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            self.state.files.insert(path.to_vec(), (finding, Signature::from(&stat)));
        }
    }

    /// Whether a name of an index is one that is covered.
    pub(super) fn is_covered_name(&self, path: &[u8]) -> bool {
        let covered = |path: &[u8]| {
            self.masked.contains(path)
                || self.protected.contains(path)
                || self.patterns.iter().any(|p| p.matches(path.split(|b| *b == b'/')))
                || self.tools.has(path)
        };
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| path.get(..end).is_some_and(covered))
            || path.split(|b| *b == b'/').any(|name| name.eq_ignore_ascii_case(b".git"))
    }

    fn note_links(&mut self, dir: &Directory<'_>, path: &[u8], name: &[u8], mask: bool) {
        let Ok(stat) = rustix::fs::statat(dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        if stat.st_nlink > 1 {
            let linked = Linked { path: path.to_vec(), mask, links: stat.st_nlink, found: 0 };
            let known = self.linked.entry((stat.st_dev, stat.st_ino)).or_insert(linked);
            known.mask |= mask;
        }
    }

    /// Every name of a file that has several, one of which is covered, is covered.
    fn names_of_linked(&mut self, dir: &Directory<'_>) -> Vec<(usize, ())> {
        let mut below = Vec::new();
        for (index, entry) in dir.entries.iter().enumerate() {
            match entry.kind {
                FileType::Directory => below.push((index, ())),
                FileType::RegularFile if self.linked.keys().any(|(_, ino)| *ino == entry.ino) => {
                    let Ok(stat) =
                        rustix::fs::statat(dir.fd, entry.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                    else {
                        continue;
                    };
                    let Some(linked) = self.linked.get_mut(&(stat.st_dev, stat.st_ino)) else { continue };
                    linked.found += 1;
                    let path = dir.below(&entry.name);
                    if linked.mask && !self.masked.contains(path.as_slice()) {
                        self.masks.insert(path);
                    } else if !linked.mask && !self.protected.contains(&path) {
                        self.guards.entry(path).or_insert(Missing::Leave);
                    }
                }
                _ => {}
            }
        }
        below
    }
}

/// Whether git takes a directory for a repository, or would if it were whole.
pub(super) fn is_repository(dir: &Directory<'_>) -> bool {
    let has = |name| dir.entry(name).is_some();
    dir.name() == b".git" || has("HEAD") && (has("objects") && has("refs") || has("commondir"))
}

/// `target`, seen from the directory `from` of the workspace `top`, as a path from the workspace on; `None` if it
/// leads out of it, or is the workspace itself. By its names alone: what is a link on the way is found when it is
/// covered.
pub(super) fn resolve(top: &AbsPath, from: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = match target.strip_prefix(b"/") {
        None => from.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect(),
        Some(_) => Vec::new(),
    };
    let rest = match target.first() {
        Some(b'/') => target.strip_prefix(top.as_str().as_bytes())?,
        _ => target,
    };
    if target.first() == Some(&b'/') && rest.first() != Some(&b'/') {
        return None;
    }
    for name in rest.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    (!names.is_empty()).then(|| names.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_followed_within_the_workspace_alone() {
        let top = AbsPath::parse("/w/s").unwrap();
        let to = |from: &str, target: &str| {
            resolve(&top, from.as_bytes(), target.as_bytes()).map(|p| String::from_utf8(p).unwrap())
        };
        assert_eq!(to("a/b", "../c"), Some("a/c".into()));
        assert_eq!(to("", "./x//y"), Some("x/y".into()));
        assert_eq!(to("a", "/w/s/z"), Some("z".into()));
        for (from, target) in
            [("a", "../.."), ("", ".."), ("a", "/w/sx"), ("a", "/etc"), ("a", ".."), ("", "/w/s")]
        {
            assert_eq!(to(from, target), None, "{from} {target}");
        }
    }
}
