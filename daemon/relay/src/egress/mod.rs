//! the session's egress. Sockets inside the session's network namespace come with [`ToRelay::Network`]; every
//! connection to the outside is dialled by the keeper. What goes between is judged here, by name.
//!
//! [`ToRelay::Network`]: agentd_policy::wire::ToRelay::Network

mod admit;
mod answering;
mod cache;
mod caps;
mod copy;
mod dial;
mod dns;
mod end;
mod first;
mod http;
mod http2;
mod idle;
mod judge;
mod keeper;
mod local;
mod opaque;
mod other;
mod packet;
mod pins;
mod proxy;
mod published;
mod right;
mod room;
mod rules;
mod secure;
mod ssh;
mod tcp;
mod tls;
mod tls_stream;
mod told;
mod trust;
mod udp;
mod upstream;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use agentd_policy::blocklist::Blocklist;
use agentd_policy::egress::Egress;
use agentd_policy::hosts::HostName;
use agentd_policy::publish::Publish;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::Control;
use crate::{RelayError, endpoint};
use caps::Counters;
use dns::Names;
use keeper::Keeper;
use pins::Pins;
use published::MAX_VISITS;
use rules::Rules;
use secure::Secure;
use tcp::Entry;
use udp::MAX_FLOWS;

/// The most connections of a session.
const MAX_CONNECTIONS: u32 = 1024;
/// For what is left to tell once the session is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is in force.
#[derive(Clone)]
struct State {
    plan: Arc<Egress>,
    /// The session is over.
    over: bool,
}

/// What all connections have in common.
struct Gate {
    state: watch::Sender<State>,
    /// The site's blocklists: those that the session began with.
    listed: Option<Arc<Blocklist>>,
    keeper: Keeper,
    pins: Pins,
    names: Names,
    counters: Counters,
    secure: Secure,
    connections: Arc<Semaphore>,
    visits: Arc<Semaphore>,
    flows: Arc<Semaphore>,
    /// Bytes of datagrams that wait.
    datagrams: Arc<Semaphore>,
}

impl Gate {
    /// The rules.
    fn plan(&self) -> Rules {
        Rules::new(self.state.borrow().plan.clone(), self.listed.clone())
    }

    /// Learns of other rules.
    fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

/// Egress, open.
pub struct Network {
    gate: Arc<Gate>,
    /// Aborted with it.
    listeners: JoinSet<()>,
    renewals: JoinSet<()>,
}

impl Network {
    /// Opens it, with the descriptors that [`ToRelay::Network`](agentd_policy::wire::ToRelay::Network) lists.
    pub fn open(
        plan: Egress,
        blocklist: bool,
        mut descriptors: Vec<OwnedFd>,
        control: Arc<Control>,
    ) -> Result<Self, RelayError> {
        let (ports, locals, proxy) = (plan.udp_ports(), plan.local.clone(), plan.has_proxy());
        // Last come a table of blocklists and then a CA bundle, if there are.
        let trust = if plan.asks_over_tls() { descriptors.pop() } else { None };
        let table = if blocklist { descriptors.pop() } else { None };
        let listed = table.map(rules::table).transpose().map_err(RelayError::Keeper)?.map(Arc::new);
        if descriptors.len() != plan.sockets() {
            return Err(RelayError::Keeper("sockets that are not the plan's".into()));
        }
        let secure = Secure::new(plan.resolvers.len(), trust);
        let gate = Arc::new(Gate {
            state: watch::Sender::new(State { plan: Arc::new(plan), over: false }),
            listed,
            keeper: Keeper::new(control),
            pins: Pins::default(),
            names: Names::default(),
            counters: Counters::default(),
            secure,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS as usize)),
            visits: Arc::new(Semaphore::new(MAX_VISITS as usize)),
            flows: Arc::new(Semaphore::new(MAX_FLOWS)),
            datagrams: Arc::new(Semaphore::new(udp::MAX_WAITING)),
        });
        let mut listeners = JoinSet::new();
        let twice = |port: u16| [port, port];
        let kinds = [Kind::Tcp(Entry::Transparent); 2]
            .into_iter()
            .chain([Kind::Dns; 2])
            .chain([Kind::Tcp(Entry::Proxy); 2].into_iter().filter(|_| proxy))
            .chain(ports.into_iter().flat_map(twice).map(Kind::Udp))
            .chain(locals.into_iter().flat_map(twice).map(|_| Kind::Tcp(Entry::Local)));
        for (kind, descriptor) in kinds.zip(descriptors) {
            let socket = endpoint(descriptor)?;
            match kind {
                Kind::Tcp(entry) => listeners.spawn(tcp::listen(gate.clone(), socket, entry)),
                Kind::Dns => listeners.spawn(answering::serve(gate.clone(), socket)),
                Kind::Udp(port) => listeners.spawn(udp::serve(gate.clone(), socket, port)),
            };
        }
        let told = gate.clone();
        listeners.spawn(async move { told.names.told.run(&told.keeper).await });
        Ok(Self { gate, listeners, renewals: JoinSet::new() })
    }

    /// Lets in who comes by `descriptors`, which listen on the host's loopback.
    pub fn publish(&mut self, publish: Publish, descriptors: Vec<OwnedFd>) -> Result<(), RelayError> {
        for descriptor in descriptors {
            let listener = endpoint(descriptor)?;
            self.listeners.spawn(published::listen(self.gate.clone(), listener, publish));
        }
        Ok(())
    }

    /// Other rules are in force.
    pub fn policy(&self, plan: Egress) {
        self.gate.names.forget();
        self.gate.state.send_modify(|state| state.plan = Arc::new(plan));
    }

    /// The keeper has dialled, or not.
    pub fn dialled(&self, number: u32, errno: Option<i32>, descriptor: Option<OwnedFd>) {
        self.gate.keeper.dialled(number, errno, descriptor);
    }

    /// The keeper has pinned.
    pub fn pinned(&self, number: u32, addresses: Vec<IpAddr>) {
        self.gate.keeper.pinned(number, addresses);
    }

    /// The keeper has recorded something.
    pub fn recorded(&self, number: u32) {
        self.gate.keeper.recorded(number);
    }

    /// The keeper wants a name asked for anew.
    pub fn renew(&mut self, name: HostName, question: u16) {
        let gate = self.gate.clone();
        // Those that are done make room; the keeper asks for so many at a time.
        while self.renewals.try_join_next().is_some() {}
        self.renewals.spawn(async move {
            dns::renew(&gate, &name, question).await;
            gate.keeper.renewed(name, question).await;
        });
    }

    /// The session is over: ends all.
    fn over(&mut self) {
        self.listeners.abort_all();
        self.renewals.abort_all();
        self.gate.state.send_modify(|state| state.over = true);
    }

    /// Has all ends told, as far as the keeper listens.
    pub async fn close(mut self) {
        self.over();
        // What was published is free again before the end is told.
        while self.listeners.join_next().await.is_some() {}
        let all = async {
            self.gate.names.told.flush(&self.gate.keeper).await;
            let _ = self.gate.connections.acquire_many(MAX_CONNECTIONS).await;
            let _ = self.gate.visits.acquire_many(MAX_VISITS).await;
            let _ = self.gate.flows.acquire_many(MAX_FLOWS as u32).await;
        };
        let _ = timeout(LAST_WORDS, all).await;
    }
}

/// What comes by a socket.
#[derive(Clone, Copy)]
enum Kind {
    Tcp(Entry),
    Dns,
    Udp(u16),
}
