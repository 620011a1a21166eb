//! How much a session has written to its overlays. No quota of the kernel's fits every file system, so a small
//! process looks: twice a second at the most, and the more room there is, the more seldom. What is written between two
//! looks can go beyond the limit.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::process::{self, Birth, Child, SingleThreaded};
use agentd_kernel::{creds, mount, seccomp};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Between two looks, at least; and as a multiple of the time that a look takes.
const PAUSE: Duration = Duration::from_millis(500);
/// See [`PAUSE`].
const SHARE: u32 = 10;
/// Between two looks, as long as there is room for what a fast disk takes meanwhile: bytes in a millisecond.
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// See [`LONG_PAUSE`].
const FAST: u64 = 2 << 20;
/// The deepest directory that is looked into. Who makes deeper ones has passed the limit: it hides something.
const MAX_DEPTH: usize = 4096;
/// The longest reason of a failure, in bytes.
const MAX_REASON: usize = 200;

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
    /// Starts it. The descriptor becomes readable once the limit is passed, or the meter has failed; then it says why.
    pub fn start(self) -> std::io::Result<(Child, OwnedFd)> {
        let (over, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let birth = Birth { cgroup: Some(self.cgroup), ..Birth::default() };
        let child = process::spawn(self.token, birth, || {
            match self.give_up(tell.as_fd()).and_then(|()| self.measure(tell.as_fd())) {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(error, "what the session writes cannot be measured");
                    let reason = error.as_bytes();
                    // A keeper that is gone needs no reason.
                    let _ = rustix::io::write(&tell, reason.get(..MAX_REASON).unwrap_or(reason));
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
            let used = usage(self.uppers.as_fd(), self.limit).map_err(|e| format!("counting: {e}"))?;
            let Some(room) = self.limit.checked_sub(used) else { return Ok(()) };
            let pause = pause(room, began.elapsed());
            let pause = rustix::event::Timespec {
                tv_sec: i64::try_from(pause.as_secs()).unwrap_or(60),
                tv_nsec: i64::from(pause.subsec_nanos()),
            };
            // A pipe that has lost its reader reports an error without being asked.
            let mut reader = [PollFd::from_borrowed_fd(tell, PollFlags::empty())];
            match rustix::event::poll(&mut reader, Some(&pause)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.to_string()),
            }
        }
    }
}

/// How long nobody looks while there is that much room, and a look takes so long.
fn pause(room: u64, look: Duration) -> Duration {
    Duration::from_millis(room / FAST).clamp(PAUSE, LONG_PAUSE).max(look * SHARE)
}

/// Why a meter failed, by its descriptor.
pub fn reason(over: &OwnedFd) -> String {
    let mut bytes = [0; MAX_REASON];
    // Without a writer there is nothing to wait for.
    let count = rustix::io::read(over, &mut bytes).unwrap_or(0);
    String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned()
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
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            continue;
        }
        if depth >= MAX_DEPTH {
            return Ok(u64::MAX);
        }
        match rustix::fs::openat(fd, name, flags, Mode::empty()) {
            Ok(below) => stack.push(Dir::new(below)?),
            // It went, or is something else by now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
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
        assert!(may_open(65_536));
        assert_eq!(usage(open().as_fd(), u64::MAX).unwrap(), u64::MAX);
        let parent = rustix::fs::open(std::env::temp_dir(), OFlags::RDONLY, Mode::empty()).unwrap();
        crate::workers::delete_tree(parent.as_fd(), base.file_name().unwrap().to_str().unwrap()).unwrap();
        assert!(!base.exists());
    }

    fn may_open(count: u64) -> bool {
        agentd_kernel::rlimits::Limits { open_files: count }.apply().is_ok()
    }

    #[test]
    fn the_less_room_the_more_often() {
        let look = Duration::from_millis(1);
        assert_eq!(pause(0, look), PAUSE);
        assert_eq!(pause(4 << 30, look), Duration::from_millis(2048));
        assert_eq!(pause(u64::MAX, look), LONG_PAUSE);
        assert_eq!(pause(u64::MAX, Duration::from_secs(1)), Duration::from_secs(10));
    }

    #[test]
    fn why_it_failed_is_told() {
        let (over, tell) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&tell, b"counting: Operation not permitted").unwrap();
        drop(tell);
        assert_eq!(reason(&over), "counting: Operation not permitted");
    }
}
