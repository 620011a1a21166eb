//! The sockets of a session's egress, and what its nftables let through: made in its network namespace as long as
//! init has its capabilities.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use agentd_kernel::nft::{self, AcceptRule};
use agentd_kernel::transparent::{datagrams, listener};
use agentd_policy::egress::{Egress, MAX_UDP_PORTS};
use agentd_policy::ports::{MAX_LOCAL, PROXY_PORT};
use agentd_policy::protocol::Protocol;
use agentd_policy::step::Step;

use super::{Failure, InStep as _};

/// Where DNS is answered, whichever server is asked.
const DNS: u16 = 53;
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

// One packet carries the sockets of any plan, the table of blocklists, and a CA bundle.
const _: () = assert!(2 + 6 + 2 * (MAX_UDP_PORTS + MAX_LOCAL) <= agentd_kernel::packets::MAX_DESCRIPTORS);

/// What every session's network has, whatever is planned for it: made before that is known.
pub(super) struct Prepared {
    table: nft::Table,
    /// For TCP and for DNS.
    always: Vec<OwnedFd>,
    /// For the explicit proxy.
    proxy: Vec<OwnedFd>,
}

impl Prepared {
    /// Lets names be asked for and nothing else out.
    pub(super) fn new() -> Result<Self, Failure> {
        let table = nft::Table::install(&nft::Ruleset::open(&[])).step(Step::Nftables)?;
        let tcp = ANY.map(|any| listener((any, nft::LISTENER).into(), true));
        let dns = ANY.map(|any| datagrams((any, DNS).into()));
        let proxy = LOOPBACK.map(|own| listener((own, PROXY_PORT).into(), false));
        let always = tcp.into_iter().chain(dns).collect::<io::Result<_>>().step(Step::Sockets)?;
        Ok(Self { table, always, proxy: proxy.into_iter().collect::<io::Result<_>>().step(Step::Sockets)? })
    }

    /// The table's socket.
    pub(super) fn table(&self) -> BorrowedFd<'_> {
        self.table.as_fd()
    }

    /// What is planned: the sockets, in the order of [`ToRelay::Network`](agentd_policy::wire::ToRelay::Network). Where
    /// nothing is let out, names are still asked for.
    pub(super) fn open(self, egress: &Egress) -> Result<Vec<OwnedFd>, Failure> {
        let accept_rules = accept_rules(egress);
        if !accept_rules.is_empty() {
            self.table.plan(&nft::Ruleset::open(&accept_rules)).step(Step::Nftables)?;
        }
        let mut sockets = self.always;
        // Where nothing ever is let out its port is the session's own.
        sockets.extend(self.proxy.into_iter().filter(|_| egress.has_proxy()));
        add_planned(egress, &mut sockets).step(Step::Sockets)?;
        Ok(sockets)
    }

    /// Nothing is planned: nobody answers, and nothing passes.
    pub(super) fn close(self) -> Result<(), Failure> {
        self.table.plan(&nft::Ruleset::shut()).step(Step::Nftables)
    }
}

fn add_planned(egress: &Egress, sockets: &mut Vec<OwnedFd>) -> io::Result<()> {
    for port in egress.udp_ports() {
        for any in ANY {
            sockets.push(datagrams((any, port).into())?);
        }
    }
    for port in &egress.local {
        for own in LOOPBACK {
            sockets.push(listener((own, *port).into(), false)?);
        }
    }
    Ok(())
}

/// What may be reached without a name, as the kernel's rules.
pub fn accept_rules(egress: &Egress) -> Vec<AcceptRule> {
    let mut accept_rules = Vec::new();
    for rule in &egress.nets {
        let (address, length, tcp) = (rule.net.address(), rule.net.length(), rule.protocol == Protocol::Tcp);
        let ports = rule.ports.iter().copied().map(Some);
        let every = rule.ports.is_empty().then_some(None);
        accept_rules.extend(ports.chain(every).map(|port| AcceptRule { address, length, tcp, port }));
    }
    accept_rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::addresses::Net;
    use agentd_policy::allow::NetRule;

    #[test]
    fn a_rule_is_one_passage_for_each_port() {
        let rule = |net: &str, ports: &[u16]| NetRule {
            net: Net::parse(net).unwrap(),
            ports: ports.to_vec(),
            protocol: Protocol::Tcp,
        };
        let nets = vec![rule("10.0.0.0/8", &[80, 443]), rule("2001:db8::/32", &[])];
        let accept_rules = accept_rules(&Egress { nets, ..Egress::default() });
        let ports: Vec<_> = accept_rules.iter().map(|passage| (passage.length, passage.port)).collect();
        assert_eq!(ports, [(8, Some(80)), (8, Some(443)), (32, None)]);
    }
}
