//! Connections that the relay asks for: judged, told, and begun in the host's network.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use agentd_policy::egress::Purpose;
use agentd_policy::event::{NetEvent, NetPeer};
use agentd_policy::profile::Protocol;
use agentd_policy::wire::ToRelay;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::super::Keeper;

impl Keeper {
    /// Answers with a socket that connects, or with why not.
    pub(super) fn dial(&mut self, number: u32, purpose: &Purpose, to: SocketAddr, protocol: Protocol) {
        let (errno, socket) = match self.begin(purpose, to, protocol) {
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
        let pinned = name.is_some_and(|name| way_out.pins.holds(to.ip(), name, now));
        let event = |denied| {
            let (protocol, name) = (protocol_name(protocol).into(), name.map(ToString::to_string));
            let peer = NetPeer { protocol, address: to.ip(), port: to.port(), name };
            NetEvent::Connect { peer, denied }
        };
        if let Err(denial) = way_out.egress.dial(purpose, to, protocol, pinned) {
            way_out.told.tell(event(Some(denial.to_string())), &mut self.spool);
            return Err(Errno::ACCESS);
        }
        if !self.spool.has_room() || !way_out.dials.take(now) {
            return Err(Errno::AGAIN);
        }
        // What the relay asks resolvers is told of as what the session asked.
        if *purpose != Purpose::Resolver {
            way_out.told.tell(event(None), &mut self.spool);
        }
        connect(to, protocol)
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
