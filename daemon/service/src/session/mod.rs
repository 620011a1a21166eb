//! One session: what is known of it, how it is built and forgotten.

pub mod commands;
mod network;
pub mod registry;
pub mod state;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agentd_policy::Refusal;
use agentd_policy::egress::Egress;
use agentd_policy::names::{SessionId, SessionName};
use agentd_policy::rule::Rule;
use agentd_policy::wire::CommandNumber;
use agentd_proto::v1::{self, Exit};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::commands::Start;
use crate::clock::{self, rfc3339};
use crate::store::output::OutputLog;
use crate::store::record::Record;
use crate::store::{Log, Store};
use crate::stream::hub::{Hub, Stage};
use crate::stream::pace::Pace;
use crate::sync::lock;
use crate::text::cut;

/// What waits to be done for a session.
const ASKED: usize = 64;
/// The longest command that is shown, in bytes.
const SHOWN: usize = 4096;

/// Where a session is, as `ps` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Creating,
    Running,
    Stopping,
    Ended,
    /// Ended, and nothing of it left but its overlay.
    Over,
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
    /// Clients that are attached, and those of them that do not only watch.
    pub attached: u32,
    pub strict: u32,
    /// Somebody was attached.
    pub visited: bool,
    /// It lives without any client.
    pub detached: bool,
    /// Its exit was told to somebody who was attached.
    pub told: bool,
    /// Its files were deleted, and only admins see what is on record of it.
    pub removed: bool,
    /// The place of its last event.
    pub events: u64,
    /// Further commands that run.
    pub commands: u32,
    /// What it may reach.
    pub egress: Option<Arc<Egress>>,
}

/// What is asked of a session's supervisor.
pub enum Ask {
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
    /// Nobody takes the output of a further command any more.
    Close(CommandNumber),
    /// Somebody came, or went on purpose.
    Note {
        kind: &'static str,
        who: String,
    },
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
    asks: mpsc::Sender<Ask>,
}

/// By whom a session is ended, and why.
#[derive(Clone, Debug, Default)]
pub struct EndRequest {
    pub by: Option<String>,
    pub reason: Option<&'static str>,
}

/// The receiving end of what is asked of a session.
pub type Asks = mpsc::Receiver<Ask>;

impl Session {
    /// The session of `record`. What its command wrote before has to be looked at, unless it is new.
    pub fn new(record: Record, log: Arc<Log>, output: OutputLog) -> (Arc<Self>, Asks) {
        let (asks, receiver) = mpsc::channel(ASKED);
        let phase = if record.exit.is_some() { Phase::Over } else { Phase::Creating };
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
            strict: 0,
            visited: false,
            detached: record.detached,
            told: false,
            removed: false,
            events: 0,
            commands: 0,
            egress: record.egress.clone().map(Arc::new),
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
            asks,
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
            ..self.record.clone()
        }
    }

    /// What was decided when it was asked for.
    pub fn facts(&self) -> &Record {
        &self.record
    }

    /// Bytes that its command has written.
    pub fn output(&self) -> u64 {
        self.hub.end().max(self.record.output)
    }

    /// Whether it has ended and is to be removed, or was: only whoever has its whole id still finds it.
    pub fn is_forgotten(&self) -> bool {
        self.is_removed() || (self.remove && self.phase() >= Phase::Ended)
    }

    /// Whether it was removed: for its user it is gone.
    pub fn is_removed(&self) -> bool {
        self.status.borrow().removed
    }

    /// When it ended; when it was asked for, if that is not known.
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
        let _ = status.wait_for(|now| now.phase >= phase).await;
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
        self.asks.try_send(Ask::Signal { command, signal }).map_err(|_| {
            Refusal::new(
                format!("signal {signal}"),
                Rule::SessionSignals,
                "too many wait already, or it has ended",
            )
        })
    }

    /// Asks something of its supervisor; whether there is one.
    pub async fn ask(&self, ask: Ask) -> bool {
        self.asks.send(ask).await.is_ok()
    }

    /// As the API shows it, with a command and a message of at most `room` bytes.
    pub fn show(&self, room: usize) -> v1::Session {
        let status = self.status();
        let mut exit = status.exit;
        if let Some(exit) = &mut exit {
            exit.message = cut(&exit.message, room.min(SHOWN));
        }
        let state = match status.phase {
            _ if status.removed => "removed",
            Phase::Creating => "creating",
            Phase::Running => "running",
            Phase::Stopping => "stopping",
            Phase::Ended | Phase::Over => "ended",
        };
        let egress = status.egress.as_deref().filter(|_| status.phase < Phase::Ended);
        v1::Session {
            id: self.id.to_string(),
            name: self.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            user: self.record.user.to_string(),
            state: state.to_owned(),
            profile: self.record.profile.clone(),
            command: cut(&self.record.command.join(" "), room.min(SHOWN)),
            created: rfc3339(self.created_at),
            exit: exit.filter(|_| status.phase >= Phase::Ended),
            attached: status.attached,
            detached: status.detached,
            publish: egress.map(network::published).unwrap_or_default(),
        }
    }

    /// All that is known of it.
    pub fn inspect(&self) -> v1::InspectReply {
        let (status, facts) = (self.status(), &self.record);
        let when = |micros: Option<u64>| micros.map(|us| rfc3339(clock::time(us))).unwrap_or_default();
        v1::InspectReply {
            session: Some(self.show(SHOWN)),
            command: facts.command.clone(),
            cwd: facts.cwd.to_string(),
            terminal: facts.terminal,
            mounts: facts.mounts.clone(),
            limits: Some(facts.limits.clone()),
            remove: facts.remove,
            started: when(status.started_us),
            ended: when(status.ended_us),
            events: status.events,
            output: self.output(),
            commands: status.commands,
            network: status.egress.as_deref().map(network::show),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use agentd_policy::names::{AbsPath, UserName};
    use agentd_policy::plan::Plan;

    /// A session that nobody built.
    pub fn session(id: &str, name: Option<&str>, uid: u32) -> Arc<Session> {
        let path = |text| AbsPath::parse(text).unwrap();
        let plan = Plan {
            session: SessionId::parse(id).unwrap(),
            profile: agentd_policy::digest::Digest::default(),
            user: UserName::parse("alice").unwrap(),
            home: path("/home/alice"),
            shell: path("/bin/sh"),
            command: vec![b"true".to_vec()],
            env: vec![],
            cwd: path("/home/alice"),
            terminal: None,
            workspaces: vec![],
            inputs: vec![],
            scratch: vec![],
            home_size: 4096,
            limits: agentd_policy::limits::Limits {
                memory: 1 << 20,
                pids: 1,
                cpus: 1.0,
                disk: 0,
                inodes: 1 << 20,
                timeout_ms: 1,
                idle_ms: 0,
                open_files: 16,
            },
            landlock_abi: 2,
            remove: false,
            umask: 0o022,
            egress: None,
        };
        let root = std::env::temp_dir().join(format!("agentd-session-{}", std::process::id()));
        std::fs::create_dir_all(root.join("audit")).unwrap();
        let store = crate::store::Store::open(&path(root.to_str().unwrap()), 1 << 40).unwrap();
        let name = name.map(|name| SessionName::parse(name).unwrap());
        let (log, output) = (store.log(&plan.session), store.output(&plan.session));
        output.begin();
        Session::new(Record::new(&plan, name, uid, "default".into(), false), log, output).0
    }
}
