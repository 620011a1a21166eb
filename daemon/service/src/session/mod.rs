//! One session: what is known of it, and how it is shown.

pub mod commands;
mod network;
pub mod registry;
pub mod review;
mod show;
pub mod state;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agentd_policy::Refusal;
use agentd_policy::egress::Egress;
use agentd_policy::names::{SessionId, SessionName};
use agentd_policy::rule::Rule;
use agentd_policy::wire::CommandNumber;
use agentd_proto::v1::{Changes, Exit};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::commands::Start;
use crate::audit::note::Note;
use crate::clock;
use crate::store::output::OutputLog;
use crate::store::record::Record;
use crate::store::{Log, Store};
use crate::stream::hub::{Hub, Stage};
use crate::stream::pace::Pace;
use crate::sync::lock;

/// What waits to be done for a session.
const REQUEST_QUEUE: usize = 64;

/// Where a session is, as `ps` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Creating,
    Running,
    Stopping,
    Ended,
    /// Ended, and nothing of it left but its overlay.
    Cleared,
}

/// What changes of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub phase: Phase,
    pub exit: Option<Exit>,
    pub started_us: Option<u64>,
    pub ended_us: Option<u64>,
    /// When the whole of it is to end, if its command does not before.
    pub stop_us: Option<u64>,
    /// Clients that are attached.
    pub attached: u32,
    /// Those of them that do not only watch.
    pub interactive_clients: u32,
    /// A client was attached that did not only watch.
    pub visited: bool,
    /// It lives without any client.
    pub detached: bool,
    /// A client that was attached has received its exit.
    pub exit_delivered: bool,
    /// Its files were deleted, and only admins see what is on record of it.
    pub removed: bool,
    /// The place of its last event.
    pub events: u64,
    /// Further commands that run.
    pub commands: u32,
    /// What it may reach.
    pub egress: Option<Arc<Egress>>,
    /// What its user's client last said of its changes.
    pub changes: Option<Changes>,
}

/// A request to a session's supervisor.
pub enum SessionRequest {
    Signal {
        command: CommandNumber,
        signal: i32,
    },
    /// Its command is to end, and the whole of it after the grace.
    Stop {
        who: String,
        grace: Duration,
    },
    Run(Box<Start>),
    /// The client of a further command is gone.
    Close(CommandNumber),
    /// A client attached or detached.
    Note(Note),
}

/// What is known of a session.
pub struct Session {
    pub id: SessionId,
    pub name: Option<SessionName>,
    pub uid: u32,
    record: Record,
    pub created_at: SystemTime,
    pub remove: bool,
    pub overlay: bool,
    pub log: Arc<Log>,
    pub hub: Arc<Hub>,
    /// It is to end.
    pub kill: CancellationToken,
    end_request: Mutex<Option<EndRequest>>,
    /// The launcher has cleared up.
    pub gone: CancellationToken,
    status: watch::Sender<Status>,
    requests: mpsc::Sender<SessionRequest>,
    /// Held while an event is appended that comes after the session's end.
    late: tokio::sync::Mutex<()>,
}

/// By whom a session is ended, and why.
#[derive(Clone, Debug, Default)]
pub struct EndRequest {
    pub by: Option<String>,
    pub reason: Option<&'static str>,
}

/// The receiving end of a supervisor's requests.
pub type SessionRequests = mpsc::Receiver<SessionRequest>;

impl Session {
    /// The session of `record`. What its command wrote before has to be looked at, unless it is new.
    pub fn new(record: Record, log: Arc<Log>, output: OutputLog) -> (Arc<Self>, SessionRequests) {
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        let phase = if record.exit.is_some() { Phase::Cleared } else { Phase::Creating };
        let stage = match (&record.exit, record.whole) {
            (None, _) => Stage::Waiting,
            (Some(_), true) => Stage::Drained,
            (Some(_), false) => Stage::Lost,
        };
        let status = Status {
            phase,
            exit: record.exit.clone(),
            started_us: record.started_us,
            ended_us: record.ended_us,
            stop_us: record.stop_us,
            attached: 0,
            interactive_clients: 0,
            visited: false,
            detached: record.detached,
            exit_delivered: false,
            removed: false,
            events: 0,
            commands: 0,
            egress: record.egress.clone().map(Arc::new),
            changes: record.changes.clone(),
        };
        let session = Self {
            id: record.id.clone(),
            name: record.name.clone(),
            uid: record.uid,
            created_at: record.created_at(),
            remove: record.remove,
            overlay: record.overlay,
            hub: Hub::new(Some(output), stage, Arc::new(Pace::new(record.limits.cpus))),
            record,
            log,
            kill: CancellationToken::new(),
            end_request: Mutex::new(None),
            gone: CancellationToken::new(),
            status: watch::Sender::new(status),
            requests,
            late: tokio::sync::Mutex::default(),
        };
        (Arc::new(session), receiver)
    }

    /// A session that was removed, from its record; none if that has no end, or its events cannot be read.
    pub fn from_removed(record: Record, store: &Store) -> Option<Arc<Self>> {
        record.exit.as_ref()?;
        let log = store.log(&record.id);
        let tail = store.take_up(&log, true);
        log.close();
        let (events, output) = (tail.ok()?.seq, store.output(&record.id));
        let (session, _) = Self::new(record, log, output);
        session.change(|status| (status.events, status.removed) = (events, true));
        Some(session)
    }

    pub fn phase(&self) -> Phase {
        self.status.borrow().phase
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Wakes with every change.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// What is to be kept of it now.
    pub fn record(&self) -> Record {
        let status = self.status.borrow();
        Record {
            started_us: status.started_us,
            ended_us: status.ended_us,
            stop_us: status.stop_us,
            detached: status.detached,
            whole: self.hub.stage() == Stage::Drained,
            exit: status.exit.clone(),
            output: self.output(),
            egress: status.egress.as_deref().cloned(),
            changes: status.changes.clone(),
            ..self.record.clone()
        }
    }

    /// What was decided at its creation.
    pub fn facts(&self) -> &Record {
        &self.record
    }

    /// Bytes that its command has written.
    pub fn output(&self) -> u64 {
        self.hub.end().max(self.record.output)
    }

    /// Whether it has ended and is to be removed, or was: it is found by its whole id alone.
    pub fn is_forgotten(&self) -> bool {
        self.is_removed() || (self.remove && self.phase() >= Phase::Ended)
    }

    /// Whether it was removed: for its user it is gone.
    pub fn is_removed(&self) -> bool {
        self.status.borrow().removed
    }

    /// When it ended; when it was created, if that is not known.
    pub fn ended_at(&self) -> SystemTime {
        self.status.borrow().ended_us.map_or(self.created_at, clock::time)
    }

    /// How it ended, once it has.
    pub async fn exit(&self) -> Exit {
        let mut status = self.status.subscribe();
        match status.wait_for(|status| status.exit.is_some()).await.map(|status| status.exit.clone()) {
            Ok(Some(exit)) => exit,
            // The sender is ours, and lives as long as we do.
            _ => crate::session::state::failed("its state was lost"),
        }
    }

    /// Waits until it is in `phase` or beyond.
    pub async fn reached(&self, phase: Phase) {
        let mut status = self.status.subscribe();
        status.wait_for(|now| now.phase >= phase).await.ok();
    }

    /// Ends it. Only the first word counts.
    pub fn end(&self, end_request: EndRequest) {
        lock(&self.end_request).get_or_insert(end_request);
        self.kill.cancel();
    }

    pub fn end_request(&self) -> EndRequest {
        lock(&self.end_request).clone().unwrap_or_default()
    }

    /// Sends a signal to a command of it.
    pub fn signal(&self, command: CommandNumber, signal: i32) -> Result<(), Refusal> {
        if !(1..=64).contains(&signal) {
            return Err(agentd_request::malformed(format!("signal {signal}"), Rule::RequestSignal));
        }
        self.requests.try_send(SessionRequest::Signal { command, signal }).map_err(|_| {
            Refusal::new(
                format!("signal {signal}"),
                Rule::SessionSignals,
                "too many wait already, or it has ended",
            )
        })
    }

    /// SessionRequests something of its supervisor; whether there is one.
    pub async fn request(&self, request: SessionRequest) -> bool {
        self.requests.send(request).await.is_ok()
    }
}

#[cfg(test)]
pub mod tests;
