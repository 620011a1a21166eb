//! What a session may use up: memory and processes, as the kernel counts; its overlays, as the meter measures; time.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::Watch;
use agentd_kernel::process::Child;
use agentd_policy::event::{End, EventBody, ExitStatus};
use agentd_policy::limit_kind::LimitKind;
use agentd_policy::limits::Limits as Planned;
use agentd_policy::size::readable_size;

use super::Keeper;
use crate::error::{HostError, On as _};
use crate::meter::{self, Excess, Notice};

/// How often the pids limit is looked at where the kernel does not notify.
const PIDS_LOOK: Duration = Duration::from_millis(250);
/// How often the relay says that something goes through: so long it may be silent of it.
const ACTIVE: Duration = Duration::from_secs(1);

/// The limits and how far it is from them.
#[derive(Debug)]
pub struct Limits {
    pub planned: Planned,
    deadline: Instant,
    /// When something last went in or out, or a program was started.
    active: Instant,
    memory_kills: u64,
    pids_hits: u64,
    pids_reported: Option<Instant>,
    /// When to look at the pids limit, where the kernel does not notify.
    pids_look: Option<Instant>,
    /// What looks at the size of the session's overlays, and the pipe of its notices.
    pub disk: Option<(Child, OwnedFd)>,
    /// The meter that is about to end.
    pub meter: Option<Child>,
}

impl Limits {
    /// From now on.
    pub fn new(planned: Planned, watch: &Watch, disk: Option<(Child, OwnedFd)>) -> Result<Self, HostError> {
        let now = Instant::now();
        Ok(Self {
            planned,
            deadline: now + Duration::from_millis(planned.timeout_ms),
            active: now,
            memory_kills: watch.memory_kills()?,
            pids_hits: watch.pids_hits()?,
            pids_reported: None,
            pids_look: (!watch.pids_notify()).then_some(now),
            disk,
            meter: None,
        })
    }

    /// Whether the kernel has killed anything of the session for memory.
    pub fn has_killed_for_memory(&self) -> bool {
        self.memory_kills > 0
    }

    /// Something goes on.
    pub fn active(&mut self) {
        self.active = Instant::now();
    }

    /// When it will have been idle for too long, if it may not be for ever.
    fn idle_due(&self) -> Option<Instant> {
        let idle = Duration::from_millis(self.planned.idle_ms);
        (self.planned.idle_ms > 0).then(|| self.active + idle + ACTIVE)
    }

    /// When the next of them is to be looked at.
    pub fn due(&self) -> Option<Instant> {
        [Some(self.deadline), self.idle_due(), self.pids_look].into_iter().flatten().min()
    }
}

impl Keeper {
    /// What is due by the clock, of a session that is not ending.
    pub(super) fn look_at_limits(&mut self, now: Instant) -> Result<(), HostError> {
        if self.limits.pids_look.is_some_and(|due| due <= now) {
            self.limits.pids_look = Some(now + PIDS_LOOK);
            self.pids_limit()?;
        }
        let Planned { timeout_ms, idle_ms, .. } = self.limits.planned;
        if now >= self.limits.deadline {
            self.spool.push(EventBody::Limit { kind: LimitKind::Timeout, limit: timeout_ms });
            self.finish(End::Timeout);
        } else if self.limits.idle_due().is_some_and(|due| due <= now) {
            self.spool.push(EventBody::Limit { kind: LimitKind::Idle, limit: idle_ms });
            self.finish(End::Idle);
        }
        Ok(())
    }

    /// A command that was killed while the kernel killed for memory was out of memory.
    pub(super) fn end_of_command(&mut self, status: ExitStatus) -> End {
        // What cannot be asked has not changed.
        self.memory_limit().ok();
        match status {
            ExitStatus::Signal(9) if self.limits.has_killed_for_memory() => End::OutOfMemory,
            status => End::Command(status),
        }
    }

    /// Whether the kernel has killed for memory since this was last asked.
    pub(super) fn memory_limit(&mut self) -> Result<bool, HostError> {
        let kills = self.watch.memory_kills().on("memory events")?;
        let more = kills > self.limits.memory_kills;
        if more {
            self.limits.memory_kills = kills;
            let limit = self.limits.planned.memory;
            self.spool.push(EventBody::Limit { kind: LimitKind::Memory, limit });
        }
        Ok(more)
    }

    pub(super) fn pids_limit(&mut self) -> Result<(), HostError> {
        let hits = self.watch.pids_hits().on("pids.events")?;
        let quiet = self.limits.pids_reported.is_none_or(|at| at.elapsed() >= Duration::from_secs(1));
        if hits > self.limits.pids_hits && quiet {
            self.limits.pids_reported = Some(Instant::now());
            self.spool.push(EventBody::Limit { kind: LimitKind::Pids, limit: self.limits.planned.pids });
        }
        self.limits.pids_hits = hits;
        Ok(())
    }

    /// The meter says something.
    pub(super) fn disk_limit(&mut self) -> Result<(), HostError> {
        let Some((_, notices)) = &self.limits.disk else { return Ok(()) };
        for notice in meter::read(notices) {
            match notice {
                Notice::Full(excess) => {
                    let limit = self.limit_of(excess);
                    self.spool.push(EventBody::Limit { kind: excess.limit(), limit });
                }
                Notice::Over(excess) => return self.disk_exceeded(excess),
                Notice::Failed(reason) => {
                    let Some((meter, _)) = self.limits.disk.take() else { return Ok(()) };
                    let status = meter.wait().on("meter")?;
                    self.finish(End::Failed {
                        what: format!("the disk meter ended with {status:?}: {reason}"),
                    });
                }
            }
        }
        Ok(())
    }

    /// The meter ends behind that.
    fn disk_exceeded(&mut self, excess: Excess) -> Result<(), HostError> {
        if let Some((meter, _)) = self.limits.disk.take() {
            meter.wait().on("meter")?;
        }
        if !self.phase.is_running() {
            return Ok(());
        }
        let limit = self.limit_of(excess);
        let what = match excess {
            Excess::Bytes => format!("it wrote more than {} to its workspace (--disk)", readable_size(limit)),
            Excess::Inodes => format!("it made more than {limit} files in its workspace (limits.inodes)"),
            Excess::Reserve => "it went on to write when the host's disk was nearly full".into(),
        };
        self.spool.push(EventBody::Limit { kind: excess.limit(), limit });
        self.finish(End::Failed { what });
        Ok(())
    }

    fn limit_of(&self, excess: Excess) -> u64 {
        match excess {
            Excess::Bytes | Excess::Reserve => self.limits.planned.disk,
            Excess::Inodes => self.limits.planned.inodes,
        }
    }

    pub(super) fn meter_ended(&mut self) -> Result<(), HostError> {
        match self.limits.meter.take() {
            Some(meter) => meter.wait().map(drop).on("meter"),
            None => Ok(()),
        }
    }
}
