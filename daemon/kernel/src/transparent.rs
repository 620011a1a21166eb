//! Sockets that answer for addresses that are not theirs (`IP_TRANSPARENT`, ip(7)). Making one needs CAP_NET_ADMIN in
//! the network namespace; using one needs nothing.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::width;

/// How many connections wait for being accepted.
const BACKLOG: i32 = 1024;

/// A socket that listens on `address` and, if it is `transparent`, gets what a rule gives it, whatever its address.
/// Close-on-exec, non-blocking.
///
/// # Errors
/// As `socket(2)`, `setsockopt(2)`, `bind(2)` and `listen(2)`.
pub fn listener(address: SocketAddr, transparent: bool) -> io::Result<OwnedFd> {
    let socket = socket(address, SocketType::STREAM)?;
    if transparent {
        be_transparent(&socket, address)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A socket for datagrams to the port of `address`, an unspecified one, whatever the address that they go to, which
/// `recvmsg(2)` shows (`IP_PKTINFO`), and from which `sendmsg(2)` answers. Close-on-exec, non-blocking.
///
/// # Errors
/// As `socket(2)`, `setsockopt(2)` and `bind(2)`.
pub fn datagrams(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(address, SocketType::DGRAM)?;
    be_transparent(&socket, address)?;
    match address {
        SocketAddr::V4(_) => turn_on(&socket, libc::SOL_IP, libc::IP_PKTINFO)?,
        SocketAddr::V6(_) => turn_on(&socket, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO)?,
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        // The same port of IPv4 has a socket of its own.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

fn be_transparent(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => turn_on(socket, libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => turn_on(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    }
}

fn turn_on(socket: &OwnedFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int from `on`, which lives across the call and is as long as is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&on).cast(),
            width::size::<libc::c_int>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
