//! The kinds of events, in one table: events, the client's `--kind` with its completion and page, and the keeper's
//! spool read it. The kind of an event follows from what happened.

use crate::event::{Actor, EventBody, Finding, NetEvent, NetPeer};

macro_rules! kinds {
    ($($variant:ident $text:literal)*) => {
        /// What an event is about. `docs/json.md` says when each is written, and with which detail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each is explained by its text")]
        pub enum EventKind {
            $($variant),*
        }

        impl EventKind {
            /// Every kind that this version writes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As events and `agentctl events --kind` have it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),*
                }
            }
        }
    };
}

kinds! {
    SessionCreated "session.created"
    SessionStarted "session.started"
    SessionAttached "session.attached"
    SessionDetached "session.detached"
    SessionExec "session.exec"
    SessionStopping "session.stopping"
    SessionEnded "session.ended"
    ProcessExec "process.exec"
    ProcessExit "process.exit"
    FileChanged "file.changed"
    FileApplied "file.applied"
    FileDiscarded "file.discarded"
    FileDenied "file.denied"
    NetConnect "net.connect"
    NetClosed "net.closed"
    NetDenied "net.denied"
    DnsQuery "dns.query"
    HttpRequest "http.request"
    LimitHit "limit.hit"
    ConfineDenied "confine.denied"
    PolicyChanged "policy.changed"
    AuditDropped "audit.dropped"
}

impl EventKind {
    /// Whether `text`, from an event, names this kind.
    #[must_use]
    pub fn is(self, text: &str) -> bool {
        self.as_str() == text
    }

    /// Whether it may use the part of the keeper's spool that is reserved for a session's life, its policy and its
    /// losses.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        matches!(self, Self::SessionStarted | Self::SessionEnded | Self::PolicyChanged | Self::AuditDropped)
    }
}

impl EventBody {
    /// The kind of its event.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Started => EventKind::SessionStarted,
            Self::Exec { .. } | Self::ExecRefused { .. } => EventKind::ProcessExec,
            Self::CallRefused { .. } => EventKind::ConfineDenied,
            Self::Exit { .. } => EventKind::ProcessExit,
            Self::NetDenied { .. } => EventKind::NetDenied,
            Self::Net(event) => event.kind(),
            Self::Policy { .. } => EventKind::PolicyChanged,
            Self::Limit { .. } => EventKind::LimitHit,
            Self::File { finding: Finding::Links(_), .. } => EventKind::FileDenied,
            Self::File { .. } | Self::Aside { .. } => EventKind::FileChanged,
            Self::Dropped { .. } => EventKind::AuditDropped,
            Self::Ended(_) => EventKind::SessionEnded,
        }
    }

    /// How many of its bytes the agent has chosen.
    #[must_use]
    pub fn agent_bytes(&self) -> usize {
        match self {
            Self::Exec { actor, path, interpreters, argv, image, .. } => {
                exe(Some(actor))
                    + path.len()
                    + text(image.as_ref())
                    + texts(interpreters)
                    + argv.as_deref().map_or(0, texts)
            }
            Self::ExecRefused { actor, path, .. } => exe(Some(actor)) + path.len(),
            Self::CallRefused { actor, call, argument, .. } => {
                exe(Some(actor)) + call.len() + text(argument.as_ref())
            }
            Self::Net(event) => event.agent_bytes(),
            Self::NetDenied { name, actor, .. } => text(name.as_ref()) + exe(actor.as_ref()),
            Self::Policy { change, .. } => change.len(),
            Self::Exit { actor, .. } => exe(Some(actor)),
            Self::Started
            | Self::Limit { .. }
            | Self::File { .. }
            | Self::Aside { .. }
            | Self::Dropped { .. }
            | Self::Ended(_) => 0,
        }
    }
}

impl NetEvent {
    /// The kind of its event.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Dns { .. } => EventKind::DnsQuery,
            Self::Connect { denied: Some(_), .. } | Self::Entered { denied: Some(_), .. } => {
                EventKind::NetDenied
            }
            Self::Connect { .. } | Self::Entered { .. } => EventKind::NetConnect,
            Self::Closed { .. } | Self::Left { .. } => EventKind::NetClosed,
            Self::Http { .. } => EventKind::HttpRequest,
        }
    }

    fn agent_bytes(&self) -> usize {
        let named = |peer: &NetPeer| text(peer.name.as_ref()) + text(peer.rule.as_ref());
        match self {
            Self::Dns { name, allowed, addresses, actor, .. } => {
                name.len()
                    + text(allowed.as_ref())
                    + addresses.len() * size_of::<std::net::IpAddr>()
                    + exe(actor.as_ref())
            }
            Self::Connect { peer, actor, .. } => named(peer) + exe(actor.as_ref()),
            Self::Closed { peer, names, reason, .. } => named(peer) + texts(names) + reason.variable_bytes(),
            Self::Http { peer, method, host, actor, .. } => {
                named(peer) + method.len() + host.len() + exe(actor.as_ref())
            }
            Self::Entered { .. } => 0,
            Self::Left { reason, .. } => reason.variable_bytes(),
        }
    }
}

fn exe(actor: Option<&Actor>) -> usize {
    actor.and_then(|actor| actor.exe.as_ref()).map_or(0, String::len)
}

fn text(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

fn texts(texts: &[String]) -> usize {
    texts.iter().map(|text| text.len() + size_of::<String>()).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_has_each_kind_and_no_other() {
        let document = include_str!("../../../docs/json.md");
        let (_, table) = document.split_once("| kind | detail | when |\n|---|---|---|\n").unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let names = rows.filter_map(|row| row.split('|').nth(1));
        let documented: BTreeSet<&str> =
            names.flat_map(|names| names.split(',')).map(|name| name.trim().trim_matches('`')).collect();
        assert_eq!(documented, EventKind::ALL.iter().map(|kind| kind.as_str()).collect());
    }

    #[test]
    fn names_are_distinct_and_have_the_form_of_labels() {
        for (at, kind) in EventKind::ALL.iter().enumerate() {
            let text = kind.as_str();
            assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b == b'.'), "{text}");
            assert_eq!(EventKind::ALL.iter().position(|other| other.is(text)), Some(at));
        }
    }
}
