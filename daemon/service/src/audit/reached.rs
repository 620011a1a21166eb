//! Limits that a session reached: what its command's own error hides, in a line for the person who reads how it ended.

use std::collections::BTreeMap;

use agentd_policy::exit_reason::ExitReason;
use agentd_policy::limit_kind::LimitKind;
use agentd_policy::names::AbsPath;
use agentd_policy::size::{readable_duration, readable_size};
use agentd_proto::v1::{Exit, Limits};

/// The most file systems that are named.
const MAX_FULL: usize = 8;

/// What of its limits a session has reached so far.
#[derive(Debug, Default)]
pub struct ReachedLimits {
    limits: Limits,
    memory: bool,
    pids: bool,
    disk: bool,
    inodes: bool,
    /// File systems in memory, with their sizes.
    full: BTreeMap<AbsPath, u64>,
}

impl ReachedLimits {
    /// Nothing yet, of these.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Notes a limit that the keeper reported.
    pub fn note(&mut self, kind: &LimitKind, limit: u64) {
        match kind {
            LimitKind::Memory => self.memory = true,
            LimitKind::Pids => self.pids = true,
            LimitKind::Disk => self.disk = true,
            LimitKind::Inodes => self.inodes = true,
            LimitKind::Scratch(path) if self.full.len() < MAX_FULL => {
                self.full.insert(path.clone(), limit);
            }
            // Of these the session ends, and its exit says so.
            LimitKind::DiskReserve | LimitKind::Timeout | LimitKind::Idle | LimitKind::Scratch(_) => {}
        }
    }

    /// Why a session ends that took too long.
    pub fn timeout(&self) -> String {
        format!("timed out after {} (--timeout)", readable_duration(self.limits.timeout_ms))
    }

    /// Why a session ends that did nothing for too long.
    pub fn idle(&self) -> String {
        format!("timed out: idle for {} (--idle)", readable_duration(self.limits.idle_ms))
    }

    /// Why a session ends whose command was killed for memory.
    pub fn memory(&self) -> String {
        format!("killed: over {} (--memory)", readable_size(self.limits.memory))
    }

    /// `exit` of a command that ended by itself, with what it met before.
    pub fn noted(&self, mut exit: Exit) -> Exit {
        if !ExitReason::parse(&exit.reason).is_some_and(ExitReason::is_of_command) {
            return exit;
        }
        let Limits { pids, disk, inodes, .. } = &self.limits;
        let lines = [
            self.memory.then(|| format!("a process was {}", self.memory())),
            self.pids.then(|| format!("new processes were refused: over {pids} (--pids)")),
            self.disk.then(|| format!("writes were refused: over {} (--disk)", readable_size(*disk))),
            self.inodes.then(|| format!("new files were refused: over {inodes} (limits.inodes)")),
        ];
        let full = self.full.iter().map(|(path, size)| {
            // The home and /dev/shm are that large by default.
            let set_by =
                if *size == self.limits.memory / 2 { "half of --memory" } else { "filesystem.scratch" };
            format!("{path} was full: {} ({set_by})", readable_size(*size))
        });
        let met = lines.into_iter().flatten().chain(full);
        let all: Vec<String> =
            Some(exit.message.clone()).filter(|m| !m.is_empty()).into_iter().chain(met).collect();
        exit.message = all.join("; ");
        exit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached() -> ReachedLimits {
        let limits =
            Limits { memory: 2 << 30, pids: 20, timeout_ms: 1_800_000, idle_ms: 90_000, ..Limits::default() };
        ReachedLimits::new(limits)
    }

    #[test]
    fn what_a_command_met_is_said_at_its_end() {
        let exit = |reason: &str, message: &str| Exit {
            reason: reason.into(),
            message: message.into(),
            code: Some(1),
            ..Exit::default()
        };
        let mut reached = reached();
        assert_eq!(reached.noted(exit("exited", "")).message, "");
        for kind in [LimitKind::Memory, LimitKind::Memory, LimitKind::Timeout, LimitKind::Pids] {
            reached.note(&kind, 1 << 20);
        }
        let both =
            "a process was killed: over 2 GiB (--memory); new processes were refused: over 20 (--pids)";
        assert_eq!(reached.noted(exit("exited", "")).message, both);
        assert_eq!(reached.noted(exit("exited", "x: not found")).message, format!("x: not found; {both}"));
        assert_eq!(reached.noted(exit("killed", "")).message, "");
        let scratch = |path: &str| LimitKind::Scratch(AbsPath::parse(path).unwrap());
        reached.note(&scratch("/tmp"), 512 << 20);
        reached.note(&scratch("/home/u"), 1 << 30);
        let full =
            "; /home/u was full: 1 GiB (half of --memory); /tmp was full: 512 MiB (filesystem.scratch)";
        assert_eq!(reached.noted(exit("exited", "")).message, format!("{both}{full}"));
    }

    #[test]
    fn values_come_with_their_flags() {
        let reached = reached();
        assert_eq!(reached.timeout(), "timed out after 30m (--timeout)");
        assert_eq!(reached.idle(), "timed out: idle for 90s (--idle)");
        assert_eq!(reached.memory(), "killed: over 2 GiB (--memory)");
    }
}
