//! Packets with descriptors beside them, over `SOCK_SEQPACKET` Unix sockets (`unix(7)`).
//!
//! A packet that is longer than the receiver allows, or comes with more descriptors, is an error and is
//! lost in whole: its descriptors are closed by the kernel or by us, never left open.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The most descriptors that one packet can carry (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// Up to here room for the longest packet costs less than asking how long the next one is.
const SHORT: usize = 4 << 10;

/// One end of a packet socket.
#[derive(Debug)]
pub struct Packets(OwnedFd);

/// What was received.
#[derive(Debug, Default)]
pub struct Packet {
    /// The bytes; never empty.
    pub bytes: Vec<u8>,
    /// The descriptors, all close-on-exec, in the order in which they were sent.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a packet was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The socket is non-blocking, and nothing is there or there is no room.
    #[error("would block")]
    WouldBlock,
    /// Longer than the receiver allows, or with more descriptors.
    #[error("packet is longer than {bytes} bytes or carries more than {descriptors} descriptors")]
    TooLong {
        /// The most bytes.
        bytes: usize,
        /// The most descriptors.
        descriptors: usize,
    },
    /// The kernel refused.
    #[error("packet socket: {0}")]
    Socket(#[source] std::io::Error),
}

impl From<Errno> for PacketError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::WouldBlock,
            other => Self::Socket(other.into()),
        }
    }
}

impl Packets {
    /// Two connected ends, close-on-exec.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn pair() -> Result<(Self, Self), PacketError> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Takes an end that was made elsewhere: accepted, connected, or received.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Another handle of the same end.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Makes [`send`](Self::send) and [`receive`](Self::receive) return [`PacketError::WouldBlock`].
    ///
    /// # Errors
    /// As `ioctl(2)` with `FIONBIO`.
    pub fn set_nonblocking(&self, on: bool) -> std::io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, on)?)
    }

    /// Sends one packet. A peer that is gone is an error, never a `SIGPIPE`.
    ///
    /// # Errors
    /// [`PacketError`]; then nothing was sent.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
        if descriptors.len() > MAX_DESCRIPTORS || bytes.is_empty() {
            return Err(PacketError::TooLong { bytes: bytes.len(), descriptors: MAX_DESCRIPTORS });
        }
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(PacketError::TooLong { bytes: bytes.len(), descriptors: MAX_DESCRIPTORS });
        }
        loop {
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The bytes of the next packet, which stays where it is with its descriptors: none of them is taken. `None`
    /// once the peer is gone.
    ///
    /// # Errors
    /// As [`Packets::receive`].
    pub fn peek(&self, max_bytes: usize) -> Result<Option<Vec<u8>>, PacketError> {
        let mut bytes = vec![0; max_bytes];
        let (count, whole) =
            match rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::PEEK | RecvFlags::TRUNC) {
                Ok(both) => both,
                Err(Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            };
        if whole > max_bytes {
            return Err(PacketError::TooLong { bytes: max_bytes, descriptors: MAX_DESCRIPTORS });
        }
        bytes.truncate(count);
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// The next packet, of at most `max_bytes` and `max_descriptors`; `None` once the peer is gone.
    ///
    /// # Errors
    /// [`PacketError`]. After [`PacketError::TooLong`] the packet is lost and the next can be received.
    pub fn receive(&self, max_bytes: usize, max_descriptors: usize) -> Result<Option<Packet>, PacketError> {
        let mut reset = false;
        let room = match self.next_length(max_bytes) {
            Ok(length) => length.min(max_bytes).max(1),
            Err(Errno::CONNRESET) => {
                reset = true;
                max_bytes
            }
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = vec![0; room];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.0, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => break got,
                Err(Errno::INTR) => {}
                // The end of a peer that left something of ours unread is reported before what it sent last.
                Err(Errno::CONNRESET) if !reset => reset = true,
                Err(Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let truncated = got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        if truncated || descriptors.len() > max_descriptors {
            return Err(PacketError::TooLong { bytes: max_bytes, descriptors: max_descriptors });
        }
        if got.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(got.bytes);
        Ok(Some(Packet { bytes, descriptors }))
    }
}

impl Packets {
    /// How long the next packet is, if that is worth asking; else `most`.
    fn next_length(&self, most: usize) -> Result<usize, Errno> {
        if most <= SHORT {
            return Ok(most);
        }
        let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
        let (_, length) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut [0_u8; 1][..], flags))?;
        Ok(length)
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::os::fd::AsRawFd for Packets {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (a, b) = Packets::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        a.send(b"hello", &[writer.as_fd()]).unwrap();
        drop(writer);
        let packet = b.receive(64, 1).unwrap().unwrap();
        assert_eq!(packet.bytes, b"hello");
        let [fd] = <[OwnedFd; 1]>::try_from(packet.descriptors).unwrap();
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        std::fs::File::from(fd).write_all(b"x").unwrap();
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got, "x");
    }

    #[test]
    fn what_is_too_much_is_lost_in_whole() {
        let (a, b) = Packets::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        a.send(b"x", &[writer.as_fd(), writer.as_fd()]).unwrap();
        drop(writer);
        assert!(matches!(b.receive(64, 1), Err(PacketError::TooLong { .. })));
        // Both copies are closed: the pipe has no writer left.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        a.send(&[0; 65], &[]).unwrap();
        assert!(matches!(b.receive(64, 1), Err(PacketError::TooLong { .. })));
        a.send(b"next", &[]).unwrap();
        assert_eq!(b.receive(64, 1).unwrap().unwrap().bytes, b"next");
        drop(a);
        assert!(b.receive(64, 1).unwrap().is_none());
    }

    #[test]
    fn the_last_word_of_a_peer_that_did_not_listen_is_heard() {
        let (a, b) = Packets::pair().unwrap();
        a.send(b"unread", &[]).unwrap();
        b.send(b"refused", &[]).unwrap();
        drop(b);
        assert_eq!(a.receive(64, 0).unwrap().unwrap().bytes, b"refused");
        assert!(a.receive(64, 0).unwrap().is_none());
    }

    #[test]
    fn what_is_looked_at_stays() {
        let (a, b) = Packets::pair().unwrap();
        let (_reader, writer) = std::io::pipe().unwrap();
        a.send(b"hello", &[writer.as_fd()]).unwrap();
        assert_eq!(b.peek(64).unwrap().unwrap(), b"hello");
        assert!(matches!(b.peek(2), Err(PacketError::TooLong { .. })));
        assert_eq!(b.receive(64, 1).unwrap().unwrap().descriptors.len(), 1);
        drop(a);
        assert!(b.peek(64).unwrap().is_none());
    }

    #[test]
    fn nothing_there_is_told_apart_from_an_end() {
        let (a, b) = Packets::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        assert!(matches!(b.receive(64, 0), Err(PacketError::WouldBlock)));
        drop(a);
        assert!(b.receive(64, 0).unwrap().is_none());
    }
}
