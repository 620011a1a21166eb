//! What of the host's system a session sees through a view, and whether it has changed since the session began: names
//! that the session has looked at may still show what they were.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentd_proto::v1::Mount;

/// The directory that is a view in every session.
const OPT: &str = "/opt";
/// The most names that are looked at.
const MOST: usize = 20_000;
/// How long a look is good for.
const FRESH: Duration = Duration::from_secs(2);

/// The last change below a directory, as far as it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Newest {
    at: SystemTime,
    /// Whether all of it was.
    whole: bool,
}

/// The view of /opt in a session that began at `since`, if the host has the directory. It walks, and so blocks.
pub fn opt(since: SystemTime) -> Option<Mount> {
    static LAST: Mutex<Option<(Instant, Newest)>> = Mutex::new(None);
    if !Path::new(OPT).is_dir() {
        return None;
    }
    // A request that comes meanwhile waits for this look.
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let newest = match *last {
        Some((then, newest)) if then.elapsed() < FRESH => newest,
        _ => {
            let newest = newest(Path::new(OPT), MOST);
            *last = Some((Instant::now(), newest));
            newest
        }
    };
    let source = newest.source(since).to_owned();
    Some(Mount { path: OPT.to_owned(), kind: "system".to_owned(), mode: "ro".to_owned(), source })
}

impl Newest {
    fn source(self, since: SystemTime) -> &'static str {
        match self.whole {
            _ if self.at > since => "changed",
            true => "same",
            false => "unknown",
        }
    }
}

/// Looks at `top` and at most `most` names below it, those that are nearer first. What is removed or replaced changes
/// its directory; nobody can set such a change back (`inode(7)`, ctime).
fn newest(top: &Path, most: usize) -> Newest {
    let mut found = Newest { at: UNIX_EPOCH, whole: true };
    let mut left = most;
    let mut dirs: VecDeque<PathBuf> = VecDeque::from([top.to_owned()]);
    found.look(top);
    while let Some(dir) = dirs.pop_front() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            found.whole = false;
            continue;
        };
        for entry in entries {
            let (Ok(entry), true) = (entry, left > 0) else {
                found.whole = false;
                break;
            };
            left -= 1;
            let path = entry.path();
            if found.look(&path) {
                dirs.push_back(path);
            }
        }
    }
    found
}

impl Newest {
    /// Takes account of `path`; whether it is a directory.
    fn look(&mut self, path: &Path) -> bool {
        let Ok(meta) = std::fs::symlink_metadata(path) else {
            self.whole = false;
            return false;
        };
        let (seconds, nanos) = (u64::try_from(meta.ctime()), u32::try_from(meta.ctime_nsec()));
        let at = seconds.ok().zip(nanos.ok()).and_then(|(s, n)| UNIX_EPOCH.checked_add(Duration::new(s, n)));
        match at {
            Some(at) => self.at = self.at.max(at),
            None => self.whole = false,
        }
        meta.is_dir()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_anywhere_below_is_seen() {
        let top = std::env::temp_dir().join(format!("agentd-system-{}", std::process::id()));
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/b/file"), "x").unwrap();
        let before = newest(&top, MOST);
        assert!(before.whole && before.source(before.at) == "same");
        // By the file's own ctime or by its directory's: whatever is done changes one of them.
        let since = before.at - Duration::from_nanos(1);
        assert_eq!(before.source(since), "changed");
        std::fs::remove_file(top.join("a/b/file")).unwrap();
        assert!(newest(&top, MOST).at >= before.at);
        // What was not looked at is not called the same.
        let part = newest(&top, 1);
        assert!(!part.whole);
        assert_eq!(part.source(part.at), "unknown");
        assert_eq!(newest(&top.join("nowhere"), MOST), Newest { at: UNIX_EPOCH, whole: false });
        std::fs::remove_dir_all(&top).unwrap();
    }
}
