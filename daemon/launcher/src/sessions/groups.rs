//! The cgroups: `agents/u<UID>/<lease>` and `helpers/u<UID>/<lease>`. Above a session's limits stand those of its
//! user, on `agents/u<UID>`, and those of the host, on `agents`: no OOM there can pick a helper.

use std::time::{Duration, Instant};

use agentd_kernel::cgroup::{Group, Hierarchies, Limits};
use agentd_policy::config::Bounds;
use agentd_policy::limits::Limits as Planned;

use super::{Sessions, bounds, sockets};
use crate::context::Context;
use crate::open_files::memory;
use agentd_session::error::{HostError, On as _};

/// The path of a session's group of this kind.
pub fn path(kind: &str, uid: u32, lease: u32) -> String {
    format!("{kind}/u{uid}/{lease}")
}

/// How long after a look that found a user's memory in use the next one comes.
const AGAIN: Duration = Duration::from_secs(60);
/// Memory without which a session is not worth starting.
const LEAST: u64 = 32 << 20;
/// Processes without which none is prepared.
const LEAST_PIDS: u64 = 32;
/// What helpers have at least, in processors: a keystroke shall be answered.
const LEAST_CPUS: f64 = 0.05;

/// What keeper and relay of one session may use up.
const HELPERS: Limits = Limits { memory: 512 << 20, pids: 32, cpus: Some(16.0), sockets: 512 << 20 };

/// The kinds of groups.
pub const KINDS: [&str; 2] = ["agents", "helpers"];

impl Sessions {
    /// The two groups of a new session of `uid`, with every limit above them in force. A request sets its own
    /// limits; until then there is an init that waits.
    pub(super) fn groups(
        &mut self,
        cx: &Context,
        uid: u32,
        lease: u32,
    ) -> Result<(Group, Group, Limits), HostError> {
        self.limit(cx, uid)?;
        let sockets = sockets::of_session()?;
        // Most sessions of a user want what the last one wanted: then nothing is to be set when they are asked for.
        let first = match self.likely {
            Some((of, limits)) if of == uid && limits.memory >= LEAST && limits.pids >= LEAST_PIDS => limits,
            _ => Limits { cpus: cpus(16.0, bounds(cx)), sockets, ..HELPERS },
        };
        let made =
            make(&self.hierarchies, &path("agents", uid, lease), &first).and_then(|agents| {
                match make(&self.hierarchies, &path("helpers", uid, lease), &HELPERS) {
                    Ok(helpers) => Ok((agents, helpers, first)),
                    Err(error) => Err(error.then(self.hierarchies.remove(agents.path()))),
                }
            });
        if made.is_err() {
            self.leave_user(uid);
        }
        made
    }

    /// Sets the limits of the host and of `uid` unless that was done already: one that cannot be set is a refusal.
    /// Those of groups that have sessions are looked after elsewhere.
    pub(super) fn limit(&mut self, cx: &Context, uid: u32) -> Result<(), HostError> {
        if !self.host_limited && self.all.is_empty() {
            let limits = of_host(bounds(cx))?;
            self.hierarchies.ensure("agents").and_then(|g| g.limit(&limits)).on("host")?;
            self.host_limited = true;
        }
        if !self.limited.contains(&uid) && self.all.values().all(|s| s.owner.uid != uid) {
            let path = format!("agents/u{uid}");
            let group = self.hierarchies.ensure(&path).on(&path)?;
            let limits = of_user(bounds(cx)).on(&path)?;
            group.limit(&limits).on(&path)?;
            self.limited.insert(uid);
        }
        Ok(())
    }

    /// Removes the groups of a user who has no session any more. What is charged to the agents' counts for the user's
    /// next sessions, so it stays until nothing is: a descriptor that left its session may hold memory.
    pub fn leave_user(&mut self, uid: u32) {
        if self.all.values().any(|s| s.owner.uid == uid) {
            return;
        }
        self.over.remove(&Some(uid));
        let agents = format!("agents/u{uid}");
        let charged = match self.hierarchies.charge(&agents) {
            Ok(charge) => charge.is_some_and(|bytes| bytes > 0),
            Err(error) => {
                tracing::error!(user = uid, %error, "what is charged to a user is not known");
                true
            }
        };
        match charged {
            true => drop(self.held.insert(uid, Instant::now() + AGAIN)),
            false => {
                self.held.remove(&uid);
                self.limited.remove(&uid);
                self.remove_group(uid, &agents);
            }
        }
        self.remove_group(uid, &format!("helpers/u{uid}"));
    }

    fn remove_group(&self, uid: u32, path: &str) {
        if let Err(error) = self.hierarchies.remove(path) {
            tracing::error!(user = uid, %error, "a cgroup stays");
        }
    }

    /// Looks again at users whose memory was in use when they were last looked at.
    pub(super) fn tick_held(&mut self, now: Instant) {
        let due: Vec<u32> = self.held.iter().filter(|(_, next)| **next <= now).map(|(uid, _)| *uid).collect();
        for uid in due {
            self.held.remove(&uid);
            self.leave_user(uid);
        }
    }

    /// Whether what ended sessions of `uid` left in use leaves room for one more that wants `memory`.
    pub(super) fn has_memory(&self, uid: u32, memory: u64, bounds: &Bounds) -> Result<bool, HostError> {
        let path = format!("agents/u{uid}");
        let Some(charge) = self.hierarchies.charge(&path)? else { return Ok(true) };
        let least = memory.min(LEAST);
        if charge.saturating_add(least) <= bounds.user_memory {
            return Ok(true);
        }
        // What sessions that run have is theirs, and what can be taken back is nobody's.
        let live = self.all.values().filter(|s| s.owner.uid == uid);
        let live = live.map(|s| s.agents.unreclaimable()).sum::<Result<u64, _>>()?;
        let all = self.hierarchies.ensure(&path).and_then(|g| g.unreclaimable())?;
        Ok(all.saturating_sub(live).saturating_add(least) <= bounds.user_memory)
    }

    /// Helpers of sessions that have begun get what their session pays for: with what they do for it, it has at most
    /// half as much again as its own limit of processors.
    pub(super) fn limit_helpers(&mut self) {
        for number in std::mem::take(&mut self.uncapped) {
            let Some(session) = self.all.get(&number) else { continue };
            let Some(planned) = session.cpus else { continue };
            if let Err(error) = session.helpers.limit_cpus(Some((planned / 2.0).max(LEAST_CPUS))) {
                tracing::error!(session = session.label(), %error, "limits");
            }
        }
    }
}

/// What all sessions of a user may use up.
pub fn of_user(bounds: &Bounds) -> Result<Limits, HostError> {
    let Bounds { user_memory: memory, user_pids: pids, user_cpus, .. } = *bounds;
    Ok(Limits { memory, pids, cpus: Some(user_cpus), sockets: sockets::of_user()? })
}

/// What the command of a session may use up, with all that it starts.
pub fn of_session(planned: &Planned, bounds: &Bounds) -> Result<Limits, HostError> {
    let Planned { memory, pids, cpus: wanted, .. } = *planned;
    Ok(Limits { memory, pids, cpus: cpus(wanted, bounds), sockets: sockets::of_session()? })
}

/// What a session may have of the processors: no more than its user. A v1 hierarchy refuses a group more than the
/// one above it has.
fn cpus(wanted: f64, bounds: &Bounds) -> Option<f64> {
    Some(wanted.min(bounds.user_cpus))
}

fn make(hierarchies: &Hierarchies, path: &str, limits: &Limits) -> Result<Group, HostError> {
    let group = hierarchies.create(path)?;
    match group.limit(limits) {
        Ok(()) => Ok(group),
        Err(error) => Err(HostError::from(error).then(hierarchies.remove(path))),
    }
}

/// What all sessions of the host may use up: as configured, or what leaves the host some room.
pub fn of_host(bounds: &Bounds) -> Result<Limits, HostError> {
    let memory = match bounds.host_memory {
        Some(bytes) => bytes,
        None => memory()? / 8 * 7,
    };
    let pids = match bounds.host_pids {
        Some(pids) => pids,
        None => {
            let number = |path: &str| std::fs::read_to_string(path).on(path)?.trim().parse::<u64>().on(path);
            number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?) / 2
        }
    };
    Ok(Limits { memory, pids, cpus: None, sockets: sockets::of_host()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_keeps_an_eighth() {
        let bounds = Bounds { host_memory: Some(5), host_pids: Some(6), ..Bounds::default() };
        let limits = of_host(&bounds).unwrap();
        assert_eq!((limits.memory, limits.pids, limits.cpus), (5, 6, None));
        let limits = of_host(&Bounds::default()).unwrap();
        assert_eq!(limits.memory, memory().unwrap() / 8 * 7);
        assert!(limits.memory > 0 && limits.pids > 0);
    }
}
