//! What profiles and flags say of the network, parsed into rules, and what becomes of them together: an [`Egress`].
//!
//! One entry has one form, in which it is given (`--allow`) and shown: `HOST`, `HOST:443`, `*.HOST:80,443`, `HOST:*`,
//! `192.0.2.0/24:8080`, `[2001:db8::/32]:443`, `HOST:123/udp`, `local:5432`.

mod rule;

use std::fmt;
use std::net::SocketAddr;

use crate::Refusal;
use crate::addresses::Net;
use crate::egress::{Egress, WILDCARD_BUDGET};
use crate::hosts::{HostPattern, HostRule};
use crate::profile;
use rule::denied;
pub use rule::{Rule, WEB};

/// The most entries of one change.
pub const MAX_CHANGE: usize = 64;
/// The longest text of a change, as its event has it: printable ASCII.
pub const MAX_TEXT: usize = 2048;

/// What is to be allowed and denied, besides what is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What passes.
    pub allow: Vec<Rule>,
    /// Names that nothing can allow.
    pub deny: Vec<HostPattern>,
}

/// What the site gives to every way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Whom names are asked of.
    pub resolvers: Vec<SocketAddr>,
    /// Special-purpose ranges that count as public ones.
    pub global_also: Vec<Net>,
}

impl Change {
    /// Reads entries as flags have them.
    ///
    /// # Errors
    /// The first that cannot be meant.
    pub fn parse(allow: &[String], deny: &[String]) -> Result<Self, Refusal> {
        Ok(Self {
            allow: allow.iter().map(|text| Rule::parse(text)).collect::<Result<_, _>>()?,
            deny: deny.iter().map(|text| denied("deny", text)).collect::<Result<_, _>>()?,
        })
    }

    /// Reads a profile's.
    ///
    /// # Errors
    /// The first that cannot be meant.
    pub fn of(network: &profile::Network) -> Result<Self, Refusal> {
        Ok(Self {
            allow: network.allow.iter().map(Rule::of).collect::<Result<_, _>>()?,
            deny: network.deny.iter().map(|text| denied("network.deny", text)).collect::<Result<_, _>>()?,
        })
    }

    /// What a running session's way out becomes with it.
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
        for rule in &change.allow {
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

    fn deny(&mut self, patterns: &[HostPattern]) {
        for pattern in patterns {
            if !self.hosts.deny.contains(pattern) {
                self.hosts.deny.push(pattern.clone());
            }
        }
    }

    fn allow(&mut self, rules: &[Rule]) -> Result<(), Refusal> {
        for rule in rules {
            match rule {
                Rule::Host(host) if self.resolvers.is_empty() => {
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

    /// All that passes, in the form that [`Rule::parse`] reads.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        let hosts = self.hosts.allow.iter().cloned().map(Rule::Host);
        let nets = self.nets.iter().cloned().map(Rule::Net);
        hosts.chain(nets).chain(self.local.iter().copied().map(Rule::Local))
    }
}

/// The way out that a profile and flags give together; none if they let nothing pass.
///
/// # Errors
/// The first entry that cannot be meant, or that nothing can resolve.
pub(crate) fn egress(
    network: &profile::Network,
    flags: &Change,
    upstream: &Upstream,
) -> Result<Option<Egress>, Refusal> {
    let own = Change::of(network)?;
    let mut egress = Egress {
        resolvers: upstream.resolvers.clone(),
        global_also: upstream.global_also.clone(),
        wildcard_budget: WILDCARD_BUDGET,
        announce_proxy: network.proxy_env == Some(true),
        ..Egress::default()
    };
    egress.deny(&own.deny);
    egress.allow(&own.allow)?;
    egress.add(flags)?;
    Ok((!egress.is_closed()).then_some(egress))
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
