//! A session's egress, decided: which names, addresses and ports, and who resolves. Part of the
//! [`Plan`](crate::plan::Plan); the keeper judges every dial and every pin by it, the relay every name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::addresses::{self, Judgement, Net};
use crate::caps::Capped;
use crate::config;
pub use crate::denial::Denial;
use crate::dns_type::DnsType;
use crate::hosts::{HostName, HostRule, HostRules};
use crate::protocol::Protocol;
use crate::publish::{self, Publish};
use crate::resolver::Resolver;

/// The most rules of all kinds together.
pub const MAX_RULES: usize = 1024;
/// The most ports of one rule.
pub const MAX_PORTS: usize = 64;
/// The most resolvers.
pub const MAX_RESOLVERS: usize = 8;
/// The most ports of UDP that a plan names: each has a socket.
pub const MAX_UDP_PORTS: usize = 32;
/// The most ports of the host's loopback, and as many of the session's that are published: each has two sockets.
pub const MAX_LOCAL: usize = 32;
/// The most ports of all rules for addresses together, one that names none counting as one: each is a rule of the
/// kernel's.
pub const MAX_ACCEPT_RULES: usize = 512;
/// Where programs find the explicit proxy on the session's loopback.
pub const PROXY_PORT: u16 = 3128;
/// Where the session's questions for names are answered.
const DNS: u16 = 53;
/// Where servers of a host, or of a session, listen for itself.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// TCP ports of the session's loopback that are not a program's: of what is let through, of DNS, of the proxy.
pub(crate) const OWN_PORTS: [u16; 3] = [1, DNS, PROXY_PORT];
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
    /// By name.
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
    /// Whether programs are told of the explicit proxy (`HTTP_PROXY` and friends).
    pub announce_proxy: bool,
    /// Whether nothing can be let out later either (`default = "none"`).
    #[serde(default)]
    pub sealed: bool,
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

    /// Whether `name` may be pinned to `address`: not what only this host or its network can mean by it, unless some
    /// rule for addresses names that range. What is dialled there needs the port of such a rule as well.
    ///
    /// # Errors
    /// Why not.
    pub fn pin(&self, name: &HostName, address: IpAddr) -> Result<(), Denial> {
        use crate::hosts::HostVerdict;
        match self.hosts.resolve(name) {
            HostVerdict::Allowed(_) => {}
            HostVerdict::Denied(pattern) => return Err(Denial::Denied(pattern.to_string())),
            HostVerdict::Unnamed => return Err(self.unnamed()),
        }
        if self.stands_in(address) {
            return Ok(());
        }
        self.special(address, None).or_else(|denial| {
            let within =
                |rule: &NetRule| rule.net.contains(address) && self.special(address, Some(rule.net)).is_ok();
            if self.nets.iter().any(within) { Ok(()) } else { Err(denial) }
        })
    }

    /// Why a name that no rule has is denied.
    pub fn unnamed(&self) -> Denial {
        if self.is_closed() { Denial::Closed } else { Denial::Default }
    }

    /// The rule that allows `name` to be resolved, as events name it.
    pub fn name_rule(&self, name: &HostName) -> Option<String> {
        use crate::hosts::HostVerdict;
        match self.hosts.resolve(name) {
            HostVerdict::Allowed(rule) => Some(format!("allow {}", rule.host)),
            HostVerdict::Denied(_) | HostVerdict::Unnamed => None,
        }
    }

    /// The rule that allows a connection to `to`, as events name it. Resolvers and published ports need none.
    pub fn rule(&self, purpose: &Purpose, to: SocketAddr, protocol: Protocol) -> Option<String> {
        use crate::hosts::HostVerdict;
        match purpose {
            Purpose::Name(name) => match self.hosts.connect(name, to.port(), protocol) {
                HostVerdict::Allowed(rule) => {
                    let opaque = protocol == Protocol::Tcp && self.hosts.is_opaque(name, to.port());
                    Some(format!("allow {}{}", rule.host, if opaque { " opaque" } else { "" }))
                }
                HostVerdict::Denied(_) | HostVerdict::Unnamed => None,
            },
            Purpose::Net => self.net(to, protocol).map(|rule| format!("allow {}", rule.net)),
            Purpose::Local => Some(format!("local {}", to.port())),
            Purpose::Resolver | Purpose::Publish(_) => None,
        }
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
            // A rule for every port is none for other people's answers to questions for names.
            Purpose::Name(_) | Purpose::Net if to.port() == DNS => Err(Denial::Default),
            Purpose::Resolver => {
                // One that is asked over TLS is asked by nothing else.
                let may = |resolver: &Resolver| resolver.tls.is_none() || protocol == Protocol::Tcp;
                let known = self.resolvers.iter().any(|resolver| resolver.address == to && may(resolver));
                if known { Ok(()) } else { Err(Denial::Resolver) }
            }
            Purpose::Local => {
                let own = LOOPBACKS.contains(&to.ip()) && protocol == Protocol::Tcp;
                if own && self.local.contains(&to.port()) { Ok(()) } else { Err(Denial::Default) }
            }
            Purpose::Publish(publish) => {
                let meant =
                    LOOPBACKS.contains(&to.ip()) && to.port() == publish.port && protocol == Protocol::Tcp;
                if meant && self.publish.contains(publish) { Ok(()) } else { Err(Denial::Publish) }
            }
            Purpose::Net => {
                let judged = self.naming(to, protocol).map(|rule| self.special(to.ip(), Some(rule.net)));
                judged.reduce(Result::or).unwrap_or(Err(Denial::Default))
            }
            Purpose::Name(name) => match self.hosts.connect(name, to.port(), protocol) {
                HostVerdict::Denied(pattern) => Err(Denial::Denied(pattern.to_string())),
                HostVerdict::Unnamed => Err(Denial::Default),
                HostVerdict::Allowed(_) if !pinned => Err(Denial::Unpinned),
                HostVerdict::Allowed(_) if protocol == Protocol::Tcp && self.stands_in(to.ip()) => Ok(()),
                HostVerdict::Allowed(_) => self.special(to.ip(), None).or_else(|denial| {
                    // By a name one gets no further there than without it.
                    if self.net(to, protocol).is_some() { Ok(()) } else { Err(denial) }
                }),
            },
        }
    }

    /// Whether `to` may be dialled although it is an address of the host itself, whose services take connections from
    /// the host for trusted ones: if a rule is for this one address, or it is of a range that the site has named.
    ///
    /// # Errors
    /// Why not.
    pub fn own(&self, purpose: &Purpose, to: SocketAddr, protocol: Protocol) -> Result<(), Denial> {
        let by_rule = || self.naming(to, protocol).any(|rule| rule.net.is_single());
        let named = match purpose {
            Purpose::Resolver | Purpose::Local => true,
            Purpose::Net => by_rule(),
            Purpose::Name(_) | Purpose::Publish(_) => false,
        };
        let by_site = self.allow_private_ranges.iter().any(|net| net.contains(to.ip()));
        if named || by_site { Ok(()) } else { Err(Denial::Special("own".into())) }
    }

    /// Whether `address` is one that a name has which the site's proxy alone can resolve. Nobody connects to it.
    pub fn stands_in(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        self.proxy.is_some() && u32::from(address) & STAND_IN_MASK == u32::from(STAND_IN)
    }

    /// The rule that allows `to`, without any name. A special-purpose range needs one that lies within it, and the
    /// host's loopback is for [`Egress::local`] alone.
    pub fn net(&self, to: SocketAddr, protocol: Protocol) -> Option<&NetRule> {
        self.nets_allowing(to, protocol).next()
    }

    /// All of them.
    pub(crate) fn nets_allowing(&self, to: SocketAddr, protocol: Protocol) -> impl Iterator<Item = &NetRule> {
        self.naming(to, protocol).filter(move |rule| self.special(to.ip(), Some(rule.net)).is_ok())
    }

    fn naming(&self, to: SocketAddr, protocol: Protocol) -> impl Iterator<Item = &NetRule> {
        self.nets.iter().filter(move |rule| {
            rule.protocol == protocol
                && rule.net.contains(to.ip())
                && (rule.ports.is_empty() || rule.ports.contains(&to.port()))
        })
    }

    /// Whether `address` is one of the internet's, or counts as such by the site's word or the rule's of `named`.
    fn special(&self, address: IpAddr, named: Option<Net>) -> Result<(), Denial> {
        let also: Vec<Net> = self.allow_private_ranges.iter().copied().chain(named).collect();
        match addresses::judge(address, &also) {
            Judgement::Global if named.is_some() && address.to_canonical().is_loopback() => {
                Err(Denial::Special(addresses::Kind::Loopback.to_string()))
            }
            Judgement::Global => Ok(()),
            Judgement::Special(kind) => Err(Denial::Special(kind.to_string())),
        }
    }

    /// Checks what any plan may hold, whoever made it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(rule) = self.rules().next().filter(|_| self.sealed) {
            return Err(Refusal::new(
                format!("allow {rule}, for a session without a network"),
                "network.none",
                "its profile has default = \"none\" in [network]: start one with another profile",
            ));
        }
        let rules = self.hosts.allow.len() + self.hosts.deny.len() + self.nets.len();
        let ports =
            self.hosts.allow.iter().map(|r| r.ports.len()).chain(self.nets.iter().map(|r| r.ports.len()));
        for (what, count, most) in [
            ("rules for the network", rules, MAX_RULES),
            ("ports of one rule", ports.max().unwrap_or(0), MAX_PORTS),
            ("capped rules", self.caps.len(), MAX_RULES),
            ("resolvers", self.resolvers.len(), MAX_RESOLVERS),
            ("domains to search", self.search.len(), config::MAX_SEARCH),
            ("types of records", self.dns_types.len(), DnsType::ALL.len()),
            ("ports of UDP", self.udp_ports().len(), MAX_UDP_PORTS),
            ("local ports", self.local.len(), MAX_LOCAL),
            ("special-purpose ranges", self.allow_private_ranges.len(), MAX_RULES),
            (
                "ports of rules for addresses",
                self.nets.iter().map(|rule| rule.ports.len().max(1)).sum(),
                MAX_ACCEPT_RULES,
            ),
        ] {
            if count > most {
                return Err(Refusal::new(
                    format!("{count} {what}"),
                    "plan.egress",
                    format!("ask for at most {most}"),
                ));
            }
        }
        let size = postcard::to_stdvec(self).map_or(usize::MAX, |bytes| bytes.len());
        if size > MAX_SIZE {
            return Err(Refusal::new(
                format!("rules for the network of {size} bytes"),
                "plan.egress",
                format!("stay below {MAX_SIZE} bytes in all"),
            ));
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
        self.hosts.allow.iter().try_for_each(HostRule::check)?;
        let by_name = self.hosts.allow.iter().flat_map(|rule| &rule.ports);
        if by_name.chain(self.nets.iter().flat_map(|rule| &rule.ports)).any(|port| *port == DNS) {
            return Err(Refusal::new(
                format!("a rule for port {DNS}"),
                "network.dns",
                "allow the names that are to be looked up: agentd itself answers whatever server is asked",
            ));
        }
        if let Some(port) = self.local.iter().find(|port| OWN_PORTS.contains(port)) {
            return Err(Refusal::new(
                format!("local port {port}"),
                "network.local",
                "have the server listen on another port: in a session this one is agentd's own",
            ));
        }
        if self.local.contains(&0) {
            return Err(Refusal::new("local port 0", "network.local", "name a port from 1 to 65535"));
        }
        publish::check(&self.publish, &self.local)?;
        if self.wildcard_budget > WILDCARD_BUDGET {
            return Err(Refusal::new(
                format!("a budget of {} names for a wildcard", self.wildcard_budget),
                "plan.egress",
                format!("ask for at most {WILDCARD_BUDGET}"),
            ));
        }
        self.check_caps()
    }

    /// Checks what the site gives to every session's egress, whoever made this one. Which resolvers are the system's only the
    /// service knows.
    ///
    /// # Errors
    /// A resolver or a range that is not the site's.
    pub fn check_site(&self, site: &config::Egress) -> Result<(), Refusal> {
        let reload = "ask again: the configuration may just have been read anew";
        if let config::Resolvers::List(list) = &site.resolvers
            && let Some(other) = self.resolvers.iter().find(|resolver| !list.contains(resolver))
        {
            return Err(Refusal::new(format!("resolver {other}"), "egress.resolver", reload));
        }
        if let config::Search::List(list) = &site.search
            && self.search != *list
        {
            return Err(Refusal::new("other domains to search than the site's", "egress.search", reload));
        }
        if self.proxy != site.proxy {
            return Err(Refusal::new("another proxy than the site's", "egress.proxy", reload));
        }
        if self.allow_private_ranges != site.allow_private_ranges {
            return Err(Refusal::new("other ranges than the site's", "egress.allow_private_ranges", reload));
        }
        Ok(())
    }

    /// Whether a session that runs may have `next` in its place: what the site gave it stays, and what needs a socket
    /// of its own was there from the start. No special-purpose range is named later. A deny stays for good.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn may_become(&self, next: &Self) -> Result<(), Refusal> {
        next.check()?;
        let ports = self.udp_ports();
        for (same, what) in [
            (self.sealed == next.sealed, "another default"),
            (self.publish == next.publish, "other published ports"),
            (self.resolvers == next.resolvers, "other resolvers"),
            (self.search == next.search, "other domains to search"),
            (self.proxy == next.proxy, "another proxy"),
            (self.dns_types == next.dns_types, "other types of records"),
            (self.allow_private_ranges == next.allow_private_ranges, "other ranges that count as public"),
            (self.wildcard_budget == next.wildcard_budget, "another budget for wildcards"),
            (self.hosts.deny.iter().all(|pattern| next.hosts.deny.contains(pattern)), "fewer denied names"),
        ] {
            if !same {
                let hint = "start another session: that stays as it began";
                return Err(Refusal::new(format!("{what} for a session that runs"), "network.live", hint));
            }
        }
        let new = next.nets.iter().filter(|rule| !self.nets.contains(rule));
        if let Some((net, kind)) = new
            .filter_map(|rule| Some((rule.net, addresses::named(&rule.net, &self.allow_private_ranges)?)))
            .next()
        {
            return Err(Refusal::new(
                format!("{net} for a session that runs: it names {kind} addresses"),
                "network.live",
                "what is near the host is for the start alone: start another session with it",
            ));
        }
        let local = next.local.iter().find(|port| !self.local.contains(port));
        let udp = next.udp_ports().into_iter().find(|port| !ports.contains(port));
        let late = local.map(|port| format!("local:{port}")).or(udp.map(|port| format!("UDP port {port}")));
        match late {
            Some(what) => Err(Refusal::new(
                format!("{what} for a session that runs"),
                "network.live",
                "it needs a socket that is made at the start: start another session with it",
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
