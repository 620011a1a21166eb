//! Stopping every process of a group for a moment (`cgroup.freeze`): what they hold then does not change hands, and
//! none of them waits inside a system call with a file that is in nobody's table.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::files::open_at;
use super::{CgroupError, Group};

/// What is read of `cgroup.procs` at once.
const CHUNK: usize = 16 << 10;

/// A hold on a group that is to be frozen, by descriptors that were opened with root's rights.
#[derive(Debug)]
pub struct Freezer {
    freeze: OwnedFd,
    events: OwnedFd,
    processes: OwnedFd,
}

impl Group {
    /// What freezes it.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn freezer(&self) -> Result<Freezer, CgroupError> {
        let open = |name, flags| open_at(self.v2.as_fd(), name, flags);
        Ok(Freezer {
            freeze: open("cgroup.freeze", OFlags::WRONLY)?,
            events: open("cgroup.events", OFlags::RDONLY)?,
            processes: open("cgroup.procs", OFlags::RDONLY)?,
        })
    }
}

impl Freezer {
    /// Every descriptor of it.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [&self.freeze, &self.events, &self.processes].map(AsFd::as_fd)
    }

    /// Freezes the group and waits until every process is, but no longer than that. Whether they are.
    ///
    /// # Errors
    /// As `write(2)`, `pread(2)`, `poll(2)`.
    pub fn freeze(&self, wait: Duration) -> std::io::Result<bool> {
        rustix::io::write(&self.freeze, b"1")?;
        let until = Instant::now() + wait;
        loop {
            // Read before it is waited for: the file reports what changed since.
            let mut text = [0; 256];
            let count = rustix::io::pread(&self.events, &mut text, 0)?;
            if text[..count].split(|byte| *byte == b'\n').any(|line| line == b"frozen 1") {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match rustix::event::poll(&mut [PollFd::new(&self.events, PollFlags::PRI)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Lets the group go on.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn thaw(&self) -> std::io::Result<()> {
        rustix::io::write(&self.freeze, b"0")?;
        Ok(())
    }

    /// The processes of the group.
    ///
    /// # Errors
    /// As `lseek(2)`, `read(2)`.
    pub fn processes(&self) -> std::io::Result<Vec<i32>> {
        rustix::fs::seek(&self.processes, SeekFrom::Start(0))?;
        let mut text = Vec::new();
        loop {
            let start = text.len();
            text.resize(start + CHUNK, 0);
            let count = rustix::io::read(&self.processes, &mut text[start..])?;
            text.truncate(start + count);
            if count == 0 {
                break;
            }
        }
        let lines = text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        Ok(lines.filter_map(|line| line.parse().ok()).collect())
    }
}
