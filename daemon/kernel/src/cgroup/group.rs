//! One group: its limits and its processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::process::Pid;

use super::files::{open_at, read_at, write_at, write_optional};
use super::{CgroupError, Controller};

/// What a group may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes; swap is off.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// CPUs' worth of time; `None` for all.
    pub cpus: Option<f64>,
}

/// One group, as directories of every hierarchy.
#[derive(Debug)]
pub struct Group {
    pub(super) path: String,
    pub(super) v2: OwnedFd,
    pub(super) v1: Vec<(Vec<Controller>, OwnedFd)>,
    pub(super) v2_controllers: Vec<Controller>,
}

impl Group {
    /// Its path below the daemon's directory.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(&self.v2).chain(self.v1.iter().map(|(_, dir)| dir)).map(AsFd::as_fd).collect()
    }

    /// The cgroup2 directory, for `CLONE_INTO_CGROUP`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.v2.as_fd()
    }

    /// Sets every limit.
    ///
    /// # Errors
    /// If one of them cannot be set.
    pub fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        let period = 100_000;
        let quota = limits.cpus.map(|cpus| (cpus * 100_000.0).round().max(1_000.0) as u64);
        if self.v2_controllers.contains(&Controller::Memory) {
            write_at(self.v2.as_fd(), "memory.max", &limits.memory.to_string())?;
            write_optional(self.v2.as_fd(), "memory.swap.max", "0")?;
        }
        if self.v2_controllers.contains(&Controller::Pids) {
            write_at(self.v2.as_fd(), "pids.max", &limits.pids.to_string())?;
        }
        if self.v2_controllers.contains(&Controller::Cpu) {
            let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
            write_at(self.v2.as_fd(), "cpu.max", &format!("{quota} {period}"))?;
        }
        for (controllers, dir) in &self.v1 {
            for controller in controllers {
                match controller {
                    Controller::Memory => {
                        let bytes = limits.memory.to_string();
                        // Memory with swap may never be less than memory alone, not even on the way.
                        write_optional(dir.as_fd(), "memory.memsw.limit_in_bytes", "-1")?;
                        write_at(dir.as_fd(), "memory.limit_in_bytes", &bytes)?;
                        write_optional(dir.as_fd(), "memory.memsw.limit_in_bytes", &bytes)?;
                        write_at(dir.as_fd(), "memory.swappiness", "0")?;
                        // Buffers of TCP sockets are charged to a v1 group only where this is set.
                        write_optional(dir.as_fd(), "memory.kmem.tcp.limit_in_bytes", &bytes)?;
                    }
                    Controller::Pids => write_at(dir.as_fd(), "pids.max", &limits.pids.to_string())?,
                    Controller::Cpu => {
                        write_at(dir.as_fd(), "cpu.cfs_period_us", &period.to_string())?;
                        let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
                        write_at(dir.as_fd(), "cpu.cfs_quota_us", &quota)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves `pid` into the v1 groups; cgroup2's it is born into. Costs milliseconds after idle time.
    ///
    /// # Errors
    /// If a hierarchy refuses.
    pub fn adopt_v1(&self, pid: Pid) -> Result<(), CgroupError> {
        for (_, dir) in &self.v1 {
            write_at(dir.as_fd(), "cgroup.procs", &pid.as_raw_nonzero().to_string())?;
        }
        Ok(())
    }

    /// The file that tells whether processes are left; it reports priority data when that changes.
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
