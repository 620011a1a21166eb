//! The sessions that there are, and who may see them.

mod find;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::names::SessionId;
use agentd_policy::rule::Rule;

pub use self::find::Access;
use crate::session::{Phase, Session};
use crate::sync::lock;

/// Ended sessions of one user that are remembered.
const KEPT: usize = 4096;
/// What is kept of the output of a user's ended sessions, in bytes.
const OUTPUT: u64 = 256 << 20;

pub struct Registry {
    total: AtomicUsize,
    each: AtomicUsize,
    /// How long what was removed is on record, in milliseconds.
    retain: AtomicU64,
    sessions: Mutex<BTreeMap<SessionId, Arc<Session>>>,
}

/// Whether there may be one more besides `sessions`. Those that have ended do not count, since their clients have
/// their exit; but no more than as many again may wait to be cleared away.
fn has_room<'a>(sessions: impl Iterator<Item = &'a Arc<Session>>, most: usize) -> bool {
    let (mut live, mut there) = (0, 0);
    for session in sessions {
        live += usize::from(session.phase() < Phase::Ended);
        there += usize::from(session.phase() < Phase::Cleared);
    }
    live < most && there < most.saturating_mul(2)
}

impl Registry {
    pub fn new(bounds: &Bounds) -> Self {
        let registry = Self {
            total: AtomicUsize::default(),
            each: AtomicUsize::default(),
            retain: AtomicU64::new(u64::MAX),
            sessions: Mutex::default(),
        };
        registry.bound(bounds);
        registry
    }

    /// From now on there may be so many.
    pub fn bound(&self, bounds: &Bounds) {
        self.total.store(bounds.max_sessions as usize, Ordering::Relaxed);
        self.each.store(bounds.max_sessions_per_user as usize, Ordering::Relaxed);
    }

    /// From now on what was removed is on record for so long, in milliseconds.
    pub fn keep(&self, retain_ms: u64) {
        self.retain.store(retain_ms, Ordering::Relaxed);
    }

    /// Takes a session up that an earlier service had.
    pub fn adopt(&self, session: &Arc<Session>) {
        let mut sessions = lock(&self.sessions);
        sessions.insert(session.id.clone(), session.clone());
        self.bound_removed(&mut sessions, session.uid);
    }

    /// A session was removed: from now on only admins see it.
    pub fn retire(&self, session: &Session) {
        let mut sessions = lock(&self.sessions);
        session.change(|status| status.removed = true);
        self.bound_removed(&mut sessions, session.uid);
    }

    /// Forgets those that were removed and are not on record any more, and of a user's more than [`KEPT`] the oldest:
    /// they are on record still, and found by their id.
    fn bound_removed(&self, sessions: &mut BTreeMap<SessionId, Arc<Session>>, uid: u32) {
        let retain = Duration::from_millis(self.retain.load(Ordering::Relaxed));
        let oldest = SystemTime::now().checked_sub(retain).unwrap_or(SystemTime::UNIX_EPOCH);
        sessions.retain(|_, session| !session.is_removed() || session.ended_at() >= oldest);
        let removed = || sessions.values().filter(|session| session.uid == uid && session.is_removed());
        let more = removed().count().saturating_sub(KEPT);
        if more > 0 {
            let mut ids: Vec<_> = removed().map(|session| (session.created_at, session.id.clone())).collect();
            ids.sort_unstable();
            for (_, id) in ids.into_iter().take(more) {
                sessions.remove(&id);
            }
        }
    }

    /// Takes a session up that is about to be built. Then there may be one that was removed for it.
    pub fn insert(&self, session: &Arc<Session>) -> Result<Option<Arc<Session>>, Refusal> {
        let mut sessions = lock(&self.sessions);
        let (total, each) = (self.total.load(Ordering::Relaxed), self.each.load(Ordering::Relaxed));
        let own = || sessions.values().filter(|s| s.uid == session.uid);
        if !has_room(own(), each) {
            return Err(full(Rule::BoundsMaxSessionsPerUser, each));
        }
        if !has_room(sessions.values(), total) {
            return Err(full(Rule::BoundsMaxSessions, total));
        }
        // A name is free again once the client has the exit.
        if let Some(name) = &session.name
            && own().filter(|s| s.phase() < Phase::Ended).any(|s| s.name.as_ref() == Some(name))
        {
            return Err(Refusal::new(
                format!("a second session with the name {name}"),
                Rule::SessionName,
                "choose another name, or end the first",
            ));
        }
        if sessions.contains_key(&session.id) {
            return Err(Refusal::new("a session id that is taken", Rule::SessionId, "try again"));
        }
        let kept = || own().filter(|session| !session.is_removed());
        let mut removed = None;
        if kept().count() >= KEPT {
            let oldest =
                kept().filter(|s| s.phase() == Phase::Cleared && !s.overlay).min_by_key(|s| s.created_at);
            removed = oldest.cloned();
            if removed.is_none() {
                return Err(Refusal::new(
                    format!("one more than {KEPT} sessions that were kept"),
                    Rule::SessionsKept,
                    "remove ended ones with `agentctl rm`",
                ));
            }
        }
        sessions.insert(session.id.clone(), session.clone());
        Ok(removed)
    }

    /// Deletes the oldest output of a user's ended sessions if there is too much of it.
    pub async fn bound_output(&self, uid: u32) {
        let mut ended: Vec<_> = {
            let sessions = lock(&self.sessions);
            let ended = |s: &&Arc<Session>| s.uid == uid && s.phase() == Phase::Cleared && !s.is_removed();
            sessions.values().filter(ended).cloned().collect()
        };
        ended.sort_by_key(|session| std::cmp::Reverse(session.created_at));
        // A panic in it leaves files behind that the next end of a session looks at again.
        tokio::task::spawn_blocking(move || {
            let mut size = 0;
            for log in ended.iter().filter_map(|session| session.hub.log.as_ref()) {
                size += log.size();
                if size > OUTPUT {
                    log.remove();
                }
            }
        })
        .await
        .ok();
    }

    /// The launcher named all sessions that live: what is not among them is gone. Returns those of them that are
    /// not known here.
    pub fn live(&self, named: &HashSet<SessionId>) -> Vec<SessionId> {
        let sessions = lock(&self.sessions);
        for session in sessions.values() {
            let built = !matches!(session.phase(), Phase::Creating | Phase::Cleared) && !session.is_removed();
            if built && !named.contains(&session.id) {
                session.gone.cancel();
            }
        }
        named.iter().filter(|id| !sessions.contains_key(id)).cloned().collect()
    }

    /// Forgets a session that never was.
    pub fn remove(&self, id: &SessionId) {
        lock(&self.sessions).remove(id);
    }

    /// The launcher reports that nothing is left of it.
    pub fn gone(&self, id: &SessionId) {
        match lock(&self.sessions).get(id) {
            Some(session) => session.gone.cancel(),
            None => tracing::debug!(session = %id, "a session is gone that was forgotten before"),
        }
    }

    /// Each of them.
    pub fn all(&self) -> Vec<Arc<Session>> {
        lock(&self.sessions).values().cloned().collect()
    }
}

fn full(rule: Rule, most: usize) -> Refusal {
    Refusal::new(
        format!("one session more than {most}"),
        rule,
        "wait for one to end, or end one with `agentctl kill`",
    )
}

#[cfg(test)]
mod tests;
