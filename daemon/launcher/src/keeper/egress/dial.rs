//! Connections that the relay asks for: judged, told, and begun in the host's network.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use agentd_policy::egress::Purpose;
use agentd_policy::event::{NetEvent, NetPeer};
use agentd_policy::profile::Protocol;
use agentd_policy::wire::ToRelay;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::super::Keeper;
use super::TOLD;

impl Keeper {
    /// Answers with a socket that connects, or with why not.
    pub(super) fn dial(&mut self, number: u32, purpose: &Purpose, to: SocketAddr, protocol: Protocol) {
        let begun = self.begin(purpose, to, protocol);
        self.dialled(number, begun);
    }

    /// Tells the relay what became of a dial.
    pub(super) fn dialled(&mut self, number: u32, begun: Result<OwnedFd, Errno>) {
        let (errno, socket) = match begun {
            Ok(socket) => (None, vec![socket]),
            Err(errno) => (Some(errno.raw_os_error()), vec![]),
        };
        self.ask_relay(&ToRelay::Dialled { number, errno }, socket);
    }

    fn begin(&mut self, purpose: &Purpose, to: SocketAddr, protocol: Protocol) -> Result<OwnedFd, Errno> {
        let now = Instant::now();
        let Some(way_out) = self.way_out.as_mut().filter(|_| self.end.is_none()) else {
            return Err(Errno::CANCELED);
        };
        let name = match purpose {
            Purpose::Name(name) => Some(name),
            _ => None,
        };
        // What cannot be told is not done; and what is refused costs as much as what is not, or it would be told
        // without end.
        if !self.spool.has_room_for(TOLD) || !way_out.dials.take(now) {
            return Err(Errno::AGAIN);
        }
        let pinned = name.is_some_and(|name| way_out.pins.holds(to.ip(), name, now));
        let peer = || {
            let (protocol, name) = (protocol_name(protocol).into(), name.map(ToString::to_string));
            NetPeer { protocol, address: to.ip(), port: to.port(), name }
        };
        let event = |denied| NetEvent::Connect { peer: peer(), denied };
        let judged = way_out.egress.dial(purpose, to, protocol, pinned);
        // Nothing goes out by it until it is used.
        let datagrams = connect(to, Protocol::Udp);
        let judged = match &datagrams {
            Ok(socket) if judged.is_ok() && is_own(socket, to)? => way_out.egress.own(purpose, to, protocol),
            _ => judged,
        };
        if let Err(denial) = judged {
            way_out.told.tell(event(Some(denial.to_string())), &mut self.spool);
            return Err(Errno::ACCESS);
        }
        // What the relay asks resolvers is told of as what the session asked.
        if *purpose != Purpose::Resolver {
            way_out.told.tell(event(None), &mut self.spool);
        }
        let socket = datagrams.and_then(|datagrams| match protocol {
            Protocol::Tcp => connect(to, protocol),
            Protocol::Udp => {
                let asks = *purpose == Purpose::Resolver;
                way_out.datagrams.open(datagrams, asks, self.epoll.as_fd())
            }
        });
        // One that could not even begin, as without a route, has ended.
        socket.inspect_err(|errno| {
            if *purpose != Purpose::Resolver {
                let reason = format!("failed: {}", std::io::Error::from(*errno));
                let ended = NetEvent::Closed { peer: peer(), sent: 0, received: 0, duration_ms: 0, reason };
                way_out.told.tell(ended, &mut self.spool);
            }
        })
    }
}

/// Whether `to` is an address of this host's: the kernel would send from it.
fn is_own(connected: &OwnedFd, to: SocketAddr) -> Result<bool, Errno> {
    let from = SocketAddr::try_from(rustix::net::getsockname(connected)?).map_err(|_| Errno::AFNOSUPPORT)?;
    Ok(from.ip() == to.ip())
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
