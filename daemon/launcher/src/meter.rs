//! How much a session has written to its overlays. No quota of the kernel's fits every file system, so a small
//! process looks, twice a second at the most: what is written between two looks can go beyond the limit.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::process::{self, Birth, Child, SingleThreaded};
use agentd_kernel::{creds, mount, seccomp};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Between two looks, at least; and as a multiple of the time that a look takes.
const PAUSE: Duration = Duration::from_millis(500);
/// See [`PAUSE`].
const SHARE: u32 = 10;
/// The deepest directory that is looked into.
const MAX_DEPTH: usize = 4096;

/// What a meter is started with.
pub struct Meter<'a> {
    /// The session's directory of uppers.
    pub uppers: OwnedFd,
    /// The most bytes that may be in it.
    pub limit: u64,
    /// Where it is accounted.
    pub cgroup: BorrowedFd<'a>,
    /// An empty root.
    pub empty_root: BorrowedFd<'a>,
    /// What it may ask of the kernel.
    pub filter: &'a seccomp::Filter,
    /// That fork is sound.
    pub token: SingleThreaded,
}

impl Meter<'_> {
    /// Starts it. The descriptor becomes readable once the limit is passed, or the meter has failed.
    pub fn start(self) -> std::io::Result<(Child, OwnedFd)> {
        let (over, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let birth = Birth { cgroup: Some(self.cgroup), ..Birth::default() };
        let child = process::spawn(self.token, birth, || {
            match self.give_up(tell.as_fd()).and_then(|()| self.measure(tell.as_fd())) {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(%error, "disk meter");
                    1
                }
            }
        })?;
        Ok((child, over))
    }

    /// Of root's rights, that to list directories of others; no root, no network of its own to speak of.
    fn give_up(&self, tell: BorrowedFd<'_>) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        process::set_title(c"agentd-meter").map_err(|e| text(&e))?;
        mount::enter_namespace(self.empty_root).map_err(|e| text(&e))?;
        process::close_all_but(&[self.uppers.as_fd(), tell]).map_err(|e| text(&e))?;
        creds::not_dumpable().map_err(|e| text(&e))?;
        let kept = CapabilitySet::DAC_READ_SEARCH;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        rustix::thread::set_capabilities(None, sets).map_err(|e| text(&e))?;
        creds::no_new_privs().map_err(|e| text(&e))?;
        creds::parent_death_signal().map_err(|e| text(&e))?;
        seccomp::install(self.filter).map(drop).map_err(|e| text(&e))
    }

    /// Returns when the limit is passed, or nobody wants to know any more.
    fn measure(&self, tell: BorrowedFd<'_>) -> Result<(), String> {
        loop {
            let began = Instant::now();
            if usage(self.uppers.as_fd(), self.limit).map_err(|e| e.to_string())? > self.limit {
                return Ok(());
            }
            let pause = PAUSE.max(began.elapsed() * SHARE);
            let pause = rustix::event::Timespec {
                tv_sec: i64::try_from(pause.as_secs()).unwrap_or(60),
                tv_nsec: i64::from(pause.subsec_nanos()),
            };
            // A pipe that has lost its reader reports an error without being asked.
            let mut reader = [PollFd::from_borrowed_fd(tell, PollFlags::empty())];
            match rustix::event::poll(&mut reader, Some(&pause)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.to_string()),
            }
        }
    }
}

/// Bytes of every file below `top`, on its own file system; counting ends beyond `enough`. Names come and go
/// meanwhile: what is gone does not count.
fn usage(top: BorrowedFd<'_>, enough: u64) -> rustix::io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut bytes = 0_u64;
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
        bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
        if bytes > enough {
            break;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && depth < MAX_DEPTH
            && let Ok(below) = rustix::fs::openat(fd, name, flags, Mode::empty())
        {
            stack.push(Dir::new(below)?);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_counts_and_links_do_not_lead_away() {
        let base = std::env::temp_dir().join(format!("agentd-meter-{}", std::process::id()));
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::write(base.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("/usr", base.join("a/link")).unwrap();
        let top = rustix::fs::open(&base, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::fsync(std::fs::File::open(base.join("a/b/file")).unwrap()).unwrap();
        let bytes = usage(top.as_fd(), u64::MAX).unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert!(usage(top.as_fd(), 1000).unwrap() > 1000);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
