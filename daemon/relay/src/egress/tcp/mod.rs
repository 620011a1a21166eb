//! A TCP connection of the session: its authorization, its server, and its end.

mod authorize;
mod ended;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::event::{NetEvent, NetPeer};
use agentd_policy::protocol::Protocol;
use agentd_policy::rule::Rule;
use agentd_protocols::authority::{Authority, Host};

use super::accept::{Accepted, accept_all};
use super::authorization::Authorization;
use super::buffers::BufferTier;
use super::caps::{self, Budget};
use super::close::CloseReason;
use super::copy::Direction;
use super::detect::Detected;
use super::idle::idle;
use super::judge::{self, Place, Refusal, RejectWith};
use super::{Gate, MAX_CONNECTIONS, answering, dns, http, http2, local, opaque, proxy, tls, unnamed};
use crate::Endpoint;

/// A connection without a byte for so long, and at most twice, is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const DNS: u16 = 53;
const MANY: &str = "the connection was used for too many names";

/// How a connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// To an address, transparently.
    Transparent,
    /// To the explicit proxy.
    Proxy,
    /// To a port of the host's loopback.
    Local,
}

/// Serves what comes by `listener`.
pub async fn listen(gate: Arc<Gate>, listener: Endpoint, entry: Entry) {
    // Those that come inherit it; few need another.
    BufferTier::Large.limit_client_side(listener.get_ref());
    let serve = |accepted| Connection::new(gate.clone(), accepted).serve(entry);
    let denied = |accepted: &Accepted| {
        let (address, port) = (accepted.to.ip(), accepted.to.port());
        let peer = NetPeer { protocol: "tcp".into(), address, port, name: None, rule: None };
        NetEvent::Connect { peer, denied: Some(Rule::TcpConnections.into()), actor: None, count: 1 }
    };
    accept_all(listener, &gate.connections, &gate.keeper, serve, denied).await;
}

/// A connection of the session's.
pub struct Connection {
    /// What all have in common.
    pub gate: Arc<Gate>,
    /// The session's side.
    pub client: Endpoint,
    /// Who claims to have made it.
    pub from: SocketAddr,
    began: Instant,
    to: Mutex<SocketAddr>,
    server: OnceLock<Endpoint>,
    authorization: Mutex<Option<Authorization>>,
    budget: Budget,
    pub buffers: BufferTier,
    sent: AtomicU64,
    received: AtomicU64,
    /// The keeper is asked for a server.
    dialling: AtomicBool,
    /// What the proxy at its far end was asked for: all that follows is for that.
    tunnel: OnceLock<Authority>,
}

impl Connection {
    /// One that was just accepted.
    fn new(gate: Arc<Gate>, Accepted { client, from, to }: Accepted) -> Self {
        let buffers = BufferTier::of(MAX_CONNECTIONS as usize - gate.connections.available_permits());
        if buffers != BufferTier::Large {
            buffers.limit_client_side(client.get_ref());
        }
        Self {
            gate,
            client,
            from,
            buffers,
            began: Instant::now(),
            to: Mutex::new(to),
            server: OnceLock::new(),
            authorization: Mutex::default(),
            budget: Budget::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            dialling: AtomicBool::new(false),
            tunnel: OnceLock::new(),
        }
    }

    /// Serves it to its end. What few need is in memory of its own: most connections do without.
    async fn serve(self, entry: Entry) {
        if entry == Entry::Transparent && self.to().port() == DNS {
            return Box::pin(answering::serve_stream(&self.gate, &self.client, (self.from, self.to()))).await;
        }
        let run = async {
            let ended = match entry {
                Entry::Transparent => self.transparent().await,
                Entry::Proxy => Box::pin(proxy::serve(&self)).await,
                Entry::Local => local::serve(&self).await,
            };
            ended.err().unwrap_or(CloseReason::Closed)
        };
        let end = tokio::select! {
            end = run => end,
            end = self.revoked() => end,
            () = self.idle() => CloseReason::Idle,
        };
        self.close(end).await;
    }

    /// Where it goes.
    pub fn to(&self) -> SocketAddr {
        *lock(&self.to)
    }

    /// Where a request on it goes that names a host.
    pub fn place(&self) -> Place {
        match self.tunnel.get() {
            Some(Authority { host: Host::Address(address), port: Some(port) }) => {
                Place::direct(SocketAddr::new(*address, *port))
            }
            Some(Authority { port: Some(port), .. }) => Place::behind(self.to(), *port),
            _ => Place::direct(self.to()),
        }
    }

    /// Whether the proxy at its far end has opened a tunnel.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel.get().is_some()
    }

    /// Where a client of the explicit proxy goes.
    pub fn set_to(&self, to: SocketAddr) {
        *lock(&self.to) = to;
    }

    /// Both directions, to the server and from it.
    pub fn directions<'a>(&'a self, server: &'a Endpoint) -> (Direction<'a>, Direction<'a>) {
        let control = self.gate.keeper.control();
        let up =
            Direction::new(&self.client, server, &self.sent, control).within(&self.budget).with(self.buffers);
        (up, Direction::new(server, &self.client, &self.received, control).with(self.buffers))
    }

    /// Carries it on by the first bytes, with `server` if it is dialled already.
    pub async fn carry(&self, mut held: Vec<u8>, server: Option<Endpoint>) -> Result<(), CloseReason> {
        if self.is_opaque(&self.gate.plan()) {
            let server = self.unnamed(server).await?;
            if let Some(used) = lock(&self.authorization).as_mut() {
                used.opaque = true;
            }
            return opaque::carry(self, &server, held).await;
        }
        let (first, server) = self.detect_protocol(&mut held, server).await?;
        let (plan, pins, place) = (self.gate.plan(), &self.gate.pins, self.place());
        match first {
            Detected::Tls(hello, length) => {
                if let Some(name) = hello.name.as_ref().filter(|_| !place.proxied) {
                    dns::renew_for(&self.gate, name, place.to.ip(), self.who()).await;
                }
                let purpose = judge::tls(&plan, pins, &hello, place)?;
                let many = |rule| Refusal::new(RejectWith::Tls, rule, MANY);
                self.used_for(hello.name.as_ref(), place).map_err(many)?;
                self.join(&purpose, place.to).map_err(|cap| Refusal::new(RejectWith::Tls, cap, caps::WHY))?;
                let server = self.dialled(purpose, server).await?;
                tls::carry(self, &server, held, hello, length).await
            }
            Detected::Http => Box::pin(http::carry(self, server, held)).await,
            Detected::Http2 => {
                let server = self.unnamed(server).await?;
                Box::pin(http2::carry(self, &server, held)).await
            }
            Detected::Other(watch) => {
                let server = self.unnamed(server).await?;
                unnamed::carry(self, &server, held, watch).await
            }
            Detected::ServerFirst(server) => unnamed::behind(self, &server, Vec::new()).await,
            Detected::ClientWaits => {
                let server = self.unnamed(server).await?;
                unnamed::behind(self, &server, held).await
            }
        }
    }

    /// The proxy at the other end of `server` has opened a tunnel to `target`: what follows, `held` first, is judged
    /// like a connection there.
    pub async fn tunnel(
        &self,
        target: Authority,
        server: Endpoint,
        held: Vec<u8>,
    ) -> Result<(), CloseReason> {
        self.tunnel.set(target).ok();
        self.carry(held, Some(server)).await
    }

    /// Whether its bytes are not inspected, by an opaque rule.
    fn is_opaque(&self, plan: &Egress) -> bool {
        match self.tunnel.get() {
            Some(Authority { host: Host::Name(name), port: Some(port) }) => plan.hosts.is_opaque(name, *port),
            Some(_) => false,
            None => judge::opaque(plan, &self.gate.pins, self.to()),
        }
    }

    /// All bytes, as they are; `held` were read before.
    pub async fn copy(&self, server: &Endpoint, held: &[u8]) -> Result<(), CloseReason> {
        let (mut up, mut down) = self.directions(server);
        up.write(held).await?;
        tokio::try_join!(up.drain(), down.drain())?;
        Ok(())
    }

    async fn transparent(&self) -> Result<(), CloseReason> {
        let purpose = match self.by_address() {
            Ok(purpose) => purpose,
            Err(refusal) => return Err(self.with_protocol(refusal).await.into()),
        };
        // Nothing that the client could send would matter.
        if purpose == Purpose::Net && !self.gate.plan().denies_names() {
            *lock(&self.authorization) = Some(Authorization::net(true));
            let server = self.dial(purpose).await?;
            return self.copy(&server, &[]).await;
        }
        self.carry(Vec::new(), None).await
    }

    /// Waits until it may not go on.
    async fn revoked(&self) -> CloseReason {
        let mut state = self.gate.watch();
        loop {
            if state.borrow_and_update().over {
                return CloseReason::Closed;
            }
            if !self.holds(&self.gate.plan()) {
                return CloseReason::Policy;
            }
            self.budget.judge_again(&self.gate.plan(), Protocol::Tcp);
            if state.changed().await.is_err() {
                return CloseReason::Closed;
            }
        }
    }

    /// Whether `plan` allows what it is used for.
    fn holds(&self, plan: &Egress) -> bool {
        let opaque = self.is_opaque(plan);
        lock(&self.authorization).as_ref().is_none_or(|used| used.holds(plan, self.to(), opaque))
    }

    async fn idle(&self) {
        idle(IDLE_TIMEOUT, || self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed))
            .await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
