//! What a connection may be used for, and its server.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use agentd_policy::denial::Denial;
use agentd_policy::egress::Purpose;
use agentd_policy::hosts::HostName;
use agentd_policy::protocol::Protocol;
use agentd_policy::rule::Rule;

use super::super::authorization::Authorization;
use super::super::close::CloseReason;
use super::super::judge::{self, Place, Refusal, RejectWith};
use super::super::{caps, dial, local};
use super::{Connection, MANY, lock};
use crate::Endpoint;

impl Connection {
    /// `server`, or a new connection by `purpose`.
    pub async fn dialled(&self, purpose: Purpose, server: Option<Endpoint>) -> Result<Endpoint, CloseReason> {
        match server {
            Some(server) => Ok(server),
            None => self.dial(purpose).await,
        }
    }

    /// `server`, or a new connection by what may be meant if no host is named.
    pub(super) async fn unnamed(&self, server: Option<Endpoint>) -> Result<Endpoint, CloseReason> {
        match server {
            Some(server) => Ok(server),
            None => self.dial_unnamed().await,
        }
    }

    /// Connects to where it goes, or to another address of the same name.
    pub async fn dial(&self, purpose: Purpose) -> Result<Endpoint, CloseReason> {
        let to = self.to();
        self.join(&purpose, to).map_err(|cap| Refusal::new(RejectWith::Plain, cap, caps::WHY))?;
        let mut addresses = vec![to];
        let others = match &purpose {
            Purpose::Name(name) => self.gate.pins.others(name, to.ip()),
            Purpose::Local => local::loopbacks(to.ip())[1..].to_vec(),
            _ => Vec::new(),
        };
        addresses.extend(others.into_iter().map(|address| SocketAddr::new(address, to.port())));
        let name = match &purpose {
            Purpose::Name(name) => Some(name),
            _ => None,
        };
        self.used_for(name, Place::direct(to)).map_err(|rule| Refusal::new(RejectWith::Plain, rule, MANY))?;
        if let Some(used) = lock(&self.authorization).as_mut() {
            used.rule = self.gate.plan().rule(&purpose, to, Protocol::Tcp);
            used.purpose = purpose.clone();
        }
        self.dialling.store(true, Ordering::Relaxed);
        let dialled = dial::first(&self.gate, &purpose, addresses, self.from).await;
        self.dialling.store(false, Ordering::Relaxed);
        let (server, to) = dialled.map_err(|(end, to)| {
            self.set_to(to);
            end
        })?;
        self.set_to(to);
        self.buffers.limit_server_side(server.get_ref());
        self.server.set(server.clone()).ok();
        Ok(server)
    }

    /// It is used for `name` from now on.
    ///
    /// # Errors
    /// The rule by which it is used for too many.
    pub fn used_for(&self, name: Option<&HostName>, place: Place) -> Result<(), Rule> {
        let Some(name) = name else { return Ok(()) };
        lock(&self.authorization).get_or_insert_with(|| Authorization::net(false)).use_for(name, place)
    }

    /// A proxy was asked for `address` by it: it goes on for as long as the rules allow that.
    ///
    /// # Errors
    /// The rule by which it is used for too many.
    pub fn used_at(&self, address: SocketAddr) -> Result<(), Rule> {
        lock(&self.authorization).get_or_insert_with(|| Authorization::net(false)).use_at(address)
    }

    /// Its beginning shows `name`, which is held against what is denied, and nothing else.
    pub fn shows(&self, name: HostName) {
        if let Some(used) = lock(&self.authorization).as_mut().filter(|used| !used.shown.contains(&name)) {
            used.shown.push(name);
        }
    }

    /// Whether it is used for `name` already: it goes on for as long as the rules allow that, whatever its pin.
    pub fn is_used_for(&self, name: &HostName) -> bool {
        lock(&self.authorization).as_ref().is_some_and(|used| used.is_used_for(name))
    }

    /// It counts by the rule that allows `purpose` at `to`.
    ///
    /// # Errors
    /// The cap that is reached.
    pub fn join(&self, purpose: &Purpose, to: SocketAddr) -> Result<(), Denial> {
        let gate = &self.gate;
        self.budget.join(&gate.counters, &gate.plan(), purpose, (to, Protocol::Tcp))
    }

    /// The same, if no host is named: by each rule for what may be meant.
    ///
    /// # Errors
    /// The first cap that is reached.
    pub fn join_unnamed(&self) -> Result<(), Denial> {
        let to = self.to();
        let meant = judge::meant(&self.gate.plan(), &self.gate.pins, to, Protocol::Tcp);
        meant.iter().try_for_each(|purpose| self.join(purpose, to))
    }

    /// Connects to where it goes, if no host is named.
    pub async fn dial_unnamed(&self) -> Result<Endpoint, CloseReason> {
        let purpose = self.by_address()?;
        self.join_unnamed().map_err(|cap| Refusal::new(RejectWith::Plain, cap, caps::WHY))?;
        self.dial(purpose).await
    }

    /// The purpose by which the address may be reached if the client names no host.
    pub fn by_address(&self) -> Result<Purpose, Refusal> {
        let purpose = judge::unnamed(&self.gate.plan(), &self.gate.pins, self.to(), Protocol::Tcp);
        purpose.map_err(|denial| Refusal::new(RejectWith::Plain, denial, "the address is not allowed"))
    }
}
