//! What the table shall hold, as data. It prints as `nft(8)` lists it.

use std::fmt::{self, Display, Formatter};
use std::net::{Ipv4Addr, Ipv6Addr};

use nftnl::{Hook, Policy};

use super::sets::Set;
use crate::loopback::{ADDRESS4, ADDRESS6};

/// The table's name; its family is inet.
pub const TABLE: &str = "agentd";
/// The counter of what is refused.
pub const DENIED: &str = "denied";
/// The chain of what passes besides what always does: empty, as long as there is no egress.
pub const PLANNED: &str = "planned";
/// The NFLOG group that refused packets go to.
pub const LOG_GROUP: u16 = 7;

/// The sets and chains of the table, and its counter [`DENIED`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// In the order in which they are made. Their elements are no part of it.
    pub sets: Vec<Set>,
    /// In the order in which they are made.
    pub chains: Vec<ChainSpec>,
}

/// A chain of the table, with its rules in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSpec {
    /// The chain's name in the table.
    pub name: &'static str,
    /// Where packets pass it; one that is only jumped to has no such place.
    pub base: Option<Base>,
    /// From first to last.
    pub rules: Vec<RuleSpec>,
}

/// What makes a chain one of type filter that packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where packets pass it.
    pub hook: Hook,
    /// When, among the chains of the hook.
    pub priority: i32,
    /// What befalls a packet that no rule decides.
    pub policy: Policy,
}

/// If all matches hold, all statements are carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// From first to last.
    pub matches: Vec<Match>,
    /// From first to last.
    pub statements: Vec<Statement>,
}

/// What a packet must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// IPv4, to an address of this network.
    Daddr4(Ipv4Addr, u8),
    /// IPv6, to an address of this network.
    Daddr6(Ipv6Addr, u8),
    /// TCP, `IPPROTO_TCP` (6).
    Tcp,
    /// UDP, `IPPROTO_UDP` (17).
    Udp,
    /// TCP or UDP, to this port.
    Dport(u16),
    /// To what this set holds.
    In(Set),
    /// TCP, and nothing that could begin a connection: a SYN with an ACK, or no SYN.
    NotBareSyn,
}

/// What is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The packet passes.
    Accept,
    /// It passes this chain without what follows.
    Return,
    /// What another chain says of it comes first.
    Jump(&'static str),
    /// It is given to the transparent socket that listens on this port.
    Transparent(u16),
    /// Its first bytes go to the reader of an NFLOG group.
    Log {
        /// What they are marked with.
        prefix: &'static str,
        /// The group of NFLOG that it is logged to.
        group: u16,
        /// How many bytes.
        snaplen: u32,
    },
    /// It is counted under a name.
    Count(&'static str),
    /// It is dropped without a log.
    Drop,
    /// It is refused as prohibited by the administrator, in its own family's ICMP.
    Prohibit,
}

impl Ruleset {
    /// Nothing but loopback and the session's own address. Accepting the latter lets resets through:
    /// without it a refused connect hangs. TCP that is not a bare SYN belongs to a connection whose start
    /// passed. The reset of one that does not pass comes from the reader of the log, once it has seen whose the
    /// connection is ([`Resets`](crate::resets::Resets)).
    pub fn closed() -> Self {
        let accept = |what| RuleSpec { matches: vec![what], statements: vec![Statement::Accept] };
        let report = vec![
            Statement::Log { prefix: "deny", group: LOG_GROUP, snaplen: crate::nflog::SNAPLEN },
            Statement::Count(DENIED),
        ];
        let rules = vec![
            accept(Match::Daddr4(Ipv4Addr::new(127, 0, 0, 0), 8)),
            accept(Match::Daddr6(Ipv6Addr::LOCALHOST, 128)),
            accept(Match::Daddr4(ADDRESS4, 32)),
            accept(Match::Daddr6(ADDRESS6, 128)),
            accept(Match::NotBareSyn),
            RuleSpec { matches: vec![], statements: vec![Statement::Jump(PLANNED)] },
            RuleSpec { matches: vec![], statements: report },
            RuleSpec { matches: vec![Match::Tcp], statements: vec![Statement::Drop] },
            RuleSpec { matches: vec![], statements: vec![Statement::Prohibit] },
        ];
        let base = Some(Base { hook: Hook::Out, priority: 0, policy: Policy::Drop });
        let planned = ChainSpec { name: PLANNED, base: None, rules: vec![] };
        Self { sets: vec![], chains: vec![ChainSpec { name: "out", base, rules }, planned] }
    }
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        writeln!(f, "\tcounter {DENIED} {{\n\t}}")?;
        for set in &self.sets {
            write!(f, "\n{set}")?;
        }
        for chain in &self.chains {
            write!(f, "\n{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for ChainSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(base) = self.base {
            writeln!(f, "\t\t{base}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let hook = match self.hook {
            Hook::PreRouting => "prerouting",
            Hook::In => "input",
            Hook::Forward => "forward",
            Hook::Out => "output",
            Hook::PostRouting => "postrouting",
            Hook::Ingress => "ingress",
        };
        let policy = match self.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        write!(f, "type filter hook {hook} priority {}; policy {policy};", self.priority)
    }
}

impl Display for RuleSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let matches = self.matches.iter().map(Match::to_string);
        let words: Vec<_> = matches.chain(self.statements.iter().map(Statement::to_string)).collect();
        f.write_str(&words.join(" "))
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daddr4(address, 32) => write!(f, "ip daddr {address}"),
            Self::Daddr4(address, prefix) => write!(f, "ip daddr {address}/{prefix}"),
            Self::Daddr6(address, 128) => write!(f, "ip6 daddr {address}"),
            Self::Daddr6(address, prefix) => write!(f, "ip6 daddr {address}/{prefix}"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::Udp => f.write_str("meta l4proto udp"),
            Self::Dport(port) => write!(f, "th dport {port}"),
            Self::In(set) => write!(f, "{} @{}", set.expression(), set.name()),
            Self::NotBareSyn => f.write_str("tcp flags & (syn | ack) != syn"),
        }
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Transparent(port) => write!(f, "tproxy to :{port}"),
            Self::Log { prefix, group, snaplen } => {
                write!(f, "log prefix \"{prefix}\" group {group} snaplen {snaplen}")
            }
            Self::Count(name) => write!(f, "counter name \"{name}\""),
            Self::Drop => f.write_str("drop"),
            Self::Prohibit => f.write_str("reject with icmpx admin-prohibited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closed_ruleset_reads_as_it_is_meant() {
        let golden = r#"table inet agentd {
	counter denied {
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
	}
}
"#;
        assert_eq!(Ruleset::closed().to_string(), golden);
    }
}
