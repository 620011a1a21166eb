//! What a rule lets through at most, and by which rule a connection counts.
//!
//! Several rules may allow the same. Then the closest one counts: an exact name before `*.`, a longer `*.` before a
//! shorter, a longer prefix before a shorter; of those that are equally close the one that was given last, a child's
//! after its parents', a flag's after the profile's, a change's after both.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::egress::{Egress, NetRule, Purpose};
use crate::hosts::{HostName, HostPattern, HostRule};
use crate::network::Rule;
use crate::protocol::Protocol;
use crate::size::format_size;

/// What a rule lets through at most; what is `None` has no bound of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Connections that are open at a time; flows of UDP alike.
    pub connections: Option<u32>,
    /// Bytes from the session, over all connections and its whole life.
    pub sent: Option<u64>,
}

impl Caps {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(most) = self.connections {
            write!(f, " max_connections={most}")?;
        }
        match self.sent {
            Some(most) => write!(f, " max_sent={}", format_size(most)),
            None => Ok(()),
        }
    }
}

/// A rule with what it lets through at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capped {
    /// Which.
    pub rule: Rule,
    /// How much.
    pub caps: Caps,
}

impl fmt::Display for Capped {
    /// As [`Rule::parse`] reads the rule; caps behind it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.rule, self.caps)
    }
}

impl Egress {
    /// The caps by which a connection to `to` for `purpose` counts: those of the closest rule, if it has any.
    pub fn capped(&self, purpose: &Purpose, to: SocketAddr, protocol: Protocol) -> Option<&Capped> {
        if self.caps.is_empty() {
            return None;
        }
        let closest = match purpose {
            Purpose::Name(name) => self.closest_host(name, to.port(), protocol).cloned().map(Rule::Host),
            Purpose::Net => self.closest_net(to, protocol).cloned().map(Rule::Net),
            Purpose::Local => Some(Rule::Local(to.port())),
            Purpose::Resolver | Purpose::Publish(_) => None,
        };
        closest.and_then(|rule| self.caps.iter().find(|capped| capped.rule == rule))
    }

    fn closest_host<'a>(&'a self, name: &'a HostName, port: u16, protocol: Protocol) -> Option<&'a HostRule> {
        let rules = self.hosts.allowing(name).filter(|rule| rule.covers(port, protocol));
        // The last of the greatest.
        rules.max_by_key(|rule| closeness(&rule.host))
    }

    fn closest_net(&self, to: SocketAddr, protocol: Protocol) -> Option<&NetRule> {
        self.nets_allowing(to, protocol).max_by_key(|rule| rule.net.length())
    }

    /// What `caps` says of a rule that was just given; without any, those that it had are lifted.
    pub(crate) fn set_caps(&mut self, Capped { rule, caps }: &Capped) {
        self.caps.retain(|capped| capped.rule != *rule);
        if !caps.is_none() {
            self.caps.push(Capped { rule: rule.clone(), caps: *caps });
        }
    }

    /// Checks that each belongs to a rule and says something.
    ///
    /// # Errors
    /// The first that does not.
    pub(crate) fn check_caps(&self) -> Result<(), Refusal> {
        let rules: Vec<Rule> = self.rules().collect();
        for (number, capped) in self.caps.iter().enumerate() {
            let twice = self.caps[..number].iter().any(|other| other.rule == capped.rule);
            if twice || !rules.contains(&capped.rule) {
                let hint = "give each rule its caps once, and no others";
                return Err(Refusal::new(format!("caps of {}", capped.rule), "network.cap", hint));
            }
            check(&capped.rule, capped.caps)?;
            if capped.caps.is_none() {
                let hint = "leave out the entry";
                return Err(Refusal::new(format!("no caps for {}", capped.rule), "network.cap", hint));
            }
        }
        Ok(())
    }
}

/// A cap of nothing is a deny that nobody sees.
pub(crate) fn check(rule: &Rule, caps: Caps) -> Result<(), Refusal> {
    for (key, none) in [("max_connections", caps.connections == Some(0)), ("max_sent", caps.sent == Some(0))]
    {
        if none {
            return Err(Refusal::new(
                format!("network.allow {rule} with {key} of 0"),
                "network.cap",
                "give at least 1, or leave out the entry",
            ));
        }
    }
    Ok(())
}

/// Among patterns that mean the same name, the greatest is the closest: each lies below the others.
fn closeness(pattern: &HostPattern) -> (bool, usize) {
    (!pattern.is_wildcard(), pattern.to_string().len())
}

#[cfg(test)]
#[path = "caps_tests.rs"]
mod tests;
