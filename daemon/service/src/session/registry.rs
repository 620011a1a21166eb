//! The sessions that there are, and who may see them.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::names::SessionId;
use agentd_policy::rule::Rule;
use agentd_policy::wire::Peer;

use crate::session::{Phase, Session};
use crate::sync::lock;

/// Ended sessions of one user that are remembered.
const KEPT: usize = 4096;
/// What is kept of the output of a user's ended sessions, in bytes.
const OUTPUT: u64 = 256 << 20;

/// All sessions.
pub struct Registry {
    total: AtomicUsize,
    each: AtomicUsize,
    /// How long what was removed is on record, in milliseconds.
    retain: AtomicU64,
    sessions: Mutex<BTreeMap<SessionId, Arc<Session>>>,
}

/// What somebody wants with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To see it, or to end it: root may too.
    Look,
    /// To be in its place.
    Steer,
}

fn may(peer: &Peer, session: &Session, wish: Wish) -> bool {
    let audits = peer.admin || peer.uid == 0;
    if session.is_removed() {
        return audits && wish == Wish::Look;
    }
    session.uid == peer.uid || peer.admin || (audits && wish == Wish::Look)
}

/// Whether there may be one more besides `sessions`. Those that have ended do not count, since their clients have been
/// told so; but neither may as many again wait to be cleared away.
fn has_room<'a>(sessions: impl Iterator<Item = &'a Arc<Session>>, most: usize) -> bool {
    let (mut live, mut there) = (0, 0);
    for session in sessions {
        live += usize::from(session.phase() < Phase::Ended);
        there += usize::from(session.phase() < Phase::Over);
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
        // A name is free again with the end that the client has been told of.
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
                kept().filter(|s| s.phase() == Phase::Over && !s.overlay).min_by_key(|s| s.created_at);
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
            let ended = |s: &&Arc<Session>| s.uid == uid && s.phase() == Phase::Over && !s.is_removed();
            sessions.values().filter(ended).cloned().collect()
        };
        ended.sort_by_key(|session| std::cmp::Reverse(session.created_at));
        // A panic in it leaves files behind that the next end of a session looks at again.
        let _ = tokio::task::spawn_blocking(move || {
            let mut size = 0;
            for log in ended.iter().filter_map(|session| session.hub.log.as_ref()) {
                size += log.size();
                if size > OUTPUT {
                    log.remove();
                }
            }
        })
        .await;
    }

    /// The launcher named all sessions that live: what is not among them is gone. Returns those of them that are
    /// not known here.
    pub fn live(&self, named: &HashSet<SessionId>) -> Vec<SessionId> {
        let sessions = lock(&self.sessions);
        for session in sessions.values() {
            let built = !matches!(session.phase(), Phase::Creating | Phase::Over) && !session.is_removed();
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

    /// The launcher says that nothing is left of it.
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

    /// What `peer` may see, the oldest first.
    pub fn visible(&self, peer: &Peer) -> Vec<Arc<Session>> {
        let sessions = lock(&self.sessions);
        let mut visible: Vec<_> = sessions.values().filter(|s| may(peer, s, Wish::Look)).cloned().collect();
        visible.sort_by_key(|s| s.created_at);
        visible
    }

    /// The session that `text` means to `peer`: an id, the beginning of one, or a name. Those of others are
    /// as unknown as those that do not exist.
    pub fn find(&self, text: &str, peer: &Peer, wish: Wish) -> Result<Arc<Session>, Refusal> {
        let visible = self.visible(peer);
        let exact = visible.iter().find(|s| s.id.as_str() == text);
        // Of several with one name, the peer's own, then the one that lives, then the last: whom an admin's
        // word hits, nobody else can choose.
        let named = || {
            let named = visible
                .iter()
                .filter(|s| !s.is_forgotten() && s.name.as_ref().is_some_and(|n| n.as_str() == text));
            named.max_by_key(|s| (s.uid == peer.uid, s.phase() < Phase::Ended, s.created_at))
        };
        if exact.is_none()
            && let Some(found) = named()
            && found.uid != peer.uid
            && visible.iter().any(|s| s.name == found.name && s.uid != found.uid)
        {
            return Err(Refusal::new(
                format!("session {text:?}"),
                Rule::SessionAmbiguous,
                "sessions of several users have this name: give the id",
            ));
        }
        let found = match exact.or_else(named) {
            Some(found) => found,
            None => {
                let mut begun = visible
                    .iter()
                    .filter(|s| !text.is_empty() && !s.is_forgotten() && s.id.as_str().starts_with(text));
                match (begun.next(), begun.next()) {
                    (Some(found), None) => found,
                    (Some(_), Some(_)) => return Err(ambiguous(text)),
                    (None, _) => return Err(unknown(text)),
                }
            }
        };
        if may(peer, found, wish) {
            return Ok(found.clone());
        }
        if found.is_removed() {
            return Err(unknown(text));
        }
        Err(Refusal::new(
            format!("session {text} of another user"),
            Rule::CallerRoot,
            "root may look at sessions and end them; ask as their user or as an admin",
        ))
    }
}

fn full(rule: Rule, most: usize) -> Refusal {
    Refusal::new(
        format!("one session more than {most}"),
        rule,
        "wait for one to end, or end one with `agentctl kill`",
    )
}

fn unknown(text: &str) -> Refusal {
    let shown: String = text.chars().take(64).collect();
    Refusal::new(
        format!("session {shown:?}"),
        Rule::SessionUnknown,
        "`agentctl ps -a` shows those that there are",
    )
}

fn ambiguous(text: &str) -> Refusal {
    Refusal::new(
        format!("session {text:?}"),
        Rule::SessionAmbiguous,
        "more than one begins like this: give more of the id",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::session;

    fn peer(uid: u32, admin: bool) -> Peer {
        Peer { uid, gid: uid, pid: 1, admin }
    }

    fn registry(bounds: &Bounds, sessions: &[Arc<Session>]) -> Registry {
        let registry = Registry::new(bounds);
        for session in sessions {
            registry.insert(session).unwrap();
        }
        registry
    }

    #[test]
    fn ids_prefixes_and_names_find_a_session() {
        let sessions = [
            session("aa0000000001", Some("web"), 1000),
            session("aa0000000002", None, 1000),
            session("bb0000000001", Some("aa"), 1000),
        ];
        let registry = registry(&Bounds::default(), &sessions);
        let find = |text: &str| {
            registry
                .find(text, &peer(1000, false), Wish::Steer)
                .map(|s| s.id.to_string())
                .map_err(|r| r.rule.name())
        };
        assert_eq!(find("aa0000000002").unwrap(), "aa0000000002");
        assert_eq!(find("b").unwrap(), "bb0000000001");
        assert_eq!(find("web").unwrap(), "aa0000000001");
        assert_eq!(find("aa").unwrap(), "bb0000000001");
        assert_eq!(find("aa0").unwrap_err(), "session.ambiguous");
        for none in ["", "cc", "aa00000000011", "%"] {
            assert_eq!(find(none).unwrap_err(), "session.unknown");
        }
    }

    #[test]
    fn the_sessions_of_others_do_not_exist() {
        let registry = registry(&Bounds::default(), &[session("aa0000000001", Some("web"), 1000)]);
        let find = |uid, admin, wish| registry.find("aa", &peer(uid, admin), wish).map(|_| ());
        let foreign = find(1001, false, Wish::Look).unwrap_err();
        assert_eq!(
            foreign,
            Registry::new(&Bounds::default())
                .find("aa", &peer(1, false), Wish::Look)
                .map(|_| ())
                .unwrap_err()
        );
        assert!(registry.visible(&peer(1001, false)).is_empty());
        assert!(find(1001, true, Wish::Steer).is_ok());
        assert!(find(0, false, Wish::Look).is_ok());
        assert_eq!(find(0, false, Wish::Steer).unwrap_err().rule.name(), "caller.root");
    }

    #[test]
    fn a_name_that_another_user_took_as_well_is_not_theirs_to_catch() {
        let sessions =
            [session("aa0000000001", Some("web"), 1000), session("aa0000000002", Some("web"), 1001)];
        let registry = registry(&Bounds::default(), &sessions);
        let find = |uid| {
            let found = registry.find("web", &peer(uid, true), Wish::Steer);
            found.map(|s| s.id.to_string()).map_err(|r| r.rule.name())
        };
        assert_eq!(find(1000).unwrap(), "aa0000000001");
        assert_eq!(find(1001).unwrap(), "aa0000000002");
        assert_eq!(find(1002).unwrap_err(), "session.ambiguous");
    }

    #[test]
    fn what_was_removed_is_for_admins() {
        let removed = session("aa0000000001", Some("web"), 1000);
        removed.change(|status| {
            (status.phase, status.ended_us) = (Phase::Over, Some(crate::clock::micros(SystemTime::now())))
        });
        let registry = registry(&Bounds::default(), &[removed.clone(), session("ab0000000001", None, 1000)]);
        registry.keep(1 << 40);
        registry.retire(&removed);
        let find =
            |text, uid, admin, wish| registry.find(text, &peer(uid, admin), wish).map_err(|r| r.rule.name());
        for text in ["aa0000000001", "aa", "web"] {
            assert_eq!(find(text, 1000, false, Wish::Look).err(), Some("session.unknown"), "{text}");
        }
        assert!(find("aa0000000001", 1001, true, Wish::Look).is_ok());
        assert!(find("aa0000000001", 0, false, Wish::Look).is_ok());
        assert!(find("a", 1001, true, Wish::Look).is_ok_and(|found| found.id.as_str() == "ab0000000001"));
        assert_eq!(find("aa0000000001", 1001, true, Wish::Steer).err(), Some("session.unknown"));
        assert_eq!(registry.visible(&peer(1000, false)).len(), 1);
        assert_eq!(registry.visible(&peer(1001, true)).len(), 2);
        // The name is free, and what was kept long enough goes.
        registry.insert(&session("ac0000000001", Some("web"), 1000)).unwrap();
        registry.keep(0);
        registry.adopt(&session("ad0000000001", None, 1000));
        assert!(find("aa0000000001", 0, false, Wish::Look).is_err());
    }

    #[test]
    fn caps_and_names_hold() {
        let bounds = Bounds { max_sessions: 2, max_sessions_per_user: 1, ..Bounds::default() };
        let first = session("aa0000000001", Some("a"), 1);
        let registry = registry(&bounds, std::slice::from_ref(&first));
        let insert =
            |id, name, uid| registry.insert(&session(id, name, uid)).map(drop).map_err(|r| r.rule.name());
        assert_eq!(insert("aa0000000002", None, 1).unwrap_err(), "bounds.max_sessions_per_user");
        insert("aa0000000003", Some("a"), 2).unwrap();
        assert_eq!(insert("aa0000000004", None, 3).unwrap_err(), "bounds.max_sessions");
        first.change(|status| status.phase = Phase::Over);
        insert("aa0000000005", Some("a"), 1).unwrap();
    }
}
