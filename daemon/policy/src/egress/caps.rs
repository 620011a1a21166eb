//! By which rule a connection counts, and that each cap belongs to a rule.

use std::net::SocketAddr;

use super::{Egress, Purpose};
use crate::Refusal;
use crate::allow::{AllowRule, NetRule};
use crate::caps::{self, Capped};
use crate::hosts::{HostName, HostPattern, HostRule};
use crate::protocol::Protocol;
use crate::rule::Rule;

impl Egress {
    /// The caps by which a connection to `to` for `purpose` counts: those of the closest rule, if it has any.
    pub fn capped(&self, purpose: &Purpose, to: SocketAddr, protocol: Protocol) -> Option<&Capped> {
        if self.caps.is_empty() {
            return None;
        }
        let closest = match purpose {
            Purpose::Name(name) => self.closest_host(name, to.port(), protocol).cloned().map(AllowRule::Host),
            Purpose::Net => self.closest_net(to, protocol).cloned().map(AllowRule::Net),
            Purpose::Local => Some(AllowRule::Local(to.port())),
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
    pub(super) fn check_caps(&self) -> Result<(), Refusal> {
        let rules: Vec<AllowRule> = self.rules().collect();
        for (number, capped) in self.caps.iter().enumerate() {
            let twice = self.caps[..number].iter().any(|other| other.rule == capped.rule);
            if twice || !rules.contains(&capped.rule) {
                let hint = "give each rule its caps once, and no others";
                return Err(Refusal::new(format!("caps of {}", capped.rule), Rule::NetworkCap, hint));
            }
            caps::check(&capped.rule, capped.caps)?;
            if capped.caps.is_none() {
                let hint = "leave out the entry";
                return Err(Refusal::new(format!("no caps for {}", capped.rule), Rule::NetworkCap, hint));
            }
        }
        Ok(())
    }
}

/// Among patterns that mean the same name, the greatest is the closest: each lies below the others.
fn closeness(pattern: &HostPattern) -> (bool, usize) {
    (!pattern.is_wildcard(), pattern.to_string().len())
}

#[cfg(test)]
#[path = "../caps_tests.rs"]
mod tests;
