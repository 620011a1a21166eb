//! The table of a session that egress: what is pinned or planned passes, TCP of it by way of a transparent
//! listener. Nothing of it leaves the session: the holder of the listener dials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nftnl::{Hook, Policy};

use super::rules::{Base, ChainSpec, Match, PLANNED, RuleSpec, Ruleset, Statement};
use super::sets::Set;
use crate::loopback::{ADDRESS4, ADDRESS6};

/// The port of the transparent listeners: one that only a capability binds, which the agent has not.
pub const LISTENER: u16 = 1;
/// DNS, to whichever server.
const DNS: u16 = 53;
/// The priority of `mangle`: before packets are delivered.
const MANGLE: i32 = -150;

/// Addresses that may be reached without having been pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptRule {
    /// The first address.
    pub address: IpAddr,
    /// How many bits they have in common.
    pub length: u8,
    /// TCP, or UDP.
    pub tcp: bool,
    /// Which port; `None`: every.
    pub port: Option<u16>,
}

impl AcceptRule {
    fn rule(&self) -> RuleSpec {
        let to = match self.address {
            IpAddr::V4(address) => Match::Daddr4(address, self.length),
            IpAddr::V6(address) => Match::Daddr6(address, self.length),
        };
        let mut matches = vec![to, if self.tcp { Match::Tcp } else { Match::Udp }];
        matches.extend(self.port.map(Match::Dport));
        RuleSpec { matches, statements: vec![Statement::Accept] }
    }
}

impl Ruleset {
    /// As [`Ruleset::closed`], and besides DNS, what the sets hold, and `accept_rules`.
    pub fn open(accept_rules: &[AcceptRule]) -> Self {
        let mut ruleset = Self::closed();
        ruleset.sets = Set::ALL.to_vec();
        for chain in ruleset.chains.iter_mut().filter(|chain| chain.name == PLANNED) {
            chain.rules = planned(accept_rules);
        }
        let base = Some(Base { hook: Hook::PreRouting, priority: MANGLE, policy: Policy::Accept });
        ruleset.chains.push(ChainSpec { name: "pre", base, rules: given() });
        ruleset
    }

    /// As [`Ruleset::open`], but what is planned is nothing.
    pub fn shut() -> Self {
        let mut ruleset = Self::open(&[]);
        for chain in ruleset.chains.iter_mut().filter(|chain| chain.name == PLANNED) {
            chain.rules = vec![];
        }
        ruleset
    }
}

fn planned(accept_rules: &[AcceptRule]) -> Vec<RuleSpec> {
    let accept = |matches| RuleSpec { matches, statements: vec![Statement::Accept] };
    let dns = [Match::Udp, Match::Tcp].map(|protocol| accept(vec![protocol, Match::Dport(DNS)]));
    let sets = Set::ALL.map(|set| accept(vec![Match::In(set)]));
    dns.into_iter().chain(sets).chain(accept_rules.iter().map(AcceptRule::rule)).collect()
}

/// What has come as far as this chain has passed `out`, or is an answer. A socket that is connected gets what is its;
/// a bare SYN is for the listener. DNS goes to it even from the session's own addresses, which are nobody else's.
fn given() -> Vec<RuleSpec> {
    let give = vec![Statement::Transparent(LISTENER), Statement::Accept];
    let own = |what| RuleSpec { matches: vec![what], statements: vec![Statement::Return] };
    vec![
        RuleSpec { matches: vec![Match::Tcp, Match::Dport(DNS)], statements: give.clone() },
        own(Match::Daddr4(Ipv4Addr::new(127, 0, 0, 0), 8)),
        own(Match::Daddr6(Ipv6Addr::LOCALHOST, 128)),
        own(Match::Daddr4(ADDRESS4, 32)),
        own(Match::Daddr6(ADDRESS6, 128)),
        RuleSpec { matches: vec![Match::Tcp], statements: give },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_ruleset_reads_as_it_is_meant() {
        let net = |address: &str, length, tcp, port| AcceptRule {
            address: address.parse().unwrap(),
            length,
            tcp,
            port,
        };
        let accept_rules = [
            net("10.0.0.0", 8, true, Some(443)),
            net("192.0.2.7", 32, false, Some(123)),
            net("2001:db8::", 32, true, None),
        ];
        let golden = r#"table inet agentd {
	counter denied {
	}

	set pin4 {
		type ipv4_addr . inet_proto . inet_service
		size 16384
		flags timeout
	}

	set pin6 {
		type ipv6_addr . inet_proto . inet_service
		size 16384
		flags timeout
	}

	set host4 {
		type ipv4_addr . inet_proto
		size 16384
		flags timeout
	}

	set host6 {
		type ipv6_addr . inet_proto
		size 16384
		flags timeout
	}

	chain out {
		type filter hook output priority 0; policy drop;
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1 accept
		ip daddr 10.200.0.2 accept
		ip6 daddr fd00:a9e::2 accept
		tcp flags & (syn | ack) != syn accept
		jump planned
		log prefix "deny" group 7 snaplen 128 counter name "denied"
		meta l4proto tcp drop
		reject with icmpx admin-prohibited
	}

	chain planned {
		meta l4proto udp th dport 53 accept
		meta l4proto tcp th dport 53 accept
		ip daddr . meta l4proto . th dport @pin4 accept
		ip6 daddr . meta l4proto . th dport @pin6 accept
		ip daddr . meta l4proto @host4 accept
		ip6 daddr . meta l4proto @host6 accept
		ip daddr 10.0.0.0/8 meta l4proto tcp th dport 443 accept
		ip daddr 192.0.2.7 meta l4proto udp th dport 123 accept
		ip6 daddr 2001:db8::/32 meta l4proto tcp accept
	}

	chain pre {
		type filter hook prerouting priority -150; policy accept;
		meta l4proto tcp th dport 53 tproxy to :1 accept
		ip daddr 127.0.0.0/8 return
		ip6 daddr ::1 return
		ip daddr 10.200.0.2 return
		ip6 daddr fd00:a9e::2 return
		meta l4proto tcp tproxy to :1 accept
	}
}
"#;
        assert_eq!(Ruleset::open(&accept_rules).to_string(), golden);
    }
}
