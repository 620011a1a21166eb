//! What commits and stashes hold that a checkout would write: covered names, and links to other repositories.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd};

use agentd_policy::event::Finding;
use rustix::fs::{Dir, FileType, Mode};

use super::index::{GITLINK, TYPE};
use super::objects::{Kind, Name, Objects, Unreadable, commit, name, tree};
use super::search::Search;
use super::walk::{DIRECTORY, Directory, join, read_file};

/// The longest file of references.
const MAX_REFS: u64 = 16 << 20;
/// The most references, and how deep they lie.
const MAX_NAMES: usize = 20_000;
/// The most commits and trees of one search.
const MAX_OBJECTS: usize = 200_000;
/// The type bits of a directory in a tree.
const DIRECTORY_MODE: u32 = 0o040_000;

/// The most commits before the session's that are gone through to separate its own from them.
const MAX_COMMITS: usize = 50_000;

/// What is known of one repository's history.
#[derive(Debug, Default)]
pub struct History {
    /// What its references named.
    tips: BTreeSet<Name>,
    /// Trees that were looked through, each at its place.
    trees: BTreeSet<(Vec<u8>, Name)>,
    /// What mattered in them.
    entries: BTreeSet<(Vec<u8>, Name)>,
    /// Whether that is all.
    whole: bool,
}

/// Paths of what is new and matters.
type Matter = BTreeMap<Vec<u8>, (Finding, Name)>;

/// What references name: all, and those of them that a checkout is likely to write.
#[derive(Default)]
struct Tips {
    all: BTreeSet<Name>,
    heads: BTreeSet<Name>,
}

impl Search<'_> {
    /// What is new in the history of a repository. At the start what its branches hold is known.
    pub(super) fn history(&mut self, dir: &Directory<'_>, hash: usize) {
        if dir.entry("objects").is_none() || dir.entry("HEAD").is_none() {
            return;
        }
        let mut history = History::default();
        let searched = tips(dir).and_then(|tips| {
            history.tips.clone_from(&tips.all);
            self.commits(dir, &tips, &mut history, hash)
        });
        history.whole = searched.is_ok();
        if searched.is_err() && self.before.is_some() {
            let key = [dir.path, b" history"].concat();
            self.state.entries.insert(key, (Finding::Unsearched, 0, Vec::new()));
        }
        self.state.histories.insert(dir.path.to_vec(), history);
    }

    fn commits(
        &mut self,
        dir: &Directory<'_>,
        tips: &Tips,
        history: &mut History,
        hash: usize,
    ) -> Result<(), Unreadable> {
        let known = self.before.and_then(|before| before.histories.get(dir.path));
        let mut left: Vec<Name> = match known {
            None if self.before.is_none() => tips.heads.iter().cloned().collect(),
            known => {
                let new = |tip: &&Name| known.is_none_or(|known| !known.tips.contains(*tip));
                tips.all.iter().filter(new).cloned().collect()
            }
        };
        if left.is_empty() {
            return Ok(());
        }
        if known.is_some_and(|known| !known.whole) {
            return Err(Unreadable);
        }
        let objects = Objects::open(dir.fd, hash).ok_or(Unreadable)?;
        let (mut seen, mut budget) = (BTreeSet::new(), MAX_OBJECTS);
        let mut matter = Matter::new();
        let mut reached = None;
        while let Some(next) = left.pop() {
            if !seen.insert(next.clone()) {
                continue;
            }
            budget = budget.checked_sub(1).ok_or(Unreadable)?;
            let (kind, bytes) = objects.read(&next)?;
            match kind {
                Kind::Commit => {
                    let (top, parents) = commit(&bytes).ok_or(Unreadable)?;
                    if let Some(known) = known {
                        for parent in parents.into_iter().filter(|parent| !known.tips.contains(parent)) {
                            let reached = match &mut reached {
                                Some(reached) => reached,
                                none => none.insert(reachable(&objects, &known.tips)?),
                            };
                            if !reached.contains(&parent) {
                                left.push(parent);
                            }
                        }
                    }
                    self.trees(&objects, top, (known, &mut *history, &mut matter), &mut budget)?;
                }
                Kind::Tag => {
                    let first = bytes.split(|b| *b == b'\n').next();
                    let tagged = first.and_then(|line| line.strip_prefix(b"object "));
                    left.push(tagged.and_then(name).ok_or(Unreadable)?);
                }
                Kind::Tree => self.trees(&objects, next, (known, &mut *history, &mut matter), &mut budget)?,
                Kind::Blob => {}
            }
        }
        if self.before.is_some() {
            for (path, (finding, object)) in matter {
                let key = [dir.path, b" commit: ", &path].concat();
                self.state.entries.insert(key, (finding, 0, object));
            }
        }
        Ok(())
    }

    fn trees(
        &self,
        objects: &Objects,
        top: Name,
        (known, history, matter): (Option<&History>, &mut History, &mut Matter),
        budget: &mut usize,
    ) -> Result<(), Unreadable> {
        let hash = top.len();
        let mut left = vec![(Vec::new(), top)];
        while let Some(next) = left.pop() {
            if history.trees.contains(&next) || known.is_some_and(|known| known.trees.contains(&next)) {
                continue;
            }
            *budget = budget.checked_sub(1).ok_or(Unreadable)?;
            let (kind, bytes) = objects.read(&next.1)?;
            if kind != Kind::Tree {
                return Err(Unreadable);
            }
            let entries = tree(&bytes, hash).ok_or(Unreadable)?;
            *budget = budget.checked_sub(entries.len() / 16).ok_or(Unreadable)?;
            for entry in entries {
                let path = join(&next.0, entry.name);
                let finding = match entry.mode & TYPE {
                    DIRECTORY_MODE => {
                        left.push((path, entry.object.to_vec()));
                        continue;
                    }
                    GITLINK => Finding::Gitlink,
                    _ if self.is_covered_name(&path) => Finding::Commit,
                    _ => continue,
                };
                let known_entry = (path, entry.object.to_vec());
                if !known.is_some_and(|known| known.entries.contains(&known_entry)) {
                    matter.insert(known_entry.0.clone(), (finding, known_entry.1.clone()));
                }
                history.entries.insert(known_entry);
            }
            history.trees.insert(next);
        }
        Ok(())
    }
}

/// The commits that lead to `tips`.
fn reachable(objects: &Objects, tips: &BTreeSet<Name>) -> Result<BTreeSet<Name>, Unreadable> {
    let mut left: Vec<Name> = tips.iter().cloned().collect();
    let mut reached = BTreeSet::new();
    while let Some(next) = left.pop() {
        if !reached.insert(next.clone()) {
            continue;
        }
        if reached.len() > MAX_COMMITS {
            return Err(Unreadable);
        }
        // A tip may be gone since.
        if let Ok((Kind::Commit, bytes)) = objects.read(&next) {
            left.extend(commit(&bytes).ok_or(Unreadable)?.1);
        }
    }
    Ok(reached)
}

/// What the references of a repository name, stashes among them.
fn tips(dir: &Directory<'_>) -> Result<Tips, Unreadable> {
    let mut tips = Tips::default();
    let read = |fd: BorrowedFd<'_>, name: &[u8]| read_file(fd, name, MAX_REFS).map_err(|_| Unreadable);
    for file in ["HEAD", "ORIG_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"] {
        let named = read(dir.fd, file.as_bytes())?.as_deref().and_then(name);
        tips.heads.extend(named);
    }
    for line in read(dir.fd, b"packed-refs")?.unwrap_or_default().split(|b| *b == b'\n') {
        let mut words = line.split(|b| *b == b' ');
        let named = words.next().and_then(name);
        match words.next() {
            Some(word) if word.starts_with(b"refs/heads/") => tips.heads.extend(named),
            _ => tips.all.extend(named),
        }
    }
    // All but the last stash are in its log alone: old and new name, and who.
    if let Ok(logs) = rustix::fs::openat(dir.fd, "logs/refs", DIRECTORY, Mode::empty()) {
        for line in read(logs.as_fd(), b"stash")?.unwrap_or_default().split(|b| *b == b'\n') {
            tips.heads.extend(line.split(|b| *b == b' ').nth(1).and_then(name));
        }
    }
    let refs = rustix::fs::openat(dir.fd, "refs", DIRECTORY, Mode::empty());
    let (mut left, mut count) = (Vec::from_iter(refs.ok().map(|refs| (refs, None))), 0);
    // Below `refs` itself nothing is known yet of where it is: `refs/stash` is there.
    while let Some((at, heads)) = left.pop() {
        let listed = rustix::fs::openat(&at, ".", DIRECTORY, Mode::empty()).map_err(|_| Unreadable)?;
        for entry in Dir::new(listed).map_err(|_| Unreadable)? {
            let entry = entry.map_err(|_| Unreadable)?;
            count += 1;
            if count > MAX_NAMES {
                return Err(Unreadable);
            }
            match (entry.file_name().to_bytes(), entry.file_type()) {
                (b"." | b"..", _) => {}
                (name, FileType::Directory) => {
                    let below =
                        rustix::fs::openat(&at, name, DIRECTORY, Mode::empty()).map_err(|_| Unreadable)?;
                    left.push((below, Some(heads.unwrap_or(name == b"heads"))));
                }
                (file, _) => {
                    let named = read(at.as_fd(), file)?.as_deref().and_then(name);
                    if heads.unwrap_or(true) { tips.heads.extend(named) } else { tips.all.extend(named) }
                }
            }
        }
    }
    tips.all.extend(tips.heads.iter().cloned());
    Ok(tips)
}
