//! How connections end, and what is told of that.

use std::io;

use agentd_policy::event::{NetEvent, NetPeer};
use rustix::io::Errno;

use super::caps::{self, Spent};
use super::judge::{Refusal, RejectWith};
use super::keeper::DialError;

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// In order.
    Closed,
    /// By a reset, of either side.
    Reset,
    /// Nothing went by for too long.
    Idle,
    /// The rules changed.
    Policy,
    /// The server could not be reached.
    Failed(Failure),
    /// By the rules.
    Refused(Refusal),
}

/// Why a server could not be reached.
#[derive(Debug)]
pub struct Failure {
    /// In one line.
    pub why: String,
    /// Whether it was tried at all: that is on record then.
    pub dialled: bool,
    /// The error number.
    pub errno: Errno,
}

impl From<DialError> for End {
    fn from(error: DialError) -> Self {
        let dialled = matches!(error, DialError::Failed(_));
        Self::Failed(Failure { why: error.to_string(), dialled, errno: error.errno() })
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Spent>()) {
            Some(Spent(rule)) => Refusal::new(RejectWith::Plain, rule.as_str(), caps::WHY).into(),
            None => Self::Reset,
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl End {
    /// As the record has it.
    pub fn reason(&self) -> String {
        match self {
            Self::Closed => "closed".into(),
            Self::Reset => "reset".into(),
            Self::Idle => "idle".into(),
            Self::Refused(refusal) if caps::is_cap(&refusal.rule) => "limit".into(),
            Self::Policy | Self::Refused(_) => "policy".into(),
            Self::Failed(failure) => format!("failed: {}", failure.why),
        }
    }
}

/// What is told of a refusal.
pub fn denied(peer: NetPeer, refusal: &Refusal) -> NetEvent {
    let denied = refusal.rule.clone();
    match &refusal.method {
        Some(method) => {
            let host = refusal.name.clone().unwrap_or_default();
            NetEvent::Http { peer, method: method.clone(), host, denied, actor: None, count: 1 }
        }
        None => NetEvent::Connect { peer, denied: Some(denied), actor: None, count: 1 },
    }
}
