//! The service, which comes and goes: the connection that the session was built with, and those that are made by
//! the keeper's name.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::event::End;
use agentd_policy::wire::{FromKeeper, MAX_KEEPER_PACKET, ToKeeper, decode};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::outbox::Outbox;
use super::source::{Events, Source};
use super::steering::Steering;
use super::{Keeper, MESSAGES};
use crate::error::{HostError, On as _};

/// A service that is connected.
#[derive(Debug)]
pub struct Link {
    pub outbox: Outbox,
    pub since: Instant,
}

impl Link {
    /// By this socket.
    pub fn new(socket: Packets, events: &Events) -> Result<Self, HostError> {
        Ok(Self { outbox: Outbox::new(socket, events, Source::Service)?, since: Instant::now() })
    }
}

/// Where services connect, and the launcher on behalf of callers.
pub struct ServiceSocket {
    /// The keeper's own listener, which is named after the session.
    pub listener: OwnedFd,
    /// The uid that a service has.
    pub uid: u32,
    /// The service that is connected, if one is.
    pub link: Option<Link>,
    /// Connections of the launcher.
    pub steering: Steering,
}

impl ServiceSocket {
    /// With the connection that the session was built with.
    pub fn new(listener: OwnedFd, uid: u32, first: Packets, events: &Events) -> Result<Self, HostError> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        events.add(&listener, Source::Listener, EventFlags::IN)?;
        Ok(Self { listener, uid, link: Some(Link::new(first, events)?), steering: Steering::default() })
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let link = self.link.as_ref().map(|link| link.outbox.socket.as_fd());
        std::iter::once(self.listener.as_fd()).chain(link).chain(self.steering.descriptors())
    }
}

impl Keeper {
    /// Takes those who have connected by the keeper's name.
    pub(super) fn accept(&mut self) -> Result<(), HostError> {
        loop {
            match accept_with(&self.service.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.welcome(socket)?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno).on("accept"),
            }
        }
    }

    /// Root is the launcher, with a question of its own. A service takes the place of the one before. Anybody else is
    /// sent away.
    fn welcome(&mut self, socket: OwnedFd) -> Result<(), HostError> {
        match rustix::net::sockopt::socket_peercred(&socket) {
            Ok(peer) if peer.uid.is_root() => {
                return self.service.steering.add(Packets::from_fd(socket), &self.event_loop);
            }
            Ok(peer) if peer.uid.as_raw() == self.service.uid => {}
            _ => return Ok(()),
        }
        self.service.link = Some(Link::new(Packets::from_fd(socket), &self.event_loop)?);
        self.spool.start_over();
        let hello = FromKeeper::Hello {
            session: self.identity.session.clone(),
            uid: self.identity.owner,
            acknowledged: self.spool.acknowledged(),
            started: self.spool.is_released(),
            commands: self.commands.running(),
        };
        self.send_service(&hello, vec![]);
        if let Some(egress_state) = &self.egress_state {
            let egress = Box::new(egress_state.egress.clone());
            self.send_service(&FromKeeper::Egress(egress), vec![]);
        }
        for (command, status) in self.commands.ended() {
            self.send_service(&FromKeeper::Exited { command, status }, vec![]);
        }
        Ok(())
    }

    /// Tells the service, if there is one. One that does not read is lost, as one that is gone.
    pub(super) fn send_service(&mut self, message: &FromKeeper, descriptors: Vec<OwnedFd>) {
        if let Some(link) = &mut self.service.link
            && let Err(error) = link.outbox.send(message, descriptors)
        {
            tracing::debug!(%error, "the service is gone");
            self.service.link = None;
        }
    }

    /// What the service wants.
    pub(super) fn receive_service(&mut self) -> Result<(), HostError> {
        for _ in 0..MESSAGES {
            let Some(link) = &self.service.link else { return Ok(()) };
            let packet = match link.outbox.socket.receive(MAX_KEEPER_PACKET, 0) {
                Ok(Some(packet)) => packet,
                Err(PacketError::WouldBlock) => return Ok(()),
                // The session goes on: another will come.
                Ok(None) | Err(_) => {
                    self.service.link = None;
                    return Ok(());
                }
            };
            match decode(&packet.bytes) {
                Ok(ToKeeper::Ack(number)) => {
                    self.spool.acknowledge(number);
                    self.service.steering.recorded(self.spool.acknowledged(), Instant::now());
                }
                Ok(ToKeeper::Kill) => self.finish(End::Killed),
                Ok(ToKeeper::Signal { command, signal }) => self.signal_command(command, signal),
                Ok(ToKeeper::Run { number, command }) => self.run_command(number, command),
                Ok(ToKeeper::Connect { command }) => self.connect_command(command)?,
                Ok(ToKeeper::End { command }) => self.end_command(command),
                Err(error) => {
                    tracing::error!(%error, "the service sent what is no message");
                    self.service.link = None;
                }
            }
        }
        Ok(())
    }

    /// Sends what waits, everywhere; watches for room where there is none.
    pub(super) fn flush(&mut self) -> Result<(), HostError> {
        let events = &self.event_loop;
        if let Some(link) = &mut self.service.link {
            let outbox = &mut link.outbox;
            // Messages first: Hello comes before the events.
            let more = match outbox.flush() {
                Ok(true) => Ok(true),
                Ok(false) => self.spool.send(&outbox.socket),
                Err(error) => Err(error),
            };
            match more {
                Ok(more) => outbox.ask_for_room(events, more)?,
                Err(error) => {
                    tracing::debug!(%error, "the service is gone");
                    self.service.link = None;
                }
            }
        }
        for outbox in self.init.live_outbox().into_iter().chain(self.relay.live_outbox()) {
            // One that is gone is seen by its end.
            let more = outbox.flush().unwrap_or(false);
            outbox.ask_for_room(events, more).or_else(|error| match outbox.flush() {
                Ok(_) => Err(error),
                Err(_) => Ok(()),
            })?;
        }
        Ok(())
    }
}
