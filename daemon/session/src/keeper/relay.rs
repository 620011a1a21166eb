//! The session's relay, as the keeper sees it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::{PacketError, Packets};
use agentd_kernel::process::Child;
use agentd_policy::event::{End, ExitStatus};
use agentd_policy::wire::{FromRelay, ToRelay, decode};

use super::outbox::Outbox;
use super::phase::Input;
use super::source::{Events, Source};
use super::{Keeper, MESSAGES};
use crate::error::{HostError, On as _};

/// The longest message of the relay's: a name that was asked for, escaped, and what was answered.
const MAX_MESSAGE: usize = 4096;

/// The relay, until it has ended, and its control socket.
pub struct RelayProcess {
    /// Its process, until it is reaped.
    pub child: Option<Child>,
    /// Messages to it. Without this socket it ends.
    pub control: Option<Outbox>,
    /// The CA bundle of resolvers over TLS, until the relay has it.
    pub trust: Option<OwnedFd>,
}

impl RelayProcess {
    pub fn new(
        child: Child,
        control: Packets,
        trust: Option<OwnedFd>,
        events: &Events,
    ) -> Result<Self, HostError> {
        events.add(&child.pidfd, Source::RelayExit, EventFlags::IN)?;
        let control = Outbox::new(control, events, Source::Relay)?.patient();
        Ok(Self { child: Some(child), control: Some(control), trust })
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let pidfd = self.child.as_ref().map(|child| child.pidfd.as_fd());
        let control = self.control.as_ref().map(|control| control.socket.as_fd());
        pidfd.into_iter().chain(control).chain(self.trust.as_ref().map(|trust| trust.as_fd()))
    }

    /// What takes messages for it, as long as it lives.
    pub fn live_outbox(&mut self) -> Option<&mut Outbox> {
        self.control.as_mut().filter(|_| self.child.is_some())
    }
}

impl Keeper {
    pub(super) fn ask_relay(&mut self, message: &ToRelay, descriptors: Vec<OwnedFd>) {
        let Some(control) = self.relay.live_outbox() else { return };
        // A relay that is gone is seen by its end.
        if let Err(error) = control.send(message, descriptors) {
            self.finish(End::Failed { what: format!("the relay: {error}") });
        }
    }

    /// The relay says something.
    pub(super) fn receive_relay(&mut self) -> Result<(), HostError> {
        for _ in 0..MESSAGES {
            // One that asks and does not take the answers is not read until it does.
            let Some(control) = self.relay.control.as_ref().filter(|control| !control.is_full()) else {
                return Ok(());
            };
            let packet = match control.socket.receive(MAX_MESSAGE, 0) {
                Ok(Some(packet)) => packet,
                Err(PacketError::WouldBlock) => return Ok(()),
                Ok(None) | Err(_) => {
                    control.ignore(&self.event_loop);
                    return Ok(());
                }
            };
            match decode(&packet.bytes) {
                Ok(FromRelay::Active) => {
                    self.limits.active();
                    self.files.scratches.active(Instant::now());
                }
                Ok(FromRelay::Closed { command }) => self.commands.delivered(command),
                Ok(message) => self.handle_relay(message),
                Err(error) => {
                    self.finish(End::Failed { what: format!("the relay: {error}") });
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn relay_ended(&mut self) -> Result<(), HostError> {
        let Some(relay) = self.relay.child.take() else { return Ok(()) };
        let status = relay.wait().on("relay")?;
        // What it said last is still in its socket.
        self.receive_relay()?;
        // It ends of its own only after the session, with everything delivered.
        if !self.phase.is_ended() || status != ExitStatus::Code(0) {
            self.finish(End::Failed { what: format!("the relay ended with {status:?}") });
        }
        self.relay.control = None;
        self.advance(Input::Reported);
        Ok(())
    }
}
