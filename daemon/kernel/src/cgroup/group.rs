//! One group: its limits and its processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::process::Pid;

use super::files::{open_at, read_at, write_at, write_optional};
use super::{CgroupError, Controller};

/// Of the limit of processors, in microseconds.
const PERIOD: u64 = 100_000;

/// What a group may use up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes; swap is off.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// CPUs' worth of time; `None` for all.
    pub cpus: Option<f64>,
    /// Bytes in the buffers of TCP and UDP, of which the host has so many for everybody. A v1 hierarchy bounds them;
    /// in cgroup2 they count as memory, and nothing else bounds them.
    pub sockets: u64,
}

/// One group, as directories of every hierarchy.
#[derive(Debug)]
pub struct Group {
    pub(super) path: String,
    pub(super) v2: OwnedFd,
    pub(super) v1: Vec<V1Group>,
    pub(super) v2_controllers: Vec<Controller>,
    pub(super) cpuset: Option<OwnedFd>,
}

/// The directory of a group in a v1 hierarchy.
#[derive(Debug)]
pub(super) struct V1Group {
    pub(super) controllers: Vec<Controller>,
    /// The hierarchy's controllers, of those that programs read.
    pub(super) names: Vec<&'static str>,
    pub(super) dir: OwnedFd,
}

impl Group {
    /// Its path below the daemon's directory.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let v1 = self.v1.iter().map(|v1| &v1.dir);
        std::iter::once(&self.v2).chain(v1).chain(&self.cpuset).map(AsFd::as_fd).collect()
    }

    /// The cgroup2 directory, for `CLONE_INTO_CGROUP`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.v2.as_fd()
    }

    /// Sets every limit. Lowering memory's below what is in use may kill, and may take as long as the processes in
    /// the group like.
    ///
    /// # Errors
    /// If one of them cannot be set.
    pub fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.limit_memory(limits.memory)?;
        self.limit_others(limits)
    }

    /// Sets every limit but memory's. Kills nothing.
    ///
    /// # Errors
    /// If one of them cannot be set.
    pub fn limit_others(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.limit_pids(limits.pids)?;
        // They are charged to a v1 group only where this is set.
        self.v1_of(Controller::Memory).try_for_each(|dir| {
            write_optional(dir, "memory.kmem.tcp.limit_in_bytes", &limits.sockets.to_string())
        })?;
        self.limit_cpus(limits.cpus)
    }

    /// Sets the limit of memory of a group that has processes: none is killed for it. Whether it was set: not while
    /// more than that is in use. It takes as long as they go on to use memory that is taken from them.
    ///
    /// # Errors
    /// If it cannot be set.
    pub fn lower_memory(&self, memory: u64) -> Result<bool, CgroupError> {
        if self.v2_controllers.contains(&Controller::Memory) {
            // `memory.high` reclaims and slows down, and never kills. What it leaves is what is needed.
            write_at(self.v2.as_fd(), "memory.high", &memory.to_string())?;
            let used: Option<u64> = read_at(self.v2.as_fd(), "memory.current")?.trim().parse().ok();
            let fits = used.is_some_and(|used| used <= memory);
            let set = if fits { self.limit_memory(memory) } else { Ok(()) };
            write_at(self.v2.as_fd(), "memory.high", "max")?;
            return set.map(|()| fits);
        }
        match self.limit_memory(memory) {
            Ok(()) => Ok(true),
            // A v1 hierarchy reclaims, and refuses what does not suffice.
            Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::ResourceBusy => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes back what a try to lower it that did not succeed has set beside the limit.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn keep_memory(&self) -> Result<(), CgroupError> {
        if self.v2_controllers.contains(&Controller::Memory) {
            write_at(self.v2.as_fd(), "memory.high", "max")?;
        }
        self.v1_of(Controller::Memory).try_for_each(|dir| {
            let bytes = read_at(dir, "memory.limit_in_bytes")?;
            write_optional(dir, "memory.memsw.limit_in_bytes", bytes.trim())
        })
    }

    /// The limit of memory that is set; `None` for none.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn memory(&self) -> Result<Option<u64>, CgroupError> {
        let text = match self.v1_of(Controller::Memory).next() {
            Some(dir) => read_at(dir, "memory.limit_in_bytes")?,
            None => read_at(self.v2.as_fd(), "memory.max")?,
        };
        // A v1 hierarchy says the greatest number of pages there can be.
        Ok(text.trim().parse().ok().filter(|bytes| *bytes < i64::MAX as u64 / 2))
    }

    /// Sets a limit of memory that is no less than the one before, at once.
    ///
    /// # Errors
    /// If it cannot be set.
    pub fn raise_memory(&self, memory: u64) -> Result<(), CgroupError> {
        self.limit_memory(memory)
    }

    /// The bytes in it, and in what is or was below it, that the kernel cannot take back: of processes and shared
    /// memory, and in cgroup2 of the kernel's own. The kernel's statistics may be seconds old where its counter is not
    /// (`mem_cgroup_flush_stats`): it is what the counter says, less caches, or the statistics' sum if that is more.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn unreclaimable(&self) -> Result<u64, CgroupError> {
        let v1 = self.v1_of(Controller::Memory).next();
        let dir = v1.unwrap_or(self.v2.as_fd());
        let usage = read_at(dir, if v1.is_some() { "memory.usage_in_bytes" } else { "memory.current" })?;
        let usage: u64 = usage.trim().parse().unwrap_or(u64::MAX);
        let text = read_at(dir, "memory.stat")?;
        let of = |name: &str| -> u64 {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        let (sum, caches) = if v1.is_some() {
            let files = of("total_cache").saturating_sub(of("total_shmem"));
            // What of it can be taken back, there is no file for.
            let kernel = read_at(dir, "memory.kmem.usage_in_bytes").ok();
            let kernel: u64 = kernel.and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
            (of("total_rss") + of("total_shmem"), files.saturating_add(kernel))
        } else {
            let slab = of("slab_reclaimable");
            let kernel = of("kernel").saturating_sub(slab);
            let files = of("file").saturating_sub(of("shmem"));
            (of("anon") + of("shmem") + of("sock") + kernel, files + slab)
        };
        Ok(usage.saturating_sub(caches).max(sum))
    }

    fn limit_memory(&self, memory: u64) -> Result<(), CgroupError> {
        let bytes = memory.to_string();
        if self.v2_controllers.contains(&Controller::Memory) {
            write_at(self.v2.as_fd(), "memory.max", &bytes)?;
            write_optional(self.v2.as_fd(), "memory.swap.max", "0")?;
        }
        for dir in self.v1_of(Controller::Memory) {
            // Memory with swap may never be less than memory alone, not even on the way.
            write_optional(dir, "memory.memsw.limit_in_bytes", "-1")?;
            write_at(dir, "memory.swappiness", "0")?;
            write_at(dir, "memory.limit_in_bytes", &bytes)?;
            write_optional(dir, "memory.memsw.limit_in_bytes", &bytes)?;
        }
        Ok(())
    }

    fn limit_pids(&self, pids: u64) -> Result<(), CgroupError> {
        if self.v2_controllers.contains(&Controller::Pids) {
            write_at(self.v2.as_fd(), "pids.max", &pids.to_string())?;
        }
        self.v1_of(Controller::Pids).try_for_each(|dir| write_at(dir, "pids.max", &pids.to_string()))
    }

    /// Sets the limit of processors alone.
    ///
    /// # Errors
    /// If it cannot be set: a v1 hierarchy refuses a group more than the one above it has, and less than one below it.
    pub fn limit_cpus(&self, cpus: Option<f64>) -> Result<(), CgroupError> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at least 1000, and what is more than a u64 holds becomes its largest, which the kernel refuses"
        )]
        let quota = cpus.map(|cpus| (cpus * PERIOD as f64).round().max(1_000.0) as u64);
        if self.v2_controllers.contains(&Controller::Cpu) {
            let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
            write_at(self.v2.as_fd(), "cpu.max", &format!("{quota} {PERIOD}"))?;
        }
        for dir in self.v1_of(Controller::Cpu) {
            write_at(dir, "cpu.cfs_period_us", &PERIOD.to_string())?;
            let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
            write_at(dir, "cpu.cfs_quota_us", &quota)?;
        }
        Ok(())
    }

    /// The limit of processors that is set; `None` for none.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn cpus(&self) -> Result<Option<f64>, CgroupError> {
        let (quota, period) = match self.v1_of(Controller::Cpu).next() {
            Some(dir) => (read_at(dir, "cpu.cfs_quota_us")?, read_at(dir, "cpu.cfs_period_us")?),
            None => match read_at(self.v2.as_fd(), "cpu.max")?.split_once(' ') {
                Some((quota, period)) => (quota.to_owned(), period.to_owned()),
                None => return Ok(None),
            },
        };
        let number = |text: &str| text.trim().parse::<u64>().ok();
        Ok(number(&quota).zip(number(&period)).map(|(quota, period)| quota as f64 / period as f64))
    }

    fn v1_of(&self, controller: Controller) -> impl Iterator<Item = BorrowedFd<'_>> {
        let of = move |v1: &&V1Group| v1.controllers.contains(&controller);
        self.v1.iter().filter(of).map(|v1| v1.dir.as_fd())
    }

    /// Moves `pid` into the v1 groups; cgroup2's it is born into. Costs milliseconds after idle time.
    ///
    /// # Errors
    /// If a hierarchy refuses.
    pub fn adopt_v1(&self, pid: Pid) -> Result<(), CgroupError> {
        for v1 in &self.v1 {
            write_at(v1.dir.as_fd(), "cgroup.procs", &pid.as_raw_nonzero().to_string())?;
        }
        Ok(())
    }

    /// Moves `pid` into the cpuset of all sessions, if that is a v1 hierarchy.
    ///
    /// # Errors
    /// If the hierarchy refuses.
    pub fn adopt_cpuset(&self, pid: Pid) -> Result<(), CgroupError> {
        self.cpuset
            .as_ref()
            .map_or(Ok(()), |dir| write_at(dir.as_fd(), "cgroup.procs", &pid.as_raw_nonzero().to_string()))
    }

    /// Its directories as a session shall see them, each with the controllers of its hierarchy; cgroup2's without any
    /// is the first.
    pub fn visible(&self) -> Vec<(&[&'static str], BorrowedFd<'_>)> {
        const CPUSET: &[&str] = &["cpuset"];
        let v1 = self.v1.iter().map(|v1| (v1.names.as_slice(), v1.dir.as_fd()));
        let cpuset = self.cpuset.iter().map(|dir| (CPUSET, dir.as_fd()));
        std::iter::once((&[][..], self.v2.as_fd())).chain(v1).chain(cpuset).collect()
    }

    /// The file that shows whether processes are left; it reports priority data when that changes.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn events(&self) -> Result<OwnedFd, CgroupError> {
        open_at(self.v2.as_fd(), "cgroup.events", OFlags::RDONLY)
    }

    /// Kills every process in the group.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn kill(&self) -> Result<(), CgroupError> {
        write_at(self.v2.as_fd(), "cgroup.kill", "1")
    }

    /// Whether any process, zombies aside, is left.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        let events = read_at(self.v2.as_fd(), "cgroup.events")?;
        Ok(!events.lines().any(|line| line == "populated 0"))
    }

    /// The processes in it, zombies among them; none of the groups below.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let text = read_at(self.v2.as_fd(), "cgroup.procs")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw).collect())
    }
}
