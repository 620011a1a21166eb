//! Packets on the runtime: one end of a socket that never blocks a thread.

use std::io;

use agentd_kernel::packets::{Packet, PacketError, Packets};
use agentd_policy::wire::MAX_KEEPER_PACKET;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// An end of a packet socket.
#[derive(Debug)]
pub struct Link {
    packets: Packets,
    /// The same socket, for the runtime to wait on: tokio has no type for packets, and registering any
    /// descriptor is `unsafe`. Nothing is sent or received through it.
    ready: UnixDatagram,
}

impl Link {
    pub fn new(packets: Packets) -> io::Result<Self> {
        packets.set_nonblocking(true)?;
        let ready = std::os::unix::net::UnixDatagram::from(packets.try_clone()?.into_fd());
        Ok(Self { ready: UnixDatagram::from_std(ready)?, packets })
    }

    /// The next packet; `None` once the peer is gone. Cancelling it loses nothing.
    pub async fn receive(&self, descriptors: usize) -> Result<Option<Packet>, PacketError> {
        loop {
            self.ready.readable().await.map_err(PacketError::Socket)?;
            match self.receive_now(descriptors) {
                Err(PacketError::WouldBlock) => {}
                other => return other,
            }
        }
    }

    /// The next packet if there is one already.
    pub fn receive_now(&self, descriptors: usize) -> Result<Option<Packet>, PacketError> {
        self.io(Interest::READABLE, || self.packets.receive(MAX_KEEPER_PACKET, descriptors))
    }

    /// Sends a packet once there is room. Cancelled, it was either sent or not.
    pub async fn send(&self, bytes: &[u8]) -> Result<(), PacketError> {
        loop {
            match self.send_now(bytes) {
                Err(PacketError::WouldBlock) => {}
                other => return other,
            }
            self.ready.writable().await.map_err(PacketError::Socket)?;
            match self.io(Interest::WRITABLE, || self.send_now(bytes)) {
                Err(PacketError::WouldBlock) => {}
                other => return other,
            }
        }
    }

    /// Sends a packet if there is room.
    pub fn send_now(&self, bytes: &[u8]) -> Result<(), PacketError> {
        self.packets.send(bytes, &[])
    }

    /// Does what may block, and the runtime knows if it would.
    fn io<T>(
        &self,
        interest: Interest,
        act: impl FnOnce() -> Result<T, PacketError>,
    ) -> Result<T, PacketError> {
        let done = self.ready.try_io(interest, || match act() {
            Err(PacketError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            other => Ok(other),
        });
        done.unwrap_or(Err(PacketError::WouldBlock))
    }
}

/// Connects to a packet socket by its name. Does not wait for the peer.
pub fn connect_packets(path: &str) -> Result<Packets, rustix::io::Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(Packets::from_fd(socket))
}
