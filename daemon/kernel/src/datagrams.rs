//! Datagrams many at a time, with the address that each was sent to, and answers that come from there
//! (`recvmmsg(2)`, `sendmmsg(2)`, `IP_PKTINFO`): for sockets that are bound to no
//! address and transparent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::width;

/// The most that are taken or sent by one call.
pub const BATCH: usize = 32;
/// What a `sockaddr` of either family takes.
const NAME: usize = size_of::<libc::sockaddr_in6>();
/// A control message's header, and the longest that is behind it here.
const HEADER: usize = size_of::<libc::cmsghdr>();
const CONTROL: usize = HEADER + 24;
const _: () = assert!(size_of::<libc::in6_pktinfo>() <= 24 && size_of::<libc::in_pktinfo>() <= 24);

/// Where a datagram came from and where it was to go, without the port, which is the socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The client's claim.
    pub from: SocketAddr,
    /// What it wanted to reach.
    pub to: IpAddr,
}

/// What the kernel reads or writes besides a datagram's bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Slot {
    name: [u8; NAME],
    /// To the alignment of `control`, which is that of a `cmsghdr`.
    _room: [u8; 4],
    control: [u8; CONTROL],
}

const EMPTY: Slot = Slot { name: [0; NAME], _room: [0; 4], control: [0; CONTROL] };

/// Room for datagrams that come.
pub struct Received {
    slots: Box<[Slot; BATCH]>,
    bytes: Vec<u8>,
    longest: usize,
    /// Length and route of each.
    taken: Vec<(usize, Route)>,
}

impl Received {
    /// For datagrams of at most `longest` bytes; of longer ones so much is taken.
    pub fn new(longest: usize) -> Self {
        let slots = Box::new([EMPTY; BATCH]);
        Self { slots, bytes: vec![0; longest * BATCH], longest, taken: Vec::with_capacity(BATCH) }
    }

    /// Takes what is there, without waiting: how many came, and fewer than [`BATCH`] only if that were all. Those that
    /// do not say where they were to go are left out of [`Received::iter`].
    ///
    /// # Errors
    /// As `recvmmsg(2)`; `EAGAIN` if there is nothing.
    pub fn take(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.taken.clear();
        let mut vectors = self
            .bytes
            .chunks_exact_mut(self.longest)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() });
        let mut vectors: [libc::iovec; BATCH] =
            std::array::from_fn(|_| vectors.next().unwrap_or_else(|| unreachable!("as many as that")));
        let mut headers = vectors.each_mut().map(message);
        for (header, slot) in headers.iter_mut().zip(self.slots.iter_mut()) {
            point(header, slot, width::size::<libc::sockaddr_in6>(), CONTROL);
        }
        // SAFETY: each header points to a name, a vector and a control buffer that live across the call, are not used
        // otherwise meanwhile, and are as long as it says; each vector to its own part of `bytes`, likewise.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                width::at_most(BATCH),
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, slot) in headers.iter().zip(self.slots.iter()).take(count) {
            let from = address(&slot.name, header.msg_hdr.msg_namelen as usize);
            let to = destination(&slot.control, header.msg_hdr.msg_controllen);
            let route = from.zip(to).map(|(from, to)| Route { from, to });
            // Left out: of no length that `iter` knows.
            let nowhere = Route { from: ([0, 0, 0, 0], 0).into(), to: Ipv4Addr::UNSPECIFIED.into() };
            let length = route.map_or(usize::MAX, |_| header.msg_len as usize);
            self.taken.push((length, route.unwrap_or(nowhere)));
        }
        Ok(count)
    }

    /// Each datagram that was taken last.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Route)> {
        let bytes = self.bytes.chunks_exact(self.longest);
        bytes.zip(&self.taken).filter_map(|(bytes, (length, route))| Some((bytes.get(..*length)?, *route)))
    }
}

/// Datagrams that are to go.
#[derive(Default)]
pub struct Answers {
    bytes: Vec<u8>,
    /// Where each ends, and the route of what it answers.
    ends: Vec<(usize, Route)>,
}

impl Answers {
    /// One more, of what `write` writes behind what is there.
    pub fn add(&mut self, route: Route, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push((self.bytes.len(), route));
    }

    /// Sends all, each from where its route led to whom it came from. What there is no room for, or no way, is lost, as
    /// a network would lose it.
    pub fn send(&mut self, socket: BorrowedFd<'_>) {
        let mut begin = 0;
        for ends in self.ends.chunks(BATCH) {
            let mut slots = [EMPTY; BATCH];
            let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
            let mut lengths = [(0, 0); BATCH];
            for (((end, route), slot), (vector, length)) in
                ends.iter().zip(&mut slots).zip(vectors.iter_mut().zip(&mut lengths))
            {
                let bytes = &self.bytes[begin..*end];
                // The kernel reads it only.
                *vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
                *length =
                    (write_address(&mut slot.name, route.from), write_source(&mut slot.control, route.to));
                begin = *end;
            }
            let mut headers = vectors.each_mut().map(message);
            for ((header, slot), (name, control)) in headers.iter_mut().zip(&mut slots).zip(lengths) {
                point(header, slot, name, control);
            }
            send_all(socket, &mut headers[..ends.len()]);
        }
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Sends what `headers` point to.
fn send_all(socket: BorrowedFd<'_>, mut headers: &mut [libc::mmsghdr]) {
    while !headers.is_empty() {
        let count = width::at_most(headers.len());
        // SAFETY: the caller's headers point to names, vectors and control buffers that live across the call and are as
        // long as they say.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        let done = match usize::try_from(sent) {
            Ok(sent) => sent,
            Err(_) => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => 0,
                io::ErrorKind::WouldBlock => return,
                // This one cannot go; those behind it may.
                _ => 1,
            },
        };
        headers = &mut headers[done..];
    }
}

/// A header for one datagram in one piece.
fn message(vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: numbers and pointers, for which zero is a value: none of each.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

fn point(header: &mut libc::mmsghdr, slot: &mut Slot, name: libc::socklen_t, control: usize) {
    header.msg_hdr.msg_name = slot.name.as_mut_ptr().cast();
    header.msg_hdr.msg_namelen = name;
    header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
    header.msg_hdr.msg_controllen = control;
}

fn bytes<const N: usize>(from: &[u8], place: usize) -> Option<[u8; N]> {
    from.get(place..place + N)?.try_into().ok()
}

/// A `sockaddr_in` or `sockaddr_in6`.
fn address(name: &[u8], length: usize) -> Option<SocketAddr> {
    let name = name.get(..length)?;
    let (family, port) = (u16::from_ne_bytes(bytes(name, 0)?), u16::from_be_bytes(bytes(name, 2)?));
    let ip: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(bytes::<4>(name, 4)?).into(),
        libc::AF_INET6 => Ipv6Addr::from(bytes::<16>(name, 8)?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn write_address(name: &mut [u8; NAME], address: SocketAddr) -> libc::socklen_t {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    name[..2].copy_from_slice(&libc::sa_family_t::from(width::byte(family)).to_ne_bytes());
    name[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            name[4..8].copy_from_slice(&ip.octets());
            width::size::<libc::sockaddr_in>()
        }
        IpAddr::V6(ip) => {
            name[8..24].copy_from_slice(&ip.octets());
            width::size::<libc::sockaddr_in6>()
        }
    }
}

/// The address that a datagram was sent to: of these sockets' control messages it is the only one.
fn destination(control: &[u8], length: usize) -> Option<IpAddr> {
    let control = control.get(..length)?;
    const LEVEL: usize = std::mem::offset_of!(libc::cmsghdr, cmsg_level);
    const TYPE: usize = std::mem::offset_of!(libc::cmsghdr, cmsg_type);
    let word = |place| bytes(control, place).map(i32::from_ne_bytes);
    match (word(LEVEL)?, word(TYPE)?) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let place = HEADER + std::mem::offset_of!(libc::in_pktinfo, ipi_addr);
            Some(Ipv4Addr::from(bytes::<4>(control, place)?).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let place = HEADER + std::mem::offset_of!(libc::in6_pktinfo, ipi6_addr);
            Some(Ipv6Addr::from(bytes::<16>(control, place)?).into())
        }
        _ => None,
    }
}

/// Writes the control message that has a datagram come from `source`; how much of `control` the message takes.
fn write_source(control: &mut [u8; CONTROL], source: IpAddr) -> usize {
    let (level, kind, length, place, address): (_, _, usize, usize, &[u8]) = match &source {
        IpAddr::V4(ip) => (
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            size_of::<libc::in_pktinfo>(),
            std::mem::offset_of!(libc::in_pktinfo, ipi_spec_dst),
            &ip.octets(),
        ),
        IpAddr::V6(ip) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_PKTINFO,
            size_of::<libc::in6_pktinfo>(),
            std::mem::offset_of!(libc::in6_pktinfo, ipi6_addr),
            &ip.octets(),
        ),
    };
    const LEVEL: usize = std::mem::offset_of!(libc::cmsghdr, cmsg_level);
    const TYPE: usize = std::mem::offset_of!(libc::cmsghdr, cmsg_type);
    control[..size_of::<usize>()].copy_from_slice(&(HEADER + length).to_ne_bytes());
    control[LEVEL..LEVEL + 4].copy_from_slice(&level.to_ne_bytes());
    control[TYPE..TYPE + 4].copy_from_slice(&kind.to_ne_bytes());
    control[HEADER + place..HEADER + place + address.len()].copy_from_slice(address);
    // CMSG_SPACE(3): to the next multiple of a word.
    (HEADER + length).next_multiple_of(size_of::<usize>())
}

#[cfg(test)]
#[cfg(feature = "session")]
#[path = "datagrams_tests.rs"]
mod tests;
