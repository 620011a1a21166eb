//! The sessions that there are, and who may see them.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::names::SessionId;
use agentd_policy::wire::Peer;

use crate::host::lock;
use crate::session::{Phase, Session};

/// Ended sessions of one user that are remembered.
const KEPT: usize = 4096;
/// What is kept of the output of a user's ended sessions, in bytes.
const OUTPUT: u64 = 256 << 20;

/// All sessions.
pub struct Registry {
    total: AtomicUsize,
    each: AtomicUsize,
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
    session.uid == peer.uid || peer.admin || (peer.uid == 0 && wish == Wish::Look)
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
        let registry =
            Self { total: AtomicUsize::default(), each: AtomicUsize::default(), sessions: Mutex::default() };
        registry.bound(bounds);
        registry
    }

    /// From now on there may be so many.
    pub fn bound(&self, bounds: &Bounds) {
        self.total.store(bounds.max_sessions as usize, Ordering::Relaxed);
        self.each.store(bounds.max_sessions_per_user as usize, Ordering::Relaxed);
    }

    /// Takes a session up that an earlier service had.
    pub fn adopt(&self, session: &Arc<Session>) {
        lock(&self.sessions).insert(session.id.clone(), session.clone());
    }

    /// Takes a session up that is about to be built. Then there may be one that is to be forgotten for it.
    pub fn insert(&self, session: &Arc<Session>) -> Result<Option<SessionId>, Refusal> {
        let mut sessions = lock(&self.sessions);
        let (total, each) = (self.total.load(Ordering::Relaxed), self.each.load(Ordering::Relaxed));
        let own = || sessions.values().filter(|s| s.uid == session.uid);
        if !has_room(own(), each) {
            return Err(full("bounds.max_sessions_per_user", each));
        }
        if !has_room(sessions.values(), total) {
            return Err(full("bounds.max_sessions", total));
        }
        // A name is free again with the end that the client has been told of.
        if let Some(name) = &session.name
            && own().filter(|s| s.phase() < Phase::Ended).any(|s| s.name.as_ref() == Some(name))
        {
            return Err(Refusal::new(
                format!("a second session with the name {name}"),
                "session.name",
                "choose another name, or end the first",
            ));
        }
        if sessions.contains_key(&session.id) {
            return Err(Refusal::new("a session id that is taken", "session.id", "try again"));
        }
        let mut forgotten = None;
        if own().count() >= KEPT {
            let oldest =
                own().filter(|s| s.phase() == Phase::Over && !s.overlay).min_by_key(|s| s.created_at);
            forgotten = oldest.map(|s| s.id.clone());
            let Some(oldest) = &forgotten else {
                return Err(Refusal::new(
                    format!("one more than {KEPT} sessions that were kept"),
                    "sessions.kept",
                    "remove ended ones with `agentctl rm`",
                ));
            };
            sessions.remove(oldest);
        }
        sessions.insert(session.id.clone(), session.clone());
        Ok(forgotten)
    }

    /// Deletes the oldest output of a user's ended sessions if there is too much of it.
    pub async fn bound_output(&self, uid: u32) {
        let mut ended: Vec<_> = {
            let sessions = lock(&self.sessions);
            sessions.values().filter(|s| s.uid == uid && s.phase() == Phase::Over).cloned().collect()
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
            let built = !matches!(session.phase(), Phase::Creating | Phase::Over);
            if built && !named.contains(&session.id) {
                session.gone.cancel();
            }
        }
        named.iter().filter(|id| !sessions.contains_key(id)).cloned().collect()
    }

    /// Forgets a session.
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
                "session.ambiguous",
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
        Err(Refusal::new(
            format!("session {text} of another user"),
            "caller.root",
            "root may look at sessions and end them; ask as their user or as an admin",
        ))
    }
}

fn full(rule: &str, most: usize) -> Refusal {
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
        "session.unknown",
        "`agentctl ps -a` shows those that there are",
    )
}

fn ambiguous(text: &str) -> Refusal {
    Refusal::new(
        format!("session {text:?}"),
        "session.ambiguous",
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
            registry.find(text, &peer(1000, false), Wish::Steer).map(|s| s.id.to_string()).map_err(|r| r.rule)
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
        assert_eq!(find(0, false, Wish::Steer).unwrap_err().rule, "caller.root");
    }

    #[test]
    fn a_name_that_another_user_took_as_well_is_not_theirs_to_catch() {
        let sessions =
            [session("aa0000000001", Some("web"), 1000), session("aa0000000002", Some("web"), 1001)];
        let registry = registry(&Bounds::default(), &sessions);
        let find = |uid| {
            let found = registry.find("web", &peer(uid, true), Wish::Steer);
            found.map(|s| s.id.to_string()).map_err(|r| r.rule)
        };
        assert_eq!(find(1000).unwrap(), "aa0000000001");
        assert_eq!(find(1001).unwrap(), "aa0000000002");
        assert_eq!(find(1002).unwrap_err(), "session.ambiguous");
    }

    #[test]
    fn caps_and_names_hold() {
        let bounds = Bounds { max_sessions: 2, max_sessions_per_user: 1, ..Bounds::default() };
        let first = session("aa0000000001", Some("a"), 1);
        let registry = registry(&bounds, std::slice::from_ref(&first));
        let insert = |id, name, uid| registry.insert(&session(id, name, uid)).map_err(|r| r.rule);
        assert_eq!(insert("aa0000000002", None, 1).unwrap_err(), "bounds.max_sessions_per_user");
        insert("aa0000000003", Some("a"), 2).unwrap();
        assert_eq!(insert("aa0000000004", None, 3).unwrap_err(), "bounds.max_sessions");
        first.change(|status| status.phase = Phase::Over);
        insert("aa0000000005", Some("a"), 1).unwrap();
    }
}
