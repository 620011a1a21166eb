//! Packets that the session's nftables refused, as the kernel logs them. Connections of TCP are refused here: their
//! first packet was dropped, so that the process that asks for them can still be seen, and so that a pin that ran out
//! can be renewed.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use agentd_kernel::nflog::{Denied, Nflog};
use agentd_kernel::nft::Table;
use agentd_kernel::resets::{Resets, Syn};
use agentd_kernel::sock_diag::{Ends, SockDiag};
use agentd_policy::event::{Actor, EventBody};
use agentd_policy::rule::Rule;

use super::Keeper;
use super::owners::Owners;
use super::spool::Spool;
use crate::error::{HostError, On as _};
use crate::init::Network;

/// Denials to the same place within this time are one event with a count.
pub const WINDOW: Duration = Duration::from_millis(100);
/// What is read at once, in bytes.
const BUFFER: usize = 64 << 10;

/// What is said of a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    protocol: String,
    address: std::net::IpAddr,
    port: Option<u16>,
    name: Option<String>,
    rule: Rule,
    actor: Option<Actor>,
}

/// The log, and the denials that are being counted together.
pub struct Denials {
    log: Nflog,
    table: Table,
    resets: Resets,
    /// Whose a socket is.
    pub owners: Owners,
    buffer: Vec<u8>,
    current: Option<(Said, u64, Instant)>,
}

impl Denials {
    /// Of a session's network; `proc` is the host's /proc.
    pub fn new(network: Network, proc: BorrowedFd<'_>) -> Self {
        let Network { nft, log, sockets, resets: [four, six] } = network;
        Self {
            log: Nflog::from_fd(log),
            table: Table::from_fd(nft),
            resets: Resets::from_fds(four, six),
            owners: Owners::new(SockDiag::from_fd(sockets), proc),
            buffer: vec![0; BUFFER],
            current: None,
        }
    }

    /// The session's table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Everything that it holds.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 5] {
        let [four, six] = self.resets.descriptors();
        [self.log.as_fd(), self.table.as_fd(), self.owners.as_fd(), four, six]
    }

    /// Refuses a connection.
    fn reset(&self, syn: &Syn) {
        if let Err(error) = self.resets.refuse(syn) {
            tracing::debug!(%error, "a connection that is denied is not refused");
        }
    }

    fn count(&mut self, said: Said, spool: &mut Spool) {
        match &mut self.current {
            Some((same, count, _)) if *same == said => *count += 1,
            _ => {
                self.flush(spool);
                self.current = Some((said, 1, Instant::now()));
            }
        }
    }

    /// Tells of what is being counted.
    pub fn flush(&mut self, spool: &mut Spool) {
        if let Some((said, count, _)) = self.current.take() {
            let Said { protocol, address, port, name, rule, actor } = said;
            let rule = rule.into();
            spool.push(EventBody::NetDenied { protocol, address, port, name, rule, actor, count });
        }
    }

    /// The same, once its window is over.
    pub fn flush_older(&mut self, now: Instant, spool: &mut Spool) {
        if self.next_flush().is_some_and(|due| due <= now) {
            self.flush(spool);
        }
    }

    /// When the window is over.
    pub fn next_flush(&self) -> Option<Instant> {
        self.current.as_ref().map(|(_, _, since)| *since + WINDOW)
    }
}

impl Keeper {
    /// Takes what the kernel has logged.
    pub(super) fn packets_denied(&mut self) -> Result<(), HostError> {
        let Denials { log, buffer, .. } = &mut self.denials;
        let denied = log.read(buffer).on("nflog")?;
        self.spool.lost(log.lost());
        denied.into_iter().for_each(|packet| self.denied(packet));
        Ok(())
    }

    fn denied(&mut self, packet: Denied) {
        let ends = packet.from.zip(packet.to());
        let syn = ends.zip(packet.sequence).map(|((from, to), sequence)| Syn { from, to, sequence });
        let now = Instant::now();
        // Asked for again while it waits.
        if let (Some(egress_state), Some(syn)) = (&self.egress_state, &syn)
            && egress_state.renewals.has(syn)
        {
            return;
        }
        let tcp = packet.protocol == "tcp";
        let actor = ends.and_then(|(own, far)| {
            self.denials.owners.of(&Ends { tcp, own, far }, &self.audit.processes, &self.watch)
        });
        if let Some(syn) = syn {
            if self.renew(syn, actor.clone(), now) {
                return;
            }
            self.denials.reset(&syn);
        }
        let (rule, name) = match syn.and_then(|syn| self.expired_name(&syn)) {
            Some(name) => (Rule::PinExpired, Some(name.to_string())),
            None => {
                (Rule::Default, self.egress_state.as_ref().and_then(|out| out.pins.name_of(packet.address)))
            }
        };
        let Denied { protocol, address, port, .. } = packet;
        let said = Said { protocol, address, port, name, rule, actor };
        self.denials.count(said, &mut self.spool);
    }

    /// Refuses a connection to an address whose pin ran out and was not renewed.
    pub(super) fn refuse_expired(&mut self, syn: &Syn, name: String, actor: Option<Actor>) {
        self.denials.reset(syn);
        let said = Said {
            protocol: "tcp".into(),
            address: syn.to.ip(),
            port: Some(syn.to.port()),
            name: Some(name),
            rule: Rule::PinExpired,
            actor,
        };
        self.denials.count(said, &mut self.spool);
    }
}

impl AsFd for Denials {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }
}
