//! What a session changed in copies of its own: of git's configuration, and in an overlay over hooks.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use agentd_kernel::descriptor::Kind;
use agentd_policy::event::Aside;
use agentd_policy::git::changed;
use agentd_policy::wire::Attached;
use rustix::fs::{Dir, Mode};

use super::report::{CopyKind, CopyOf, Found, Part};
use super::walk::{DIRECTORY, read_file, read_part};
use super::{MAX_FOUND, MAX_PATH};

/// The longest copy that is read, in bytes. The file that it was made of is shorter.
const MAX_CONFIG: u64 = 2 << 20;
/// The most hooks of one directory that are looked at.
const MAX_HOOKS: usize = 1024;

/// Looks at every copy; what does not come with its descriptors is reported as unreadable.
pub fn look(copies: &[CopyOf], mut descriptors: Attached<OwnedFd>, found: &mut Found) {
    for copy in copies {
        let changes = match copy.kind {
            CopyKind::Config(part) => descriptors.array().ok().and_then(|[dir, start]: [OwnedFd; 2]| {
                Kind::Directory.check(&dir).ok()?;
                configuration(&dir, (&start, part), &copy.name)
            }),
            CopyKind::Hooks => descriptors.one().ok().and_then(|upper| hooks(upper.as_fd(), &copy.name)),
        };
        for (path, change) in changes.unwrap_or_else(|| vec![(copy.name.clone(), Aside::Unreadable)]) {
            if found.aside.len() < MAX_FOUND {
                found.aside.push((bounded(&path), change));
            } else {
                found.more_aside += 1;
            }
        }
    }
}

fn configuration(dir: &OwnedFd, (start, part): (&OwnedFd, Part), path: &str) -> Option<Vec<(String, Aside)>> {
    let length = usize::try_from(part.length.min(MAX_CONFIG)).ok()?;
    let before = read_part(start, part.at, length).ok()?;
    let after = read_file(dir.as_fd(), b"config", MAX_CONFIG).ok()??;
    let changes = changed::between(&before, &after)?.into_iter().map(|change| {
        let upstream = change.is_upstream();
        let name = bounded(&change.name);
        let change = match change.value {
            Some(value) => Aside::Set { upstream, name, value: bounded(&value) },
            None => Aside::Unset { name },
        };
        (path.to_owned(), change)
    });
    Some(changes.collect())
}

/// All that is in the upper directory is new, changed, or says that the hook below is gone.
fn hooks(upper: BorrowedFd<'_>, path: &str) -> Option<Vec<(String, Aside)>> {
    let listed = rustix::fs::openat(upper, ".", DIRECTORY, Mode::empty()).ok()?;
    let mut all = Vec::new();
    for entry in Dir::new(listed).ok()?.take(MAX_HOOKS) {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            all.push((format!("{path}/{}", String::from_utf8_lossy(name)), Aside::Hook));
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(all)
}

fn bounded(text: &str) -> String {
    text.chars().take(MAX_PATH).collect()
}
