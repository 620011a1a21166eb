//! Random operations through a session's overlay and on a plain copy: what `changes` finds is what the copy has other
//! than the workspace, no more and no less, and puts the one where the other is. `REVIEW_SEQUENCES` sequences (200).

#![allow(clippy::unwrap_used)]

mod fixture;
mod operations;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use agentd_review::change::{Change, Content, Entry, Kind};
use agentd_review::digest::Digest;
use agentd_review::path::FilePath;
use agentd_review::walk::{Bounds, changes};
use proptest::prelude::*;

use fixture::{Overlay, UPPERS, Upper};
use operations::{Operation, operation};

type Snapshot = BTreeMap<FilePath, Entry>;

/// All that `changes` compares, by plain means.
fn snapshot(top: &Path) -> Snapshot {
    let (mut all, mut todo) = (Snapshot::new(), vec![top.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let kind = meta.file_type();
            let (kind, size, content) = if kind.is_dir() {
                todo.push(path.clone());
                (Kind::Directory, 0, Content::None)
            } else if kind.is_file() {
                (Kind::File, meta.len(), Content::Bytes(Digest::of_bytes(&std::fs::read(&path).unwrap())))
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec();
                (Kind::Symlink, target.len() as u64, Content::Target(target))
            } else if kind.is_fifo() {
                (Kind::Fifo, 0, Content::None)
            } else if kind.is_socket() {
                (Kind::Socket, 0, Content::None)
            } else {
                (Kind::Device, 0, Content::None)
            };
            let name = FilePath::parse(path.strip_prefix(top).unwrap().as_os_str().as_bytes()).unwrap();
            all.insert(name, Entry { kind, mode: meta.mode() & 0o7777, size, content });
        }
    }
    all
}

/// What one has and the other has not, in order.
fn difference(before: &Snapshot, after: &Snapshot) -> Vec<(FilePath, Option<Entry>, Option<Entry>)> {
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let pairs = paths.into_iter().map(|path| (path, before.get(path), after.get(path)));
    let different = pairs.filter(|(_, before, after)| before != after);
    different.map(|(path, before, after)| (path.clone(), before.cloned(), after.cloned())).collect()
}

/// Puts `changes` on `workspace`, with contents, whose digests were compared, from `source`.
fn apply(workspace: &Path, source: &Path, changes: &[Change]) {
    let kind = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.kind);
    for change in changes.iter().rev().filter(|change| kind(&change.before) != kind(&change.after)) {
        let path = workspace.join(change.path.as_os_str());
        match kind(&change.before) {
            Some(Kind::Directory) => std::fs::remove_dir(path).unwrap(),
            Some(_) => std::fs::remove_file(path).unwrap(),
            None => {}
        }
    }
    for change in changes {
        let Some(after) = &change.after else { continue };
        let (path, from) = (workspace.join(change.path.as_os_str()), source.join(change.path.as_os_str()));
        let new = kind(&change.before) != kind(&change.after);
        match (after.kind, &after.content) {
            (Kind::File, _) => drop(std::fs::copy(from, &path).unwrap()),
            (Kind::Directory, _) if new => std::fs::create_dir(&path).unwrap(),
            (Kind::Symlink, Content::Target(target)) => {
                std::fs::remove_file(&path).ok();
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path).unwrap();
            }
            (Kind::Fifo | Kind::Socket | Kind::Device, _) if new => {
                operations::node(&path, after.kind).unwrap()
            }
            _ => {}
        }
    }
    for change in changes.iter().rev() {
        let Some(after) = change.after.as_ref().filter(|after| after.kind != Kind::Symlink) else { continue };
        let path = workspace.join(change.path.as_os_str());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(after.mode)).unwrap();
    }
}

/// Every rename is of a deletion, which is of that content, and each deletion is one rename at most.
fn renames_are_sound(changes: &[Change]) {
    let mut used = std::collections::BTreeSet::new();
    for change in changes {
        let Some(from) = &change.renamed_from else { continue };
        let deletion = changes.iter().find(|other| other.path == *from && other.after.is_none());
        let deletion = deletion.unwrap_or_else(|| panic!("{from} is not deleted"));
        let content = |entry: &Option<Entry>| entry.as_ref().map(|entry| (entry.kind, entry.content.clone()));
        assert_eq!(content(&deletion.before), content(&change.after));
        assert!(used.insert(from), "{from} twice");
    }
}

fn sequence(upper: Upper, before: &[Operation], inside: &[Operation]) {
    let Some(overlay) = Overlay::new(upper) else { return };
    let plain = overlay.workspace.with_file_name("copy");
    std::fs::create_dir(&plain).unwrap();
    for operation in before {
        operation.run(&overlay.workspace).ok();
        operation.run(&plain).ok();
    }
    let session = overlay.session();
    for operation in inside {
        let (one, other) = (operation.run(&session.at("")), operation.run(&plain));
        let kind =
            |result: &std::io::Result<()>| result.as_ref().err().and_then(std::io::Error::raw_os_error);
        assert_eq!(kind(&one), kind(&other), "{operation:?}");
    }
    let (workspace, copy) = (snapshot(&overlay.workspace), snapshot(&plain));
    assert_eq!(difference(&snapshot(&session.at("")), &copy), [], "the overlay itself");
    let found = changes(&overlay.trees(), &[], &Bounds::default()).unwrap().0;
    renames_are_sound(&found);
    let facts: Vec<_> = found.iter().map(|c| (c.path.clone(), c.before.clone(), c.after.clone())).collect();
    assert_eq!(facts, difference(&workspace, &copy));
    drop(session);
    apply(&overlay.workspace, &plain, &found);
    assert_eq!(difference(&snapshot(&overlay.workspace), &copy), []);
}

#[test]
fn what_is_found_is_what_changed() {
    let cases = std::env::var("REVIEW_SEQUENCES").map_or(200, |count| count.parse().unwrap());
    let tried: Vec<_> = UPPERS.into_iter().filter(|upper| Overlay::new(*upper).is_some()).collect();
    if tried.is_empty() {
        return;
    }
    let upper = proptest::sample::select(tried);
    let operations = |range| proptest::collection::vec(operation(), range);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&(upper, operations(0..24), operations(1..16)), |(upper, before, inside)| {
        let before: Vec<_> = before.into_iter().filter(|o| !matches!(o, Operation::Link(..))).collect();
        sequence(upper, &before, &inside);
        Ok(())
    });
    result.unwrap();
}
