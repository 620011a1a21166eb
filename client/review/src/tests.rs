//! What the unit tests share: directories of their own, and names.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use agentd_policy::names::{AbsPath, SessionId};
use rustix::fs::{Mode, OFlags};

/// A directory that is removed with it.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // In memory if possible: an apply waits until everything of its file system is on disk.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = base.join(format!("agentd-review-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// One that another process made, and removes.
    pub(crate) fn existing(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn open(&self) -> OwnedFd {
        open(&self.0)
    }

    /// The one file below it with this name.
    pub(crate) fn find(&self, name: &str) -> PathBuf {
        fn all(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    all(&entry.path(), name, found);
                } else if entry.file_name() == name {
                    found.push(entry.path());
                }
            }
        }
        let mut found = Vec::new();
        all(&self.0, name, &mut found);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found.remove(0)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // An ordinary user cannot remove what is in a directory that is read-only.
        let mut waiting = vec![self.0.clone()];
        while let Some(at) = waiting.pop() {
            let is_directory = std::fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir());
            if is_directory {
                std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o700)).ok();
                waiting
                    .extend(std::fs::read_dir(&at).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
        }
        std::fs::remove_dir_all(&self.0).ok();
    }
}

pub(crate) fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(crate) fn session() -> SessionId {
    SessionId::parse("a0b1c2d3e4f5").unwrap()
}

pub(crate) fn workspace() -> AbsPath {
    AbsPath::parse("/home/user/project").unwrap()
}
