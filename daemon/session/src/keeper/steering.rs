//! What the launcher asks of a session that runs, for callers that it attested: what widens a session comes this way
//! and no other, so that the service alone cannot.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::nft::Ruleset;
use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::Refusal;
use agentd_policy::event::EventBody;
use agentd_policy::network::Change;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{FromKeeper, FromRoot, MAX_KEEPER_PACKET, ToRelay, ToRoot, decode_with, encode};

use super::Keeper;
use super::source::{Events, Source};
use crate::error::{HostError, On as _};
use crate::init::egress_state;
use crate::refusals;

/// The most connections that have not asked, and the most whose change is not on record. The launcher passes on what
/// callers ask for one by one.
const MAX_CONNECTIONS: usize = 64;
/// How long an answer waits for the record. The change is in force before.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of the launcher.
#[derive(Debug, Default)]
pub struct Steering {
    /// Those that have not asked yet.
    asking: Vec<Packets>,
    /// Those whose change is in force, with the number of its event.
    changed: Vec<(u64, Instant, Packets)>,
}

impl Steering {
    /// Takes one; beyond the bound the oldest goes.
    pub fn add(&mut self, socket: Packets, events: &Events) -> Result<(), HostError> {
        socket.set_nonblocking(true)?;
        events.add(&socket, Source::Steering, EventFlags::IN).on("epoll")?;
        if self.asking.len() >= MAX_CONNECTIONS {
            self.asking.remove(0);
        }
        self.asking.push(socket);
        Ok(())
    }

    /// Answers those whose events are on record up to `acknowledged`, or have waited for it long enough.
    pub fn recorded(&mut self, acknowledged: u64, now: Instant) {
        self.changed.retain(|(number, until, socket)| {
            let waits = *number > acknowledged && *until > now;
            if !waits {
                answer(socket, Ok(()));
            }
            waits
        });
    }

    /// When one has waited long enough.
    pub fn due(&self) -> Option<Instant> {
        self.changed.iter().map(|(_, until, _)| *until).min()
    }

    /// All of them.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.asking.iter().chain(self.changed.iter().map(|(.., socket)| socket)).map(AsFd::as_fd)
    }
}

fn answer(socket: &Packets, changed: Result<(), Refusal>) {
    // A launcher that is gone does not want to know.
    encode(&ToRoot::Changed(changed)).map(|packet| socket.send(&packet, &[])).ok();
}

impl Keeper {
    /// Answers each connection that has asked, and closes it.
    pub(super) fn steered(&mut self) {
        for socket in std::mem::take(&mut self.service.steering.asking) {
            let packet = match socket.receive(MAX_KEEPER_PACKET, 0) {
                Err(PacketError::WouldBlock) => {
                    self.service.steering.asking.push(socket);
                    continue;
                }
                Ok(Some(packet)) => packet,
                Ok(None) | Err(_) => continue,
            };
            let changed = match decode_with(&packet.bytes, packet.descriptors) {
                Ok((FromRoot::Change { .. }, _))
                    if self.service.steering.changed.len() >= MAX_CONNECTIONS =>
                {
                    Err(busy())
                }
                Ok((FromRoot::Change { change, uid }, _)) => self.change_policy(&change, uid),
                Err(error) => {
                    tracing::error!(%error, "the launcher sent what is no message");
                    continue;
                }
            };
            match changed {
                Ok(()) => {
                    // Its end matters to nobody any more.
                    self.event_loop.remove(&socket).ok();
                    let until = Instant::now() + RECORD_TIMEOUT;
                    self.service.steering.changed.push((self.spool.last(), until, socket));
                }
                Err(refusal) => answer(&socket, Err(refusal)),
            }
        }
    }

    /// Changes what may be reached, for a caller. What is pinned and may not be any more goes before the relay gets it.
    fn change_policy(&mut self, change: &Change, uid: u32) -> Result<(), Refusal> {
        let session = &self.identity.session;
        let Some(egress_state) = self.egress_state.as_mut().filter(|_| self.phase.is_running()) else {
            return Err(refusals::ended(session));
        };
        if !self.spool.has_room() {
            return Err(busy());
        }
        // Nothing is to be denied where nothing is ever allowed, and this keeper's filter changes no table.
        if egress_state.egress.sealed {
            return Err(refusals::no_network(session));
        }
        change.check()?;
        let egress = change.apply(&egress_state.egress)?;
        egress_state.ceiling.check(&egress)?;
        let table = self.denials.table();
        let done = table
            .plan(&Ruleset::open(&egress_state::accept_rules(&egress)))
            .and_then(|()| egress_state.pins.judge_again(&egress, table, Instant::now()));
        egress_state.egress = egress.clone();
        egress_state.coalescer.flush(&mut self.spool);
        if let Err(error) = done {
            self.network_failed(&error);
            return Err(refusals::ended(&self.identity.session));
        }
        self.send_service(&FromKeeper::Egress(Box::new(egress.clone())), vec![]);
        self.spool.push(EventBody::Policy { change: change.to_string(), uid });
        self.ask_relay(&ToRelay::Policy { egress: Box::new(egress) }, vec![]);
        Ok(())
    }
}

/// One change too many for now.
fn busy() -> Refusal {
    Refusal::new(
        "one more change of the session, whose events are not being written down",
        Rule::AuditRoom,
        "try again in a moment",
    )
}
