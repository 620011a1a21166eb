//! Refusals that several parts have.

use agentd_policy::Refusal;
use agentd_policy::names::SessionId;

/// A session that does not run any more.
pub fn ended(session: &SessionId) -> Refusal {
    Refusal::new(
        format!("session {session}"),
        "session.ended",
        "it has ended already: start another with these rules",
    )
}
