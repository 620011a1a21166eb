//! Which additions are deletions somewhere else.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;

use crate::change::{Change, Content};
use crate::digest::Digest;
use crate::path::FilePath;

/// A change, with what it is known by.
#[derive(Debug)]
pub struct Found {
    /// Without where it was before.
    pub change: Change,
    /// Number of the workspace's inode: of a deletion its own, of an addition the one that the view shows there, if it
    /// is one of the workspace's.
    pub inode: Option<u64>,
}

/// Deletions by what a rename keeps, each for one addition.
struct Deletions<K> {
    by_name: BTreeMap<(K, OsString), VecDeque<usize>>,
    all: BTreeMap<K, VecDeque<usize>>,
}

/// Says of additions where they were before: first of what came through a renamed directory, by the inode, which is
/// then still the workspace's; then of regular files that are not empty, by their content. Of several deletions that
/// match, one of the same name comes before others, and of these the first; each is used once. `all` is in order.
pub fn assign(all: &mut [Found]) {
    pair(all, |found| {
        let entry = found.change.before.as_ref().or(found.change.after.as_ref())?;
        // The number alone would do, but for file systems with several of one.
        match entry.content {
            Content::Bytes(digest) => Some((found.inode?, Some(digest))),
            Content::Target(_) => Some((found.inode?, None)),
            Content::None | Content::Unreadable => None,
        }
    });
    pair(all, content);
}

fn content(found: &Found) -> Option<Digest> {
    let entry = found.change.before.as_ref().or(found.change.after.as_ref())?;
    match entry.content {
        Content::Bytes(digest) if entry.size > 0 => Some(digest),
        _ => None,
    }
}

fn pair<K: Ord + Clone>(all: &mut [Found], key: impl Fn(&Found) -> Option<K>) {
    let taken: std::collections::BTreeSet<FilePath> =
        all.iter().filter_map(|found| found.change.renamed_from.clone()).collect();
    let mut deletions = Deletions { by_name: BTreeMap::new(), all: BTreeMap::new() };
    let mut additions = Vec::new();
    for (index, found) in all.iter().enumerate() {
        let change = &found.change;
        let Some(key) = key(found) else { continue };
        if change.after.is_none() && !taken.contains(&change.path) {
            let named = (key.clone(), change.path.name().to_owned());
            deletions.by_name.entry(named).or_default().push_back(index);
            deletions.all.entry(key).or_default().push_back(index);
        } else if change.before.is_none() && change.renamed_from.is_none() {
            additions.push((index, key));
        }
    }
    let mut used = vec![false; all.len()];
    let mut rest = Vec::new();
    let mut take = |queue: Option<&mut VecDeque<usize>>| {
        let queue = queue?;
        while let Some(index) = queue.pop_front() {
            if !std::mem::replace(used.get_mut(index)?, true) {
                return Some(index);
            }
        }
        None
    };
    let mut pairs = Vec::new();
    for (index, key) in additions {
        let Some(addition) = all.get(index) else { continue };
        let named = (key, addition.change.path.name().to_owned());
        match take(deletions.by_name.get_mut(&named)) {
            Some(from) => pairs.push((index, from)),
            None => rest.push((index, named.0)),
        }
    }
    pairs.extend(
        rest.into_iter().filter_map(|(index, key)| Some((index, take(deletions.all.get_mut(&key))?))),
    );
    for (to, from) in pairs {
        let from = all.get(from).map(|found| found.change.path.clone());
        if let Some(found) = all.get_mut(to) {
            found.change.renamed_from = from;
        }
    }
}
