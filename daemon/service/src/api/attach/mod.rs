//! Clients at the streams of a command: of a session's first, or of one that they have run in it.

mod carry;

use std::sync::Arc;
use std::time::Duration;

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_policy::wire::CommandNumber;
use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::{AttachInput, AttachOpen, AttachOutput, ExecOpen, Exit};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub use self::carry::slow;
use self::carry::{carry, resize};
use crate::api::connection::Caller;
use agentd_request::malformed;

use crate::audit::note::Note;
use crate::error::refused;
use crate::host::Host;
use crate::quota::slots::{Slot, Slots, crowded};
use crate::session::commands::{self, Start};
use crate::session::registry::Access;
use crate::session::state::failed;
use crate::session::{Phase, Session, SessionRequest};
use crate::stream::hub::{From, Hub, Stage, Subscription};

/// How long a client may take to send its first message.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a snapshot of the screen may take.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages to the client that wait.
const QUEUE: usize = 8;

/// What goes to the client.
pub type Output = mpsc::Sender<Result<AttachOutput, Status>>;
type Stream = ReceiverStream<Result<AttachOutput, Status>>;

/// A client at a command.
struct Visit {
    host: Arc<Host>,
    session: Arc<Session>,
    hub: Arc<Hub>,
    command: CommandNumber,
    terminal: bool,
    watch: bool,
    subscription: Subscription,
    /// A snapshot of the screen comes first.
    snapshot: bool,
    /// Its login name.
    who: String,
    _slot: Slot,
}

async fn first(input: &mut Streaming<AttachInput>) -> Result<Option<In>, Status> {
    match tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, input.message()).await {
        Ok(message) => Ok(message?.and_then(|message| message.kind)),
        Err(_) => Err(Status::deadline_exceeded("the first message did not come")),
    }
}

fn slot(slots: &Arc<Slots>, caller: &Caller) -> Result<Slot, Refusal> {
    slots
        .take_for(caller.account, caller.activity.upgrade())
        .ok_or_else(|| crowded("streams of commands", slots))
}

/// Attaches the client to the session that its first message names.
pub async fn attach(
    host: &Arc<Host>,
    caller: &Caller,
    mut input: Streaming<AttachInput>,
) -> Result<Stream, Status> {
    let Some(In::Open(open)) = first(&mut input).await? else {
        let refusal = malformed("an attach that does not begin with `open`", Rule::RequestAttach);
        return Err(refused(&refusal));
    };
    let (visit, presence) = enter(host, caller, open).await.map_err(|refusal| refused(&refusal))?;
    let (to, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let session = visit.session.clone();
        let exit = async { session.exit().await };
        let watch = visit.watch;
        if carry(&visit, exit, input, &to).await && !watch {
            session.change(|status| status.exit_delivered = true);
        }
        drop((visit, presence));
    });
    Ok(ReceiverStream::new(stream))
}

async fn enter(host: &Arc<Host>, caller: &Caller, open: AttachOpen) -> Result<(Visit, Presence), Refusal> {
    let session = host.registry.find(&open.id, &caller.peer, Access::Control)?;
    let slot = slot(&host.quotas.attached, caller)?;
    let window = open.window.map(agentd_request::window).transpose()?;
    let (hub, terminal) = (session.hub.clone(), session.facts().terminal);
    let status = session.status();
    let presence = Presence::new(&session, open.watch);
    ready(&hub).await?;
    // The first client gets all from the beginning.
    let unseen = !open.watch && !status.visited && !status.detached;
    let from = match open.resume {
        Some(place) => From::Place(place),
        None if terminal && !unseen => From::Screen,
        None => From::Kept,
    };
    if let Some(size) = window.filter(|_| terminal && !open.watch) {
        resize(&hub, size);
    }
    let subscription = hub.join(open.watch, from)?;
    let who = host.users.name(caller.peer.uid).await;
    if status.phase < Phase::Ended {
        session.request(SessionRequest::Note(Note::Attached { user: who.clone() })).await;
    }
    let snapshot = from == From::Screen && hub.stage() == Stage::Live;
    let (host, watch) = (host.clone(), open.watch);
    Ok((
        Visit { host, session, hub, command: 0, terminal, watch, subscription, snapshot, who, _slot: slot },
        presence,
    ))
}

/// Opens the output log, unless it is open.
pub async fn opened(hub: &Arc<Hub>) {
    if hub.log.as_ref().is_some_and(|log| !log.is_open()) {
        let hub = hub.clone();
        // A panic in it leaves the log unread: then nothing is kept.
        tokio::task::spawn_blocking(move || hub.open()).await.ok();
    }
}

/// Waits until it is known what the command has written.
pub async fn ready(hub: &Arc<Hub>) -> Result<(), Refusal> {
    opened(hub).await;
    if hub.settled().await {
        return Ok(());
    }
    Err(Refusal::new("the session's streams", Rule::SessionStreams, "they are not there yet; try again"))
}

/// Runs a command in the session that the first message names.
pub async fn exec(
    host: &Arc<Host>,
    caller: &Caller,
    mut input: Streaming<AttachInput>,
) -> Result<Stream, Status> {
    let Some(In::Exec(open)) = first(&mut input).await? else {
        let refusal = malformed("an exec that does not begin with `exec`", Rule::RequestAttach);
        return Err(refused(&refusal));
    };
    let (visit, exited) = run(host, caller, open).await.map_err(|refusal| refused(&refusal))?;
    let (to, stream) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let exit = async { exited.await.unwrap_or_else(|_| failed("its session has ended")) };
        carry(&visit, exit, input, &to).await;
        visit.session.request(SessionRequest::Close(visit.command)).await;
    });
    Ok(ReceiverStream::new(stream))
}

async fn run(
    host: &Arc<Host>,
    caller: &Caller,
    open: ExecOpen,
) -> Result<(Visit, oneshot::Receiver<Exit>), Refusal> {
    let session = host.registry.find(&open.id, &caller.peer, Access::Control)?;
    let slot = slot(&host.quotas.attached, caller)?;
    let command = commands::parse(open)?;
    if session.phase() != Phase::Running {
        return Err(commands::ended());
    }
    let terminal = command.terminal.is_some();
    let hub = Hub::new(None, Stage::Waiting, session.hub.pace.clone());
    let subscription = hub.join(false, From::Kept)?;
    let (answer, answered) = oneshot::channel();
    let (exit, exited) = oneshot::channel();
    let who = host.users.name(caller.peer.uid).await;
    let shown = commands::shown(&command);
    let start = Start { who: who.clone(), shown, command, hub: hub.clone(), answer, exit };
    if !session.request(SessionRequest::Run(Box::new(start))).await {
        return Err(commands::ended());
    }
    let mut pending = PendingCommand { session: session.clone(), answered: Some(answered) };
    let command = pending.answer().await?;
    let visit = Visit {
        host: host.clone(),
        session,
        hub,
        command,
        terminal,
        watch: false,
        subscription,
        snapshot: false,
        who,
        _slot: slot,
    };
    Ok((visit, exited))
}

/// A requested command. If its client is gone before it runs, it is closed.
struct PendingCommand {
    session: Arc<Session>,
    answered: Option<oneshot::Receiver<Result<CommandNumber, Refusal>>>,
}

impl PendingCommand {
    async fn answer(&mut self) -> Result<CommandNumber, Refusal> {
        let Some(answered) = &mut self.answered else { return Err(commands::ended()) };
        let answer = answered.await.unwrap_or_else(|_| Err(commands::ended()));
        self.answered = None;
        answer
    }
}

impl Drop for PendingCommand {
    fn drop(&mut self) {
        let Some(mut answered) = self.answered.take() else { return };
        answered.close();
        if let Ok(Ok(command)) = answered.try_recv() {
            let session = self.session.clone();
            tokio::spawn(async move { session.request(SessionRequest::Close(command)).await });
        }
    }
}

/// Counts a client for as long as it is there.
struct Presence {
    session: Arc<Session>,
    watch: bool,
}

impl Presence {
    fn new(session: &Arc<Session>, watch: bool) -> Self {
        session.change(|status| {
            status.attached += 1;
            status.interactive_clients += u32::from(!watch);
            status.visited |= !watch;
        });
        Self { session: session.clone(), watch }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.session.change(|status| {
            status.attached -= 1;
            status.interactive_clients -= u32::from(!self.watch);
        });
    }
}
