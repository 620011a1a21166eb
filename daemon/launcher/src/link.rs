//! The launcher's end of its socket to the service.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::wire::WireError;
use agentd_policy::wire::{FromLauncher, FromService, MAX_PACKET, decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec};

/// As many messages may wait for a service before no more is asked of it: what waits is then bounded by what it has
/// asked and by sessions that end. Connections never wait here.
const MANY: usize = 1024;

/// Why a service is not talked to any more: each of these ends its connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It closed its end.
    #[error("the service closed its socket")]
    Closed,
    /// A packet could not be sent or received.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// Its message is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Its connection cannot be watched.
    #[error("epoll: {0}")]
    Epoll(#[source] std::io::Error),
    /// Another one connected.
    #[error("another took its place")]
    Replaced,
    /// Its process ended.
    #[error("it ended")]
    Ended,
}

/// A service that is connected.
#[derive(Debug)]
pub struct Link {
    socket: Packets,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// What epoll watches for.
    pub watched: EventFlags,
}

impl Link {
    /// What is watched for at first.
    pub const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);

    /// Takes an accepted, non-blocking socket.
    pub fn new(socket: Packets) -> Self {
        Self { socket, waiting: VecDeque::new(), watched: Self::WATCHED }
    }

    /// What is to be watched for: its messages unless too much waits for it, room if something does or if
    /// `more` is to be sent once there is some.
    pub fn wanted(&self, more: bool) -> EventFlags {
        let mut flags = EventFlags::RDHUP;
        flags.set(EventFlags::IN, self.is_read());
        flags.set(EventFlags::OUT, more || !self.waiting.is_empty());
        flags
    }

    /// Whether more of its messages are read.
    pub fn is_read(&self) -> bool {
        self.waiting.len() < MANY
    }

    /// Whether the service keeps up: less than a quarter of the socket's room is taken (`unix(7)`).
    pub fn keeps_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.waiting.is_empty() && matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Sends a message, now or when there is room.
    ///
    /// # Errors
    /// If the service is gone.
    pub fn send(&mut self, message: &FromLauncher, descriptors: Vec<OwnedFd>) -> Result<(), LinkError> {
        let packet = encode(message)?;
        self.waiting.push_back((packet, descriptors));
        self.flush()
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// If the service is gone.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        while let Some((packet, descriptors)) = self.waiting.front() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match self.socket.send(packet, &borrowed) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(PacketError::WouldBlock) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message; `None` if there is none now.
    ///
    /// # Errors
    /// If the service is gone or talks nonsense.
    pub fn receive(&self) -> Result<Option<FromService>, LinkError> {
        match self.socket.receive(MAX_PACKET, 0) {
            Ok(Some(packet)) => Ok(Some(decode(&packet.bytes)?)),
            Ok(None) => Err(LinkError::Closed),
            Err(PacketError::WouldBlock) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
