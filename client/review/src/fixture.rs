//! Two plain directories as trees, for tests of what is shown of them.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use agentd_policy::names::AbsPath;
use rustix::fs::{Mode, OFlags};

use crate::beneath::Tree;
use crate::change::{Change, Changes, Content, Entry, Kind};
use crate::digest::Digest;
use crate::error::Side;
use crate::path::FilePath;
use crate::trees::{Stamp, Trees};

pub struct Fixture {
    dir: PathBuf,
    pub trees: Trees,
}

impl Fixture {
    pub fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("agentd-show-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let tree = |side, name: &str| {
            std::fs::create_dir(dir.join(name)).unwrap();
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Tree::new(side, rustix::fs::open(dir.join(name), flags, Mode::empty()).unwrap())
        };
        let trees = Trees {
            path: AbsPath::parse("/work").unwrap(),
            workspace: tree(Side::Workspace, "before"),
            upper: tree(Side::Upper, "upper"),
            merged: tree(Side::Merged, "after"),
            began: Stamp { seconds: 0, nanoseconds: 0 },
            made: BTreeSet::new(),
        };
        Self { dir, trees }
    }

    /// Where a side's files are.
    pub fn side(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn put(&self, side: &str, path: &str, bytes: &[u8], mode: u32) -> &Self {
        let path = self.side(side).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn before(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        self.put("before", path, bytes.as_ref(), 0o644)
    }

    pub fn after(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        self.put("after", path, bytes.as_ref(), 0o644)
    }

    pub fn after_mode(&self, path: &str, bytes: impl AsRef<[u8]>, mode: u32) -> &Self {
        self.put("after", path, bytes.as_ref(), mode)
    }

    pub fn link(&self, side: &str, path: &str, target: &str) -> &Self {
        let path = self.side(side).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    fn entry(&self, side: &str, path: &[u8]) -> Option<Entry> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = self.side(side).join(std::ffi::OsStr::from_bytes(path));
        let meta = std::fs::symlink_metadata(&path).ok()?;
        let file_type = meta.file_type();
        let (kind, content, size) = if file_type.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            (Kind::File, Content::Bytes(Digest::of_bytes(&bytes)), meta.size())
        } else if file_type.is_symlink() {
            let target = std::fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec();
            (Kind::Symlink, Content::Target(target), meta.size())
        } else if file_type.is_dir() {
            (Kind::Directory, Content::None, 0)
        } else {
            (Kind::Fifo, Content::None, 0)
        };
        Some(Entry { kind, mode: meta.mode() & 0o7777, size, content })
    }

    pub fn change(&self, path: &str) -> Change {
        self.change_of(path.as_bytes())
    }

    fn change_of(&self, path: &[u8]) -> Change {
        Change {
            path: FilePath::parse(path).unwrap(),
            before: self.entry("before", path),
            after: self.entry("after", path),
            renamed_from: None,
            changed_underneath: false,
        }
    }

    /// All that differ.
    pub fn changes(&self) -> Changes {
        let mut paths = BTreeSet::new();
        for side in ["before", "after"] {
            let top = self.side(side);
            let mut todo = vec![top.clone()];
            while let Some(dir) = todo.pop() {
                for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                    paths.insert(relative(&top, &entry.path()));
                    if entry.file_type().unwrap().is_dir() {
                        todo.push(entry.path());
                    }
                }
            }
        }
        let changes = paths.iter().map(|path| self.change_of(path.as_bytes()));
        Changes(changes.filter(|change| change.before != change.after).collect())
    }
}

fn relative(top: &Path, path: &Path) -> FilePath {
    use std::os::unix::ffi::OsStrExt as _;
    FilePath::parse(path.strip_prefix(top).unwrap().as_os_str().as_bytes()).unwrap()
}

impl Drop for Fixture {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).ok();
    }
}
