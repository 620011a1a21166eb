//! Which socket has an address and port, by the kernel's word (`sock_diag(7)`).

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::NLMSG_ERROR;

use crate::netlink::{self, Netlink, messages};
use crate::width;

// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
// `struct nlmsghdr`
const HEADER: usize = 16;
// `struct inet_diag_req_v2`
const REQUEST: usize = 56;
/// Where `struct inet_diag_msg` has its state, its own port and its inode.
const STATE: usize = 1;
const SPORT: usize = 4;
const INODE: usize = 68;
// `TCP_LISTEN`
const LISTENS: u8 = 10;
/// Room for one answer.
const ANSWER: usize = 4 << 10;

/// A socket's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// TCP, or UDP.
    pub tcp: bool,
    /// The end of the socket's owner.
    pub own: SocketAddr,
    /// The other one.
    pub far: SocketAddr,
}

/// Asks about the sockets of the network namespace in which it was opened. Needs no capability.
#[derive(Debug)]
pub struct SockDiag {
    socket: Netlink,
    sequence: Cell<u32>,
}

impl SockDiag {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// Those of `socket(2)` and `bind(2)`.
    pub fn open() -> io::Result<Self> {
        Ok(Self::from_netlink(Netlink::open(netlink::SOCK_DIAG)?))
    }

    /// Takes one that was opened elsewhere and has asked nothing yet.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self::from_netlink(Netlink::from_fd(fd))
    }

    fn from_netlink(socket: Netlink) -> Self {
        Self { socket, sequence: Cell::new(0) }
    }

    /// The inode of the socket that gets what comes from `ends.far` to `ends.own`; `None` if there is none, or no
    /// process has it any more. Of UDP that is the one that sends from there, unless several share the port.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn inode(&self, ends: &Ends) -> io::Result<Option<u32>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let Some(request) = request(ends, sequence) else { return Ok(None) };
        self.socket.send(&[IoSlice::new(&request)])?;
        let mut buffer = [0; ANSWER];
        // What an earlier question left behind is skipped.
        while let Some(datagram) = self.socket.receive(&mut buffer)? {
            for message in messages(datagram) {
                let message = message.map_err(io::Error::other)?;
                if message.sequence_number() != sequence {
                    continue;
                }
                return Ok(match message.message_type() {
                    BY_FAMILY => inode(ends, message.payload()),
                    // There is no such socket, or this kernel has no module that knows.
                    NLMSG_ERROR => None,
                    _ => return Err(io::Error::other("an answer that is no socket")),
                });
            }
        }
        Err(io::Error::other("no answer about a socket"))
    }
}

impl AsFd for SockDiag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `None` if the ends are of two families.
fn request(ends: &Ends, sequence: u32) -> Option<Vec<u8>> {
    let (family, protocol) = match (ends.own.ip(), ends.far.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (libc::AF_INET, ends.tcp),
        (IpAddr::V6(_), IpAddr::V6(_)) => (libc::AF_INET6, ends.tcp),
        _ => return None,
    };
    let protocol = if protocol { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
    // For a single socket of UDP the kernel reads the ends as a packet to it has them (udp_dump_one()).
    let (source, destination) = if ends.tcp { (ends.own, ends.far) } else { (ends.far, ends.own) };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(width::size::<[u8; HEADER + REQUEST]>().to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([width::byte(family), width::byte(protocol), 0, 0]);
    // Of any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    for end in [source, destination] {
        let mut address = [0; 16];
        match end.ip() {
            IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => address = v6.octets(),
        }
        bytes.extend(address);
    }
    bytes.extend([0; 4]);
    // INET_DIAG_NOCOOKIE
    bytes.extend([0xff; 8]);
    Some(bytes)
}

/// What the body of an answer says, if it is about a socket that has `ends.own`: a listener does not stand for the
/// peers that connects from its port.
fn inode(ends: &Ends, body: &[u8]) -> Option<u32> {
    let port = body.get(SPORT..)?.first_chunk::<2>()?;
    let inode = u32::from_ne_bytes(*body.get(INODE..)?.first_chunk::<4>()?);
    let listens = ends.tcp && *body.get(STATE)? == LISTENS;
    (u16::from_be_bytes(*port) == ends.own.port() && !listens && inode != 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::MetadataExt;

    fn own(fd: BorrowedFd<'_>) -> u32 {
        let link = std::fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)));
        u32::try_from(link.unwrap().ino()).unwrap()
    }

    #[test]
    fn sockets_are_found_by_their_ends() {
        let diag = SockDiag::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let far = listener.local_addr().unwrap();
            let stream = TcpStream::connect(far).unwrap();
            let ends = Ends { tcp: true, own: stream.local_addr().unwrap(), far };
            assert_eq!(diag.inode(&ends).unwrap(), Some(own(stream.as_fd())), "{address}");
            // A listener is nobody's connection.
            let other = Ends { own: far, far: "127.0.0.1:9".parse().unwrap(), ..ends };
            assert_eq!(diag.inode(&other).unwrap(), None, "{address}");
            let socket = UdpSocket::bind(address).unwrap();
            let ends = Ends { tcp: false, own: socket.local_addr().unwrap(), far };
            assert_eq!(diag.inode(&ends).unwrap(), Some(own(socket.as_fd())), "{address}");
            drop((socket, stream));
            assert_eq!(diag.inode(&ends).unwrap(), None, "{address}");
        }
    }

    #[test]
    fn one_that_was_bound_to_no_address_is_found_too() {
        let diag = SockDiag::open().unwrap();
        for (bound, own_address, far) in [
            ("0.0.0.0:0", "127.0.0.1", "127.0.0.9:53"),
            ("[::]:0", "127.0.0.1", "127.0.0.9:53"),
            ("[::]:0", "::1", "[::1]:53"),
        ] {
            let socket = UdpSocket::bind(bound).unwrap();
            let port = socket.local_addr().unwrap().port();
            let ends = Ends {
                tcp: false,
                own: (own_address.parse::<IpAddr>().unwrap(), port).into(),
                far: far.parse().unwrap(),
            };
            assert_eq!(diag.inode(&ends).unwrap(), Some(own(socket.as_fd())), "{bound}");
        }
    }

    #[test]
    fn answers_that_are_short_are_none() {
        let ends =
            Ends { tcp: false, own: "127.0.0.1:1".parse().unwrap(), far: "127.0.0.1:2".parse().unwrap() };
        let mut body = vec![0; INODE + 4];
        body[SPORT + 1] = 1;
        body[INODE] = 7;
        assert_eq!(inode(&ends, &body), Some(7));
        for length in 0..body.len() {
            assert_eq!(inode(&ends, &body[..length]), None);
        }
        assert_eq!(inode(&Ends { own: "127.0.0.1:2".parse().unwrap(), ..ends }, &body), None);
    }
}
