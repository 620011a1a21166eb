//! A session's egress, decided: which names, addresses and ports, and who resolves. Part of the
//! [`Plan`](crate::plan::Plan); the keeper judges every dial and every pin by it, the relay every name.

mod caps;
mod change;
mod check;
mod judge;

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::addresses::Net;
use crate::allow::{AllowRule, NetRule};
use crate::caps::Capped;
use crate::dns_type::DnsType;
use crate::hosts::{HostName, HostRules};
use crate::protocol::Protocol;
use crate::publish::Publish;
use crate::resolver::Resolver;

/// The most ports of one rule.
pub const MAX_PORTS: usize = 64;
/// The most ports of UDP that a plan names: each has a socket.
pub const MAX_UDP_PORTS: usize = 32;
/// The most ports of all rules for addresses together, one that names none counting as one: each is a rule of the
/// kernel's.
pub const MAX_ACCEPT_RULES: usize = 512;
/// Addresses of names that the site's proxy alone can resolve, in this range for benchmarks (198.18.0.0/15, RFC 2544).
pub const STAND_IN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const STAND_IN_MASK: u32 = u32::MAX << 17;
/// The most addresses of one pin: of one answer.
pub const MAX_ADDRESSES: usize = 16;
/// The most bytes of it as a message, so that it travels with a plan or alone.
pub const MAX_SIZE: usize = 32 << 10;
/// How many names a wildcard may stand for in one session.
pub const WILDCARD_BUDGET: u32 = 256;
/// The longest that a pin lasts without being renewed, in seconds.
pub const MAX_PIN: u32 = 3600;
/// The shortest, in seconds: resolvers and libraries keep an answer for a moment whatever its TTL.
pub const MIN_PIN: u32 = 60;

/// Where a session may go. What nothing here names is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Names that are allowed and denied.
    pub hosts: HostRules,
    /// By address, without any name.
    pub nets: Vec<NetRule>,
    /// TCP ports of the host's loopback, which appear under the same number on the session's.
    pub local: Vec<u16>,
    /// What some of these rules let through at most.
    pub caps: Vec<Capped>,
    /// Ports of the session's loopback, which appear on the host's: the only way in, and no egress.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Whom the relay asks, in this order.
    pub resolvers: Vec<Resolver>,
    /// Types of records besides addresses that are answered for allowed names.
    pub dns_types: Vec<DnsType>,
    /// Domains that its programs look for names in.
    #[serde(default)]
    pub search: Vec<HostName>,
    /// Special-purpose ranges that count as public ones.
    pub allow_private_ranges: Vec<Net>,
    /// The site's HTTP proxy, by which names are reached over TCP and not by their addresses, if it has one.
    #[serde(default)]
    pub proxy: Option<SocketAddr>,
    /// How many names a wildcard may stand for in one session.
    pub wildcard_budget: u32,
    /// Whether the environment names the explicit proxy (`HTTP_PROXY` and the like).
    pub announce_proxy: bool,
    /// Whether nothing can be let out later either (`default = "none"`).
    #[serde(default)]
    pub sealed: bool,
}

/// What authorizes a dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// A name that pinned the address.
    Name(HostName),
    /// A rule that names the address.
    Net,
    /// A port of the host's loopback.
    Local,
    /// To ask a resolver.
    Resolver,
    /// For somebody on the host who connected to a published port: to the session's own loopback.
    Publish(Publish),
}

impl Egress {
    /// Whether anything is let out at all.
    pub fn is_closed(&self) -> bool {
        self.hosts.allow.is_empty() && self.nets.is_empty() && self.local.is_empty()
    }

    /// Whether some resolver is asked over TLS: the relay then needs the site's trust anchors.
    pub fn asks_over_tls(&self) -> bool {
        self.resolvers.iter().any(|resolver| resolver.tls.is_some())
    }

    /// Whether the explicit proxy listens, also where nothing is let out yet: what it refuses, programs understand at
    /// once. Where nothing ever will be, its port is the session's own.
    pub fn has_proxy(&self) -> bool {
        !self.sealed
    }

    /// How many sockets a session that begins with it has in its network: two each for TCP, for DNS, for the explicit
    /// proxy if it listens, for each of [`Egress::udp_ports`] and for each of [`Egress::local`].
    pub fn sockets(&self) -> usize {
        let kinds = 2 + usize::from(self.has_proxy()) + self.udp_ports().len() + self.local.len();
        2 * kinds
    }

    /// UDP ports that some rule names, each once: the relay has a socket for each.
    pub fn udp_ports(&self) -> Vec<u16> {
        let by_name = self.hosts.allow.iter().filter(|r| r.protocol == Protocol::Udp).flat_map(|r| &r.ports);
        let by_net = self.nets.iter().filter(|r| r.protocol == Protocol::Udp).flat_map(|r| &r.ports);
        let mut ports: Vec<u16> = by_name.chain(by_net).copied().collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// All that passes, in the form that [`AllowRule::parse`] reads.
    pub fn rules(&self) -> impl Iterator<Item = AllowRule> {
        let hosts = self.hosts.allow.iter().cloned().map(AllowRule::Host);
        let nets = self.nets.iter().cloned().map(AllowRule::Net);
        hosts.chain(nets).chain(self.local.iter().copied().map(AllowRule::Local))
    }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
