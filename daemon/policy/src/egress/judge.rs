//! Whether a name may be pinned, and whether an address may be connected to.

use std::net::{IpAddr, SocketAddr};

use super::{Egress, Purpose, STAND_IN, STAND_IN_MASK};
use crate::addresses::{self, Judgement, Net};
use crate::allow::NetRule;
use crate::denial::Denial;
use crate::hosts::{HostName, HostVerdict};
use crate::ports::{DNS_PORT, LOOPBACKS};
use crate::protocol::Protocol;
use crate::resolver::Resolver;
use crate::rule::Rule;

impl Egress {
    /// Whether `name` may be pinned to `address`: not what only this host or its network can mean by it, unless some
    /// rule for addresses names that range. What is dialled there needs the port of such a rule as well.
    ///
    /// # Errors
    /// A [`Denial`]: the rule that denies the name, or the range that the address is of.
    pub fn pin(&self, name: &HostName, address: IpAddr) -> Result<(), Denial> {
        match self.hosts.resolve(name) {
            HostVerdict::Allowed(_) => {}
            HostVerdict::Denied(pattern) => return Err(Denial::about(Rule::Deny, pattern)),
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
        if self.is_closed() { Rule::NetworkNone } else { Rule::Default }.into()
    }

    /// The rule that allows `name` to be resolved, as events name it.
    pub fn name_rule(&self, name: &HostName) -> Option<String> {
        match self.hosts.resolve(name) {
            HostVerdict::Allowed(rule) => Some(format!("allow {}", rule.host)),
            HostVerdict::Denied(_) | HostVerdict::Unnamed => None,
        }
    }

    /// The rule that allows a connection to `to`, as events name it. Resolvers and published ports need none.
    pub fn rule(&self, purpose: &Purpose, to: SocketAddr, protocol: Protocol) -> Option<String> {
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
    /// A [`Denial`]: the rule that denies the address, or that nothing allows it.
    pub fn dial(
        &self,
        purpose: &Purpose,
        to: SocketAddr,
        protocol: Protocol,
        pinned: bool,
    ) -> Result<(), Denial> {
        match purpose {
            // A rule for every port is none for other people's answers to questions for names.
            Purpose::Name(_) | Purpose::Net if to.port() == DNS_PORT => Err(Rule::Default.into()),
            Purpose::Resolver => {
                // One that is asked over TLS is asked by nothing else.
                let may = |resolver: &Resolver| resolver.tls.is_none() || protocol == Protocol::Tcp;
                let known = self.resolvers.iter().any(|resolver| resolver.address == to && may(resolver));
                if known { Ok(()) } else { Err(Rule::ResolverUnknown.into()) }
            }
            Purpose::Local => {
                let own = LOOPBACKS.contains(&to.ip()) && protocol == Protocol::Tcp;
                if own && self.local.contains(&to.port()) { Ok(()) } else { Err(Rule::Default.into()) }
            }
            Purpose::Publish(publish) => {
                let meant =
                    LOOPBACKS.contains(&to.ip()) && to.port() == publish.port && protocol == Protocol::Tcp;
                if meant && self.publish.contains(publish) {
                    Ok(())
                } else {
                    Err(Rule::PublishUnknown.into())
                }
            }
            Purpose::Net => {
                let judged = self.naming(to, protocol).map(|rule| self.special(to.ip(), Some(rule.net)));
                judged.reduce(Result::or).unwrap_or(Err(Rule::Default.into()))
            }
            Purpose::Name(name) => match self.hosts.connect(name, to.port(), protocol) {
                HostVerdict::Denied(pattern) => Err(Denial::about(Rule::Deny, pattern)),
                HostVerdict::Unnamed => Err(Rule::Default.into()),
                HostVerdict::Allowed(_) if !pinned => Err(Rule::PinUnknown.into()),
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
    /// [`Rule::AddressOwn`], unless a rule or the site allows it.
    pub fn own(&self, purpose: &Purpose, to: SocketAddr, protocol: Protocol) -> Result<(), Denial> {
        let by_rule = || self.naming(to, protocol).any(|rule| rule.net.is_single());
        let named = match purpose {
            Purpose::Resolver | Purpose::Local => true,
            Purpose::Net => by_rule(),
            Purpose::Name(_) | Purpose::Publish(_) => false,
        };
        let by_site = self.allow_private_ranges.iter().any(|net| net.contains(to.ip()));
        if named || by_site { Ok(()) } else { Err(Rule::AddressOwn.into()) }
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
                Err(Denial::about(Rule::Address, addresses::Kind::Loopback))
            }
            Judgement::Global => Ok(()),
            Judgement::Special(kind) => Err(Denial::about(Rule::Address, kind)),
        }
    }
}
