//! Room of the store's own: bytes and inodes that are set aside while there are some, and given up one by one when a
//! write finds the disk full. Sessions write to the same disk; one that fills it is ended within a moment, and until
//! then the record of that goes on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

/// What is set aside, unless that is more than this part of what is free.
const BYTES: u64 = 16 << 20;
const PART: u64 = 16;
/// What is given up at once: more than any one write takes.
const STEP: u64 = 1 << 20;
/// Files that are set aside for their inodes.
const INODES: u32 = 16;
/// How long a write is tried again. A session that fills the disk lives no longer than a part of that.
const WAIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);
/// How often what was given up is set aside again.
const REFILL: Duration = Duration::from_secs(10);

/// What the store has set aside.
pub(super) struct Ballast {
    dir: PathBuf,
    held: Mutex<Held>,
}

struct Held {
    bytes: u64,
    inodes: u32,
    filled: Option<Instant>,
}

impl Ballast {
    /// In a directory below `dir`. A disk that is full already has none to give.
    pub(super) fn open(dir: &Path) -> Self {
        let ballast =
            Self { dir: dir.join("reserve"), held: Mutex::new(Held { bytes: 0, inodes: 0, filled: None }) };
        ballast.refill();
        ballast
    }

    /// Does `write`, and does it again with room made if the disk is full. It has to undo itself what it did by
    /// halves.
    pub(super) fn room<T>(&self, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut until = None;
        loop {
            match write() {
                Err(error) if is_full(&error) => {
                    let until = *until.get_or_insert_with(|| Instant::now() + WAIT);
                    if Instant::now() >= until {
                        return Err(error);
                    }
                    if !self.give_up() {
                        std::thread::sleep(PAUSE);
                    }
                }
                done => {
                    if until.is_none() {
                        self.refill();
                    }
                    return done;
                }
            }
        }
    }

    /// Gives up some of it; whether there was any.
    fn give_up(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (held.bytes, held.inodes);
        if held.bytes > 0 {
            let left = held.bytes.saturating_sub(STEP);
            let cut = File::options().write(true).open(self.bytes()).and_then(|file| file.set_len(left));
            held.bytes = if cut.is_ok() { left } else { 0 };
        }
        if held.inodes > 0 {
            held.inodes -= 1;
            super::remove(&self.inode(held.inodes));
        }
        before != (0, 0)
    }

    /// Sets aside what is missing of it, if it was not tried a moment ago and there is plenty.
    fn refill(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.filled.is_some_and(|at| at.elapsed() < REFILL) {
            return;
        }
        held.filled = Some(Instant::now());
        if held.bytes == BYTES && held.inodes == INODES {
            return;
        }
        if let Err(error) = self.fill(&mut held) {
            tracing::warn!(path = %self.dir.display(), %error, "less is set aside for the record than should be");
        }
    }

    fn fill(&self, held: &mut Held) -> io::Result<()> {
        match std::fs::create_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let stat = rustix::fs::statvfs(&self.dir)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let bytes = BYTES.min((free / PART).max(held.bytes));
        let file = File::options().write(true).create(true).truncate(false).open(self.bytes())?;
        file.set_len(bytes)?;
        if bytes > 0 {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
                // What cannot be set aside there is not needed: such a file system is no disk.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => {
                    file.set_len(0)?;
                    held.bytes = 0;
                    return Err(errno.into());
                }
            }
        }
        held.bytes = bytes;
        while held.inodes < INODES {
            File::create(self.inode(held.inodes))?;
            held.inodes += 1;
        }
        Ok(())
    }

    fn bytes(&self) -> PathBuf {
        self.dir.join("bytes")
    }

    fn inode(&self, number: u32) -> PathBuf {
        self.dir.join(number.to_string())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Error {
        io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
    }

    fn within(name: &str, test: impl FnOnce(&Path)) {
        let dir = std::env::temp_dir().join(format!("agentd-ballast-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        test(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_write_that_finds_the_disk_full_has_what_was_set_aside() {
        within("full", |dir| {
            let ballast = Ballast::open(dir);
            let size = || std::fs::metadata(dir.join("reserve/bytes")).unwrap().len();
            assert_eq!(size(), BYTES);
            let mut tries = 0;
            let done = ballast.room(|| {
                tries += 1;
                if tries < 3 { Err(full()) } else { Ok(tries) }
            });
            assert_eq!(done.unwrap(), 3);
            assert_eq!(size(), BYTES - 2 * STEP);
            assert!(dir.join(format!("reserve/{}", INODES - 3)).exists());
            assert!(!dir.join(format!("reserve/{}", INODES - 2)).exists());
            // Another error is nothing that room helps with.
            let other = ballast.room(|| Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied)));
            assert!(other.is_err());
            assert_eq!(size(), BYTES - 2 * STEP);
        });
    }

    #[test]
    fn it_is_set_aside_again_by_the_next_start() {
        within("again", |dir| {
            let ballast = Ballast::open(dir);
            assert!(ballast.give_up());
            drop(ballast);
            let _again = Ballast::open(dir);
            assert_eq!(std::fs::metadata(dir.join("reserve/bytes")).unwrap().len(), BYTES);
            assert!(dir.join(format!("reserve/{}", INODES - 1)).exists());
        });
    }
}
