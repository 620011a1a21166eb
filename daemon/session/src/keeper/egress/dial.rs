//! Connections that the relay asks for: judged, recorded, and begun in the host's network.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use agentd_kernel::route::Routes;
use agentd_policy::connection_end::ConnectionEnd;
use agentd_policy::egress::Purpose;
use agentd_policy::event::{NetEvent, NetPeer};
use agentd_policy::protocol::Protocol;
use agentd_policy::wire::{Client, ToRelay};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::super::Keeper;
use super::EVENTS_OF_ONE;
use super::tunnels::Asked;

impl Keeper {
    /// Answers with a socket that connects to where `client` wants to, or with why not; once the site's proxy has,
    /// where there is one.
    pub(super) fn dial(&mut self, number: u32, purpose: &Purpose, client: Client) {
        match self.begin(number, purpose, client) {
            Ok(Begun::Asked) => {}
            Ok(Begun::Connects(socket)) => self.dialled(number, Ok(socket)),
            Err(errno) => self.dialled(number, Err(errno)),
        }
    }

    /// Tells the relay what became of a dial.
    pub(super) fn dialled(&mut self, number: u32, begun: Result<OwnedFd, Errno>) {
        let (errno, socket) = match begun {
            Ok(socket) => (None, vec![socket]),
            Err(errno) => (Some(errno.raw_os_error()), vec![]),
        };
        self.ask_relay(&ToRelay::Dialled { number, errno }, socket);
    }

    fn begin(&mut self, number: u32, purpose: &Purpose, client: Client) -> Result<Begun, Errno> {
        let Client { protocol, to, .. } = client;
        let now = Instant::now();
        let Some(egress_state) = self.egress_state.as_mut().filter(|_| self.phase.is_running()) else {
            return Err(Errno::CANCELED);
        };
        let name = match purpose {
            Purpose::Name(name) => Some(name),
            _ => None,
        };
        // What cannot be audited is denied; and what is refused costs as much as what is not, or it would be recorded
        // without end.
        if !self.spool.has_room_for(EVENTS_OF_ONE) || !egress_state.dials.take(now) {
            return Err(Errno::AGAIN);
        }
        let pinned = name.is_some_and(|name| egress_state.pins.holds(to.ip(), name, now));
        let peer = |rule| {
            let (protocol, name) = (protocol_name(protocol).into(), name.map(ToString::to_string));
            NetPeer { protocol, address: to.ip(), port: to.port(), name, rule }
        };
        let judged = egress_state
            .egress
            .dial(purpose, to, protocol, pinned)
            .and_then(|()| egress_state.below_ceiling(purpose, to.ip()));
        let judged = match judged {
            Ok(()) if is_own(&egress_state.routes, to.ip())? => {
                egress_state.egress.own(purpose, to, protocol)
            }
            judged => judged,
        };
        if let Err(denial) = judged {
            // Where it asks the proxy inside, its own end leads there: then nobody is found, and nobody is named.
            let actor = self.denials.owners.of_client(&client, &self.audit.processes, &self.watch);
            let denied = Some(denial.to_string());
            let event = NetEvent::Connect { peer: peer(None), denied, actor, count: 1 };
            egress_state.coalescer.emit(event, &mut self.spool);
            return Err(Errno::ACCESS);
        }
        let rule = egress_state.egress.rule(purpose, to, protocol);
        // What the relay asks resolvers is recorded as what the session asked.
        if *purpose != Purpose::Resolver {
            let event = NetEvent::Connect { peer: peer(rule.clone()), denied: None, actor: None, count: 1 };
            egress_state.coalescer.emit(event, &mut self.spool);
        }
        let (proxy, events) = (egress_state.egress.proxy, &self.event_loop);
        let socket = match (proxy, name, protocol) {
            (Some(proxy), Some(name), Protocol::Tcp) => connect(proxy, protocol).and_then(|socket| {
                let asked = Asked { number, name, port: to.port(), peer: peer(rule.clone()) };
                egress_state.tunnels.ask(socket, asked, events).map(|()| Begun::Asked)
            }),
            (_, _, Protocol::Tcp) => connect(to, protocol).map(Begun::Connects),
            (_, _, Protocol::Udp) => connect(to, protocol).and_then(|socket| {
                let asks = *purpose == Purpose::Resolver;
                egress_state.datagrams.open(socket, asks, events).map(Begun::Connects)
            }),
        };
        // One that could not even begin, as without a route, has ended.
        socket.inspect_err(|errno| {
            if *purpose != Purpose::Resolver {
                let reason = ConnectionEnd::failed(std::io::Error::from(*errno));
                egress_state.coalescer.emit(never_begun(peer(rule), reason), &mut self.spool);
            }
        })
    }
}

/// What became of a dial.
enum Begun {
    Connects(OwnedFd),
    /// The site's proxy is asked.
    Asked,
}

/// The end of a connection that there never was.
pub(super) fn never_begun(peer: NetPeer, reason: ConnectionEnd) -> NetEvent {
    NetEvent::Closed { peer, names: vec![], more_names: 0, sent: 0, received: 0, duration_ms: 0, reason }
}

/// Whether `to` is an address of this host's.
fn is_own(routes: &Routes, to: IpAddr) -> Result<bool, Errno> {
    // There is no way to it, by no route or by one that says so (EINVAL: a black hole): connecting finds the same, and
    // is recorded.
    const NO_WAY: [Errno; 4] = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL];
    match routes.is_own(to) {
        Ok(own) => Ok(own),
        Err(error) if Errno::from_io_error(&error).is_some_and(|errno| NO_WAY.contains(&errno)) => Ok(false),
        Err(error) => {
            tracing::error!(%error, "whether an address is the host's own is unknown: not dialled");
            Err(Errno::IO)
        }
    }
}

/// A socket that connects to `to`, without waiting for it.
fn connect(to: SocketAddr, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, Some(protocol))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
