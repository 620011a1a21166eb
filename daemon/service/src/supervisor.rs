//! The task of a session that runs: owns its keeper's socket, writes down what comes from it, and sees to it
//! that the session ends for everybody once it is to end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentd_kernel::packets::{Packet, PacketError};
use agentd_policy::event::SourceEvent;
use agentd_policy::wire::{self, FromKeeper, ToKeeper};
use agentd_proto::v1::{Event, Exit, SessionDetail};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::convert::Numbering;
use crate::host::{Host, lock};
use crate::link::Link;
use crate::session::{Phase, Session, Signals};
use crate::state::{Action, Input, State};
use crate::store::StoreError;

/// How long a keeper may take to end its session before the launcher does.
const GRACE: Duration = Duration::from_secs(5);
/// How long output may wait for a client that is there but does not take it.
const DRAIN: Duration = Duration::from_secs(3600);
/// How long a keeper that is said to be gone may take until its socket is.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Packets that are written down together.
const BATCH: usize = 64;
/// What sees a session to its end.
pub struct Supervisor<'a> {
    host: &'a Arc<Host>,
    session: &'a Arc<Session>,
    keeper: Option<Link>,
    numbering: Numbering,
    state: State,
    deadline: Option<Instant>,
    /// An acknowledgement that found no room.
    ack: Option<Vec<u8>>,
    /// Why we ended it ourselves.
    note: Option<String>,
}

impl<'a> Supervisor<'a> {
    pub fn new(host: &'a Arc<Host>, session: &'a Arc<Session>, keeper: Link) -> Self {
        let program = session.command.first().cloned().unwrap_or_default();
        let numbering = Numbering::new(session.id.clone(), program);
        let state = State::running();
        Self { host, session, keeper: Some(keeper), numbering, state, deadline: None, ack: None, note: None }
    }
}

impl Supervisor<'_> {
    /// Until nothing of the session is left.
    pub async fn supervise(mut self, creator: CancellationToken, mut signals: Signals) {
        self.created().await;
        let session = self.session;
        let (mut killed, mut left, mut drained, mut gone) = (false, false, false, false);
        while !matches!(self.state, State::Over { .. }) {
            let input = tokio::select! {
                packet = receive(self.keeper.as_ref()) => self.take(packet).await,
                () = session.kill.cancelled(), if !killed => { killed = true; Some(Input::Kill) }
                () = creator.cancelled(), if !left => {
                    left = true;
                    self.unattended();
                    Some(Input::Kill)
                }
                () = session.drained.cancelled(), if !drained => { drained = true; Some(Input::Drained) }
                () = session.gone.cancelled(), if !gone => {
                    gone = true;
                    self.last_words().await;
                    Some(Input::Gone)
                }
                Some(signal) = signals.recv() => { self.tell_keeper(&ToKeeper::Signal(signal)); None }
                () = sleep_until(self.deadline.unwrap_or_else(Instant::now)), if self.deadline.is_some() => {
                    self.deadline = None;
                    Some(Input::Overdue)
                }
                () = acknowledge(self.keeper.as_ref(), self.ack.as_deref()) => { self.ack = None; None }
            };
            if let Some(input) = input {
                self.step(input).await;
            }
        }
    }

    async fn step(&mut self, input: Input) {
        let state = std::mem::replace(&mut self.state, State::running());
        let (state, actions) = state.step(input);
        self.state = state;
        for action in actions {
            match action {
                Action::AskKeeper => {
                    self.tell_keeper(&ToKeeper::Kill);
                    self.deadline = Some(Instant::now() + GRACE);
                }
                Action::AskLauncher => self.host.launcher.end(self.session.id.clone()),
                Action::AwaitDrain => self.deadline = Some(Instant::now() + DRAIN),
                Action::Record(exit) => {
                    let event = self.numbering.ended(&self.noted(exit), SystemTime::now());
                    if let Err(error) = self.host.store.append(&self.session.log, &[event]).await {
                        tracing::error!(session = %self.session.id, "events: {error}");
                    }
                }
                Action::Tell(exit) => {
                    // Nobody attached: what it said is lost with it.
                    lock(&self.session.relay).take();
                    self.deadline = Some(Instant::now() + GRACE);
                    let exit = self.noted(exit);
                    self.session.set_phase(Phase::Ended, Some(exit));
                    self.host.store.wake();
                }
                Action::Finish => self.session.set_phase(Phase::Over, None),
            }
        }
    }

    /// If nobody attached, nobody will: what the session says is lost.
    fn unattended(&self) {
        if lock(&self.session.relay).take().is_some() {
            self.session.drained.cancel();
        }
    }

    fn noted(&self, mut exit: Exit) -> Exit {
        if let Some(note) = &self.note
            && exit.message.is_empty()
        {
            exit.message = note.clone();
        }
        exit
    }

    async fn created(&mut self) {
        let lifecycle = SessionDetail {
            user: Some(self.session.user.to_string()),
            profile: Some(self.session.profile.clone()),
            command: self.session.command.clone(),
            ..SessionDetail::default()
        };
        let event = self.numbering.event("session.created", self.session.created_at);
        self.append(&[Event { lifecycle: Some(lifecycle), ..event }]).await;
    }

    /// Writes down what the keeper sent, with whatever more it has sent already, and acknowledges it.
    async fn take(&mut self, first: Result<Option<Packet>, PacketError>) -> Option<Input> {
        let (mut events, mut exit, mut last) = (Vec::new(), None, None);
        let mut next = Some(first);
        let mut lost = false;
        let mut room = BATCH;
        while let Some(packet) = next.take() {
            let source = match event(packet) {
                Some(Ok(source)) => source,
                Some(Err(())) => {
                    lost = true;
                    break;
                }
                None => break,
            };
            last = Some(source.number);
            let (more, end) = self.numbering.take(source);
            events.extend(more);
            room -= 1;
            if end.is_some() {
                exit = end;
            } else if room > 0 {
                next = self.keeper.as_ref().map(|keeper| keeper.receive_now(0));
            }
        }
        if !events.is_empty() && !self.append(&events).await {
            last = None;
        }
        if let Some(last) = last {
            self.tell_keeper(&ToKeeper::Ack(last));
        }
        if lost {
            self.keeper = None;
        }
        match exit {
            Some(exit) => {
                self.session.over.cancel();
                let exit = self.noted(exit);
                Some(Input::Ended(exit))
            }
            None => lost.then_some(Input::KeeperLost),
        }
    }

    /// Whatever is still in the socket of a keeper that is gone.
    async fn last_words(&mut self) {
        while self.keeper.is_some() {
            let Ok(packet) = timeout(LAST_WORDS, receive(self.keeper.as_ref())).await else { break };
            if let Some(input) = self.take(packet).await {
                self.step(input).await;
            }
        }
        self.keeper = None;
    }

    /// Appends events. Without a record there is no session: if they cannot be written, it ends.
    async fn append(&mut self, events: &[Event]) -> bool {
        let error = match self.host.store.append(&self.session.log, events).await {
            Ok(()) => return true,
            Err(error) => error,
        };
        tracing::error!(session = %self.session.id, "events: {error}");
        self.note = Some(match error {
            StoreError::Full(_) => "its event log is full".into(),
            _ => "its events could not be written".into(),
        });
        self.session.kill.cancel();
        false
    }

    fn tell_keeper(&mut self, message: &ToKeeper) {
        let Some(keeper) = &self.keeper else { return };
        let Ok(packet) = wire::encode(message) else { return };
        let is_ack = matches!(message, ToKeeper::Ack(_));
        match keeper.send_now(&packet) {
            // A later acknowledgement covers the earlier; a kill is repeated through the launcher.
            Err(PacketError::WouldBlock) if is_ack => self.ack = Some(packet),
            Ok(()) if is_ack => self.ack = None,
            Ok(()) => {}
            Err(error) => tracing::debug!(session = %self.session.id, "to the keeper: {error}"),
        }
    }
}

/// The event in a packet; nothing if there is no packet yet, an error if there will be none that is right.
fn event(packet: Result<Option<Packet>, PacketError>) -> Option<Result<SourceEvent, ()>> {
    match packet {
        Ok(Some(packet)) => match wire::decode(&packet.bytes) {
            Ok(FromKeeper::Event(event)) => Some(Ok(event)),
            Err(error) => {
                tracing::error!("from a keeper: {error}");
                Some(Err(()))
            }
        },
        Ok(None) => Some(Err(())),
        Err(PacketError::WouldBlock) => None,
        Err(error) => {
            tracing::error!("from a keeper: {error}");
            Some(Err(()))
        }
    }
}

async fn receive(keeper: Option<&Link>) -> Result<Option<Packet>, PacketError> {
    match keeper {
        Some(keeper) => keeper.receive(0).await,
        None => std::future::pending().await,
    }
}

async fn acknowledge(keeper: Option<&Link>, packet: Option<&[u8]>) {
    match (keeper, packet) {
        (Some(keeper), Some(packet)) => drop(keeper.send(packet).await),
        _ => std::future::pending().await,
    }
}
