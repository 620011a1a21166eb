//! Datagrams to ports that the rules name: for each client and each address that it sends to, a socket of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentd_policy::connection_end::ConnectionEnd;
use agentd_policy::denial::Denial;
use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::event::{NetEvent, NetPeer};
use agentd_policy::hosts::HostVerdict;
use agentd_policy::protocol::Protocol;
use agentd_policy::wire::Client;
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::sleep;

use super::caps::Budget;
use super::idle::idle;
use super::packet::{self, MAX_DATAGRAM, Route};
use super::{Gate, copy, judge};
use crate::Endpoint;

/// The most flows of a session.
pub const MAX_FLOWS: u32 = 256;
/// A flow without a datagram for so long ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Datagrams that wait for a flow's socket; more are lost.
const QUEUE: usize = 32;
/// How long one lasts that a cap refused: what comes meanwhile is lost, and not recorded one by one.
const REFUSAL_PERIOD: Duration = Duration::from_secs(1);
/// How often it is looked which flows have ended.
const SWEEP: usize = 64;
/// After a socket failed.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Of a flow whose pair the keeper closed at its end: the address refused a datagram.
const UNREACHABLE: &str = "nobody listens there";

/// The most bytes of all that wait.
pub const MAX_WAITING: usize = 16 << 20;

/// A datagram with its place among those that wait.
type Waiting = (Vec<u8>, OwnedSemaphorePermit);
type Queue = mpsc::Sender<Waiting>;

struct Flow {
    gate: Arc<Gate>,
    socket: Endpoint,
    route: Route,
    to: SocketAddr,
    budget: Budget,
    sent: AtomicU64,
    received: AtomicU64,
    _place: OwnedSemaphorePermit,
}

/// Carries what comes to `port`.
pub async fn serve(gate: Arc<Gate>, socket: Endpoint, port: u16) {
    let mut flows: HashMap<Route, Queue> = HashMap::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        tokio::task::coop::consume_budget().await;
        let Ok((length, route)) = packet::receive(&socket, &mut buffer).await else {
            sleep(RETRY_DELAY).await;
            continue;
        };
        // What finds no place is lost, as a network would lose it.
        let places = u32::try_from(length).unwrap_or(u32::MAX);
        let Ok(room) = gate.datagrams.clone().try_acquire_many_owned(places) else { continue };
        let mut datagram = (buffer[..length].to_vec(), room);
        if let Some(queue) = flows.get(&route) {
            match queue.try_send(datagram) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => continue,
                // It is ending: another begins.
                Err(mpsc::error::TrySendError::Closed(unsent)) => datagram = unsent,
            }
        }
        if flows.len() >= SWEEP {
            flows.retain(|_, queue| !queue.is_closed());
        }
        let Ok(place) = gate.flows.clone().try_acquire_owned() else { continue };
        let (queue, datagrams) = mpsc::channel(QUEUE);
        // There is room for the first.
        queue.try_send(datagram).ok();
        flows.insert(route, queue);
        let flow = Flow {
            gate: gate.clone(),
            socket: socket.clone(),
            route,
            to: SocketAddr::new(route.to, port),
            budget: Budget::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            _place: place,
        };
        tokio::spawn(flow.run(datagrams));
    }
}

impl Flow {
    async fn run(self, mut datagrams: mpsc::Receiver<Waiting>) {
        let began = Instant::now();
        let purpose = judge::unnamed(&self.gate.plan(), &self.gate.pins, self.to, Protocol::Udp);
        let mut peer = NetPeer {
            protocol: "udp".into(),
            address: self.to.ip(),
            port: self.to.port(),
            name: None,
            rule: None,
        };
        let keeper = &self.gate.keeper;
        let purpose = match purpose {
            Ok(purpose) => purpose,
            Err(denial) => {
                let denied = Some(denial.to_string());
                let event = NetEvent::Connect { peer, denied, actor: None, count: 1 };
                return keeper.record_and_wait(event, self.who()).await;
            }
        };
        if let Purpose::Name(name) = &purpose {
            peer.name = Some(name.to_string());
        }
        peer.rule = self.gate.plan().rule(&purpose, self.to, Protocol::Udp);
        if let Err(cap) = self.join() {
            return self.capped(peer, cap, &purpose, &mut datagrams).await;
        }
        // The keeper records why not; the client gets no answer.
        let dialled = keeper.dial(purpose.clone(), self.to, Protocol::Udp, self.route.from).await;
        let Ok(server) = dialled else { return };
        let end = tokio::select! {
            end = self.carry(&server, &mut datagrams) => end,
            end = self.revoked(&purpose) => end,
            () = self.idle() => ConnectionEnd::Idle,
        };
        let (sent, received) = (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed));
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let spent = self.budget.spent().filter(|_| end == ConnectionEnd::Limit);
        let capped = spent.map(|cap| (peer.clone(), cap));
        keeper
            .record(NetEvent::Closed {
                peer,
                names: vec![],
                more_names: 0,
                sent,
                received,
                duration_ms,
                reason: end,
            })
            .await;
        if let Some((peer, cap)) = capped {
            self.capped(peer, cap, &purpose, &mut datagrams).await;
        }
    }

    /// It counts by each rule for what may be meant: datagrams name no host.
    fn join(&self) -> Result<(), Denial> {
        let (gate, plan) = (&self.gate, self.gate.plan());
        judge::meant(&plan, &gate.pins, self.to, Protocol::Udp).iter().try_for_each(|purpose| {
            self.budget.join(&gate.counters, &plan, purpose, (self.to, Protocol::Udp))
        })
    }

    fn who(&self) -> Client {
        Client { protocol: Protocol::Udp, from: self.route.from, to: self.to }
    }

    /// A cap is reached. What the client sends for a moment is dropped.
    async fn capped(
        &self,
        peer: NetPeer,
        cap: Denial,
        purpose: &Purpose,
        datagrams: &mut mpsc::Receiver<Waiting>,
    ) {
        let event = NetEvent::Connect { peer, denied: Some(cap.to_string()), actor: None, count: 1 };
        self.gate.keeper.record_and_wait(event, self.who()).await;
        let dropped = async { while datagrams.recv().await.is_some() {} };
        tokio::select! {
            () = sleep(REFUSAL_PERIOD) => {}
            () = dropped => {}
            _ = self.revoked(purpose) => {}
        }
    }

    /// Both ways, until the other end is closed.
    async fn carry(&self, server: &Endpoint, datagrams: &mut mpsc::Receiver<Waiting>) -> ConnectionEnd {
        let up = async {
            while let Some((datagram, _room)) = datagrams.recv().await {
                if datagram.len() as u64 > self.budget.left() {
                    return ConnectionEnd::Limit;
                }
                match rustix::io::write(server.get_ref(), &datagram) {
                    Ok(count) => {
                        self.budget.count(count);
                        self.went(&self.sent, count);
                    }
                    Err(Errno::AGAIN | Errno::INTR | Errno::MSGSIZE | Errno::NOBUFS) => {}
                    Err(Errno::PIPE) => return ConnectionEnd::failed(UNREACHABLE),
                    Err(errno) => return ConnectionEnd::failed(std::io::Error::from(errno)),
                }
            }
            ConnectionEnd::Closed
        };
        let down = async {
            let mut answer = Vec::new();
            loop {
                tokio::task::coop::consume_budget().await;
                answer.clear();
                match copy::read(server, &mut answer, copy::CHUNK).await {
                    Ok(0) if packet::has_ended(server) => return ConnectionEnd::failed(UNREACHABLE),
                    Ok(count) => self.went(&self.received, count),
                    Err(error) => return ConnectionEnd::failed(error),
                }
                let socket: &OwnedFd = self.socket.get_ref();
                packet::answer(socket, &answer, self.route).ok();
            }
        };
        tokio::select! {
            end = up => end,
            end = down => end,
        }
    }

    fn went(&self, way: &AtomicU64, count: usize) {
        way.fetch_add(count as u64, Ordering::Relaxed);
        self.gate.keeper.control().active();
    }

    /// Waits until what it was opened for may not go on, whatever else is at the address.
    async fn revoked(&self, purpose: &Purpose) -> ConnectionEnd {
        let mut state = self.gate.watch();
        loop {
            if state.borrow_and_update().over {
                return ConnectionEnd::Closed;
            }
            if !self.holds(&self.gate.plan(), purpose) {
                return ConnectionEnd::Policy;
            }
            self.budget.judge_again(&self.gate.plan(), Protocol::Udp);
            if state.changed().await.is_err() {
                return ConnectionEnd::Closed;
            }
        }
    }

    fn holds(&self, plan: &Egress, purpose: &Purpose) -> bool {
        let by_net = plan.net(self.to, Protocol::Udp).is_some();
        match purpose {
            Purpose::Name(name) => match plan.hosts.connect(name, self.to.port(), Protocol::Udp) {
                HostVerdict::Allowed(_) => true,
                HostVerdict::Denied(_) => false,
                HostVerdict::Unnamed => by_net,
            },
            _ => by_net,
        }
    }

    async fn idle(&self) {
        idle(IDLE_TIMEOUT, || self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed))
            .await;
    }
}
