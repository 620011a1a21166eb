//! Holds what a session has against what its file system says.
//!
//! Counting names takes time, and more of it the more there are. So between two counts the file system's own number
//! is looked at, ten times a second: what a session has is at most what it had at the last count, and what the whole
//! file system has lost since then. Once that is beyond the limit, the session is stopped for the time of a count that
//! finds all of it, and ended or let go on. What others write leads to a count, never to an end.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::Freezer;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::space::Space;
use super::{Excess, Reserve, Usage, nameless, names};
use crate::error::{HostError, On as _};

/// Between two looks at the file system: the less room there is, the shorter.
const TICK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Between two counts, as a multiple of the time that one takes; but never longer than the second.
const SHARE: u32 = 10;
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// The same of counts for which the session is stopped.
const FROZEN_SHARE: u32 = 4;
/// What a fast disk takes in a millisecond.
const FAST: Usage = Usage { bytes: 2 << 20, inodes: 200 };
/// How long a session may take to stop. One that does not is counted as it runs.
const FREEZE: Duration = Duration::from_millis(250);
/// What a session may grow by while the file system is nearly full.
const SLACK: Usage = Usage { bytes: 1 << 20, inodes: 64 };
/// How often a session that may hide something is looked at, and after what time again.
const HIDING: u32 = 16;
const HIDING_PAUSE: Duration = Duration::from_millis(5);
/// Who has taken no more than this part of what made the file system nearly full is not ended for that.
const PART: u64 = 16;

/// A watch on one session.
pub struct Watch<'a> {
    /// Its directory of uppers.
    pub uppers: BorrowedFd<'a>,
    /// The most that may be in it.
    pub limit: Usage,
    /// What must stay free.
    pub reserve: Reserve,
    /// What stops it.
    pub freezer: &'a Freezer,
    /// The host's /proc.
    pub proc: BorrowedFd<'a>,
    /// Where the keeper reads.
    pub keeper: BorrowedFd<'a>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// With and without a name.
    usage: Usage,
    /// Descriptors in sockets' queues that were not looked at.
    parked: u64,
}

/// What is known of the session.
#[derive(Debug)]
struct Known {
    /// By the last count.
    count: Count,
    /// The least that was taken of the file system since.
    base: Usage,
    /// Bytes that the file system has lost and no count has found, since when descriptors lie in queues.
    hidden: u64,
    /// What the session had when the file system was found to be nearly full.
    shortage: Option<Usage>,
}

impl Known {
    /// Of a session that has nothing yet.
    fn new(space: &Space) -> Self {
        Self { count: Count::default(), base: space.used, hidden: 0, shortage: None }
    }

    fn usage(&self) -> Usage {
        self.count.usage + Usage { bytes: self.hidden, inodes: self.count.parked }
    }

    /// What the file system has lost since the last count. What others free meanwhile hides nothing that is taken
    /// later.
    fn growth(&mut self, space: &Space) -> Usage {
        self.base = self.base.min(space.used);
        space.used.less(self.base)
    }

    /// Takes up a count; `space` is from before it.
    fn update(&mut self, count: Count, space: &Space) {
        let lost = self.growth(space).bytes;
        let found = count.usage.bytes.saturating_sub(self.count.usage.bytes);
        self.hidden = match count.parked {
            0 => 0,
            // At most that lies in what is on its way.
            _ => self.hidden.saturating_add(lost.saturating_sub(found)),
        };
        self.count = count;
        self.base = space.used;
    }
}

impl Watch<'_> {
    /// Returns what there is too much of, or nothing once nobody wants to know any more.
    pub fn run(&self) -> Result<Option<Excess>, HostError> {
        let space = self.space()?;
        let mut known = Known::new(&space);
        // It begins with nothing, and what it takes from now on shows in the file system's own number.
        let (mut next, mut next_frozen) = (Instant::now() + PAUSE.0, Instant::now());
        loop {
            let space = self.space()?;
            let growth = known.growth(&space);
            let short = self.reserve.is_touched(&space);
            let now = Instant::now();
            let mut suspect = (known.usage() + growth).exceeds(self.limit).is_some()
                || short && (known.shortage.is_none() || growth != Usage::default());
            if !suspect && next <= now {
                known.update(self.count(false)?, &space);
                next = now + pause(self.room(&known, Usage::default(), &space), now.elapsed());
                suspect = known.usage().exceeds(self.limit).is_some();
            }
            if suspect && next_frozen <= now {
                let before = known.usage();
                known.update(self.frozen_count()?, &space);
                self.rule_out_hiding(&mut known)?;
                if let Some(excess) = self.judge(&mut known, before, growth, short) {
                    return Ok(Some(excess));
                }
                let took = now.elapsed();
                next_frozen = now + took + (took * FROZEN_SHARE).clamp(PAUSE.0, PAUSE.1);
                next = now + pause(self.room(&known, Usage::default(), &space), took);
            }
            if !short {
                known.shortage = None;
            }
            let tick = tick(self.room(&known, growth, &space));
            if self.wait(tick)? {
                return Ok(None);
            }
        }
    }

    /// Some descriptors in queues are out of sight, and others write meanwhile: a session hides something only if it
    /// has such whenever it is looked at.
    fn rule_out_hiding(&self, known: &mut Known) -> Result<(), HostError> {
        for _ in 0..HIDING {
            if known.hidden == 0 || known.count.usage.exceeds(self.limit).is_some() {
                break;
            }
            if self.wait(HIDING_PAUSE)? {
                break;
            }
            let space = self.space()?;
            known.update(self.frozen_count()?, &space);
        }
        Ok(())
    }

    /// After a count that found all: whether the session is to end.
    fn judge(&self, known: &mut Known, before: Usage, growth: Usage, short: bool) -> Option<Excess> {
        let usage = known.usage();
        if let Some(excess) = usage.exceeds(self.limit) {
            return Some(excess);
        }
        if !short {
            return None;
        }
        let over = match known.shortage {
            // The file system has become short of space: who has taken a part of it?
            None => {
                let part = Usage { bytes: growth.bytes / PART, inodes: growth.inodes / PART };
                let grown = usage.less(before);
                grown.bytes > part.bytes.max(SLACK.bytes) || grown.inodes > part.inodes.max(SLACK.inodes)
            }
            Some(shortage) => usage.less(shortage).exceeds(SLACK).is_some(),
        };
        known.shortage.get_or_insert(usage);
        over.then_some(Excess::Reserve)
    }

    fn space(&self) -> Result<Space, HostError> {
        Space::of(self.uppers).on("statfs")
    }

    /// What the session may take before anything has to be looked at.
    fn room(&self, known: &Known, growth: Usage, space: &Space) -> Usage {
        self.limit.less(known.usage() + growth).min(space.free.less(self.reserve.0))
    }

    fn count(&self, frozen: bool) -> Result<Count, HostError> {
        let object = "counting";
        let named = names::usage(self.uppers, self.limit).on(object)?;
        let processes = self.freezer.processes().on(object)?;
        let rest = self.limit.less(named);
        let nameless = nameless::find(self.proc, &processes, frozen, rest).on(object)?;
        Ok(Count { usage: named + nameless.usage, parked: nameless.parked })
    }

    /// Counts while nothing changes. A session that has too much stays stopped: it ends.
    fn frozen_count(&self) -> Result<Count, HostError> {
        let object = "cgroup.freeze";
        let frozen = self.freezer.freeze(FREEZE).on(object)?;
        if !frozen {
            tracing::debug!("the session does not stop: it is counted as it runs");
        }
        let count = self.count(frozen)?;
        self.freezer.thaw().on(object)?;
        Ok(count)
    }

    /// Waits so long; whether nobody reads any more.
    fn wait(&self, time: Duration) -> Result<bool, HostError> {
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        // A pipe that has lost its reader reports an error without being asked.
        let mut reader = [PollFd::from_borrowed_fd(self.keeper, PollFlags::empty())];
        match rustix::event::poll(&mut reader, Some(&time)) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// How soon that much room can be taken by a disk that is fast.
fn soonest(room: Usage) -> Duration {
    Duration::from_millis((room.bytes / FAST.bytes).min(room.inodes / FAST.inodes))
}

/// How long nobody looks while there is that much room.
fn tick(room: Usage) -> Duration {
    soonest(room).clamp(TICK.0, TICK.1)
}

/// How long nobody counts, after a count that took so long.
fn pause(room: Usage, took: Duration) -> Duration {
    soonest(room).min(PAUSE.1 / 2).max(took * SHARE).clamp(PAUSE.0, PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bytes(bytes: u64) -> Usage {
        Usage { bytes, inodes: 0 }
    }

    fn space(used: u64) -> Space {
        Space { used: bytes(used), free: bytes(1000 * MIB), size: bytes(2000 * MIB) }
    }

    fn count(bytes: u64, parked: u64) -> Count {
        Count { usage: Usage { bytes, inodes: 0 }, parked }
    }

    #[test]
    fn the_less_room_the_more_often_and_never_longer_than_a_bound() {
        let room = |bytes| Usage { bytes, inodes: u64::MAX };
        let took = Duration::from_millis(1);
        assert_eq!((tick(room(0)), pause(room(0), took)), (TICK.0, PAUSE.0));
        assert_eq!(tick(room(1 << 30)), Duration::from_millis(512));
        assert_eq!((tick(room(u64::MAX)), pause(room(u64::MAX), took)), (TICK.1, PAUSE.1 / 2));
        assert_eq!(tick(Usage { bytes: u64::MAX, inodes: 1000 }), TICK.0);
        assert_eq!(pause(room(0), Duration::from_millis(100)), Duration::from_secs(1));
        assert_eq!(pause(room(0), Duration::from_secs(600)), PAUSE.1, "no count is put off for long");
    }

    #[test]
    fn what_others_free_hides_nothing_that_is_taken_later() {
        let mut known = Known::new(&space(500));
        assert_eq!(known.growth(&space(600)).bytes, 100);
        assert_eq!(known.growth(&space(300)).bytes, 0);
        assert_eq!(known.growth(&space(450)).bytes, 150);
    }

    #[test]
    fn what_no_count_finds_is_its_own_only_while_descriptors_are_on_their_way() {
        let mut known = Known::new(&space(0));
        known.update(count(10, 0), &space(400));
        assert_eq!(known.usage().bytes, 10, "others wrote it");
        known.update(count(10, 1), &space(700));
        assert_eq!(known.usage(), Usage { bytes: 310, inodes: 1 });
        known.update(count(110, 1), &space(800));
        assert_eq!(known.usage().bytes, 410, "what is found is not hidden besides");
        known.update(count(110, 0), &space(900));
        assert_eq!(known.usage().bytes, 110);
    }
}
