//! One session: what is known of it, and how it is built and forgotten.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use agentd_policy::Refusal;
use agentd_policy::names::{SessionId, SessionName, UserName};
use agentd_policy::plan::{Mode, Plan};
use agentd_policy::wire::{Ticket, Timing};
use agentd_proto::v1::{self, Exit};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::connection::Caller;
use crate::convert::{arguments, cut, rfc3339};
use crate::host::{Host, lock};
use crate::launcher::Built;
use crate::link::Link;
use crate::store::Log;
use crate::supervisor::Supervisor;

/// Signals that wait to be sent.
const SIGNALS: usize = 64;

/// The longest command that is shown, in bytes.
const SHOWN: usize = 4096;

/// Where a session is, as `ps` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Creating,
    Running,
    Ended,
    /// Ended, and nothing of it left but its overlay.
    Over,
}

/// What is known of a session.
pub struct Session {
    pub id: SessionId,
    pub name: Option<SessionName>,
    pub uid: u32,
    pub user: UserName,
    pub profile: String,
    pub command: Vec<String>,
    pub created_at: SystemTime,
    /// It is forgotten once it is over.
    pub remove: bool,
    /// Something of it stays on disk.
    pub overlay: bool,
    pub log: Arc<Log>,
    /// Its output, until somebody attaches.
    pub relay: Mutex<Option<UnixStream>>,
    /// It is to end.
    pub kill: CancellationToken,
    /// Its command has ended.
    pub over: CancellationToken,
    /// Its output was handed on.
    pub drained: CancellationToken,
    /// The launcher has cleared up.
    pub gone: CancellationToken,
    status: watch::Sender<(Phase, Option<Exit>)>,
    signals: mpsc::Sender<i32>,
}

/// What is needed to build it.
pub struct Order {
    pub plan: Plan,
    pub ticket: Option<Ticket>,
    pub caller: Caller,
}

/// The receiving end of a session's signals.
pub type Signals = mpsc::Receiver<i32>;

impl Session {
    pub fn new(
        plan: &Plan,
        name: Option<SessionName>,
        uid: u32,
        profile: String,
        remove: bool,
        log: Log,
    ) -> (Arc<Self>, Signals) {
        let (signals, receiver) = mpsc::channel(SIGNALS);
        let words: Vec<_> =
            plan.command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let session = Self {
            id: plan.session.clone(),
            name,
            uid,
            user: plan.user.clone(),
            profile,
            command: arguments(&words),
            created_at: SystemTime::now(),
            remove,
            overlay: plan.workspaces.iter().any(|w| w.mode == Mode::Overlay),
            log: Arc::new(log),
            relay: Mutex::new(None),
            kill: CancellationToken::new(),
            over: CancellationToken::new(),
            drained: CancellationToken::new(),
            gone: CancellationToken::new(),
            status: watch::Sender::new((Phase::Creating, None)),
            signals,
        };
        (Arc::new(session), receiver)
    }

    pub fn phase(&self) -> Phase {
        self.status.borrow().0
    }

    /// Whether it has ended and is to be removed: only whoever has its whole id, to take its exit, still finds it.
    pub fn is_forgotten(&self) -> bool {
        self.remove && self.phase() >= Phase::Ended
    }

    pub fn set_phase(&self, phase: Phase, exit: Option<Exit>) {
        self.status.send_modify(|status| {
            status.0 = phase;
            if exit.is_some() {
                status.1 = exit;
            }
        });
    }

    /// How it ended, once it has.
    pub async fn exit(&self) -> Exit {
        let mut status = self.status.subscribe();
        match status.wait_for(|(_, exit)| exit.is_some()).await.map(|status| status.1.clone()) {
            Ok(Some(exit)) => exit,
            // The sender is ours, and lives as long as we do.
            _ => crate::state::failed("its state was lost"),
        }
    }

    /// Waits until it is in `phase` or beyond.
    pub async fn reached(&self, phase: Phase) {
        let mut status = self.status.subscribe();
        let _ = status.wait_for(|(now, _)| *now >= phase).await;
    }

    /// Sends a signal to its command.
    pub fn signal(&self, signal: i32) -> Result<(), Refusal> {
        if !(1..=64).contains(&signal) {
            return Err(crate::error::malformed(format!("signal {signal}"), "request.signal"));
        }
        self.signals.try_send(signal).map_err(|_| {
            Refusal::new(
                format!("signal {signal}"),
                "session.signals",
                "too many wait already, or it has ended",
            )
        })
    }

    /// As the API shows it, with a command and a message of at most `room` bytes.
    pub fn show(&self, room: usize) -> v1::Session {
        let (phase, mut exit) = self.status.borrow().clone();
        if let Some(exit) = &mut exit {
            exit.message = cut(&exit.message, room.min(SHOWN));
        }
        let state = match phase {
            Phase::Creating => "creating",
            Phase::Running => "running",
            Phase::Ended | Phase::Over => "ended",
        };
        v1::Session {
            id: self.id.to_string(),
            name: self.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            user: self.user.to_string(),
            state: state.to_owned(),
            profile: self.profile.clone(),
            command: cut(&self.command.join(" "), room.min(SHOWN)),
            created: rfc3339(self.created_at),
            exit,
        }
    }
}

/// Builds the session, answers, and sees it to its end.
pub async fn run(
    host: Arc<Host>,
    session: Arc<Session>,
    order: Order,
    signals: Signals,
    answer: oneshot::Sender<Result<Vec<Timing>, Refusal>>,
) {
    let Order { plan, ticket, caller } = order;
    let creator = caller.gone.clone();
    let number = caller.line.number();
    drop(caller);
    let opened = match host.launcher.build(number, ticket, plan).await {
        Ok(built) => open(built),
        Err(refusal) => Err(refusal),
    };
    let (keeper, relay, timings) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            host.registry.remove(&session.id);
            drop(answer.send(Err(refusal)));
            return;
        }
    };
    *lock(&session.relay) = Some(relay);
    session.set_phase(Phase::Running, None);
    if answer.send(Ok(timings)).is_err() {
        // Whoever asked is gone without knowing its id.
        lock(&session.relay).take();
        session.drained.cancel();
        session.kill.cancel();
    }
    Supervisor::new(&host, &session, keeper).supervise(creator, signals).await;
    session.log.close();
    // Its overlay went with it: the plan said so.
    if session.remove {
        host.registry.remove(&session.id);
    }
}

fn open(built: Built) -> Result<(Link, UnixStream, Vec<Timing>), Refusal> {
    let fail = |e: std::io::Error| {
        Refusal::new(format!("the session's sockets: {e}"), "service.launcher", "try again")
    };
    let keeper = Link::new(built.keeper).map_err(fail)?;
    let relay = std::os::unix::net::UnixStream::from(built.relay);
    relay.set_nonblocking(true).map_err(fail)?;
    Ok((keeper, UnixStream::from_std(relay).map_err(fail)?, built.timings))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use agentd_policy::names::AbsPath;

    /// A session that nobody built.
    pub fn session(id: &str, name: Option<&str>, uid: u32) -> Arc<Session> {
        let path = |text| AbsPath::parse(text).unwrap();
        let plan = Plan {
            session: SessionId::parse(id).unwrap(),
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
            limits: agentd_policy::plan::Limits {
                memory: 1 << 20,
                pids: 1,
                cpus: 1.0,
                disk: 0,
                timeout_ms: 1,
                open_files: 16,
            },
            landlock_abi: 2,
            remove: false,
        };
        let root = std::env::temp_dir().join(format!("agentd-session-{}", std::process::id()));
        std::fs::create_dir_all(root.join("audit")).unwrap();
        let store = crate::store::Store::open(&path(root.to_str().unwrap()), 1 << 40).unwrap();
        let name = name.map(|name| SessionName::parse(name).unwrap());
        let log = store.log(&plan.session);
        Session::new(&plan, name, uid, "default".into(), false, log).0
    }
}
