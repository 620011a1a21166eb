//! Refuses connections that have only been asked for: with a reset as the far end would send it. nftables could do it
//! by itself, but then the socket would be gone before anybody could see whose it is.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

const TCP: u8 = 6;
/// Bytes of a TCP header without options.
const TCP_LENGTH: u8 = 20;
const TCP_HEADER: usize = TCP_LENGTH as usize;
const RST_ACK: u8 = 0x14;
const HOPS: u8 = 64;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Syn {
    /// The agent's end, which gets the reset.
    pub from: SocketAddr,
    /// The end that it asks for, in whose name the reset is sent.
    pub to: SocketAddr,
    /// The number that the connection begins with.
    pub sequence: u32,
}

/// Raw sockets of a network namespace; what is sent by them passes its firewall like anything else.
#[derive(Debug)]
pub struct Resets {
    four: OwnedFd,
    six: OwnedFd,
}

impl Resets {
    /// Of the calling thread's network namespace, over which it has `CAP_NET_RAW`.
    ///
    /// # Errors
    /// Those of `socket(2)`.
    pub fn open() -> io::Result<Self> {
        let open = |family| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            rustix::net::socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))
        };
        Ok(Self { four: open(AddressFamily::INET)?, six: open(AddressFamily::INET6)? })
    }

    /// Takes sockets that were opened elsewhere, for IPv4 and IPv6.
    pub fn from_fds(four: OwnedFd, six: OwnedFd) -> Self {
        Self { four, six }
    }

    /// Both sockets, for IPv4 and IPv6.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.four.as_fd(), self.six.as_fd()]
    }

    /// Refuses the connection, if it is still asked for. One whose reset is lost asks again.
    ///
    /// # Errors
    /// Those of `sendto(2)`.
    pub fn refuse(&self, syn: &Syn) -> io::Result<()> {
        let sent = match (syn.from, syn.to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                let to_it = SocketAddrV4::new(*from.ip(), 0);
                rustix::net::sendto(&self.four, &packet4(from, to, syn.sequence), SendFlags::empty(), &to_it)
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                // With a port the kernel refuses a raw socket's packet.
                let to_it = SocketAddrV6::new(*from.ip(), 0, 0, 0);
                rustix::net::sendto(&self.six, &packet6(from, to, syn.sequence), SendFlags::empty(), &to_it)
            }
            _ => return Ok(()),
        };
        match sent {
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn packet4(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> Vec<u8> {
    const HEADER: u16 = 20;
    let length = (HEADER + u16::from(TCP_LENGTH)).to_be_bytes();
    // Identification and checksum are the kernel's to fill in (raw(7)).
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, HOPS, TCP, 0, 0];
    packet.extend(to.ip().octets());
    packet.extend(from.ip().octets());
    let sum = pseudo(&to.ip().octets(), &from.ip().octets());
    packet.extend(segment(to.port(), from.port(), sequence, sum));
    packet
}

fn packet6(from: SocketAddrV6, to: SocketAddrV6, sequence: u32) -> Vec<u8> {
    let length = u16::from(TCP_LENGTH).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], TCP, HOPS];
    packet.extend(to.ip().octets());
    packet.extend(from.ip().octets());
    let sum = pseudo(&to.ip().octets(), &from.ip().octets());
    packet.extend(segment(to.port(), from.port(), sequence, sum));
    packet
}

/// A reset that answers `sequence` (RFC 9293 §3.5.2).
fn segment(source: u16, destination: u16, sequence: u32, pseudo: u32) -> [u8; TCP_HEADER] {
    let mut segment = [0; TCP_HEADER];
    segment[..2].copy_from_slice(&source.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.to_be_bytes());
    segment[8..12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
    segment[12] = (TCP_LENGTH / 4) << 4;
    segment[13] = RST_ACK;
    let sum = !folded(pseudo + words(&segment));
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The sum of what stands before a segment for its checksum: of IPv4 and IPv6 alike, since no length here has a high
/// half.
fn pseudo(source: &[u8], destination: &[u8]) -> u32 {
    words(source) + words(destination) + u32::from(TCP) + u32::from(TCP_LENGTH)
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn folded(mut sum: u32) -> u16 {
    loop {
        match u16::try_from(sum) {
            Ok(sum) => return sum,
            Err(_) => sum = (sum & 0xffff) + (sum >> 16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice};

    #[test]
    fn resets_are_what_the_far_end_would_send() {
        let (from, to) = ("10.200.0.2:40000".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
        let packet = packet4(from, to, u32::MAX);
        let ip = Ipv4HeaderSlice::from_slice(&packet).unwrap();
        let tcp = TcpHeaderSlice::from_slice(&packet[20..]).unwrap();
        assert_eq!((ip.source_addr(), ip.destination_addr()), (*to.ip(), *from.ip()));
        assert_eq!((tcp.source_port(), tcp.destination_port()), (443, 40000));
        assert!(tcp.rst() && tcp.ack() && !tcp.syn() && tcp.acknowledgment_number() == 0);
        let sum = tcp.to_header().calc_checksum_ipv4(&ip.to_header(), &[]).unwrap();
        assert_eq!(tcp.checksum(), sum);

        let (from, to) = ("[fd00:a9e::2]:40000".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        let packet = packet6(from, to, 7);
        let ip = Ipv6HeaderSlice::from_slice(&packet).unwrap();
        let tcp = TcpHeaderSlice::from_slice(&packet[40..]).unwrap();
        assert_eq!((ip.source_addr(), ip.destination_addr()), (*to.ip(), *from.ip()));
        assert_eq!(tcp.acknowledgment_number(), 8);
        let sum = tcp.to_header().calc_checksum_ipv6(&ip.to_header(), &[]).unwrap();
        assert_eq!(tcp.checksum(), sum);
    }
}
