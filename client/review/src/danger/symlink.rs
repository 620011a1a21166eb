//! Where symbolic links lead.

use std::os::unix::ffi::OsStrExt as _;

use rustix::io::Errno;

use super::table::is_git;
use crate::beneath::Tree;
use crate::error::ReviewError;
use crate::path::FilePath;
use crate::trees::Trees;

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// The most components of one path with its links: ordinary ones have a few.
const MAX_COMPONENTS: usize = 1024;

/// Whether a link at `path` with this target leads out of the workspace or into a `.git`, in the session's view or in
/// the workspace as it is: absolute, by `..`, or through other links. What cannot be followed to its end leads out,
/// also because there are no `look_ups` left.
pub fn leads_out(path: &FilePath, target: &[u8], trees: &Trees, look_ups: &mut u64) -> bool {
    [&trees.merged, &trees.workspace].into_iter().any(|tree| stays(tree, path, target, look_ups).is_none())
}

/// `None` if it leads out.
fn stays(tree: &Tree, path: &FilePath, target: &[u8], look_ups: &mut u64) -> Option<()> {
    let mut at: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
    at.pop();
    let mut rest = parts(target)?;
    let (mut links, mut components) = (0, 0);
    while let Some(part) = rest.pop() {
        components += 1;
        if components > MAX_COMPONENTS || links > MAX_LINKS {
            return None;
        }
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at.pop()?;
                continue;
            }
            name if is_git(name) => return None,
            _ => at.push(part),
        }
        *look_ups = look_ups.checked_sub(1)?;
        let here = FilePath::parse(&at.join(&b'/')).ok()?;
        match tree.read_link(&here) {
            Ok(target) => {
                links += 1;
                at.pop();
                rest.extend(parts(&target)?);
            }
            // It is no link, or not there.
            Err(ReviewError::Io { errno: Errno::INVAL | Errno::NOENT | Errno::NOTDIR, .. }) => {}
            Err(_) => return None,
        }
    }
    Some(())
}

/// A relative target's components, the first at the end.
fn parts(target: &[u8]) -> Option<Vec<Vec<u8>>> {
    let relative = !target.starts_with(b"/") && !std::ffi::OsStr::from_bytes(target).is_empty();
    relative.then(|| target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec).collect())
}
