//! Whether a file system in memory that a session has is full: the kernel shows that only to the process that writes.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_policy::event::EventBody;
use agentd_policy::limit_kind::LimitKind;
use agentd_policy::names::AbsPath;

/// While something goes on, a look is after that.
const REST: Duration = Duration::from_millis(50);
/// Once nothing goes on any more, the last look is after that.
const SETTLED: Duration = Duration::from_secs(1);
/// One that was full is reported again once this part of it was free in between.
const ROOM: u64 = 16;

/// A file system in memory that the session writes to.
#[derive(Debug)]
pub struct Scratch {
    /// Where it is mounted.
    pub path: AbsPath,
    /// Its limit, in bytes.
    pub size: u64,
    /// A descriptor of it.
    pub mount: OwnedFd,
}

/// All of a session.
#[derive(Debug)]
pub struct Scratches {
    all: Vec<(Scratch, bool)>,
    due: Option<Instant>,
    settles: Instant,
}

impl Scratches {
    /// None of them is full yet.
    pub fn new(all: Vec<Scratch>) -> Self {
        let now = Instant::now();
        Self { all: all.into_iter().map(|scratch| (scratch, false)).collect(), due: None, settles: now }
    }

    /// What must not be closed.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().map(|(scratch, _)| scratch.mount.as_fd())
    }

    /// Something goes on in the session.
    pub fn active(&mut self, now: Instant) {
        self.settles = now + SETTLED;
        self.due.get_or_insert(now + REST);
    }

    /// When to look.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks, if that is due. Which have become full since.
    pub fn look_if_due(&mut self, now: Instant) -> rustix::io::Result<Vec<EventBody>> {
        if self.due.is_none_or(|due| due > now) {
            return Ok(Vec::new());
        }
        self.due = Some(self.settles).filter(|settles| *settles > now);
        self.look()
    }

    /// Looks. Which have become full since.
    pub fn look(&mut self) -> rustix::io::Result<Vec<EventBody>> {
        let mut events = Vec::new();
        for (scratch, known) in &mut self.all {
            let room = rustix::fs::fstatfs(&scratch.mount)?;
            let full = room.f_bfree == 0 || room.f_files > 0 && room.f_ffree == 0;
            let roomy = room.f_bfree > room.f_blocks / ROOM && room.f_ffree >= room.f_files / ROOM;
            if full && !*known {
                let kind = LimitKind::Scratch(scratch.path.clone());
                events.push(EventBody::Limit { kind, limit: scratch.size });
            }
            *known = full || *known && !roomy;
        }
        Ok(events)
    }
}
