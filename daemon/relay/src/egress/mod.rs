//! The session's egress. Sockets inside the session's network namespace come with [`ToRelay::Network`]; every
//! connection to the outside is dialled by the keeper. What goes between is judged here, by name.
//!
//! [`ToRelay::Network`]: agentd_policy::wire::ToRelay::Network

mod accept;
mod answering;
mod authorization;
mod buffers;
mod cache;
mod caps;
mod close;
mod copy;
mod detect;
mod dial;
mod dns;
mod dot;
mod http;
mod http2;
mod idle;
mod judge;
mod keeper;
mod local;
mod opaque;
mod packet;
mod pins;
mod proxy;
mod published;
mod query_log;
mod requests;
mod rules;
mod ssh;
mod tcp;
mod tls;
mod tls_stream;
mod trust_anchors;
mod udp;
mod unnamed;
mod upstream;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use agentd_policy::blocklist::Blocklist;
use agentd_policy::egress::Egress;
use agentd_policy::hosts::HostName;
use agentd_policy::publish::Publish;
use agentd_policy::wire::{EgressSockets, NetworkDescriptors};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::Control;
use crate::{RelayError, endpoint};
use caps::Counters;
use dns::Names;
use dot::DotResolvers;
use keeper::{Dialled, Keeper};
use pins::Pins;
use published::MAX_VISITS;
use rules::Rules;
use tcp::Entry;
use udp::MAX_FLOWS;

/// The most connections of a session.
const MAX_CONNECTIONS: u32 = 1024;
/// How long events are still recorded once the session is over.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

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
    resolvers: DotResolvers,
    connections: Arc<Semaphore>,
    visits: Arc<Semaphore>,
    flows: Arc<Semaphore>,
    /// Bytes of datagrams that wait.
    datagrams: Arc<Semaphore>,
}

impl Gate {
    /// The rules that are in force, with the blocklists.
    fn plan(&self) -> Rules {
        Rules::new(self.state.borrow().plan.clone(), self.listed.clone())
    }

    /// Learns of other rules.
    fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

/// The egress of one session, as long as it is served.
pub struct Network {
    gate: Arc<Gate>,
    /// Aborted with it.
    listeners: JoinSet<()>,
    renewals: JoinSet<()>,
}

impl Network {
    /// Serves the session's sockets.
    pub fn open(
        plan: Egress,
        descriptors: NetworkDescriptors<OwnedFd>,
        control: Arc<Control>,
    ) -> Result<Self, RelayError> {
        let NetworkDescriptors { sockets, blocklist, ca_bundle } = descriptors;
        let listed = blocklist.map(rules::table).transpose()?.map(Arc::new);
        let resolvers = DotResolvers::new(plan.resolvers.len(), ca_bundle);
        let gate = Arc::new(Gate {
            state: watch::Sender::new(State { plan: Arc::new(plan), over: false }),
            listed,
            keeper: Keeper::new(control),
            pins: Pins::default(),
            names: Names::default(),
            counters: Counters::default(),
            resolvers,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS as usize)),
            visits: Arc::new(Semaphore::new(MAX_VISITS as usize)),
            flows: Arc::new(Semaphore::new(MAX_FLOWS as usize)),
            datagrams: Arc::new(Semaphore::new(udp::MAX_WAITING)),
        });
        let mut listeners = JoinSet::new();
        let EgressSockets { tcp, dns, proxy, udp, local } = sockets;
        let entries = [(Entry::Transparent, tcp)]
            .into_iter()
            .chain(proxy.map(|sockets| (Entry::Proxy, sockets)))
            .chain(local.into_iter().map(|sockets| (Entry::Local, sockets)));
        for (entry, sockets) in entries {
            for socket in sockets {
                listeners.spawn(tcp::listen(gate.clone(), endpoint(socket)?, entry));
            }
        }
        for socket in dns {
            listeners.spawn(answering::serve(gate.clone(), endpoint(socket)?));
        }
        for (port, sockets) in udp {
            for socket in sockets {
                listeners.spawn(udp::serve(gate.clone(), endpoint(socket)?, port));
            }
        }
        let recorder = gate.clone();
        listeners.spawn(async move { recorder.names.log.run(&recorder.keeper).await });
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
    pub fn dialled(&self, number: u32, dialled: Dialled) {
        self.gate.keeper.dialled(number, dialled);
    }

    /// The keeper has pinned.
    pub fn pinned(&self, number: u32, addresses: Vec<IpAddr>) {
        self.gate.keeper.pinned(number, addresses);
    }

    /// The keeper has recorded something.
    pub fn recorded(&self, number: u32) {
        self.gate.keeper.recorded(number);
    }

    /// Resolves a name anew, for the keeper.
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

    /// Ends all, and waits until the ends are recorded, at most [`CLOSE_TIMEOUT`].
    pub async fn close(mut self) {
        self.over();
        // What was published is free again before the end is recorded.
        while self.listeners.join_next().await.is_some() {}
        let all = async {
            self.gate.names.log.flush(&self.gate.keeper).await;
            self.gate.connections.acquire_many(MAX_CONNECTIONS).await.ok();
            self.gate.visits.acquire_many(MAX_VISITS).await.ok();
            self.gate.flows.acquire_many(MAX_FLOWS).await.ok();
        };
        timeout(CLOSE_TIMEOUT, all).await.ok();
    }
}
