//! The session's pid 1, as the keeper sees it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::{MAX_DESCRIPTORS, PacketError, Packets};
use agentd_kernel::process::Child;
use agentd_policy::event::{End, EventBody};
use agentd_policy::wire::{Attached, MAX_KEEPER_PACKET, WireError, decode_with};
use rustix::event::{PollFd, PollFlags};

use super::outbox::Outbox;
use super::source::{Events, Source};
use super::{Keeper, NotConfined};
use crate::command::NotRun;
use crate::error::HostError;
use crate::init::{FromInit, ToInit};

/// The most descriptors that init hands up at once: a command's three pipes.
const MAX_STREAMS: usize = 3;

/// Init, until it has ended, and its socket.
pub struct InitProcess {
    /// Its process, until it is reaped.
    pub child: Option<Child>,
    /// Messages to it.
    pub outbox: Outbox,
}

impl InitProcess {
    pub fn new(child: Child, socket: Packets, events: &Events) -> Result<Self, HostError> {
        events.add(&child.pidfd, Source::InitExit, EventFlags::IN)?;
        Ok(Self { child: Some(child), outbox: Outbox::new(socket, events, Source::Init)? })
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let pidfd = self.child.as_ref().map(|child| child.pidfd.as_fd());
        std::iter::once(self.outbox.socket.as_fd()).chain(pidfd)
    }

    /// What takes messages for it, as long as it lives.
    pub fn live_outbox(&mut self) -> Option<&mut Outbox> {
        self.child.as_ref().map(|_| &mut self.outbox)
    }
}

impl Keeper {
    /// A session that is ending is asked for nothing: init reads its socket otherwise.
    pub(super) fn ask_init(&mut self, message: &ToInit) {
        if self.phase.is_running()
            && let Err(error) = self.init.outbox.send(message, vec![])
        {
            self.finish(End::Failed { what: format!("init: {error}") });
        }
    }

    pub(super) fn receive_init(&mut self) -> Result<(), HostError> {
        loop {
            let packet = match self.init.outbox.socket.receive(MAX_KEEPER_PACKET, MAX_STREAMS) {
                Ok(Some(packet)) => packet,
                Err(PacketError::WouldBlock) => return Ok(()),
                Ok(None) | Err(_) => {
                    self.init.outbox.ignore(&self.event_loop);
                    return Ok(());
                }
            };
            match decode_with(&packet.bytes, packet.descriptors) {
                Ok((message, attached)) => self.handle_message(message, attached)?,
                Err(error) => self.finish(End::Failed { what: format!("init: {error}") }),
            }
        }
    }

    fn handle_message(&mut self, message: FromInit, attached: Attached<OwnedFd>) -> Result<(), HostError> {
        match message {
            FromInit::Running => {
                self.spool.push(EventBody::Started);
                for event in self.files.leftovers.known() {
                    self.spool.push(event);
                }
                self.spool.release();
            }
            FromInit::Exited(status) => self.main_ended(status)?,
            FromInit::NotRun(NotRun { step, errno }) => self.finish(End::NotRun { step, errno }),
            FromInit::Failed { step, why } => {
                self.finish(End::Failed { what: format!("init: {step}: {why}") });
            }
            FromInit::Carry { command, terminal } => {
                self.command_started(command, terminal, attached)?;
            }
            FromInit::CommandNotRun { command, not_run } => self.command_not_run(command, not_run),
            FromInit::CommandExited { command, status } => self.command_exited(command, status),
            FromInit::Entered { number, errno } => self.entered(number, errno, attached),
            FromInit::NetworkReady | FromInit::Sockets | FromInit::Confined { .. } => {
                self.finish(End::Failed { what: "init: an unexpected message".into() });
            }
        }
        Ok(())
    }

    /// Waits until init has confined itself. It may have done so long before it is asked.
    ///
    /// # Errors
    /// [`NotConfined`]: the session ends.
    pub fn confined(&mut self) -> Result<u32, NotConfined> {
        let failed = |why: &'static str| NotConfined::Host(HostError::unfit(why));
        let malformed = |error: WireError| NotConfined::Host(error.into());
        let mut opened = self.egress_state.is_none();
        loop {
            let mut due = [PollFd::new(&self.init.outbox.socket, PollFlags::IN)];
            match rustix::event::poll(&mut due, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(NotConfined::Host(errno.into())),
            }
            match self.init.outbox.socket.receive(MAX_KEEPER_PACKET, MAX_DESCRIPTORS) {
                Ok(Some(packet)) => match decode_with(&packet.bytes, packet.descriptors) {
                    Ok((FromInit::Sockets, attached)) if !opened => {
                        self.open_egress(attached).map_err(NotConfined::Host)?;
                        opened = true;
                    }
                    Ok((FromInit::Confined { landlock_abi }, mut attached)) if opened => {
                        let refused = attached.one().map_err(malformed)?;
                        self.watch_refused(refused).map_err(NotConfined::Host)?;
                        return Ok(landlock_abi);
                    }
                    Ok((FromInit::Failed { step, why }, _)) => return Err(NotConfined::Init { step, why }),
                    Ok(_) => return Err(failed("an unexpected answer")),
                    Err(error) => return Err(malformed(error)),
                },
                Err(PacketError::WouldBlock) => {}
                Ok(None) => return Err(failed("it ended before it was confined")),
                Err(error) => return Err(NotConfined::Host(error.into())),
            }
        }
    }
}
