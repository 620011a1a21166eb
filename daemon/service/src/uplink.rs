//! The service's link to the launcher: connections come in, plans go out. A launcher that goes is waited for: the
//! service keeps its sessions, its clients and their streams meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use agentd_kernel::descriptor::{Kind, WrongKind};
use agentd_kernel::packets::{Packet, PacketError, Packets};
use agentd_policy::names::SessionId;
use agentd_policy::wire::{self, FromLauncher, FromService, WireError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::api::connection::Connection;
use crate::host::Host;
use crate::launcher::link::{Link, connect_packets};
use crate::launcher::{Answer, Built, CallerHandle, Facts, Late};
use crate::metrics::MetricsServer;
use crate::watchdog::Heartbeat;

/// How long the launcher may take to be there, at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Why there is no link.
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
    Kind(#[from] WrongKind),
    #[error("the launcher is gone")]
    Gone,
}

/// Where connections of clients go.
pub type Clients = mpsc::Sender<std::io::Result<Connection>>;

/// Connects to the launcher's socket, which may not be there yet.
pub async fn connect(path: &str) -> Result<Packets, LinkError> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    loop {
        match connect_once(path) {
            Err(LinkError::Connect { .. }) if Instant::now() < deadline => sleep(PAUSE.0).await,
            done => return done,
        }
    }
}

fn connect_once(path: &str) -> Result<Packets, LinkError> {
    let fail = |errno: rustix::io::Errno| LinkError::Connect { path: path.to_owned(), source: errno.into() };
    let packets = connect_packets(path).map_err(fail)?;
    let peer = rustix::net::sockopt::socket_peercred(&packets).map_err(fail)?;
    match peer.uid.as_raw() {
        0 => Ok(packets),
        uid => Err(LinkError::NotRoot { path: path.to_owned(), uid }),
    }
}

/// Takes what launchers send, one after the other, for ever; and answers the heartbeat meanwhile.
pub async fn run(host: Arc<Host>, clients: Clients, first: Packets, heartbeat: Arc<Heartbeat>) {
    tokio::select! {
        () = take(&host, clients, first) => {}
        () = heartbeat.answer() => {}
    }
}

async fn take(host: &Arc<Host>, clients: Clients, first: Packets) {
    let path = host.site().config.service_socket();
    let counted = host.clone();
    let mut metrics = MetricsServer::new(Arc::new(move || counted.snapshot()), host.store.dir().to_owned());
    let mut packets = Some(first);
    let mut pause = PAUSE.0;
    loop {
        let connected = match packets.take() {
            Some(packets) => Ok(packets),
            None => connect_once(&path),
        };
        let link = connected.and_then(|p| Ok(Arc::new(Link::new(p).map_err(PacketError::Socket)?)));
        match link {
            Ok(link) => {
                let began = Instant::now();
                let error = serve(host, &clients, &link, &mut metrics).await;
                host.launcher.lost();
                tracing::error!(%error, "without a launcher: waiting for one");
                // One that goes again at once is not connected to in a busy loop.
                if began.elapsed() > PAUSE.1 {
                    pause = PAUSE.0;
                }
            }
            Err(error) => tracing::debug!(%error, "there is no launcher yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Until this launcher is gone.
async fn serve(
    host: &Arc<Host>,
    clients: &Clients,
    link: &Arc<Link>,
    metrics: &mut MetricsServer,
) -> LinkError {
    let (number, mut late): (u64, Late) = host.launcher.connected(link);
    let mut taken = Taken { host, clients, launcher: number, live: HashSet::new(), metrics };
    let receive = async {
        loop {
            let done = match link.receive(2).await {
                Ok(Some(packet)) => taken.take(packet),
                Ok(None) => Err(LinkError::Gone),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = done {
                break error;
            }
        }
    };
    // A launcher that takes nothing more until it is rid of what waits for us must not find us waiting for it.
    let send = async {
        while let Some(message) = late.recv().await {
            if let Err(error) = send(link, &message).await {
                return error;
            }
        }
        std::future::pending().await
    };
    tokio::select! { error = receive => error, error = send => error }
}

async fn send(link: &Link, message: &FromService) -> Result<(), LinkError> {
    Ok(link.send(&wire::encode(message)?).await?)
}

/// What comes from one launcher.
struct Taken<'a> {
    host: &'a Arc<Host>,
    clients: &'a Clients,
    launcher: u64,
    /// Sessions that it has named so far.
    live: HashSet<SessionId>,
    metrics: &'a mut MetricsServer,
}

impl Taken<'_> {
    fn take(&mut self, packet: Packet) -> Result<(), LinkError> {
        let host = self.host;
        let (message, mut attached) = wire::decode_with(&packet.bytes, packet.descriptors)?;
        match message {
            FromLauncher::Caller { number, peer, account, groups } => {
                let socket = Kind::UnixStream.take(attached.one()?)?;
                let handle = CallerHandle::new(number, self.launcher, host.launcher.clone());
                match Connection::new(socket, handle, &host.quotas.connections, (peer, account, groups)) {
                    // The server is gone, or its backlog is full: the connection is closed.
                    Ok(connection) => drop(self.clients.try_send(Ok(connection))),
                    Err(error) => {
                        tracing::warn!(user = peer.uid, pid = peer.pid, %error, "connection refused");
                    }
                }
            }
            FromLauncher::Built { request, timings } => {
                let [keeper, relay] = attached.array()?;
                let keeper = Packets::from_fd(Kind::UnixPackets.take(keeper)?);
                let relay = Kind::UnixStream.take(relay)?;
                host.launcher.answer(request, Answer::Built(Built { keeper, relay, timings }));
            }
            FromLauncher::Refused { request, refusal } => {
                host.launcher.answer(request, Answer::Refused(refusal));
            }
            FromLauncher::Removed { request, refusal } => {
                host.launcher.answer(request, Answer::Removed(refusal));
            }
            FromLauncher::Examined { request, checks, leaks } => {
                host.launcher.answer(request, Answer::Examined((checks, leaks)));
            }
            FromLauncher::Gone { session, errors } => {
                for error in errors {
                    tracing::debug!(%session, error, "not all went well with a session");
                }
                host.registry.gone(&session);
            }
            FromLauncher::Live { disk, open_files, sessions, last } => {
                host.launcher.has_facts(Facts { disk, open_files });
                self.live.extend(sessions);
                if last {
                    self.reconcile();
                }
            }
            FromLauncher::Metrics => {
                let socket = Kind::Listener.take(attached.one()?)?;
                if let Err(error) = self.metrics.serve(socket) {
                    tracing::error!(%error, "metrics are not served");
                }
            }
        }
        Ok(())
    }

    /// Ends the sessions that live and are not known here: no client could.
    fn reconcile(&mut self) {
        let live = std::mem::take(&mut self.live);
        tracing::info!(sessions = live.len(), "connected to the launcher");
        for session in self.host.registry.live(&live) {
            tracing::warn!(%session, "a session is not known here: it ends");
            self.host.launcher.end(session);
        }
    }
}
