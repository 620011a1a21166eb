//! Refusals that several parts have.

use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::rule::Rule;

/// A session that does not run any more.
pub fn ended(session: &SessionId) -> Refusal {
    Refusal::new(
        format!("session {session}"),
        Rule::SessionEnded,
        "it has ended already: start another with these rules",
    )
}

/// A session that is not there, or not the caller's: nobody learns which.
pub fn unknown(session: &SessionId) -> Refusal {
    Refusal::new(
        format!("session \"{session}\""),
        Rule::SessionUnknown,
        "`agentctl ps -a` shows those that there are",
    )
}

/// A session that has no network and never gets one.
pub fn no_network(session: &SessionId) -> Refusal {
    Refusal::new(
        format!("a change of session {session}, which has no network"),
        Rule::NetworkNone,
        "its profile has default = \"none\" in [network]: start one with another profile",
    )
}
