//! Connections: who may have them, by what right, and what becomes of them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::event::{NetEvent, NetPeer};
use agentd_policy::hosts::{HostName, HostVerdict};
use agentd_policy::profile::Protocol;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::time::{sleep_until, timeout};

use super::caps::{self, Budget, Spent};
use super::copy::{self, Way};
use super::idle::idle;
use super::judge::{self, First, Manner, Opening, Refusal};
use super::keeper::DialError;
use super::room::Room;
use super::{Gate, MAX_CONNECTIONS, answering, dial, http, local, other, proxy, tls};
use crate::Endpoint;

/// How long a client may take from its first byte until it is known what it wants.
const OPENING: Duration = Duration::from_secs(10);
/// How long a client is silent that waits for the server to speak.
const SILENCE: Duration = Duration::from_millis(300);
/// Where the client speaks first: nothing is dialled before.
const WEB: [u16; 6] = [80, 443, 3000, 8000, 8080, 8443];
/// A connection without a byte for so long, and at most twice, is closed.
pub const IDLE: Duration = Duration::from_secs(3600);
const DNS: u16 = 53;

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// In order.
    Closed,
    /// By a reset, of either side.
    Reset,
    /// Nothing went by for too long.
    Idle,
    /// The rules changed.
    Policy,
    /// The server could not be reached.
    Failed(Failure),
    /// By the rules.
    Refused(Refusal),
}

/// Why a server could not be reached.
#[derive(Debug)]
pub struct Failure {
    /// In one line.
    pub why: String,
    /// Whether it was tried at all: that is on record then.
    pub dialled: bool,
    /// The error number.
    pub errno: Errno,
}

impl From<DialError> for End {
    fn from(error: DialError) -> Self {
        let dialled = matches!(error, DialError::Failed(_));
        Self::Failed(Failure { why: error.to_string(), dialled, errno: error.errno() })
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Spent>()) {
            Some(Spent(rule)) => Refusal::new(Manner::Plain, rule.as_str(), caps::WHY).into(),
            None => Self::Reset,
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

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

/// By what right a connection is open.
struct Right {
    purpose: Purpose,
    /// Each name that it was used for.
    names: Vec<HostName>,
    /// Nothing that its client says is looked at.
    unseen: bool,
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
}

impl Connection {
    /// One that was just accepted.
    pub fn new(gate: Arc<Gate>, client: Endpoint, from: SocketAddr, to: SocketAddr) -> Self {
        let room = Room::of(MAX_CONNECTIONS as usize - gate.connections.available_permits());
        room.near(client.get_ref());
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
        }
    }

    /// Serves it to its end.
    pub async fn serve(self, entry: Entry) {
        if entry == Entry::Transparent && self.to().port() == DNS {
            return answering::serve_stream(&self.gate, &self.client, self.from).await;
        }
        let run = async {
            let ended = match entry {
                Entry::Transparent => self.transparent().await,
                Entry::Proxy => proxy::serve(&self).await,
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
        let (first, server) = self.first(&mut held, server).await?;
        let (plan, pins, to) = (self.gate.plan(), &self.gate.pins, self.to());
        match first {
            First::Tls(hello, length) => {
                let purpose = judge::tls(&plan, pins, &hello, to)?;
                self.used_for(hello.name.as_ref());
                self.join(&purpose).map_err(|rule| Refusal::new(Manner::Tls, rule, caps::WHY))?;
                let server = self.dialled(purpose, server).await?;
                tls::carry(self, &server, held, hello, length).await
            }
            First::Http => http::carry(self, server, held).await,
            First::Other(watch) => {
                let server = match server {
                    Some(server) => server,
                    None => self.dial_unnamed().await?,
                };
                other::carry(self, &server, held, watch).await
            }
            First::Spoken(server) => other::behind(self, &server).await,
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

    /// Connects to where it goes, or to another address of the same name.
    pub async fn dial(&self, purpose: Purpose) -> Result<Endpoint, End> {
        let to = self.to();
        self.join(&purpose).map_err(|rule| Refusal::new(Manner::Plain, rule, caps::WHY))?;
        let mut addresses = vec![to];
        if let Purpose::Name(name) = &purpose {
            let others = self.gate.pins.others(name, to.ip());
            addresses.extend(others.into_iter().map(|address| SocketAddr::new(address, to.port())));
        }
        self.used_for(match &purpose {
            Purpose::Name(name) => Some(name),
            _ => None,
        });
        if let Some(right) = lock(&self.right).as_mut() {
            right.purpose = purpose.clone();
        }
        let dialled = dial::first(&self.gate, &purpose, addresses, self.from).await;
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
    pub fn used_for(&self, name: Option<&HostName>) {
        let mut right = lock(&self.right);
        let right = right.get_or_insert(Right { purpose: Purpose::Net, names: Vec::new(), unseen: false });
        if let Some(name) = name.filter(|name| !right.names.contains(name)) {
            right.names.push(name.clone());
        }
    }

    /// It counts by the rule that allows `purpose`.
    ///
    /// # Errors
    /// The cap that is reached.
    pub fn join(&self, purpose: &Purpose) -> Result<(), String> {
        let (gate, where_to) = (&self.gate, (self.to(), Protocol::Tcp));
        self.budget.join(&gate.counters, &gate.plan(), purpose, where_to)
    }

    /// The same, if nobody is named: by each rule for what may be meant.
    ///
    /// # Errors
    /// The first cap that is reached.
    pub fn join_unnamed(&self) -> Result<(), String> {
        let meant = judge::meant(&self.gate.plan(), &self.gate.pins, self.to(), Protocol::Tcp);
        meant.iter().try_for_each(|purpose| self.join(purpose))
    }

    async fn dial_unnamed(&self) -> Result<Endpoint, End> {
        let purpose = self.by_address()?;
        self.join_unnamed().map_err(|rule| Refusal::new(Manner::Plain, rule, caps::WHY))?;
        self.dial(purpose).await
    }

    /// By what right the address may be reached if nobody is named.
    fn by_address(&self) -> Result<Purpose, Refusal> {
        let purpose = judge::unnamed(&self.gate.plan(), &self.gate.pins, self.to(), Protocol::Tcp);
        purpose.map_err(|rule| Refusal::new(Manner::Plain, rule, "the address is not allowed"))
    }

    async fn transparent(&self) -> Result<(), End> {
        let purpose = self.by_address()?;
        // Nothing that the client could say would matter.
        if purpose == Purpose::Net && !self.gate.plan().denies_names() {
            *lock(&self.right) = Some(Right { purpose: Purpose::Net, names: Vec::new(), unseen: true });
            let server = self.dial(purpose).await?;
            return self.copy(&server, &[]).await;
        }
        self.carry(Vec::new(), None).await
    }

    /// What the first bytes are, and who says them.
    async fn first(
        &self,
        held: &mut Vec<u8>,
        mut server: Option<Endpoint>,
    ) -> Result<(First, Option<Endpoint>), End> {
        let mut opening = Opening::default();
        let mut end: Option<tokio::time::Instant> = None;
        loop {
            if !held.is_empty() {
                end.get_or_insert_with(|| tokio::time::Instant::now() + OPENING);
            }
            if let Some(first) = opening.look(held)? {
                return Ok((first, server));
            }
            if held.is_empty() && server.is_none() && !WEB.contains(&self.to().port()) {
                match timeout(SILENCE, copy::read(&self.client, held, copy::CHUNK)).await {
                    Ok(Ok(0)) => return Ok((First::Other(None), server)),
                    Ok(read) => drop(read?),
                    Err(_) => server = Some(self.dial_unnamed().await?),
                }
                continue;
            }
            let spoken = async {
                match &server {
                    Some(server) if held.is_empty() => speaks(server).await.map(|()| server.clone()),
                    _ => std::future::pending().await,
                }
            };
            let late = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let mut more = Vec::new();
            let read = tokio::select! {
                biased;
                () = late => {
                    let why = "the beginning of the connection does not come";
                    return Err(Refusal::new(Manner::Plain, "tcp.slow", why).into());
                }
                read = copy::read(&self.client, &mut more, copy::CHUNK) => read?,
                spoken = spoken => {
                    return Ok((First::Spoken(spoken?), None));
                }
            };
            held.append(&mut more);
            match read {
                // Nothing will ever be said: there is nothing to hide.
                0 if held.is_empty() => return Ok((First::Other(None), server)),
                0 => {
                    let why = "the connection ends in its beginning";
                    return Err(Refusal::new(Manner::Plain, "tcp.short", why).into());
                }
                _ => {}
            }
        }
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
            self.budget.judge_again(&self.gate.plan(), self.to(), Protocol::Tcp);
            if state.changed().await.is_err() {
                return End::Closed;
            }
        }
    }

    /// Whether `plan` allows what it is used for.
    fn holds(&self, plan: &Egress) -> bool {
        let (right, to) = (lock(&self.right), self.to());
        let Some(right) = &*right else { return true };
        let by_net = plan.net(to, Protocol::Tcp).is_some();
        let named = |name: &HostName| match plan.hosts.connect(name, to.port(), Protocol::Tcp) {
            HostVerdict::Allowed(_) => true,
            HostVerdict::Denied(_) => false,
            HostVerdict::Unnamed => by_net,
        };
        // Whom it asks for is not known: it may be whom a deny names now.
        let seen = !right.unseen || plan.hosts.deny.is_empty();
        seen && right.names.iter().all(named)
            && match &right.purpose {
                Purpose::Local => plan.local.contains(&to.port()),
                Purpose::Net => by_net || !right.names.is_empty(),
                Purpose::Name(_) | Purpose::Resolver | Purpose::Publish(_) => true,
            }
    }

    async fn idle(&self) {
        idle(IDLE, || self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed)).await;
    }

    /// Tells what became of it, and carries the end to both sides.
    async fn close(self, end: End) {
        let mut peer = self.peer();
        let server = self.server.get();
        if let End::Refused(refusal) = &end {
            peer.name = refusal.name.clone().or(peer.name);
            self.gate.keeper.tell(denied(peer.clone(), refusal)).await;
        }
        let reason = match &end {
            End::Closed => "closed".into(),
            End::Reset => "reset".into(),
            End::Idle => "idle".into(),
            End::Refused(refusal) if caps::is_cap(&refusal.rule) => "limit".into(),
            End::Policy | End::Refused(_) => "policy".into(),
            End::Failed(failure) => format!("failed: {}", failure.why),
        };
        if server.is_some() || matches!(&end, End::Failed(failure) if failure.dialled) {
            let sent = self.sent.load(Ordering::Relaxed);
            let received = self.received.load(Ordering::Relaxed);
            let duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.gate.keeper.tell(NetEvent::Closed { peer, sent, received, duration_ms, reason }).await;
        }
        match &end {
            End::Closed => return,
            End::Refused(refusal) if refusal.manner != Manner::Plain => {
                copy::linger(&self.client, &refusal.answer()).await;
            }
            _ => copy::reset(&self.client),
        }
        if let Some(server) = server {
            copy::reset(server);
        }
    }

    /// The far end, for the record.
    fn peer(&self) -> NetPeer {
        let (to, right) = (self.to(), lock(&self.right));
        let name = right.as_ref().and_then(|right| right.names.first()).map(HostName::to_string);
        NetPeer { protocol: "tcp".into(), address: to.ip(), port: to.port(), name }
    }
}

fn denied(peer: NetPeer, refusal: &Refusal) -> NetEvent {
    let denied = refusal.rule.clone();
    match &refusal.method {
        Some(method) => {
            let host = refusal.name.clone().unwrap_or_default();
            NetEvent::Http { peer, method: method.clone(), host, denied }
        }
        None => NetEvent::Connect { peer, denied: Some(denied) },
    }
}

/// Waits until the server says something.
async fn speaks(server: &Endpoint) -> io::Result<()> {
    loop {
        let mut ready = server.readable().await?;
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(server.get_ref(), &mut [0_u8; 1][..], flags) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
