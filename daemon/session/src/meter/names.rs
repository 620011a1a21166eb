//! What a session's overlays hold by name.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Usage;

/// The deepest directory that is looked into. Who makes deeper ones has passed the limit: it hides something.
const MAX_DEPTH: usize = 4096;

/// Every name below `top`, on its own file system; counting ends beyond `enough`. What has several names counts its
/// bytes once. Names come and go meanwhile: what is gone does not count.
pub fn usage(top: BorrowedFd<'_>, enough: Usage) -> rustix::io::Result<Usage> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut used = Usage::default();
    // No more than `enough` names are in it.
    let mut linked = HashSet::new();
    let mut stack = vec![Dir::new(rustix::fs::openat(top, ".", flags, Mode::empty())?)?];
    loop {
        let depth = stack.len();
        let Some(dir) = stack.last_mut() else { break };
        let Some(entry) = dir.read() else {
            stack.pop();
            continue;
        };
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let fd = dir.fd()?;
        let Ok(stat) = rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let counted = !is_dir && stat.st_nlink > 1 && !linked.insert(stat.st_ino);
        let blocks = if counted { 0 } else { u64::try_from(stat.st_blocks).unwrap_or(0) };
        used = used + Usage { bytes: blocks.saturating_mul(512), inodes: 1 };
        if used.exceeds(enough).is_some() {
            break;
        }
        if !is_dir {
            continue;
        }
        if depth >= MAX_DEPTH {
            return Ok(Usage { bytes: u64::MAX, inodes: used.inodes });
        }
        match rustix::fs::openat(fd, name, flags, Mode::empty()) {
            Ok(below) => stack.push(Dir::new(below)?),
            // It went, or is something else by now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    const ALL: Usage = Usage { bytes: u64::MAX - 1, inodes: u64::MAX };

    #[test]
    fn every_name_counts_and_links_do_not_lead_away() {
        let base = std::env::temp_dir().join(format!("agentd-meter-{}", std::process::id()));
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::write(base.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(base.join("a/b/file"), base.join("a/other")).unwrap();
        std::os::unix::fs::symlink("/usr", base.join("a/link")).unwrap();
        let top = rustix::fs::open(&base, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::fsync(std::fs::File::open(base.join("a/b/file")).unwrap()).unwrap();
        let used = usage(top.as_fd(), ALL).unwrap();
        assert!((1 << 20..2 << 20).contains(&used.bytes), "{used:?}");
        assert_eq!(used.inodes, 5, "a, b, file, other, link");
        assert!(usage(top.as_fd(), Usage { bytes: 1000, ..ALL }).unwrap().bytes > 1000);
        assert_eq!(usage(top.as_fd(), Usage { inodes: 2, ..ALL }).unwrap().inodes, 3);
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn nothing_is_hidden_in_the_depth() {
        let base = std::env::temp_dir().join(format!("agentd-meter-deep-{}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        let open = || rustix::fs::open(&base, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut dir = open();
        for _ in 0..MAX_DEPTH {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let limits = agentd_kernel::rlimits::Limits::of_files(65_536);
        assert!(limits.apply().unwrap().open_files > MAX_DEPTH as u64);
        assert_eq!(usage(open().as_fd(), ALL).unwrap().bytes, u64::MAX);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
