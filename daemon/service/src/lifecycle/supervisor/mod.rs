//! The task of a session that runs: owns its keeper's socket, writes down what comes from it, and sees to it
//! that the session ends for everybody once it is to end.

mod actions;
mod keeper;
mod requests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::keeper::{receive, send};
use crate::audit::note::Note;
use crate::audit::numbering::{Mark, Numbering};
use crate::clock::micros;
use crate::host::Host;
use crate::launcher::link::Link;
use crate::metrics::{Depth, metrics};
use crate::session::commands::Commands;
use crate::session::state::{Input, State};
use crate::session::{EndRequest, Session, SessionRequests};
use crate::store::record;
use crate::store::{EventLine, StoreError};
use crate::stream::hub::Stage;

/// The longest that a command may have when it is stopped.
pub const MAX_GRACE: Duration = Duration::from_secs(600);
/// How long a keeper may take to end its session before the launcher does.
const GRACE: Duration = Duration::from_secs(5);
/// How long the rest of the output may take to come: the relay's keeper waits no longer for it.
const DRAIN: Duration = Duration::from_secs(45);
/// How long a keeper that the launcher reports as gone may take to close its socket.
const KEEPER_DRAIN: Duration = Duration::from_secs(1);
/// How long a keeper may take to send its `Hello`.
const HELLO: Duration = Duration::from_secs(10);
/// How long at least a session goes on without a client after the start of the service.
const GRACE_AT_START: Duration = Duration::from_secs(30);
/// Packets that are written down together.
const BATCH: usize = 64;
/// And their bytes, but for the last packet: others have their turn.
const BATCH_BYTES: usize = 256 << 10;
/// Messages that wait for a keeper before further requests are refused, and before it counts as lost.
const OUTBOX: (usize, usize) = (64, 512);
/// Why a session ends whose events are not on record.
const UNWRITTEN: &str = "its events could not be written";
const SIGTERM: i32 = 15;

/// What sees a session to its end.
pub struct Supervisor<'a> {
    host: &'a Arc<Host>,
    session: &'a Arc<Session>,
    keeper: Option<Link>,
    numbering: Numbering,
    state: State,
    commands: Commands,
    deadline: Option<Instant>,
    /// How long its command has when it is stopped.
    grace: Duration,
    /// It ends then, if it still has no client.
    orphan_deadline: Option<Instant>,
    /// It was found at the start of the service; the keeper has to send its `Hello` by then.
    found: Option<Instant>,
    recovered: bool,
    /// How far its event file is written.
    end: u64,
    /// The last numbers of events that are written, each with how far the file has to be on disk to acknowledge it.
    written: VecDeque<(u64, u64)>,
    /// The last number that was acknowledged, and how many were not.
    acknowledged: u64,
    unacknowledged: Depth,
    /// An acknowledgement that found no room.
    ack: Option<Vec<u8>>,
    /// What else found none.
    outbox: VecDeque<Vec<u8>>,
    /// Why it is ended, if its keeper does not know.
    note: Option<String>,
    by: Option<String>,
    /// It cannot go on because another version has started it: the message of its exit.
    upgrade: Option<String>,
}

impl<'a> Supervisor<'a> {
    pub fn new(
        host: &'a Arc<Host>,
        session: &'a Arc<Session>,
        keeper: Option<Link>,
        numbering: Numbering,
    ) -> Self {
        let acknowledged = numbering.source();
        Self {
            host,
            session,
            keeper,
            numbering,
            state: State::running(),
            commands: Commands::new(session.id.clone(), session.created_at),
            deadline: None,
            grace: GRACE,
            orphan_deadline: None,
            found: None,
            recovered: false,
            end: 0,
            written: VecDeque::new(),
            acknowledged,
            unacknowledged: metrics().unacknowledged(),
            ack: None,
            outbox: VecDeque::new(),
            note: None,
            by: None,
            upgrade: None,
        }
    }

    /// Of a session that an earlier service had.
    pub fn recovered(
        host: &'a Arc<Host>,
        session: &'a Arc<Session>,
        keeper: Option<Link>,
        numbering: Numbering,
        end: u64,
        state: State,
    ) -> Self {
        let now = Instant::now();
        let found = keeper.as_ref().map(|_| now + HELLO);
        let deadline = match &state {
            State::Draining { .. } => Some(now + DRAIN),
            // What is left of the time that it had.
            _ => session.status().stop_us.map(|at| now + left(at)),
        };
        let foreign = session.facts().foreign.filter(|_| keeper.is_none());
        let upgrade = foreign.map(|format| keeper::other_format("record", format, record::VERSION.into()));
        let new = Self::new(host, session, keeper, numbering);
        Self { found, recovered: true, deadline, end, state, upgrade, ..new }
    }
}

impl Supervisor<'_> {
    /// Until nothing of the session is left.
    pub async fn supervise(mut self, creator: CancellationToken, mut requests: SessionRequests) {
        self.created().await;
        let session = self.session;
        let (mut status, mut committed) = (session.watch(), session.log.watch());
        let (mut killed, mut left, mut drained, mut gone) = (false, self.recovered, false, false);
        self.look(left);
        if self.keeper.is_none() && matches!(self.state, State::Running { .. }) {
            // Without a keeper it is unknown how it ended.
            self.step(Input::KeeperLost).await;
        }
        while !matches!(self.state, State::Cleared { .. }) {
            let input = tokio::select! {
                packet = receive(self.keeper.as_ref()) => self.take(packet).await,
                () = session.kill.cancelled(), if !killed => { killed = true; self.killed(); Some(Input::Kill) }
                () = creator.cancelled(), if !left => { left = true; self.look(left); None }
                changed = status.changed() => { self.look(left); changed.err().map(|_| Input::Kill) }
                () = at(self.orphan_deadline) => { self.orphan_deadline = None; self.abandon(); None }
                _ = session.hub.ended(), if !drained => { drained = true; Some(Input::Drained) }
                () = session.gone.cancelled(), if !gone => {
                    gone = true;
                    self.drain_keeper().await;
                    self.no_stream();
                    Some(Input::Gone)
                }
                _ = committed.changed() => { self.acknowledge(); None }
                Some(request) = requests.recv() => self.handle_request(request).await,
                () = at(self.deadline) => { self.deadline = None; Some(Input::Overdue) }
                () = at(self.found) => { self.found = None; self.keeper = None; Some(Input::KeeperLost) }
                () = send(self.keeper.as_ref(), self.ack.as_deref()) => { self.ack = None; None }
                () = send(self.keeper.as_ref(), self.outbox.front().map(Vec::as_slice)) => {
                    self.outbox.pop_front();
                    None
                }
            };
            if let Some(input) = input {
                self.step(input).await;
            }
        }
        // A request that comes now fails at once.
        requests.close();
    }

    async fn created(&mut self) {
        if self.numbering.seq() > 0 {
            let events = self.numbering.seq();
            self.session.change(|status| status.events = events);
            return;
        }
        let facts = self.session.facts();
        let note = Note::Created {
            user: facts.user.to_string(),
            profile: facts.profile.clone(),
            command: facts.command.clone(),
        };
        let before = self.numbering.mark();
        let mut line = self.numbering.own(note);
        line.event.time = crate::clock::rfc3339(self.session.created_at);
        if !self.append(&[line], before).await {
            self.session.end(EndRequest { by: None, reason: Some(UNWRITTEN) });
        }
    }

    async fn own(&mut self, note: Note) -> bool {
        let before = self.numbering.mark();
        let line = self.numbering.own(note);
        self.append(&[line], before).await
    }

    /// No stream comes any more. A command that wrote nothing has nothing to lose.
    fn no_stream(&self) {
        let hub = &self.session.hub;
        if self.recovered && hub.stage() == Stage::Waiting && hub.end() == 0 {
            hub.set_stage(Stage::Drained);
        }
        hub.give_up_waiting();
    }

    fn save(&self) {
        self.host.store.save(&self.session.record());
    }

    /// Appends events. Without a record there is no session: if they cannot be written, it ends. Only if the disk
    /// does not take what was written before, it goes on: its keeper keeps the events as long as it has room, and
    /// then refuses the acts that would need more.
    async fn append(&mut self, lines: &[EventLine], before: Mark) -> bool {
        let error = match self.host.store.append(&self.session.log, lines).await {
            Ok(end) => {
                let events = self.numbering.seq();
                self.end = end;
                self.session.change(|status| status.events = events);
                lines.iter().for_each(|line| metrics().event(&line.event));
                return true;
            }
            Err(error) => error,
        };
        // The next event has the place of the first of these; what its keeper saw is counted as dropped.
        self.numbering.rewind(before);
        if matches!(error, StoreError::Failed) {
            return false;
        }
        tracing::error!(session = %self.session.id, %error, "events were not written: the session ends");
        let why = match error {
            StoreError::Full(_) => "its event log is full",
            _ => UNWRITTEN,
        };
        self.session.end(EndRequest { by: None, reason: Some(why) });
        false
    }
}

/// The time until then, whatever became of the clock.
fn left(at_us: u64) -> Duration {
    Duration::from_micros(at_us.saturating_sub(micros(SystemTime::now()))).min(MAX_GRACE)
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
