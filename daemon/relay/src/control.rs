//! The control socket between relay and keeper, on the relay's side.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentd_kernel::packets::{MAX_DESCRIPTORS, Packet, PacketError, Packets};
use agentd_policy::wire::{Attached, FromRelay, MAX_PACKET, ToRelay, decode_with, encode};
use tokio::io::unix::AsyncFd;

use crate::RelayError;

/// The least time between two messages that something went through.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(1);

pub struct Control {
    socket: AsyncFd<Packets>,
    last_active: Mutex<Option<Instant>>,
}

impl Control {
    /// Registers the socket with the runtime.
    pub fn new(socket: OwnedFd) -> Result<Self, RelayError> {
        let packets = Packets::from_fd(socket);
        // Its successor is `unsafe`, for types whose descriptor may change or close under way. Packets that are
        // never lent mutably cannot.
        #[expect(deprecated)]
        let socket = packets.set_nonblocking(true).and_then(|()| AsyncFd::new(packets));
        let socket =
            socket.map_err(|source| RelayError::Io { what: "register the control socket", source })?;
        Ok(Self { socket, last_active: Mutex::default() })
    }

    /// Bytes went through a stream: the keeper learns of it at most once in [`ACTIVE_INTERVAL`].
    pub fn active(&self) {
        let now = Instant::now();
        let mut last = self.last_active.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| now.duration_since(last) >= ACTIVE_INTERVAL) {
            *last = Some(now);
            self.try_send(&FromRelay::Active);
        }
    }

    /// Sends a message that may be lost: to a keeper that does not read, or is gone.
    pub fn try_send(&self, message: &FromRelay) {
        encode(message).map(|packet| self.socket.get_ref().send(&packet, &[])).ok();
    }

    /// Sends a message that must arrive, once the socket has room for it.
    pub async fn send(&self, message: &FromRelay) -> io::Result<()> {
        let packet = encode(message).map_err(io::Error::other)?;
        loop {
            match self.socket.get_ref().send(&packet, &[]) {
                Err(PacketError::WouldBlock) => {}
                other => return other.map_err(io::Error::other),
            }
            let mut ready = self.socket.writable().await?;
            match self.socket.get_ref().send(&packet, &[]) {
                Err(PacketError::WouldBlock) => ready.clear_ready(),
                other => return other.map_err(io::Error::other),
            }
        }
    }

    /// The next message; `None` once the keeper is gone.
    pub async fn recv(&self) -> Result<Option<(ToRelay, Attached<OwnedFd>)>, RelayError> {
        let error = |source| RelayError::Io { what: "receive from the keeper", source };
        loop {
            let mut ready = self.socket.readable().await.map_err(error)?;
            match self.socket.get_ref().receive(MAX_PACKET, MAX_DESCRIPTORS) {
                Ok(None) => return Ok(None),
                Ok(Some(Packet { bytes, descriptors })) => {
                    return Ok(Some(decode_with(&bytes, descriptors)?));
                }
                Err(PacketError::WouldBlock) => ready.clear_ready(),
                Err(other) => return Err(error(io::Error::other(other))),
            }
        }
    }
}
