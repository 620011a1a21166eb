//! A session's way out, decided: which names, addresses and ports, and who resolves. Part of the
//! [`Plan`](crate::plan::Plan); the keeper judges every dial and every pin by it, the relay every name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::addresses::{self, Judgement, Net};
use crate::hosts::{HostName, HostRules};
use crate::profile::Protocol;

/// The most rules of all kinds together.
pub const MAX_RULES: usize = 1024;
/// The most ports of one rule.
pub const MAX_PORTS: usize = 64;
/// The most resolvers.
pub const MAX_RESOLVERS: usize = 8;
/// The most ports of UDP that a plan names: each has a socket.
pub const MAX_UDP_PORTS: usize = 32;
/// The most ports of the host's loopback, and of the session's that are published: each has a socket.
pub const MAX_LOCAL: usize = 32;
/// The most addresses of one pin: of one answer.
pub const MAX_ADDRESSES: usize = 16;
/// The longest that a pin lasts without being renewed, in seconds.
pub const MAX_PIN: u32 = 3600;
/// The shortest, in seconds: resolvers and libraries keep an answer for a moment whatever its TTL.
pub const MIN_PIN: u32 = 60;

/// Where a session may go. What nothing here names is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// By name.
    pub hosts: HostRules,
    /// By address, without any name.
    pub nets: Vec<NetRule>,
    /// TCP ports of the host's loopback, which appear under the same number on the session's.
    pub local: Vec<u16>,
    /// Whom the relay asks, in this order.
    pub resolvers: Vec<SocketAddr>,
    /// Special-purpose ranges that count as public ones.
    pub global_also: Vec<Net>,
    /// How many names a wildcard may stand for in one session.
    pub wildcard_budget: u32,
    /// Whether programs are told of the explicit proxy (`HTTP_PROXY` and friends).
    pub announce_proxy: bool,
}

/// Addresses that may be connected to without a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetRule {
    /// Which.
    pub net: Net,
    /// Which ports; none: all.
    pub ports: Vec<u16>,
    /// By which protocol.
    pub protocol: Protocol,
}

/// What a dial is for: by what right it is asked for.
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
}

/// Why an address may not be reached, as events name the rule.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No rule names it.
    #[error("default")]
    Default,
    /// A deny names it: the pattern.
    #[error("deny {0}")]
    Denied(String),
    /// The address is of a special-purpose range that no rule names.
    #[error("address.{0}")]
    Special(String),
    /// The name is allowed and did not answer with this address lately.
    #[error("pin.unknown")]
    Unpinned,
    /// It is none of the plan's resolvers.
    #[error("resolver.unknown")]
    Resolver,
}

impl Egress {
    /// Whether anything is let out at all.
    pub fn is_closed(&self) -> bool {
        self.hosts.allow.is_empty() && self.nets.is_empty() && self.local.is_empty()
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

    /// Whether `name` may be pinned to `address`: not what only this host or its network can mean by it.
    ///
    /// # Errors
    /// Why not.
    pub fn pin(&self, name: &HostName, address: IpAddr) -> Result<(), Denial> {
        use crate::hosts::HostVerdict;
        match self.hosts.resolve(name) {
            HostVerdict::Allowed(_) => {}
            HostVerdict::Denied(pattern) => return Err(Denial::Denied(pattern.to_string())),
            HostVerdict::Unnamed => return Err(Denial::Default),
        }
        self.special(address)
    }

    /// Whether a connection to `to` may be dialled. That a name pinned it is the caller's to know: `pinned`.
    ///
    /// # Errors
    /// Why not.
    pub fn dial(
        &self,
        purpose: &Purpose,
        to: SocketAddr,
        protocol: Protocol,
        pinned: bool,
    ) -> Result<(), Denial> {
        use crate::hosts::HostVerdict;
        match purpose {
            Purpose::Resolver => {
                if self.resolvers.contains(&to) {
                    Ok(())
                } else {
                    Err(Denial::Resolver)
                }
            }
            Purpose::Local => {
                let own = to.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && protocol == Protocol::Tcp;
                if own && self.local.contains(&to.port()) { Ok(()) } else { Err(Denial::Default) }
            }
            // A rule that names addresses is what allows a special range.
            Purpose::Net => match self.net(to, protocol) {
                Some(_) => Ok(()),
                None => Err(Denial::Default),
            },
            Purpose::Name(name) => match self.hosts.connect(name, to.port(), protocol) {
                HostVerdict::Denied(pattern) => Err(Denial::Denied(pattern.to_string())),
                HostVerdict::Unnamed => Err(Denial::Default),
                HostVerdict::Allowed(_) if !pinned => Err(Denial::Unpinned),
                HostVerdict::Allowed(_) => self.special(to.ip()),
            },
        }
    }

    /// The rule that names `to`, without any name.
    pub fn net(&self, to: SocketAddr, protocol: Protocol) -> Option<&NetRule> {
        self.nets.iter().find(|rule| {
            rule.protocol == protocol
                && rule.net.contains(to.ip())
                && (rule.ports.is_empty() || rule.ports.contains(&to.port()))
        })
    }

    fn special(&self, address: IpAddr) -> Result<(), Denial> {
        match addresses::judge(address, &self.global_also) {
            Judgement::Global => Ok(()),
            Judgement::Special(kind) => Err(Denial::Special(kind.to_string())),
        }
    }

    /// Checks what any plan may hold, whoever made it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), Refusal> {
        let rules = self.hosts.allow.len() + self.hosts.deny.len() + self.nets.len();
        let ports =
            self.hosts.allow.iter().map(|r| r.ports.len()).chain(self.nets.iter().map(|r| r.ports.len()));
        for (what, count, most) in [
            ("rules for the network", rules, MAX_RULES),
            ("ports of one rule", ports.max().unwrap_or(0), MAX_PORTS),
            ("resolvers", self.resolvers.len(), MAX_RESOLVERS),
            ("ports of UDP", self.udp_ports().len(), MAX_UDP_PORTS),
            ("local ports", self.local.len(), MAX_LOCAL),
            ("special-purpose ranges", self.global_also.len(), MAX_RULES),
        ] {
            if count > most {
                return Err(Refusal::new(
                    format!("{count} {what}"),
                    "plan.egress",
                    format!("ask for at most {most}"),
                ));
            }
        }
        let every_port = |protocol, ports: &[u16]| protocol == Protocol::Udp && ports.is_empty();
        let unbounded = self.hosts.allow.iter().any(|r| every_port(r.protocol, &r.ports))
            || self.nets.iter().any(|r| every_port(r.protocol, &r.ports));
        if unbounded {
            return Err(Refusal::new(
                "a rule for every port of UDP",
                "network.udp",
                "name the ports: each has a socket of its own",
            ));
        }
        if self.local.contains(&0) {
            return Err(Refusal::new("local port 0", "network.local", "name a port from 1 to 65535"));
        }
        Ok(())
    }
}
