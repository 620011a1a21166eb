//! Limits of groups that have sessions, when the bounds are others: nothing is killed for them. A lower limit of memory
//! is set by a child, since the kernel takes as long for it as the sessions like, and not while they need more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::{Group, Limits};
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_policy::event::ExitStatus;
use agentd_policy::rule::Rule;

use super::groups::{of_host, of_user};
use super::{Sessions, bounds};
use crate::context::Context;
use agentd_session::error::HostError;

/// How long a child may try.
const LOWERING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after it did not succeed another one tries.
const AGAIN: Duration = Duration::from_secs(2);
/// A child says that more is in use.
const IN_USE: i32 = 3;

/// A user, or `None` for the host.
pub type Whose = Option<u32>;

/// A child that lowers a limit.
pub struct Lowering {
    whose: Whose,
    group: Group,
    child: Child,
    until: Instant,
    /// Whether the bounds have changed since.
    stale: bool,
}

impl Sessions {
    /// The bounds are others: rewrites the limits of everybody who has sessions. These keep what they were given,
    /// within what their user has.
    pub fn limit_again(&mut self, cx: &Context, now: Instant) {
        self.host_limited = false;
        self.limited.clear();
        self.over.clear();
        // What was prepared is limited as it was.
        self.likely = None;
        self.all.values_mut().for_each(|session| session.limits = None);
        self.lowering.iter_mut().for_each(|lowering| lowering.stale = true);
        let most = bounds(cx).user_cpus;
        // A v1 hierarchy wants the groups below lowered first, and raised last.
        self.limit_cpus(|now, _| now.min(most));
        self.limit_all(cx, now);
        self.limit_cpus(|now, wanted| wanted.unwrap_or(now).min(most));
    }

    /// Sets the limits of everybody who has sessions, as far as they are not in force. One that cannot be set refuses
    /// further sessions, and ends none.
    pub(super) fn limit_all(&mut self, cx: &Context, now: Instant) {
        self.next_limit = None;
        let owners: BTreeSet<u32> = self.all.values().map(|s| s.owner.uid).collect();
        self.over.retain(|whose| whose.map_or(!owners.is_empty(), |uid| owners.contains(&uid)));
        let host = (!self.host_limited && !owners.is_empty()).then_some(None);
        let users = owners.into_iter().filter(|uid| !self.limited.contains(uid)).map(Some);
        for whose in host.into_iter().chain(users).collect::<Vec<_>>() {
            // The one before has to end first, lest it have the last word.
            if self.lowering.iter().any(|lowering| lowering.whose == whose) {
                continue;
            }
            let limits = match whose {
                None => of_host(bounds(cx)),
                Some(_) => of_user(bounds(cx)),
            };
            if let Err(error) = limits.and_then(|limits| self.limit_one(cx, whose, &limits, now)) {
                tracing::error!(path = path(whose), %error, "limits");
                self.not_limited(whose, now);
            }
        }
    }

    fn limit_one(
        &mut self,
        cx: &Context,
        whose: Whose,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), HostError> {
        let group = self.hierarchies.ensure(&path(whose))?;
        group.limit_others(limits)?;
        if group.memory()?.is_some_and(|set| set <= limits.memory) {
            group.raise_memory(limits.memory)?;
            self.is_limited(whose);
            return Ok(());
        }
        let child = lower(cx.token, &group, limits.memory)?;
        self.lowering.push(Lowering { whose, group, child, until: now + LOWERING_TIMEOUT, stale: false });
        Ok(())
    }

    /// What became of the children, and what is due.
    pub(super) fn tick_limits(&mut self, cx: &Context, now: Instant) {
        for mut lowering in std::mem::take(&mut self.lowering) {
            match lowering.child.try_wait() {
                Ok(None) => {
                    if lowering.stale || lowering.until <= now {
                        lowering.until = now + LOWERING_TIMEOUT;
                        if let Err(error) = lowering.child.kill() {
                            tracing::error!(%error, "limits");
                        }
                    }
                    self.lowering.push(lowering);
                }
                ended => self.lowered(&lowering, ended, now),
            }
        }
        if self.next_limit.is_some_and(|due| due <= now) {
            self.limit_all(cx, now);
        }
    }

    fn lowered(&mut self, lowering: &Lowering, ended: std::io::Result<Option<ExitStatus>>, now: Instant) {
        let whose = lowering.whose;
        // Its user may have no session any more, and the group is gone.
        if whose.is_some_and(|uid| self.all.values().all(|s| s.owner.uid != uid)) {
            return;
        }
        match ended {
            _ if lowering.stale => self.next_limit = Some(now),
            Ok(Some(ExitStatus::Code(0))) => return self.is_limited(whose),
            Ok(Some(ExitStatus::Code(IN_USE) | ExitStatus::Signal(_))) => {
                if !self.over.contains(&whose) {
                    let path = path(whose);
                    tracing::warn!(path, "more memory is in use: the limit before stays until it is less");
                }
                self.not_limited(whose, now);
            }
            ended => {
                tracing::error!(path = path(whose), ?ended, "limits");
                self.not_limited(whose, now);
            }
        }
        if let Err(error) = lowering.group.keep_memory() {
            tracing::error!(path = path(whose), %error, "limits");
        }
    }

    fn is_limited(&mut self, whose: Whose) {
        self.over.remove(&whose);
        match whose {
            None => self.host_limited = true,
            Some(uid) => drop(self.limited.insert(uid)),
        }
    }

    fn not_limited(&mut self, whose: Whose, now: Instant) {
        self.over.insert(whose);
        self.next_limit = Some(now + AGAIN);
    }

    /// When something of this is due. A child's end wakes the loop.
    pub(super) fn next_limit(&self) -> Option<Instant> {
        self.lowering.iter().map(|lowering| lowering.until).chain(self.next_limit).min()
    }

    /// The bound that does not hold yet for sessions of `uid`, or for all together.
    pub(super) fn exceeds(&self, uid: u32) -> Option<Rule> {
        let bounds = [(None, Rule::BoundsHostMemory), (Some(uid), Rule::BoundsUserMemory)];
        bounds.into_iter().find(|(whose, _)| self.over.contains(whose)).map(|(_, rule)| rule)
    }

    /// Sets the processors of each session, from what it has and what it was to have.
    fn limit_cpus(&self, cpus: impl Fn(f64, Option<f64>) -> f64) {
        for session in self.all.values() {
            let set = session.agents.cpus().and_then(|now| match now {
                Some(now) if cpus(now, session.cpus) != now => {
                    session.agents.limit_cpus(Some(cpus(now, session.cpus)))
                }
                _ => Ok(()),
            });
            if let Err(error) = set {
                tracing::error!(session = session.id.as_ref().map(ToString::to_string), %error, "limits");
            }
        }
    }
}

fn path(whose: Whose) -> String {
    whose.map_or_else(|| "agents".to_owned(), |uid| format!("agents/u{uid}"))
}

/// A child that lowers the limit of memory, with no descriptor but the group's.
fn lower(token: SingleThreaded, group: &Group, memory: u64) -> std::io::Result<Child> {
    process::spawn(token, CloneArgs { with_parent: true, ..CloneArgs::default() }, || {
        let lower = || -> Result<bool, HostError> {
            process::close_all_but(&group.descriptors())?;
            Ok(group.lower_memory(memory)?)
        };
        match lower() {
            Ok(true) => 0,
            Ok(false) => IN_USE,
            Err(error) => {
                tracing::error!(%error, "limits");
                1
            }
        }
    })
}
