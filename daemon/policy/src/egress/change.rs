//! How an egress grows, and what that of a running session may become.

use super::Egress;
use crate::allow::AllowRule;
use crate::caps::Capped;
use crate::hosts::HostPattern;
use crate::publish::Publish;
use crate::rule::Rule;
use crate::{Refusal, addresses};

impl Egress {
    /// Adds names that nothing can allow.
    pub(crate) fn deny<'a>(&mut self, patterns: impl IntoIterator<Item = &'a HostPattern>) {
        for pattern in patterns {
            if !self.hosts.deny.contains(pattern) {
                self.hosts.deny.push(pattern.clone());
            }
        }
    }

    /// Adds rules; of a rule that it has already, the caps are replaced.
    pub(crate) fn allow(&mut self, rules: &[Capped]) -> Result<(), Refusal> {
        for capped in rules {
            if !(self.caps.is_empty() && capped.caps.is_none()) {
                self.forget(&capped.rule);
            }
            self.set_caps(capped);
            match &capped.rule {
                AllowRule::Host(host) if self.resolvers.is_empty() && self.proxy.is_none() => {
                    return Err(Refusal::new(
                        format!("allow {}, without anybody to resolve names", host.host),
                        Rule::EgressResolver,
                        "have the administrator name resolvers in agentd.toml, or in /etc/resolv.conf, and reload",
                    ));
                }
                AllowRule::Host(host) if !self.hosts.allow.contains(host) => {
                    self.hosts.allow.push(host.clone())
                }
                AllowRule::Net(net) if !self.nets.contains(net) => self.nets.push(net.clone()),
                AllowRule::Local(port) if !self.local.contains(port) => self.local.push(*port),
                AllowRule::Host(_) | AllowRule::Net(_) | AllowRule::Local(_) => {}
            }
        }
        Ok(())
    }

    /// The last of those that are equally close counts: a rule that is given again is given last.
    fn forget(&mut self, rule: &AllowRule) {
        match rule {
            AllowRule::Host(host) => self.hosts.allow.retain(|known| known != host),
            AllowRule::Net(net) => self.nets.retain(|known| known != net),
            AllowRule::Local(_) => {}
        }
    }

    pub(crate) fn publish(&mut self, publish: Publish) {
        if !self.publish.contains(&publish) {
            self.publish.push(publish);
        }
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
                return Err(Refusal::new(format!("{what} for a session that runs"), Rule::NetworkLive, hint));
            }
        }
        let new = next.nets.iter().filter(|rule| !self.nets.contains(rule));
        if let Some((net, kind)) = new
            .filter_map(|rule| Some((rule.net, addresses::named(&rule.net, &self.allow_private_ranges)?)))
            .next()
        {
            return Err(Refusal::new(
                format!("{net} for a session that runs: it names {kind} addresses"),
                Rule::NetworkLive,
                "what is near the host is for the start alone: start another session with it",
            ));
        }
        let local = next.local.iter().find(|port| !self.local.contains(port));
        let udp = next.udp_ports().into_iter().find(|port| !ports.contains(port));
        let late = local.map(|port| format!("local:{port}")).or(udp.map(|port| format!("UDP port {port}")));
        match late {
            Some(what) => Err(Refusal::new(
                format!("{what} for a session that runs"),
                Rule::NetworkLive,
                "it needs a socket that is made at the start: start another session with it",
            )),
            None => Ok(()),
        }
    }
}
