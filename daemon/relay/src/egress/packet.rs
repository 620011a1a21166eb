//! Datagrams with the address that they were sent to, and answers that come from there: the sockets are bound to no
//! address, and transparent.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use agentd_kernel::datagrams::Received;
pub use agentd_kernel::datagrams::Route;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::Endpoint;

/// The longest datagram that there is.
pub const MAX_DATAGRAM: usize = 64 << 10;

/// The next datagrams, as many as there are.
pub async fn take(socket: &Endpoint, received: &mut Received) -> io::Result<()> {
    loop {
        let mut ready = socket.readable().await?;
        match received.take(socket.get_ref().as_fd()) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The next datagram, and how long it is.
pub async fn receive(socket: &Endpoint, buffer: &mut [u8]) -> io::Result<(usize, Route)> {
    loop {
        let mut ready = socket.readable().await?;
        match try_receive(socket.get_ref(), buffer) {
            Ok(Some(got)) => return Ok(got),
            Ok(None) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn try_receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<(usize, Route)>, Errno> {
    let mut space = cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let from = got.address.as_ref().and_then(address);
    let mut to = None;
    for message in got.cmsgs()? {
        to = match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => to,
        };
    }
    let count = got.bytes;
    Ok(from.zip(to).map(|(from, to)| (count, Route { from, to })))
}

/// Whether the other end of a pair is closed; a datagram that is read may be empty, too.
pub fn has_ended(pair: &Endpoint) -> bool {
    let mut polled = [PollFd::new(pair.get_ref(), PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // What cannot be asked for is at its end.
    rustix::event::poll(&mut polled, Some(&at_once)).is_err() || polled[0].revents().contains(PollFlags::HUP)
}

/// Answers: from where `route` led to whom it came from. A datagram may be lost, and so may this one.
pub fn answer(socket: &OwnedFd, bytes: &[u8], route: Route) -> io::Result<()> {
    let slices = [IoSlice::new(bytes)];
    let (four, six);
    let source = match route.to {
        IpAddr::V4(address) => {
            let zero = libc::in_addr { s_addr: 0 };
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
            four = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: zero };
            ControlMessage::Ipv4PacketInfo(&four)
        }
        IpAddr::V6(address) => {
            let source = libc::in6_addr { s6_addr: address.octets() };
            six = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            ControlMessage::Ipv6PacketInfo(&six)
        }
    };
    let to = SockaddrStorage::from(route.from);
    loop {
        match sendmsg(socket.as_raw_fd(), &slices, &[source], MsgFlags::MSG_DONTWAIT, Some(&to)) {
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let four = storage.as_sockaddr_in().map(|address| SocketAddr::from(*address));
    four.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::from(*address)))
}
