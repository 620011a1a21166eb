//! Messages of the keeper that wait for room in a socket: bounded, with their descriptors.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::wire::{WireError, encode};
use serde::Serialize;

use super::source::{Events, Source};
use crate::error::{HostError, On as _};

/// The most messages that wait for somebody who does not read.
const MAX_WAITING: usize = 128;
/// With so many a patient one is full.
const FULL: usize = MAX_WAITING / 2;

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The peer has not read for too long.
    #[error("it does not read")]
    Full,
    /// The peer is gone.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The message is too long.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl From<SendError> for HostError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => Self::unfit("it does not read"),
            SendError::Packet(error) => error.into(),
            SendError::Wire(error) => error.into(),
        }
    }
}

/// A non-blocking socket and what waits to be sent by it.
#[derive(Debug)]
pub struct Outbox {
    pub socket: Packets,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Who an event of it is from.
    source: Source,
    /// What it is watched for.
    watched: EventFlags,
    /// Whether nothing is read from a peer that does not read.
    patient: bool,
}

impl Outbox {
    /// Makes the socket non-blocking and watches it.
    pub fn new(socket: Packets, events: &Events, source: Source) -> Result<Self, HostError> {
        socket.set_nonblocking(true)?;
        events.add(&socket, source, EventFlags::IN).on("epoll")?;
        Ok(Self { socket, waiting: VecDeque::new(), source, watched: EventFlags::IN, patient: false })
    }

    /// Of one whose peer is not read as long as it is full: for a peer that gets an answer for each question.
    pub fn patient(self) -> Self {
        Self { patient: true, ..self }
    }

    /// Whether its peer is to be read only after it has read itself.
    pub fn is_full(&self) -> bool {
        self.patient && self.waiting.len() >= FULL
    }

    /// Sends a message, now or when there is room.
    ///
    /// # Errors
    /// If the peer is gone, or has not read for too long.
    pub fn send<T: Serialize>(&mut self, message: &T, descriptors: Vec<OwnedFd>) -> Result<(), SendError> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(SendError::Full);
        }
        let packet = encode(message)?;
        self.waiting.push_back((packet, descriptors));
        self.flush().map(drop)
    }

    /// Sends what waits, as far as there is room; whether anything is left.
    ///
    /// # Errors
    /// If the peer is gone.
    pub fn flush(&mut self) -> Result<bool, SendError> {
        while let Some((packet, descriptors)) = self.waiting.front() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.socket.send(packet, &borrowed) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(PacketError::WouldBlock) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Watches for room, or not any more.
    pub fn ask_for_room(&mut self, events: &Events, ask: bool) -> Result<(), HostError> {
        let flags = match ask {
            true if self.is_full() => EventFlags::OUT,
            true => EventFlags::IN | EventFlags::OUT,
            false => EventFlags::IN,
        };
        if self.watched != flags {
            events.modify(&self.socket, self.source, flags).on("epoll")?;
            self.watched = flags;
        }
        Ok(())
    }

    /// Nothing more is expected by it.
    pub fn ignore(&self, events: &Events) {
        // It may have been ignored before.
        events.remove(&self.socket).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_wait_in_order_and_not_without_end() {
        let events = Events::new(1).unwrap();
        let (ours, theirs) = Packets::pair().unwrap();
        let mut outbox = Outbox::new(ours, &events, Source::Init).unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        let big = vec![7_u8; 30_000];
        let mut sent = 0_u32;
        while outbox.send(&(sent, &big), vec![reader.try_clone().unwrap().into()]).is_ok() {
            sent += 1;
        }
        assert!(outbox.flush().unwrap() && outbox.waiting.len() == MAX_WAITING);
        outbox.ask_for_room(&events, true).unwrap();
        for number in 0..sent {
            let packet = theirs.receive(1 << 16, 1).unwrap().unwrap();
            let message: (u32, Vec<u8>) = agentd_policy::wire::decode(&packet.bytes).unwrap();
            assert_eq!((message.0, packet.descriptors.len()), (number, 1));
            outbox.flush().unwrap();
        }
        assert!(!outbox.flush().unwrap());
        drop(theirs);
        assert!(outbox.send(&1_u8, vec![]).is_err());
    }
}
