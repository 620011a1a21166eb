//! the session's egress, from the keeper's place: it pins what names answer with, and dials. The relay asks, and is
//! trusted with nothing: each pin and each dial is judged here, by the plan and by what was pinned.

mod coalescer;
mod datagrams;
mod dial;
mod pins;
mod publish;
mod renewals;
mod tunnels;

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentd_kernel::descriptor::{Ip, Kind};
use agentd_kernel::memfd::Sealed;
use agentd_kernel::nft::NftError;
use agentd_kernel::route::Routes;
use agentd_policy::blocklist::Blocklist;
use agentd_policy::ceiling::Ceiling;
use agentd_policy::denial::Denial;
use agentd_policy::egress::{Egress, MAX_ADDRESSES, MAX_PIN, MIN_PIN, Purpose};
use agentd_policy::event::{Actor, End, NetEvent};
use agentd_policy::hosts::HostName;
use agentd_policy::token_bucket::TokenBucket;
use agentd_policy::wire::{Attached, Client, EgressSockets, FromRelay, NetworkDescriptors, ToRelay};

use super::Keeper;
use super::phase::Input;
use crate::error::{HostError, On as _};
pub use coalescer::Coalescer;
use datagrams::Datagrams;
use pins::Pins;
use publish::Inward;
use renewals::Renewals;
use tunnels::Tunnels;

/// Dials at once, and in every second after that. Each may leave the host a port in use for a minute (TIME_WAIT,
/// tcp(7)), and an entry where it tracks connections, of which it has some hundred thousand for everybody.
const DIALS: (u32, u32) = (4096, 512);
/// The most pins a second, and at once.
const PINS: u32 = 1024;

/// The most events of one dial or pin: what was being counted is emitted first.
const EVENTS_OF_ONE: usize = 3;

/// What it may reach, and what of that can be reached now.
#[derive(Debug)]
pub struct EgressState {
    pub(super) egress: Egress,
    /// The site's, as it was when the session began.
    pub(super) ceiling: Ceiling,
    listed: Option<Listed>,
    /// Of the host's network.
    routes: Routes,
    pub(super) pins: Pins,
    pub(super) renewals: Renewals,
    dials: TokenBucket,
    asked: TokenBucket,
    datagrams: Datagrams,
    pub(super) tunnels: Tunnels,
    inward: Inward,
    pub coalescer: Coalescer,
}

/// The site's blocklists, those that the session began with.
#[derive(Debug)]
struct Listed {
    table: Arc<Sealed>,
    names: Blocklist,
}

impl Listed {
    fn open(table: OwnedFd) -> Result<Self, HostError> {
        let table = Arc::new(Sealed::adopt(table).on("blocklists")?);
        let size = table.size().on("blocklists")?;
        let reader = table.clone();
        let names = Blocklist::open(size, move |buffer, offset| reader.read_exact_at(buffer, offset));
        Ok(Self { table, names: names.map_err(|e| HostError::unfit(e.to_string()))? })
    }
}

/// What became of a pin.
#[derive(Debug, Default)]
struct Pinned {
    addresses: Vec<IpAddr>,
    /// Those that the plan does not allow, and why not the first of them.
    refused: Vec<IpAddr>,
    denial: Option<Denial>,
}

impl EgressState {
    /// As planned, with the table of the site's blocklists and what its proxy gets; nothing is pinned. In the host's
    /// network.
    pub fn new(
        egress: Egress,
        ceiling: Ceiling,
        blocklist: Option<OwnedFd>,
        credential: Option<OwnedFd>,
    ) -> Result<Self, HostError> {
        ceiling.check(&egress).map_err(|refusal| HostError::unfit(refusal.to_string()))?;
        Ok(Self {
            egress,
            ceiling,
            listed: blocklist.map(Listed::open).transpose()?,
            routes: Routes::open().on("routes")?,
            pins: Pins::default(),
            renewals: Renewals::default(),
            dials: TokenBucket::new(DIALS.0, DIALS.1),
            asked: TokenBucket::new(PINS, PINS),
            datagrams: Datagrams::default(),
            tunnels: Tunnels::new(credential)?,
            inward: Inward::default(),
            coalescer: Coalescer::default(),
        })
    }

    /// Those that it needs.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listed.iter().map(|listed| listed.table.as_fd()).chain([self.routes.as_fd()])
    }

    /// Whether the ceiling lets a connection to `to` be dialled, however the rules read.
    fn below_ceiling(&self, purpose: &Purpose, to: IpAddr) -> Result<(), Denial> {
        match purpose {
            Purpose::Name(name) => self.ceiling.name(name).and_then(|()| self.ceiling.address(to)),
            Purpose::Net => self.ceiling.address(to),
            Purpose::Local | Purpose::Resolver | Purpose::Publish(_) => Ok(()),
        }
    }

    /// Whether no blocklist has `name`. One that has it is never pinned, and so never dialled.
    fn unlisted(&self, name: &HostName) -> Result<(), Denial> {
        self.listed.as_ref().map_or(Ok(()), |listed| listed.names.check(name))
    }
}

/// The sockets of `egress`, which init has opened.
///
/// # Errors
/// If there are fewer or more, or one is another kind of descriptor.
fn sockets_of(egress: &Egress, mut attached: Attached<OwnedFd>) -> Result<EgressSockets<OwnedFd>, HostError> {
    let sockets = EgressSockets::take(egress, &mut attached)?;
    attached.finish()?;
    let EgressSockets { tcp, dns, proxy, udp, local } = &sockets;
    let pair = |kind: fn(Ip) -> Kind, pair: &[OwnedFd; 2]| {
        Ip::BOTH.into_iter().zip(pair).try_for_each(|(ip, socket)| kind(ip).check(socket))
    };
    [tcp].into_iter().chain(proxy).chain(local).try_for_each(|two| pair(Kind::TcpListener, two))?;
    [dns].into_iter().chain(udp.iter().map(|(_, two)| two)).try_for_each(|two| pair(Kind::Udp, two))?;
    Ok(sockets)
}

impl Keeper {
    /// Whether its session egress, or may have one later.
    pub fn dials(&self) -> bool {
        self.egress_state.as_ref().is_some_and(|egress_state| !egress_state.egress.sealed)
    }

    /// Hands the sockets of the egress, which init has opened, to the relay, with what it needs besides, and those of
    /// what is published.
    pub(super) fn open_egress(&mut self, sockets: Attached<OwnedFd>) -> Result<(), HostError> {
        let (Some(egress_state), Some(control)) = (&mut self.egress_state, &mut self.relay.control) else {
            return Err(HostError::unfit("egress that was not planned"));
        };
        if self.relay.trust.is_some() != egress_state.egress.asks_over_tls() {
            return Err(HostError::unfit("a CA bundle that is missing, or for nothing"));
        }
        let egress = Box::new(egress_state.egress.clone());
        let sockets = sockets_of(&egress, sockets).on("the sockets of its egress")?;
        let table = egress_state.listed.as_ref().map(|listed| listed.table.try_clone()).transpose();
        let blocklist = table.on("blocklists")?;
        let message = ToRelay::Network { egress, blocklist: blocklist.is_some() };
        let descriptors = NetworkDescriptors { sockets, blocklist, ca_bundle: self.relay.trust.take() };
        control.send(&message, descriptors.into_vec())?;
        for (publish, listeners) in egress_state.inward.take_listeners() {
            control.send(&ToRelay::Publish { publish }, listeners)?;
        }
        Ok(())
    }

    /// The relay asks for something, or reports.
    pub(super) fn handle_relay(&mut self, message: FromRelay) {
        if self.egress_state.is_none() {
            self.finish(End::Failed { what: "the relay: it asked for a network".into() });
            return;
        }
        // The end is the last that is recorded of a session.
        if self.phase.is_ended() {
            return;
        }
        match message {
            FromRelay::Silent => self.advance(Input::Reported),
            FromRelay::Dial { number, purpose: Purpose::Publish(publish), to, protocol, from } => {
                self.enter(number, publish, (to, protocol), from);
            }
            FromRelay::Dial { number, purpose, to, protocol, from } => {
                self.dial(number, &purpose, Client { protocol, from, to });
            }
            FromRelay::Pin { number, name, question, addresses, ttl, client } => {
                let actor = match client {
                    Some(_) => self.who(client),
                    None => {
                        self.egress_state.as_ref().and_then(|egress_state| egress_state.renewals.actor(&name))
                    }
                };
                let addresses = self.pin(&name, question, &addresses, ttl, actor);
                self.ask_relay(&ToRelay::Pinned { number, addresses }, vec![]);
            }
            FromRelay::Event { event, client, number } => {
                let actor = match number {
                    Some(_) => self.who(client),
                    None => client.and_then(|client| self.denials.owners.known(&client)),
                };
                if let Some(egress_state) = &mut self.egress_state {
                    egress_state.coalescer.receive(event, actor, &mut self.spool);
                }
                if let Some(number) = number {
                    self.ask_relay(&ToRelay::Recorded { number }, vec![]);
                }
            }
            FromRelay::Renewed { name, question } => self.renewed(&name, question),
            FromRelay::Active | FromRelay::Closed { .. } => {}
        }
    }

    /// Who has the relay's client.
    fn who(&mut self, client: Option<Client>) -> Option<Actor> {
        self.denials.owners.of_client(&client?, &self.audit.processes, &self.watch)
    }

    /// Datagrams came by one of the pairs.
    pub(super) fn datagrams(&mut self, number: u64) {
        if let Some(egress_state) = &mut self.egress_state {
            egress_state.datagrams.carry(number, Instant::now());
        }
    }

    /// Makes addresses of a name reachable; those that are. What cannot be audited is denied.
    fn pin(
        &mut self,
        name: &HostName,
        question: u16,
        addresses: &[IpAddr],
        ttl: u32,
        actor: Option<Actor>,
    ) -> Vec<IpAddr> {
        let now = Instant::now();
        let room = self.spool.has_room_for(EVENTS_OF_ONE) && self.phase.is_running();
        let Some(egress_state) = self.egress_state.as_mut().filter(|_| room) else { return vec![] };
        if !egress_state.asked.take(now) {
            return vec![];
        }
        let lasts = Duration::from_secs(ttl.clamp(MIN_PIN, MAX_PIN).into());
        let mut pinned = Pinned::default();
        let unlisted = egress_state.unlisted(name).and_then(|()| egress_state.ceiling.name(name));
        for address in addresses.iter().take(MAX_ADDRESSES) {
            let below = unlisted.clone().and_then(|()| egress_state.ceiling.address(*address));
            match below.and_then(|()| egress_state.egress.pin(name, *address)) {
                Ok(()) => pinned.addresses.push(*address),
                Err(denial) => {
                    pinned.refused.push(*address);
                    pinned.denial.get_or_insert(denial);
                }
            }
        }
        let table = self.denials.table();
        let done =
            egress_state.pins.add(&egress_state.egress, table, name, &mut pinned.addresses, (now, lasts));
        let allowed = egress_state.egress.name_rule(name);
        // Both are recorded: what was answered, and what somebody tried to have answered.
        let event = |addresses: Vec<IpAddr>, denied: Option<String>| NetEvent::Dns {
            name: name.to_string(),
            question: coalescer::question(question),
            allowed: allowed.clone().filter(|_| denied.is_none()),
            denied,
            addresses,
            actor: actor.clone(),
            count: 1,
        };
        if let Some(denial) = pinned.denial {
            egress_state.coalescer.emit(event(pinned.refused, Some(denial.to_string())), &mut self.spool);
        }
        if !pinned.addresses.is_empty() {
            egress_state.coalescer.emit(event(pinned.addresses.clone(), None), &mut self.spool);
        }
        match done {
            Ok(()) => pinned.addresses,
            Err(error) => {
                self.network_failed(&error);
                vec![]
            }
        }
    }

    /// What the kernel lets through is not what it should be.
    pub(super) fn network_failed(&mut self, error: &NftError) {
        self.finish(End::Failed { what: format!("its network: {error}") });
    }
}
