//! Connections to the session's own loopback, for those who come in by a published port. Only init can make one: it
//! lives in the session's network, and its filter lets it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

/// A socket that connects to `port`, without waiting for it: who listens there is the agent's.
pub(super) fn connect(port: u16, six: bool) -> Result<OwnedFd, Errno> {
    let (family, own) = match six {
        false => (AddressFamily::INET, IpAddr::V4(Ipv4Addr::LOCALHOST)),
        true => (AddressFamily::INET6, IpAddr::V6(Ipv6Addr::LOCALHOST)),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match rustix::net::connect(&socket, &SocketAddr::new(own, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}
