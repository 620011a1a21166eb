//! The launcher's end of its socket to the service.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::wire::{FromLauncher, FromService, MAX_PACKET, decode, encode};

/// The most messages that wait for a service that does not read.
const MAX_WAITING: usize = 4096;

/// A service that is connected.
#[derive(Debug)]
pub struct Link {
    socket: Packets,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Link {
    /// Takes an accepted, non-blocking socket.
    pub fn new(socket: Packets) -> Self {
        Self { socket, waiting: VecDeque::new() }
    }

    /// Sends a message, now or when there is room.
    ///
    /// # Errors
    /// If the service is gone, or has not read for too long: the link is of no use then.
    pub fn send(&mut self, message: &FromLauncher, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        if self.waiting.len() >= MAX_WAITING {
            return Err("the service does not read".into());
        }
        let packet = encode(message).map_err(|e| e.to_string())?;
        self.waiting.push_back((packet, descriptors));
        self.flush()
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// If the service is gone.
    pub fn flush(&mut self) -> Result<(), String> {
        while let Some((packet, descriptors)) = self.waiting.front() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.socket.send(packet, &borrowed) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(PacketError::WouldBlock) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// Whether something waits for room.
    pub fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next message; `None` if there is none now.
    ///
    /// # Errors
    /// If the service is gone or talks nonsense.
    pub fn receive(&self) -> Result<Option<FromService>, String> {
        match self.socket.receive(MAX_PACKET, 0) {
            Ok(Some(packet)) => decode(&packet.bytes).map(Some).map_err(|e| e.to_string()),
            Ok(None) => Err("the service closed its socket".into()),
            Err(PacketError::WouldBlock) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
