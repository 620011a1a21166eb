//! What a search reads of repositories that an agent may have written.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use agentd_policy::git::{config, read};
use agentd_policy::names::AbsPath;

use crate::{index, objects};

/// The hashes that git has: SHA-1 and SHA-256.
const HASHES: [usize; 2] = [20, 32];
/// Where the first object of a pack is.
const FIRST: u32 = 12;

/// An index: what is handed out came from the bytes, and is no more than they hold.
pub fn index(bytes: &[u8]) {
    for hash in HASHES {
        let mut entries = 0;
        let _ = index::entries(bytes, hash, |entry| {
            entries += 1;
            assert!(
                entry.object.len() == hash && entry.path.len() <= bytes.len() && !entry.path.contains(&0)
            );
        });
        assert!(entries <= bytes.len() / (40 + hash));
    }
}

/// A configuration: as many variables as lines, at most.
pub fn config(bytes: &[u8]) {
    if let Some(variables) = config::parse(bytes) {
        assert!(variables.len() <= bytes.len());
    }
}

/// Files that lead git elsewhere: to a path that there can be, or nowhere.
pub fn pointers(bytes: &[u8]) {
    let dir = AbsPath::parse("/w/t").expect("a path");
    let (alternates, _) = read::alternates(bytes, &dir);
    assert!(alternates.len() <= read::ALTERNATES);
    for path in
        [read::gitfile(bytes, &dir), read::pointer(bytes, &dir)].into_iter().flatten().chain(alternates)
    {
        assert_eq!(AbsPath::parse(path.as_str()), Ok(path));
    }
}

/// A pack with one object that has a name, whatever is in it, and what trees and commits say.
pub fn objects(bytes: &[u8]) {
    for hash in HASHES {
        if let Some(entries) = objects::tree(bytes, hash) {
            assert!(entries.iter().all(|entry| entry.object.len() == hash && !entry.name.contains(&0)));
        }
    }
    let _ = objects::commit(bytes);
    let Some(dir) = repository() else { return };
    fs::write(dir.join("objects/pack/p.pack"), bytes).expect("a file of ours");
    let git = File::open(dir).expect("a directory of ours");
    let found = objects::Objects::open(git.as_fd(), HASHES[0]).expect("one pack");
    found.read(&[1; 20]).ok();
}

/// A repository with the index of a pack: one object, called 0101…, at the pack's beginning.
fn repository() -> Option<&'static PathBuf> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let dir = PathBuf::from(format!("/dev/shm/agentd-fuzz-{}", std::process::id()));
        fs::create_dir_all(dir.join("objects/pack")).ok()?;
        let mut table = b"\xfftOc\0\0\0\x02".to_vec();
        table.extend((0..256_u32).flat_map(|first| u32::from(first >= 1).to_be_bytes()));
        table.extend([1; 20]);
        table.extend([0; 4]);
        table.extend(FIRST.to_be_bytes());
        fs::write(dir.join("objects/pack/p.idx"), table).ok()?;
        Some(dir)
    };
    DIR.get_or_init(make).as_ref()
}
