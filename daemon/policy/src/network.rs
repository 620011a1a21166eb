//! What profiles and flags say of the network, parsed into rules, and what becomes of them together: an [`Egress`].
//!
//! One entry has one form, in which it is given (`--allow`) and shown: `HOST`, `HOST:443`, `*.HOST:80,443`, `HOST:*`,
//! `192.0.2.0/24:8080`, `[2001:db8::/32]:443`, `HOST:123/udp`, `local:5432`.

mod rule;

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::addresses::Net;
use crate::caps::{self, Capped, Caps};
use crate::dns_type::DnsType;
use crate::egress::{Egress, WILDCARD_BUDGET};
use crate::hosts::{HostName, HostPattern, HostRule};
use crate::profile;
use crate::publish::Publish;
use crate::resolver::Resolver;
use rule::denied;
pub use rule::{Rule, WEB};

/// The most entries of one change.
pub const MAX_CHANGE: usize = 64;
/// The longest text of a change, as its event has it: printable ASCII.
pub const MAX_TEXT: usize = 2048;

/// What is to be allowed and denied, besides what is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What passes, and how much of it.
    pub allow: Vec<Capped>,
    /// Names that nothing can allow.
    pub deny: Vec<HostPattern>,
}

/// What the site gives to every session's egress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Whom names are asked of.
    pub resolvers: Vec<Resolver>,
    /// Domains that programs look for names in.
    pub search: Vec<HostName>,
    /// Special-purpose ranges that count as public ones.
    pub allow_private_ranges: Vec<Net>,
    /// The proxy by which names are reached, if there is one.
    pub proxy: Option<SocketAddr>,
}

impl Change {
    /// Reads entries as flags have them: without caps.
    ///
    /// # Errors
    /// The first that cannot be meant.
    pub fn parse(allow: &[String], deny: &[String]) -> Result<Self, Refusal> {
        let uncapped = |text: &String| Ok(Capped { rule: Rule::parse(text)?, caps: Caps::default() });
        Ok(Self {
            allow: allow.iter().map(uncapped).collect::<Result<_, Refusal>>()?,
            deny: deny.iter().map(|text| denied("deny", text)).collect::<Result<_, _>>()?,
        })
    }

    /// Reads a profile's.
    ///
    /// # Errors
    /// The first that cannot be meant.
    pub fn of(network: &profile::Network) -> Result<Self, Refusal> {
        network.publish.iter().try_for_each(|entry| Publish::of(entry).map(drop))?;
        Ok(Self {
            allow: network.allow.iter().map(Rule::of).collect::<Result<_, _>>()?,
            deny: network.deny.iter().map(|text| denied("network.deny", text)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether it holds something, and no more than one change may.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Refusal> {
        match self.allow.len() + self.deny.len() {
            0 => Err(Refusal::new("a change of nothing", "network.change", "name what to allow or deny")),
            1..=MAX_CHANGE => {
                self.allow.iter().try_for_each(|Capped { rule, caps }| caps::check(rule, *caps))
            }
            many => Err(Refusal::new(
                format!("{many} changes at once"),
                "network.change",
                format!("give at most {MAX_CHANGE}, or several times"),
            )),
        }
    }

    /// What a running session's egress becomes with it.
    ///
    /// # Errors
    /// What is denied already, what only a new session can have, and what goes beyond any plan.
    pub fn apply(&self, now: &Egress) -> Result<Egress, Refusal> {
        let mut next = now.clone();
        next.add(self)?;
        now.may_become(&next)?;
        Ok(next)
    }
}

impl Egress {
    /// Adds what somebody asks for by hand.
    fn add(&mut self, change: &Change) -> Result<(), Refusal> {
        self.deny(&change.deny);
        for Capped { rule, .. } in &change.allow {
            if let Rule::Host(HostRule { host, .. }) = rule
                && let Some(pattern) = self.hosts.deny.iter().find(|pattern| pattern.covers(host))
            {
                return Err(Refusal::new(
                    format!("allow {rule}, while {pattern} is denied"),
                    "network.deny",
                    "a deny wins over every allow and is not taken back: leave one of them out, from the start",
                ));
            }
        }
        self.allow(&change.allow)
    }

    /// Adds names that nothing can allow.
    pub(crate) fn deny<'a>(&mut self, patterns: impl IntoIterator<Item = &'a HostPattern>) {
        for pattern in patterns {
            if !self.hosts.deny.contains(pattern) {
                self.hosts.deny.push(pattern.clone());
            }
        }
    }

    fn allow(&mut self, rules: &[Capped]) -> Result<(), Refusal> {
        for capped in rules {
            if !(self.caps.is_empty() && capped.caps.is_none()) {
                self.forget(&capped.rule);
            }
            self.set_caps(capped);
            match &capped.rule {
                Rule::Host(host) if self.resolvers.is_empty() && self.proxy.is_none() => {
                    return Err(Refusal::new(
                        format!("allow {}, without anybody to resolve names", host.host),
                        "egress.resolver",
                        "have the administrator name resolvers in agentd.toml, or in /etc/resolv.conf, and reload",
                    ));
                }
                Rule::Host(host) if !self.hosts.allow.contains(host) => self.hosts.allow.push(host.clone()),
                Rule::Net(net) if !self.nets.contains(net) => self.nets.push(net.clone()),
                Rule::Local(port) if !self.local.contains(port) => self.local.push(*port),
                Rule::Host(_) | Rule::Net(_) | Rule::Local(_) => {}
            }
        }
        Ok(())
    }

    /// The last of those that are equally close counts: a rule that is given again is given last.
    fn forget(&mut self, rule: &Rule) {
        match rule {
            Rule::Host(host) => self.hosts.allow.retain(|known| known != host),
            Rule::Net(net) => self.nets.retain(|known| known != net),
            Rule::Local(_) => {}
        }
    }

    fn publish(&mut self, publish: Publish) {
        if !self.publish.contains(&publish) {
            self.publish.push(publish);
        }
    }

    /// All that passes, in the form that [`Rule::parse`] reads.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        let hosts = self.hosts.allow.iter().cloned().map(Rule::Host);
        let nets = self.nets.iter().cloned().map(Rule::Net);
        hosts.chain(nets).chain(self.local.iter().copied().map(Rule::Local))
    }
}

/// The types of records that a profile lists, each once.
///
/// # Errors
/// The first that cannot be listed.
pub(crate) fn dns_types(network: &profile::Network) -> Result<Vec<DnsType>, Refusal> {
    let kinds = network.dns_types.iter().map(|text| DnsType::parse(text));
    let mut kinds: Vec<DnsType> = kinds.collect::<Result<_, _>>()?;
    kinds.sort_unstable();
    kinds.dedup();
    Ok(kinds)
}

/// The egress that a profile and flags give together, and what they publish. Where they let nothing pass, the session
/// still has a resolver, which denies each name.
///
/// # Errors
/// The first entry that cannot be meant, or that nothing can resolve.
pub(crate) fn egress(
    network: &profile::Network,
    (flags, publish): (&Change, &[Publish]),
    upstream: &Upstream,
) -> Result<Egress, Refusal> {
    let own = Change::of(network)?;
    let mut egress = Egress {
        resolvers: upstream.resolvers.clone(),
        search: upstream.search.clone(),
        dns_types: dns_types(network)?,
        allow_private_ranges: upstream.allow_private_ranges.clone(),
        proxy: upstream.proxy,
        wildcard_budget: WILDCARD_BUDGET,
        announce_proxy: network.proxy_env != Some(false),
        sealed: network.default == Some(profile::NetworkDefault::None),
        ..Egress::default()
    };
    egress.deny(&own.deny);
    egress.allow(&own.allow)?;
    egress.add(flags)?;
    for entry in &network.publish {
        egress.publish(Publish::of(entry)?);
    }
    publish.iter().for_each(|publish| egress.publish(*publish));
    // No program is told of a proxy that does not listen.
    egress.announce_proxy &= egress.has_proxy();
    Ok(egress)
}

impl fmt::Display for Change {
    /// On one line, cut at [`MAX_TEXT`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allow = self.allow.iter().map(|rule| format!("allow {rule}"));
        let deny = self.deny.iter().map(|pattern| format!("deny {pattern}"));
        const REST: &str = ", ...";
        let mut room = MAX_TEXT - REST.len();
        for (number, entry) in allow.chain(deny).enumerate() {
            let Some(left) = room.checked_sub(entry.len() + 2) else { return f.write_str(REST) };
            room = left;
            write!(f, "{}{entry}", if number > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
