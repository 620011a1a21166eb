//! Where the kernel holds the limit: reports a session that has reached it. Such a session goes on; its writes fail
//! with `ENOSPC` or `EDQUOT`. The kernel notifies nobody, so that it is looked twice a second at what is left: who
//! fills it and makes room again between two looks is not reported.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::space::Space;
use super::{Excess, Notice, Usage};
use crate::error::{HostError, On as _};

/// Between two looks.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
/// No more than that, or than this part of all, is nothing: file systems keep something of it back, and refuse writes
/// before it is used up.
const NOTHING: u64 = 1 << 20;
const PART: u64 = 64;
/// It is reported again when so many times more was free meanwhile, or after this time.
const AGAIN: u64 = 2;
const LATER: Duration = Duration::from_secs(60);

/// When it was last reported, of bytes or of inodes.
#[derive(Debug, Default)]
struct LastReport(Option<Instant>);

impl LastReport {
    /// Whether it is to be reported now.
    fn is_due(&mut self, free: u64, nothing: u64, now: Instant) -> bool {
        if free > (nothing * AGAIN).max(16) {
            self.0 = None;
        }
        let due = free <= nothing && self.0.is_none_or(|at| now.duration_since(at) >= LATER);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// Returns once nobody wants to know any more.
pub fn run(uppers: BorrowedFd<'_>, keeper: BorrowedFd<'_>) -> Result<(), HostError> {
    let (mut bytes, mut inodes) = (LastReport::default(), LastReport::default());
    loop {
        let Space { free: Usage { bytes: free, inodes: names }, size, .. } =
            Space::of(uppers).on("statfs")?;
        let nothing = NOTHING.max(size.bytes / PART);
        let now = Instant::now();
        let full = [
            bytes.is_due(free, nothing, now).then_some(Excess::Bytes),
            inodes.is_due(names, 0, now).then_some(Excess::Inodes),
        ];
        for excess in full.into_iter().flatten() {
            rustix::io::write(keeper, &Notice::Full(excess).to_bytes())?;
        }
        let mut reader = [PollFd::from_borrowed_fd(keeper.as_fd(), PollFlags::empty())];
        match rustix::event::poll(&mut reader, Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_until_there_is_room_again() {
        let (mut last, now) = (LastReport::default(), Instant::now());
        let mut due = |free, now| last.is_due(free, NOTHING, now);
        assert!(!due(NOTHING + 1, now));
        assert!(due(NOTHING, now));
        assert!(!due(0, now) && !due(AGAIN * NOTHING, now) && !due(0, now));
        assert!(!due(AGAIN * NOTHING + 1, now) && due(0, now));
        assert!(!due(0, now + Duration::from_secs(1)) && due(0, now + LATER));
    }
}
