//! Messages between launcher and service.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::limits::DiskForm;
use crate::names::SessionId;
use crate::plan::Plan;
use crate::step::Step;
use crate::wire::Message;

/// A connection that the launcher accepted. Never used twice in a launcher's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallerNumber(pub u64);

/// Names one request of the service, so that its answer finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestNumber(pub u64);

/// The launcher's answer to offered descriptors: random, for one use, for the process that made the offer.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket(pub [u8; 32]);

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// Who is at the other end of a connection: what the kernel says of it (`SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The effective uid when it connected.
    pub uid: u32,
    /// The effective gid.
    pub gid: u32,
    /// The process that connected; it may be gone.
    pub pid: i32,
    /// Whether it belongs to the admin group.
    pub admin: bool,
}

/// Launcher to service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromLauncher {
    /// A client connected. Descriptor: the connection.
    Caller {
        /// Its number, which plans name.
        number: CallerNumber,
        /// Who it is.
        peer: Peer,
        /// The uid of the account that it counts for: of a subordinate uid, whose that is.
        account: u32,
        /// Of the groups that have bounds of their own, those that it is in.
        groups: Vec<String>,
    },
    /// A session runs. Descriptors: the keeper's socket (packets), the relay's (frames).
    Built {
        /// The request that this answers.
        request: RequestNumber,
        /// How long each step took, from the moment that the launcher read the request.
        timings: Vec<Timing>,
    },
    /// A session was not built, and nothing of it is left.
    Refused {
        /// The request that this answers.
        request: RequestNumber,
        /// The reason, for the client.
        refusal: Refusal,
    },
    /// Nothing of a session is left but its overlay.
    Gone {
        /// The id of the session.
        session: SessionId,
        /// What went wrong on the way; empty if nothing.
        errors: Vec<String>,
    },
    /// A session's overlay is deleted, or could not be.
    Removed {
        /// The request that this answers.
        request: RequestNumber,
        /// `None` if the overlay is deleted.
        refusal: Option<Refusal>,
    },
    /// The first message to a service: sessions that live, in one or several parts. What is in none of
    /// them is gone.
    Live {
        /// What enforces the limits of overlays here.
        disk: DiskForm,
        /// How many open files a process of a session has at most, whatever its plan says: what the launcher may have.
        open_files: u64,
        /// At most [`MAX_LIVE`].
        sessions: Vec<SessionId>,
        /// Whether this is the last part.
        last: bool,
    },
    /// What the host offers, and what was left behind.
    Examined {
        /// The request that this answers.
        request: RequestNumber,
        /// One for each facility.
        checks: Vec<Check>,
        /// Each trace, if they were asked for.
        leaks: Vec<Leak>,
    },
    /// Answer who asks for numbers. Descriptor: a socket that listens.
    Metrics,
}

impl Message for FromLauncher {
    fn descriptors(&self) -> RangeInclusive<usize> {
        match self {
            Self::Caller { .. } | Self::Metrics => 1..=1,
            Self::Built { .. } => 2..=2,
            Self::Refused { .. }
            | Self::Gone { .. }
            | Self::Removed { .. }
            | Self::Live { .. }
            | Self::Examined { .. } => 0..=0,
        }
    }
}

/// The most that [`FromLauncher::Live`] names at once.
pub const MAX_LIVE: usize = 2048;

/// How much of a facility a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// All that sessions use.
    Ok,
    /// Sessions run, with less.
    Reduced,
    /// No session runs without it.
    Missing,
}

/// A facility of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Such as `"landlock"`, `"cgroup.memory"`, `"idmap.ext4"`.
    pub name: String,
    /// Whether it is there.
    pub status: Status,
    /// What there is.
    pub found: String,
    /// What its lack costs; empty if nothing.
    pub impact: String,
    /// What to do about it; empty if nothing.
    pub fix: String,
}

/// Something of a session that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// `"cgroup"`, `"lease"`, `"socket"`, `"overlay"`, `"process"`.
    pub kind: String,
    /// Its name, path or number.
    pub what: String,
    /// Whether it has been taken away.
    pub cleaned: bool,
}

/// Service to launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromService {
    /// A connection ended.
    Forget {
        /// The number of the connection.
        caller: CallerNumber,
    },
    /// Build a session.
    Build {
        /// For the answer.
        request: RequestNumber,
        /// The connection of the client that asks for it.
        caller: CallerNumber,
        /// What it offered, and agreed to.
        ticket: Ticket,
        /// The whole session, as it was decided.
        plan: Box<Plan>,
    },
    /// End a session whose keeper does not.
    End {
        /// The id of the session.
        session: SessionId,
    },
    /// Delete the overlay of an ended session.
    Remove {
        /// For the answer.
        request: RequestNumber,
        /// On whose word.
        caller: CallerNumber,
        /// The uid that it belongs to.
        owner: u32,
        /// The id of the session.
        session: SessionId,
    },
    /// Look at what the host offers.
    Examine {
        /// For the answer.
        request: RequestNumber,
        /// On whose word.
        caller: CallerNumber,
        /// Look for what was left behind, too.
        leaks: bool,
        /// And take it away.
        clean: bool,
    },
}

/// How long a step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// The name of the step.
    pub step: Step,
    /// In microseconds since the request.
    pub start_us: u64,
    /// In microseconds since the request.
    pub end_us: u64,
}
