//! The service's link to the launcher: connections come in, plans go out, answers find their request.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agentd_kernel::packets::{Packet, PacketError, Packets};
use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::plan::Plan;
use agentd_policy::wire::{
    self, CallerNumber, FromLauncher, FromService, RequestNumber, Ticket, Timing, WireError,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::sync::{mpsc, oneshot};

use crate::connection::Connection;
use crate::host::{Host, lock};
use crate::link::Link;

/// How long the launcher may take to be there, at the start.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the service cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("connect to {path}: {source}")]
    Connect { path: String, source: std::io::Error },
    #[error("{path} is held by uid {uid}, not by root")]
    NotRoot { path: String, uid: u32 },
    #[error("link to the launcher: {0}")]
    Packet(#[from] PacketError),
    #[error("from the launcher: {0}")]
    Wire(#[from] WireError),
    #[error("from the launcher: {0}")]
    Form(&'static str),
    #[error("the launcher is gone")]
    Gone,
}

/// Connects to the launcher's socket, which may not be there yet.
pub async fn connect(path: &str) -> Result<Packets, LinkError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect_once(path) {
            Ok(packets) => return of_root(path, packets),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(errno) => return Err(LinkError::Connect { path: path.to_owned(), source: errno.into() }),
        }
    }
}

fn connect_once(path: &str) -> Result<Packets, rustix::io::Errno> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(Packets::from_fd(socket))
}

fn of_root(path: &str, packets: Packets) -> Result<Packets, LinkError> {
    let peer = rustix::net::sockopt::socket_peercred(&packets)
        .map_err(|errno| LinkError::Connect { path: path.to_owned(), source: errno.into() })?;
    match peer.uid.as_raw() {
        0 => Ok(packets),
        uid => Err(LinkError::NotRoot { path: path.to_owned(), uid }),
    }
}

/// A session that runs, as the launcher hands it over.
#[derive(Debug)]
pub struct Built {
    pub keeper: Packets,
    pub relay: OwnedFd,
    pub timings: Vec<Timing>,
}

#[derive(Debug)]
enum Answer {
    Built(Built),
    Refused(Refusal),
    Removed(Option<Refusal>),
}

/// The launcher, as the service sees it.
pub struct Launcher {
    link: Link,
    next: AtomicU64,
    pending: Mutex<HashMap<RequestNumber, oneshot::Sender<Answer>>>,
    late: mpsc::UnboundedSender<FromService>,
}

/// Messages that found no room at once. There are never more than connections and sessions.
pub type Late = mpsc::UnboundedReceiver<FromService>;

impl Launcher {
    pub fn new(socket: Packets) -> Result<(Self, Late), LinkError> {
        let link = Link::new(socket).map_err(PacketError::Socket)?;
        let (late, receiver) = mpsc::unbounded_channel();
        Ok((Self { link, next: AtomicU64::new(1), pending: Mutex::default(), late }, receiver))
    }

    /// Has a session built.
    pub async fn build(
        &self,
        caller: CallerNumber,
        ticket: Option<Ticket>,
        plan: Plan,
    ) -> Result<Built, Refusal> {
        let plan = Box::new(plan);
        match self.ask(|request| FromService::Build { request, caller, ticket, plan }).await? {
            Answer::Built(built) => Ok(built),
            Answer::Refused(refusal) => Err(refusal),
            Answer::Removed(_) => Err(unavailable("another answer than it was asked for")),
        }
    }

    /// Has what is left of an ended session deleted.
    pub async fn remove(&self, caller: CallerNumber, owner: u32, session: SessionId) -> Result<(), Refusal> {
        match self.ask(|request| FromService::Remove { request, caller, owner, session }).await? {
            Answer::Removed(None) => Ok(()),
            Answer::Removed(Some(refusal)) | Answer::Refused(refusal) => Err(refusal),
            Answer::Built(_) => Err(unavailable("another answer than it was asked for")),
        }
    }

    /// Has a session ended whose keeper does not end it.
    pub fn end(&self, session: SessionId) {
        self.say(FromService::End { session });
    }

    /// Says that a connection is gone.
    pub fn forget(&self, caller: CallerNumber) {
        self.say(FromService::Forget { caller });
    }

    async fn ask(&self, message: impl FnOnce(RequestNumber) -> FromService) -> Result<Answer, Refusal> {
        let request = RequestNumber(self.next.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        let packet = wire::encode(&message(request)).map_err(|e| {
            Refusal::new(format!("a plan: {e}"), "plan.size", "ask for fewer mounts, names and arguments")
        })?;
        lock(&self.pending).insert(request, answer);
        if let Err(error) = self.link.send(&packet).await {
            lock(&self.pending).remove(&request);
            return Err(unavailable(&error.to_string()));
        }
        answered.await.map_err(|_| unavailable("it went away"))
    }

    fn say(&self, message: FromService) {
        let sent = wire::encode(&message).map(|packet| self.link.send_now(&packet));
        match sent {
            Ok(Ok(())) => {}
            // The receiver lives as long as the link; without it the service ends.
            Ok(Err(PacketError::WouldBlock)) => drop(self.late.send(message)),
            Ok(Err(error)) => tracing::warn!("to the launcher: {error}"),
            Err(error) => tracing::error!("to the launcher: {error}"),
        }
    }

    fn answer(&self, request: RequestNumber, answer: Answer) {
        match lock(&self.pending).remove(&request) {
            // Whoever asked is gone: what came with the answer is closed, and the keeper ends.
            Some(waiting) => drop(waiting.send(answer)),
            None => tracing::warn!("answer to request {} that nobody made", request.0),
        }
    }
}

fn unavailable(why: &str) -> Refusal {
    Refusal::new(
        format!("the launcher: {why}"),
        "service.launcher",
        "look at the log of agentd-launcher and try again",
    )
}

/// Takes what the launcher sends until it is gone.
pub async fn run(
    host: Arc<Host>,
    clients: mpsc::Sender<std::io::Result<Connection>>,
    mut late: Late,
) -> LinkError {
    loop {
        let done = tokio::select! {
            packet = host.launcher.link.receive(2) => match packet {
                Ok(Some(packet)) => take(&host, &clients, packet),
                Ok(None) => Err(LinkError::Gone),
                Err(error) => Err(error.into()),
            },
            Some(message) = late.recv() => send(&host.launcher.link, &message).await,
        };
        if let Err(error) = done {
            return error;
        }
    }
}

async fn send(link: &Link, message: &FromService) -> Result<(), LinkError> {
    Ok(link.send(&wire::encode(message)?).await?)
}

fn take(
    host: &Arc<Host>,
    clients: &mpsc::Sender<std::io::Result<Connection>>,
    packet: Packet,
) -> Result<(), LinkError> {
    let mut descriptors = packet.descriptors.into_iter();
    match (wire::decode(&packet.bytes)?, descriptors.next(), descriptors.next()) {
        (FromLauncher::Caller { number, peer }, Some(socket), None) => {
            match Connection::new(host, socket, number, peer) {
                // Nobody accepts any more, or a thousand wait: it is closed.
                Ok(connection) => drop(clients.try_send(Ok(connection))),
                Err(error) => tracing::warn!(uid = peer.uid, pid = peer.pid, "connection refused: {error}"),
            }
        }
        (FromLauncher::Built { request, timings }, Some(keeper), Some(relay)) => {
            let keeper = Packets::from_fd(keeper);
            host.launcher.answer(request, Answer::Built(Built { keeper, relay, timings }));
        }
        (FromLauncher::Refused { request, refusal }, None, None) => {
            host.launcher.answer(request, Answer::Refused(refusal));
        }
        (FromLauncher::Removed { request, refusal }, None, None) => {
            host.launcher.answer(request, Answer::Removed(refusal));
        }
        (FromLauncher::Gone { session, errors }, None, None) => {
            for error in errors {
                tracing::warn!(%session, "left behind: {error}");
            }
            host.registry.gone(&session);
        }
        _ => return Err(LinkError::Form("a message with other descriptors than it needs")),
    }
    Ok(())
}
