//! How connections end, and what is recorded of that.

use std::io;

use agentd_policy::connection_end::ConnectionEnd;
use agentd_policy::event::{NetEvent, NetPeer};
use rustix::io::Errno;

use super::caps::{self, Spent};
use super::judge::{Refusal, RejectWith, Subject};
use super::keeper::DialError;

/// How a connection ended.
#[derive(Debug)]
pub enum CloseReason {
    /// Both sides ended in order.
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
    /// One line for the record and for the client.
    pub why: String,
    /// Whether the keeper tried it, and so recorded it.
    pub dialled: bool,
    /// `EIO` if the error has no number.
    pub errno: Errno,
}

impl From<DialError> for CloseReason {
    fn from(error: DialError) -> Self {
        let dialled = matches!(error, DialError::Failed(_));
        Self::Failed(Failure { why: error.to_string(), dialled, errno: error.errno() })
    }
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Spent>()) {
            Some(Spent(cap)) => Refusal::new(RejectWith::Plain, cap.clone(), caps::WHY).into(),
            None => Self::Reset,
        }
    }
}

impl From<Refusal> for CloseReason {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl CloseReason {
    /// As the record has it.
    pub fn reason(&self) -> ConnectionEnd {
        match self {
            Self::Closed => ConnectionEnd::Closed,
            Self::Reset => ConnectionEnd::Reset,
            Self::Idle => ConnectionEnd::Idle,
            Self::Refused(refusal) if refusal.denial.is_cap() => ConnectionEnd::Limit,
            Self::Policy | Self::Refused(_) => ConnectionEnd::Policy,
            Self::Failed(failure) => ConnectionEnd::Failed(failure.why.clone()),
        }
    }
}

/// The event of a refusal.
pub fn denied(peer: NetPeer, refusal: &Refusal) -> NetEvent {
    let denied = refusal.denial.to_string();
    let http =
        |peer, method, host, denied| NetEvent::Http { peer, method, host, denied, actor: None, count: 1 };
    match &refusal.subject {
        Subject::Request { method, host } => http(peer, method.clone(), host.clone(), denied),
        Subject::Malformed => http(peer, String::new(), String::new(), denied),
        Subject::Connection | Subject::Name(_) => {
            NetEvent::Connect { peer, denied: Some(denied), actor: None, count: 1 }
        }
    }
}
