//! Connections: who may have them, by what right, and what becomes of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::event::{MAX_NAMES, NetEvent, NetPeer};
use agentd_policy::hosts::HostName;
use agentd_policy::profile::Protocol;
use agentd_policy::wire::Client;
use agentd_relay::proxy::{Authority, Host};

use super::admit::{Admitted, admit};
use super::caps::{self, Budget};
use super::copy::{self, Way};
use super::end::{End, denied};
use super::idle::idle;
use super::judge::{self, First, Place, Refusal, RejectWith};
use super::right::Right;
use super::room::Room;
use super::{Gate, MAX_CONNECTIONS, answering, dial, dns, http, http2, local, opaque, other, proxy, tls};
use crate::Endpoint;

/// A connection without a byte for so long, and at most twice, is closed.
pub const IDLE: Duration = Duration::from_secs(3600);
const DNS: u16 = 53;
const MANY: &str = "the connection was used for too many names";

/// How a connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// To an address, as if nobody was between.
    Transparent,
    /// To the explicit proxy.
    Proxy,
    /// To a port of the host's loopback.
    Local,
}

/// Serves what comes by `listener`.
pub async fn listen(gate: Arc<Gate>, listener: Endpoint, entry: Entry) {
    // Those that come inherit it; few need another.
    Room::Ample.near(listener.get_ref());
    let serve = |admitted| Connection::new(gate.clone(), admitted).serve(entry);
    let denied = |admitted: &Admitted| {
        let (address, port) = (admitted.to.ip(), admitted.to.port());
        let peer = NetPeer { protocol: "tcp".into(), address, port, name: None, rule: None };
        NetEvent::Connect { peer, denied: Some("tcp.connections".into()), actor: None, count: 1 }
    };
    admit(listener, &gate.connections, &gate.keeper, serve, denied).await;
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
    right: Mutex<Option<Right>>,
    budget: Budget,
    /// How much it may hold.
    pub room: Room,
    sent: AtomicU64,
    received: AtomicU64,
    /// The keeper is asked for a server.
    dialling: AtomicBool,
    /// What the proxy at its far end was asked for: all that follows is for that.
    tunnel: OnceLock<Authority>,
}

impl Connection {
    /// One that was just accepted.
    fn new(gate: Arc<Gate>, Admitted { client, from, to }: Admitted) -> Self {
        let room = Room::of(MAX_CONNECTIONS as usize - gate.connections.available_permits());
        if room != Room::Ample {
            room.near(client.get_ref());
        }
        Self {
            gate,
            client,
            from,
            room,
            began: Instant::now(),
            to: Mutex::new(to),
            server: OnceLock::new(),
            right: Mutex::default(),
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
            ended.err().unwrap_or(End::Closed)
        };
        let end = tokio::select! {
            end = run => end,
            end = self.revoked() => end,
            () = self.idle() => End::Idle,
        };
        self.close(end).await;
    }

    /// Where it goes.
    pub fn to(&self) -> SocketAddr {
        *lock(&self.to)
    }

    /// Where somebody goes by it who names a host.
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

    /// A proxy's client has said where it goes.
    pub fn set_to(&self, to: SocketAddr) {
        *lock(&self.to) = to;
    }

    /// Both directions, to the server and from it.
    pub fn ways<'a>(&'a self, server: &'a Endpoint) -> (Way<'a>, Way<'a>) {
        let control = self.gate.keeper.control();
        let up = Way::new(&self.client, server, &self.sent, control).within(&self.budget).with(self.room);
        (up, Way::new(server, &self.client, &self.received, control).with(self.room))
    }

    /// Carries it on by the first bytes, with `server` if it is dialled already.
    pub async fn carry(&self, mut held: Vec<u8>, server: Option<Endpoint>) -> Result<(), End> {
        if self.is_opaque(&self.gate.plan()) {
            let server = self.unnamed(server).await?;
            if let Some(right) = lock(&self.right).as_mut() {
                right.opaque = true;
            }
            return opaque::carry(self, &server, held).await;
        }
        let (first, server) = self.first(&mut held, server).await?;
        let (plan, pins, place) = (self.gate.plan(), &self.gate.pins, self.place());
        match first {
            First::Tls(hello, length) => {
                if let Some(name) = hello.name.as_ref().filter(|_| !place.proxied) {
                    dns::renew_for(&self.gate, name, place.to.ip(), self.who()).await;
                }
                let purpose = judge::tls(&plan, pins, &hello, place)?;
                let many = |rule| Refusal::new(RejectWith::Tls, rule, MANY);
                self.used_for(hello.name.as_ref(), place).map_err(many)?;
                self.join(&purpose, place.to)
                    .map_err(|rule| Refusal::new(RejectWith::Tls, rule, caps::WHY))?;
                let server = self.dialled(purpose, server).await?;
                tls::carry(self, &server, held, hello, length).await
            }
            First::Http => Box::pin(http::carry(self, server, held)).await,
            First::Http2 => {
                let server = self.unnamed(server).await?;
                Box::pin(http2::carry(self, &server, held)).await
            }
            First::Other(watch) => {
                let server = self.unnamed(server).await?;
                other::carry(self, &server, held, watch).await
            }
            First::Spoken(server) => other::behind(self, &server, Vec::new()).await,
            First::Waiting => {
                let server = self.unnamed(server).await?;
                other::behind(self, &server, held).await
            }
        }
    }

    /// The proxy at the other end of `server` has opened a tunnel to `target`: what follows, `held` first, is judged like
    /// a connection there.
    pub async fn tunnel(&self, target: Authority, server: Endpoint, held: Vec<u8>) -> Result<(), End> {
        let _ = self.tunnel.set(target);
        self.carry(held, Some(server)).await
    }

    /// Whether nobody is to look at it.
    fn is_opaque(&self, plan: &Egress) -> bool {
        match self.tunnel.get() {
            Some(Authority { host: Host::Name(name), port: Some(port) }) => plan.hosts.is_opaque(name, *port),
            Some(_) => false,
            None => judge::opaque(plan, &self.gate.pins, self.to()),
        }
    }

    /// All bytes, as they are; `held` were read before.
    pub async fn copy(&self, server: &Endpoint, held: &[u8]) -> Result<(), End> {
        let (mut up, mut down) = self.ways(server);
        up.write(held).await?;
        tokio::try_join!(up.drain(), down.drain())?;
        Ok(())
    }

    /// `server`, or a new connection by `purpose`.
    pub async fn dialled(&self, purpose: Purpose, server: Option<Endpoint>) -> Result<Endpoint, End> {
        match server {
            Some(server) => Ok(server),
            None => self.dial(purpose).await,
        }
    }

    /// `server`, or a new connection by what may be meant if nobody is named.
    async fn unnamed(&self, server: Option<Endpoint>) -> Result<Endpoint, End> {
        match server {
            Some(server) => Ok(server),
            None => self.dial_unnamed().await,
        }
    }

    /// Connects to where it goes, or to another address of the same name.
    pub async fn dial(&self, purpose: Purpose) -> Result<Endpoint, End> {
        let to = self.to();
        self.join(&purpose, to).map_err(|rule| Refusal::new(RejectWith::Plain, rule, caps::WHY))?;
        let mut addresses = vec![to];
        let others = match &purpose {
            Purpose::Name(name) => self.gate.pins.others(name, to.ip()),
            Purpose::Local => local::loopbacks(to.ip())[1..].to_vec(),
            _ => Vec::new(),
        };
        addresses.extend(others.into_iter().map(|address| SocketAddr::new(address, to.port())));
        let name = match &purpose {
            Purpose::Name(name) => Some(name),
            _ => None,
        };
        self.used_for(name, Place::direct(to)).map_err(|rule| Refusal::new(RejectWith::Plain, rule, MANY))?;
        if let Some(right) = lock(&self.right).as_mut() {
            right.rule = self.gate.plan().rule(&purpose, to, Protocol::Tcp);
            right.purpose = purpose.clone();
        }
        self.dialling.store(true, Ordering::Relaxed);
        let dialled = dial::first(&self.gate, &purpose, addresses, self.from).await;
        self.dialling.store(false, Ordering::Relaxed);
        let (server, to) = dialled.map_err(|(end, to)| {
            self.set_to(to);
            end
        })?;
        self.set_to(to);
        self.room.far(server.get_ref());
        let _ = self.server.set(server.clone());
        Ok(server)
    }

    /// It is used for `name` from now on.
    ///
    /// # Errors
    /// The rule by which it is used for too many.
    pub fn used_for(&self, name: Option<&HostName>, place: Place) -> Result<(), &'static str> {
        let Some(name) = name else { return Ok(()) };
        lock(&self.right).get_or_insert_with(|| Right::net(false)).use_for(name, place)
    }

    /// A proxy was asked for `address` by it: it goes on for as long as the rules allow that.
    ///
    /// # Errors
    /// The rule by which it is used for too many.
    pub fn used_at(&self, address: SocketAddr) -> Result<(), &'static str> {
        lock(&self.right).get_or_insert_with(|| Right::net(false)).use_at(address)
    }

    /// Its beginning shows `name`, which nobody judges but by what is denied.
    pub fn shows(&self, name: HostName) {
        if let Some(right) = lock(&self.right).as_mut().filter(|right| !right.shown.contains(&name)) {
            right.shown.push(name);
        }
    }

    /// Whether it is used for `name` already: it goes on for as long as the rules allow that, whatever its pin.
    pub fn is_used_for(&self, name: &HostName) -> bool {
        lock(&self.right).as_ref().is_some_and(|right| right.is_used_for(name))
    }

    /// It counts by the rule that allows `purpose` at `to`.
    ///
    /// # Errors
    /// The cap that is reached.
    pub fn join(&self, purpose: &Purpose, to: SocketAddr) -> Result<(), String> {
        let gate = &self.gate;
        self.budget.join(&gate.counters, &gate.plan(), purpose, (to, Protocol::Tcp))
    }

    /// The same, if nobody is named: by each rule for what may be meant.
    ///
    /// # Errors
    /// The first cap that is reached.
    pub fn join_unnamed(&self) -> Result<(), String> {
        let to = self.to();
        let meant = judge::meant(&self.gate.plan(), &self.gate.pins, to, Protocol::Tcp);
        meant.iter().try_for_each(|purpose| self.join(purpose, to))
    }

    /// Connects to where it goes, if nobody is named.
    pub(super) async fn dial_unnamed(&self) -> Result<Endpoint, End> {
        let purpose = self.by_address()?;
        self.join_unnamed().map_err(|rule| Refusal::new(RejectWith::Plain, rule, caps::WHY))?;
        self.dial(purpose).await
    }

    /// By what right the address may be reached if nobody is named.
    pub fn by_address(&self) -> Result<Purpose, Refusal> {
        let purpose = judge::unnamed(&self.gate.plan(), &self.gate.pins, self.to(), Protocol::Tcp);
        purpose.map_err(|rule| Refusal::new(RejectWith::Plain, rule, "the address is not allowed"))
    }

    async fn transparent(&self) -> Result<(), End> {
        let purpose = match self.by_address() {
            Ok(purpose) => purpose,
            Err(refusal) => return Err(self.in_its_words(refusal).await.into()),
        };
        // Nothing that the client could say would matter.
        if purpose == Purpose::Net && !self.gate.plan().denies_names() {
            *lock(&self.right) = Some(Right::net(true));
            let server = self.dial(purpose).await?;
            return self.copy(&server, &[]).await;
        }
        self.carry(Vec::new(), None).await
    }

    /// Waits until it may not go on.
    async fn revoked(&self) -> End {
        let mut state = self.gate.watch();
        loop {
            if state.borrow_and_update().over {
                return End::Closed;
            }
            if !self.holds(&self.gate.plan()) {
                return End::Policy;
            }
            self.budget.judge_again(&self.gate.plan(), Protocol::Tcp);
            if state.changed().await.is_err() {
                return End::Closed;
            }
        }
    }

    /// Whether `plan` allows what it is used for.
    fn holds(&self, plan: &Egress) -> bool {
        let opaque = self.is_opaque(plan);
        lock(&self.right).as_ref().is_none_or(|right| right.holds(plan, self.to(), opaque))
    }

    async fn idle(&self) {
        idle(IDLE, || self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed)).await;
    }

    /// Tells what became of it, and carries the end to both sides.
    async fn close(self, end: End) {
        let peer = self.peer();
        let server = self.server.get();
        if let End::Refused(refusal) = &end {
            let name = refusal.name.clone().or_else(|| peer.name.clone());
            self.gate.keeper.tell_of(denied(NetPeer { name, ..peer.clone() }, refusal), self.who()).await;
        }
        let reason = end.reason();
        let cut_short = self.dialling.load(Ordering::Relaxed);
        if server.is_some() || cut_short || matches!(&end, End::Failed(failure) if failure.dialled) {
            let sent = self.sent.load(Ordering::Relaxed);
            let received = self.received.load(Ordering::Relaxed);
            let duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (names, more_names) = self.names();
            let closed = NetEvent::Closed { peer, names, more_names, sent, received, duration_ms, reason };
            self.gate.keeper.tell(closed).await;
        }
        match &end {
            End::Closed => return,
            End::Refused(refusal) if refusal.reject_with != RejectWith::Plain => {
                copy::linger(&self.client, &refusal.answer()).await;
            }
            _ => copy::reset(&self.client),
        }
        if let Some(server) = server {
            copy::reset(server);
        }
    }

    /// Its client's socket, as the client has it: where it went may have changed since.
    pub fn who(&self) -> Client {
        let to = rustix::net::getsockname(self.client.get_ref()).ok();
        let to = to.and_then(|to| SocketAddr::try_from(to).ok()).unwrap_or_else(|| self.to());
        Client { protocol: Protocol::Tcp, from: self.from, to }
    }

    /// The far end, for the record.
    fn peer(&self) -> NetPeer {
        let (to, right) = (self.to(), lock(&self.right));
        let name = right.as_ref().and_then(|right| right.names.first()).map(|(name, _)| name.to_string());
        let rule = right.as_ref().and_then(|right| right.rule.clone());
        NetPeer { protocol: "tcp".into(), address: to.ip(), port: to.port(), name, rule }
    }

    /// The names that it was used for, if there are several, and how many more there are.
    fn names(&self) -> (Vec<String>, u32) {
        let right = lock(&self.right);
        let names = right.as_ref().map_or(&[][..], |right| &right.names);
        if names.len() < 2 {
            return (Vec::new(), 0);
        }
        let told = names.iter().take(MAX_NAMES).map(|(name, _)| name.to_string()).collect();
        (told, names.len().saturating_sub(MAX_NAMES) as u32)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
