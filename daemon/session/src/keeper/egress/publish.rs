//! The way in: ports of the session that appear on the host's loopback. The keeper makes the listeners, on the host,
//! where it has no right that another user had not; the relay accepts on them. For each connection init makes one to
//! the session's own loopback, on the keeper's word, which judges each.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use agentd_kernel::descriptor::{Ip, Kind};
use agentd_policy::Refusal;
use agentd_policy::egress::Purpose;
use agentd_policy::event::{End, NetEvent};
use agentd_policy::protocol::Protocol;
use agentd_policy::publish::Publish;
use agentd_policy::rule::Rule;
use agentd_policy::token_bucket::TokenBucket;
use agentd_policy::wire::{Attached, MAX_INWARD};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::super::Keeper;
use super::EVENTS_OF_ONE;
use crate::error::HostError;
use crate::init::ToInit;

/// How many connections wait for being accepted.
const BACKLOG: i32 = 128;

/// Entries at once, and in every second after that: those of people on the host take none of the session's own dials.
const ENTRIES: (u32, u32) = (1024, 512);

/// What comes in.
#[derive(Debug)]
pub struct Inward {
    /// On their way to the relay.
    listeners: Vec<(Publish, Vec<OwnedFd>)>,
    /// Questions of the relay's that init has not answered.
    asked: BTreeMap<u32, Ip>,
    entries: TokenBucket,
}

impl Default for Inward {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            asked: BTreeMap::new(),
            entries: TokenBucket::new(ENTRIES.0, ENTRIES.1),
        }
    }
}

impl Inward {
    /// The listeners, which nobody but the relay has afterwards.
    pub fn take_listeners(&mut self) -> Vec<(Publish, Vec<OwnedFd>)> {
        std::mem::take(&mut self.listeners)
    }
}

/// A port that cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("publish {publish}: port {} on {address} of this host: {errno}", .publish.host)]
pub struct PublishError {
    publish: Publish,
    address: IpAddr,
    errno: Errno,
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let PublishError { publish, errno, .. } = &error;
        let other = format!("HOSTPORT:{}", publish.port);
        let hint = match *errno {
            Errno::ADDRINUSE => format!("end what listens there (`ss -ltn` shows it), or publish {other}"),
            Errno::ACCESS => {
                format!("ports below net.ipv4.ip_unprivileged_port_start are root's: publish {other}")
            }
            _ => "see the launcher's log, and whether `lo` is up".to_owned(),
        };
        Self::new(error.to_string(), Rule::NetworkPublish, hint)
    }
}

impl Keeper {
    /// Takes the ports on the host. To be called once every capability is gone, so that the kernel refuses what is
    /// root's, and before the filter, which takes `bind(2)` away.
    ///
    /// # Errors
    /// The first port that cannot be had; those before it are free again.
    pub fn publish(&mut self) -> Result<(), PublishError> {
        let Some(egress_state) = &mut self.egress_state else { return Ok(()) };
        let mut all = Vec::with_capacity(egress_state.egress.publish.len());
        for publish in &egress_state.egress.publish {
            let mut listeners = Vec::with_capacity(2);
            for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                match listener((address, publish.host).into()) {
                    Ok(listener) => listeners.push(listener),
                    // A host without ::1: nobody can connect to it, and nobody else can take it.
                    Err(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT) if address.is_ipv6() => {
                        tracing::warn!(%publish, "this host has no ::1: published on 127.0.0.1 alone");
                    }
                    Err(errno) => return Err(PublishError { publish: *publish, address, errno }),
                }
            }
            all.push((*publish, listeners));
        }
        egress_state.inward.listeners = all;
        Ok(())
    }

    /// Somebody came in by a published port: has init connect to the session's own. Recorded once, for IPv4, which the
    /// relay tries first; of what comes by its listener only its word is known.
    pub(super) fn enter(
        &mut self,
        number: u32,
        publish: Publish,
        (to, protocol): (SocketAddr, Protocol),
        from: SocketAddr,
    ) {
        if let Err(errno) = self.judge_entry(number, publish, (to, protocol), from) {
            return self.dialled(number, Err(errno));
        }
        self.ask_init(&ToInit::Enter { number, port: publish.port, six: to.is_ipv6() });
    }

    fn judge_entry(
        &mut self,
        number: u32,
        publish: Publish,
        (to, protocol): (SocketAddr, Protocol),
        from: SocketAddr,
    ) -> Result<(), Errno> {
        let Some(egress_state) = self.egress_state.as_mut().filter(|_| self.phase.is_running()) else {
            return Err(Errno::CANCELED);
        };
        // As for dials: what cannot be audited is denied, and what is refused costs as much.
        if !self.spool.has_room_for(EVENTS_OF_ONE) || !egress_state.inward.entries.take(Instant::now()) {
            return Err(Errno::AGAIN);
        }
        let event = |denied| NetEvent::Entered { from, publish, denied };
        if let Err(denial) = egress_state.egress.dial(&Purpose::Publish(publish), to, protocol, false) {
            egress_state.coalescer.emit(event(Some(denial.to_string())), &mut self.spool);
            return Err(Errno::ACCESS);
        }
        let asked = &mut egress_state.inward.asked;
        if asked.len() >= MAX_INWARD || asked.contains_key(&number) {
            return Err(Errno::AGAIN);
        }
        asked.insert(number, if to.is_ipv4() { Ip::V4 } else { Ip::V6 });
        if to.is_ipv4() {
            egress_state.coalescer.emit(event(None), &mut self.spool);
        }
        Ok(())
    }

    /// Init has connected, or could not.
    pub fn entered(&mut self, number: u32, errno: Option<i32>, attached: Attached<OwnedFd>) {
        let inward = self.egress_state.as_mut().map(|egress_state| &mut egress_state.inward);
        let Some(ip) = inward.and_then(|inward| inward.asked.remove(&number)) else {
            self.finish(End::Failed { what: "init: a connection that nobody asked for".into() });
            return;
        };
        match errno {
            Some(errno) => self.dialled(number, Err(Errno::from_raw_os_error(errno))),
            None => match connection(ip, attached) {
                Ok(socket) => self.dialled(number, Ok(socket)),
                Err(error) => self.finish(End::Failed { what: format!("init: a connection: {error}") }),
            },
        }
    }
}

/// The socket of a connection into the session.
///
/// # Errors
/// If it is another kind of descriptor, or there is none.
fn connection(ip: Ip, mut attached: Attached<OwnedFd>) -> Result<OwnedFd, HostError> {
    Ok(Kind::Tcp(ip).take(attached.one()?)?)
}

/// A socket that listens on `address` of the host's loopback, and that nobody shares: a port in use is refused,
/// whichever process has it, and once this listens so is everybody else (`SO_REUSEADDR` lets pass what is left of
/// closed connections alone).
fn listener(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_by_one_alone() {
        let first = listener((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = SocketAddr::try_from(rustix::net::getsockname(&first).unwrap()).unwrap();
        assert_eq!(listener(address).unwrap_err(), Errno::ADDRINUSE);
        // Nor can anybody take all addresses of the port, whatever they ask for.
        let flags = SocketFlags::CLOEXEC;
        let other = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        sockopt::set_socket_reuseaddr(&other, true).unwrap();
        sockopt::set_socket_reuseport(&other, true).unwrap();
        let any: SocketAddr = (Ipv4Addr::UNSPECIFIED, address.port()).into();
        assert_eq!(rustix::net::bind(&other, &any), Err(Errno::ADDRINUSE));
        drop(first);
        listener(address).unwrap();
    }

    #[test]
    fn a_port_that_cannot_be_had_is_one_line_with_its_mend() {
        let refusal = |errno, port| {
            let publish = Publish { host: 80, port };
            Refusal::from(PublishError { publish, address: Ipv4Addr::LOCALHOST.into(), errno })
        };
        let taken = refusal(Errno::ADDRINUSE, 3000);
        assert!(taken.what.starts_with("publish 80:3000: port 80 on 127.0.0.1"), "{taken}");
        assert!(taken.rule == Rule::NetworkPublish && taken.hint.contains("HOSTPORT:3000"), "{taken}");
        assert!(refusal(Errno::ACCESS, 80).hint.ends_with("publish HOSTPORT:80"));
    }
}
