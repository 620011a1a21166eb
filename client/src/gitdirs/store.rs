//! Whether a directory holds nothing but what git keeps there: an alternate is followed only then, so that the file
//! that names it opens nothing else of the user's.

use rustix::fs::FileType;

use super::look::{Dir, Why};

/// The most names of one object store that are looked at.
const MAX_NAMES: usize = 1_000_000;
/// Names in the directory `info` of an object store, and those of directories in it.
const INFO: &[&str] = &["alternates", "packs", "commit-graph", "http-alternates"];
const GRAPHS: &str = "commit-graphs";
/// How the names of files beside a pack end, and those of indexes of several.
const PACK_ENDS: &[&str] = &["pack", "idx", "rev", "bitmap", "keep", "mtimes", "promisor"];
/// What git puts there for a moment, or leaves when it is interrupted.
const UNFINISHED: &[&str] = &["tmp_", ".tmp-"];
/// Names at the top of a repository.
const REPOSITORY: &[&str] = &[
    "HEAD",
    "branches",
    "config",
    "config.worktree",
    "description",
    "gitdir",
    "hooks",
    "index",
    "info",
    "lfs",
    "logs",
    "modules",
    "objects",
    "packed-refs",
    "refs",
    "reftable",
    "remotes",
    "rr-cache",
    "shallow",
    "worktrees",
    "gc.log",
    "gc.pid",
    "COMMIT_EDITMSG",
    "commondir",
    "locked",
    "sharedindex",
];

/// Whether `store` is an object store and nothing else: directories of loose objects, packs, and their indexes, all of
/// it regular files.
///
/// # Errors
/// If it cannot be read.
pub fn only_objects(store: &Dir) -> Result<bool, Why> {
    let mut left = MAX_NAMES;
    let mut below = Vec::new();
    let fine = store.all_names(|name, kind| {
        let Ok(name) = std::str::from_utf8(name) else { return false };
        match kind {
            FileType::Directory if matches!(name, "info" | "pack") || is_hex(name, 2) => {
                below.push(name.to_owned());
                true
            }
            FileType::RegularFile => is_unfinished(name),
            _ => false,
        }
    })?;
    if !fine || below.is_empty() {
        return Ok(false);
    }
    for name in below {
        let dir = store.child(&name)?;
        let fine = dir.all_names(|entry, kind| {
            let taken = left.checked_sub(1);
            left = taken.unwrap_or(0);
            let Ok(entry) = std::str::from_utf8(entry) else { return false };
            taken.is_some()
                && match (name.as_str(), kind) {
                    ("info", FileType::Directory) => entry == GRAPHS,
                    ("info", FileType::RegularFile) => INFO.contains(&entry) || is_unfinished(entry),
                    ("pack", FileType::RegularFile) => is_of_packs(entry) || is_unfinished(entry),
                    (_, FileType::RegularFile) => {
                        is_hex(entry, 38) || is_hex(entry, 62) || is_unfinished(entry)
                    }
                    _ => false,
                }
        })?;
        let graphs = if name == "info" { only_graphs(&dir)? } else { true };
        if !fine || !graphs {
            return Ok(false);
        }
    }
    Ok(true)
}

fn only_graphs(info: &Dir) -> Result<bool, Why> {
    match info.child(GRAPHS) {
        Err(Why::Missing) => Ok(true),
        Err(why) => Err(why),
        Ok(dir) => dir.all_names(|name, kind| {
            let name = std::str::from_utf8(name).unwrap_or(" ");
            let graph = name.starts_with("graph-") && name.ends_with(".graph") && is_plain(name);
            kind == FileType::RegularFile
                && (graph || matches!(name, "commit-graph-chain") || is_unfinished(name))
        }),
    }
}

/// Whether a repository whose directory has a name of its own holds nothing at its top but what git keeps there: a
/// working tree in it, or anything else, is not the repository's.
///
/// # Errors
/// If it cannot be read.
pub fn only_a_repository(dir: &Dir) -> Result<bool, Why> {
    dir.all_names(|name, kind| {
        let Ok(name) = std::str::from_utf8(name) else { return false };
        let plain = name.strip_suffix(".lock").unwrap_or(name);
        let head = plain.ends_with("_HEAD") && plain.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        matches!(kind, FileType::RegularFile | FileType::Directory) && (REPOSITORY.contains(&plain) || head)
    })
}

fn is_of_packs(name: &str) -> bool {
    let (stem, end) = name.rsplit_once('.').unwrap_or((name, ""));
    let pack = stem.strip_prefix("pack-").is_some_and(|hash| is_hex(hash, 40) || is_hex(hash, 64));
    (pack && PACK_ENDS.contains(&end)) || (name.starts_with("multi-pack-index") && is_plain(name))
}

fn is_unfinished(name: &str) -> bool {
    is_plain(name) && (UNFINISHED.iter().any(|start| name.starts_with(start)) || name.ends_with(".lock"))
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gitdirs::tests::Scratch;

    #[test]
    fn an_object_store_holds_objects_alone() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let scratch = Scratch::new();
        let is = || only_objects(&Dir::open(&scratch.path("")).unwrap()).unwrap();
        assert!(!is(), "an empty directory is none");
        std::fs::create_dir(scratch.0.join("pack")).unwrap();
        std::fs::create_dir(scratch.0.join("info")).unwrap();
        assert!(is());
        for name in [
            format!("pack/pack-{hash}.pack"),
            format!("pack/pack-{hash}.idx"),
            "pack/multi-pack-index".into(),
            "info/alternates".into(),
            "info/commit-graphs/graph-x.graph".into(),
            format!("ab/{}", &hash[..38]),
            "tmp_obj_x1".into(),
        ] {
            scratch.write(&name, "");
            assert!(is(), "{name}");
        }
        for name in [
            "x",
            "id_rsa",
            "pack/x.pack",
            "pack/pack-1.pack",
            "info/x",
            "ab/x",
            "info/commit-graphs/x",
            ".git",
        ] {
            scratch.write(name, "");
            assert!(!is(), "{name}");
            std::fs::remove_file(scratch.0.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("/etc", scratch.0.join("cd")).unwrap();
        assert!(!is(), "a link");
        std::fs::remove_file(scratch.0.join("cd")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scratch.0.join("ab").join(hash[..38].replace('0', "1")))
            .unwrap();
        assert!(!is(), "a link below");
    }
}
