//! Which sessions a caller may see and control, and which one it names.

use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_policy::wire::Peer;

use super::Registry;
use crate::session::{Phase, Session};
use crate::sync::lock;

/// What a caller asks for with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To see it, or to end it: root may too.
    Read,
    /// To read its output, attach to it, run commands in it or remove it.
    Control,
}

fn may(peer: &Peer, session: &Session, access: Access) -> bool {
    let audits = peer.admin || peer.uid == 0;
    if session.is_removed() {
        return audits && access == Access::Read;
    }
    session.uid == peer.uid || peer.admin || (audits && access == Access::Read)
}

impl Registry {
    /// What `peer` may see, the oldest first.
    pub fn visible(&self, peer: &Peer) -> Vec<Arc<Session>> {
        let sessions = lock(&self.sessions);
        let mut visible: Vec<_> = sessions.values().filter(|s| may(peer, s, Access::Read)).cloned().collect();
        visible.sort_by_key(|s| s.created_at);
        visible
    }

    /// The session that `text` means to `peer`: an id, the beginning of one, or a name. Those of others are
    /// as unknown as those that do not exist.
    pub fn find(&self, text: &str, peer: &Peer, access: Access) -> Result<Arc<Session>, Refusal> {
        let visible = self.visible(peer);
        let exact = visible.iter().find(|s| s.id.as_str() == text);
        // Of several with one name, the peer's own, then the one that lives, then the last: which session an
        // admin's request hits, no other user can choose.
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
        if may(peer, found, access) {
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
