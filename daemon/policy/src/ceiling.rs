//! The ceiling of the site on what sessions may reach: what no profile, flag or live change goes beyond. It is judged
//! where a session is decided, by the launcher with each plan, and by the keeper with each change, pin and dial.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::addresses::{self, Net, NetError};
use crate::allow::{AllowRule, WEB};
use crate::denial::Denial;
use crate::egress::Egress;
use crate::hosts::{HostError, HostName, HostPattern, HostRule};
use crate::rule::Rule;

/// The most entries of one list.
pub const MAX_ENTRIES: usize = 256;
/// The longest text of all lists of a configuration together, in bytes: a ceiling travels with a plan.
pub const MAX_LISTS: usize = 8 << 10;

/// One entry of `hosts` and `hosts_denied`: names or addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Hosts {
    /// `*`: every name and every address.
    All,
    /// A name, or `*.` and a name.
    Name(HostPattern),
    /// `192.0.2.0/24`, or one address.
    Net(Net),
}

/// Why a text is no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostsError {
    /// It is no network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It is no name either.
    #[error("{0:?}: {1}; write *, NAME, *.NAME or ADDRESS/LENGTH, without a port")]
    Name(String, HostError),
}

impl Hosts {
    /// Reads `*`, `example.org`, `*.example.org`, `192.0.2.0/24` or an address.
    ///
    /// # Errors
    /// Why it is none of these, in one line.
    pub fn parse(text: &str) -> Result<Self, HostsError> {
        if text == "*" {
            return Ok(Self::All);
        }
        if text.contains('/') || text.parse::<IpAddr>().is_ok() {
            return Ok(Self::Net(Net::parse(text)?));
        }
        HostPattern::parse(text).map(Self::Name).map_err(|error| HostsError::Name(text.to_owned(), error))
    }

    /// Whether it has all that `other` has.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Name(own), Self::Name(other)) => own.covers(other),
            (Self::Net(own), Self::Net(other)) => other.is_within(own),
            _ => false,
        }
    }
}

impl TryFrom<String> for Hosts {
    type Error = HostsError;
    fn try_from(text: String) -> Result<Self, HostsError> {
        Self::parse(&text)
    }
}

impl From<Hosts> for String {
    fn from(hosts: Hosts) -> String {
        hosts.to_string()
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Name(pattern) => pattern.fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

/// What a session may reach at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    /// What rules may name.
    pub hosts: Vec<Hosts>,
    /// What they may not, and what no allowed name leads to.
    pub denied: Vec<Hosts>,
    /// Whether ports of the host's loopback may be reached.
    pub local: bool,
    /// Whether ports of the session may appear on it.
    pub publish: bool,
    /// Whether opaque rules may be for the ports of the web.
    pub opaque: bool,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self { hosts: vec![Hosts::All], denied: Vec::new(), local: true, publish: true, opaque: false }
    }
}

impl Ceiling {
    /// The names that every session denies.
    pub fn denied_names(&self) -> impl Iterator<Item = &HostPattern> {
        self.denied.iter().filter_map(|entry| match entry {
            Hosts::Name(pattern) => Some(pattern),
            Hosts::All | Hosts::Net(_) => None,
        })
    }

    /// Whether all of `egress` is within it, by any service.
    ///
    /// # Errors
    /// The first rule that is not.
    pub fn check(&self, egress: &Egress) -> Result<(), Refusal> {
        for rule in egress.rules() {
            self.check_rule(&rule)?;
        }
        if let Some(publish) = egress.publish.first().filter(|_| !self.publish) {
            return Err(Refusal::new(
                format!("publish {publish}"),
                Rule::BoundsPublish,
                "the administrator forbids it: nothing of a session appears on this host's loopback",
            ));
        }
        // What a wildcard or a network lets through besides is the deny list's to refuse.
        let missing = self.denied_names().find(|pattern| !egress.hosts.deny.contains(pattern));
        match missing.filter(|_| !egress.is_closed()) {
            Some(pattern) => Err(Refusal::new(
                format!("a session that does not deny {pattern}"),
                Rule::BoundsHostsDenied,
                "ask again: the configuration may just have been read anew",
            )),
            None => Ok(()),
        }
    }

    /// Whether a rule is within it.
    ///
    /// # Errors
    /// Why not.
    pub fn check_rule(&self, rule: &AllowRule) -> Result<(), Refusal> {
        let named = match rule {
            AllowRule::Host(HostRule { opaque: true, ports, .. })
                if !self.opaque && ports.iter().any(|port| WEB.contains(port)) =>
            {
                return Err(Refusal::new(
                    format!("allow {rule}"),
                    Rule::BoundsOpaque,
                    "the administrator forbids it: names on ports 80 and 443 are looked at; leave out `opaque`",
                ));
            }
            AllowRule::Host(host) => Hosts::Name(host.host.clone()),
            AllowRule::Net(net) => Hosts::Net(net.net),
            AllowRule::Local(_) if self.local => return Ok(()),
            AllowRule::Local(_) => {
                return Err(Refusal::new(
                    format!("allow {rule}"),
                    Rule::BoundsLocal,
                    "the administrator forbids it: sessions reach no port of this host's loopback",
                ));
            }
        };
        if let Some(entry) = self.denied.iter().find(|entry| entry.covers(&named)) {
            return Err(Refusal::new(
                format!("allow {rule}, while no session may reach {entry}"),
                Rule::BoundsHostsDenied,
                "the administrator denies it in agentd.toml: leave it out",
            ));
        }
        if self.hosts.iter().any(|entry| entry.covers(&named)) {
            return Ok(());
        }
        Err(Refusal::new(
            format!("allow {rule}"),
            Rule::BoundsHosts,
            format!("the administrator allows {}: name one of these, or part of it", list(&self.hosts)),
        ))
    }

    /// Whether an address may be reached, by whatever name or rule: also one that another form of it carries.
    ///
    /// # Errors
    /// The entry that denies it.
    pub fn address(&self, address: IpAddr) -> Result<(), Denial> {
        let denies = |entry: &&Hosts| match entry {
            Hosts::All => true,
            Hosts::Name(_) => false,
            Hosts::Net(net) => addresses::forms(address).any(|form| net.contains(form)),
        };
        match self.denied.iter().find(denies) {
            Some(entry) => Err(Denial::about(Rule::BoundsHostsDenied, entry)),
            None => Ok(()),
        }
    }

    /// Whether a name may be reached, if the session's rules allow it.
    ///
    /// # Errors
    /// The entry that denies it.
    pub fn name(&self, name: &HostName) -> Result<(), Denial> {
        let denies = |entry: &&Hosts| match entry {
            Hosts::All => true,
            Hosts::Name(pattern) => pattern.matches(name),
            Hosts::Net(_) => false,
        };
        match self.denied.iter().find(denies) {
            Some(entry) => Err(Denial::about(Rule::BoundsHostsDenied, entry)),
            None => Ok(()),
        }
    }
}

/// The first of them, on one line.
fn list(entries: &[Hosts]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<_> = entries.iter().take(SHOWN).map(ToString::to_string).collect();
    match (shown.is_empty(), entries.len() > SHOWN) {
        (true, _) => "nothing".into(),
        (false, true) => format!("{} and more", shown.join(", ")),
        (false, false) => shown.join(", "),
    }
}

/// What is in every list: of two entries the narrower one.
pub(crate) fn intersection(lists: &[&[Hosts]]) -> Vec<Hosts> {
    let mut all: Vec<Hosts> = Vec::new();
    for entry in lists.iter().flat_map(|list| list.iter()) {
        let everywhere = lists.iter().all(|list| list.iter().any(|other| other.covers(entry)));
        if everywhere && !all.contains(entry) {
            all.push(entry.clone());
        }
    }
    all
}

#[cfg(test)]
#[path = "ceiling_tests.rs"]
mod tests;
