//! What the egress of any plan may hold.

use super::{Egress, MAX_ACCEPT_RULES, MAX_PORTS, MAX_SIZE, MAX_UDP_PORTS, WILDCARD_BUDGET};
use crate::allow::MAX_RULES;
use crate::dns_type::DnsType;
use crate::hosts::HostRule;
use crate::ports::{DNS_PORT, MAX_LOCAL, OWN_PORTS};
use crate::protocol::Protocol;
use crate::resolver::{MAX_RESOLVERS, MAX_SEARCH};
use crate::rule::Rule;
use crate::{Refusal, publish};

impl Egress {
    /// Checks what any plan may hold, by any service.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(rule) = self.rules().next().filter(|_| self.sealed) {
            return Err(Refusal::new(
                format!("allow {rule}, for a session without a network"),
                Rule::NetworkNone,
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
            ("domains to search", self.search.len(), MAX_SEARCH),
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
                    Rule::PlanEgress,
                    format!("ask for at most {most}"),
                ));
            }
        }
        let size = postcard::to_stdvec(self).map_or(usize::MAX, |bytes| bytes.len());
        if size > MAX_SIZE {
            return Err(Refusal::new(
                format!("rules for the network of {size} bytes"),
                Rule::PlanEgress,
                format!("stay below {MAX_SIZE} bytes in all"),
            ));
        }
        let every_port = |protocol, ports: &[u16]| protocol == Protocol::Udp && ports.is_empty();
        let unbounded = self.hosts.allow.iter().any(|r| every_port(r.protocol, &r.ports))
            || self.nets.iter().any(|r| every_port(r.protocol, &r.ports));
        if unbounded {
            return Err(Refusal::new(
                "a rule for every port of UDP",
                Rule::NetworkUdp,
                "name the ports: each has a socket of its own",
            ));
        }
        self.hosts.allow.iter().try_for_each(HostRule::check)?;
        let by_name = self.hosts.allow.iter().flat_map(|rule| &rule.ports);
        if by_name.chain(self.nets.iter().flat_map(|rule| &rule.ports)).any(|port| *port == DNS_PORT) {
            return Err(Refusal::new(
                format!("a rule for port {DNS_PORT}"),
                Rule::NetworkDns,
                "allow the names that are to be looked up: agentd itself answers whatever server is asked",
            ));
        }
        if let Some(port) = self.local.iter().find(|port| OWN_PORTS.contains(port)) {
            return Err(Refusal::new(
                format!("local port {port}"),
                Rule::NetworkLocal,
                "have the server listen on another port: in a session this one is agentd's own",
            ));
        }
        if self.local.contains(&0) {
            return Err(Refusal::new("local port 0", Rule::NetworkLocal, "name a port from 1 to 65535"));
        }
        publish::check(&self.publish, &self.local)?;
        if self.wildcard_budget > WILDCARD_BUDGET {
            return Err(Refusal::new(
                format!("a budget of {} names for a wildcard", self.wildcard_budget),
                Rule::PlanEgress,
                format!("ask for at most {WILDCARD_BUDGET}"),
            ));
        }
        self.check_caps()
    }
}
