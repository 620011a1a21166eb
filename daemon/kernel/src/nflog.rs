//! Packets that the session's table refused, as the kernel logs them (`NFLOG`).
//!
//! A packet comes from the agent and may hold anything; the messages around it are the kernel's.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use etherparse::{IpNumber, LaxIpSlice};
use netlink_packet_core::{NetlinkBuffer, NetlinkDeserializable, NetlinkHeader};
use netlink_packet_netfilter::nflog::{
    ConfigCmd, ConfigFlags, ConfigMode, ConfigNla, PacketNla, ULogMessage, config_request,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use crate::netlink::{self, Netlink, NetlinkError, messages};
use crate::width::half;

/// How much of a packet is copied: any headers, little of what follows.
pub const SNAPLEN: u32 = 128;
/// Bytes that the kernel holds for a reader that is slow. What finds no room is lost and counted.
const ROOM: usize = 256 << 10;
/// A message that holds one.
const PACKET: u16 = half((libc::NFNL_SUBSYS_ULOG << 8 | libc::NFULNL_MSG_PACKET).cast_unsigned());
/// Flags of TCP, in the fourteenth byte of its header.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Most packets that one [`Nflog::read`] takes: a flood does not keep its reader from other work.
const PACKETS: usize = 256;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
#[error("nflog: {what}: {error}")]
pub struct NflogError {
    /// The step that failed.
    pub what: &'static str,
    /// The error of that step.
    #[source]
    pub error: io::Error,
}

/// A packet that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denied {
    /// `"tcp"`, `"udp"`, `"icmp"`, or the protocol's number.
    pub protocol: String,
    /// Where it was to go.
    pub address: IpAddr,
    /// The port, of TCP and UDP.
    pub port: Option<u16>,
    /// Where it came from: the sender's claim.
    pub from: Option<SocketAddr>,
    /// The number that a connection of TCP begins with, if this was its first packet.
    pub sequence: Option<u32>,
}

impl Denied {
    /// Where it was to go, of TCP and UDP.
    pub fn to(&self) -> Option<SocketAddr> {
        self.port.map(|port| SocketAddr::new(self.address, port))
    }
}

/// The reader of one group, in one network namespace; non-blocking.
#[derive(Debug)]
pub struct Nflog {
    socket: Netlink,
    /// The number that the next packet has if none is lost.
    next: u32,
    lost: u64,
    /// Counted as lost when the kernel said so, before the gap in the numbers shows how many there were.
    foretold: u64,
}

impl Nflog {
    /// Becomes the reader of `group` in the calling thread's network namespace. There can be one.
    ///
    /// # Errors
    /// If the kernel refuses; EPERM also if the group has a reader.
    pub fn open(group: u16) -> Result<Self, NflogError> {
        let step = |what| move |error| NflogError { what, error };
        let socket = Netlink::open(netlink::NETFILTER).map_err(step("socket"))?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, ROOM)
            .map_err(|errno| NflogError { what: "receive buffer", error: errno.into() })?;
        let settings: Vec<ConfigNla> = vec![
            ConfigCmd::Bind.into(),
            ConfigMode::new_packet(SNAPLEN).into(),
            ConfigFlags::SEQ.into(),
            // Each packet at once and in a buffer of its own size: nothing is left in the kernel when a
            // session ends, and `ROOM` holds some hundreds.
            ConfigNla::QThresh(1),
            ConfigNla::NlBufSiz(1),
        ];
        let request = config_request(NetfilterProtoFamily::Unspec, group, settings);
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        socket.send(&[IoSlice::new(&bytes)]).map_err(step("bind"))?;
        socket.acknowledged(1).map_err(|error| NflogError {
            what: "bind",
            error: match error {
                NetlinkError::Refused { error, .. } | NetlinkError::Socket(error) => error,
                other => io::Error::other(other),
            },
        })?;
        Ok(Self { socket, next: 0, lost: 0, foretold: 0 })
    }

    /// Takes a reader that was opened elsewhere and has read nothing yet.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { socket: Netlink::from_fd(fd), next: 0, lost: 0, foretold: 0 }
    }

    /// What was refused since the last call, at most 256 packets; empty if nothing was. `buf` is space to
    /// work in, of 4 KiB or more.
    ///
    /// # Errors
    /// If the socket fails. That packets were lost is no error: see [`lost`](Self::lost).
    pub fn read(&mut self, buf: &mut [u8]) -> Result<Vec<Denied>, NflogError> {
        let mut denied = Vec::new();
        while denied.len() < PACKETS {
            match self.socket.receive(buf) {
                Ok(Some(datagram)) => {
                    for (sequence, packet) in packets(datagram) {
                        self.count(sequence);
                        denied.extend(packet);
                    }
                }
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.lost += 1;
                    self.foretold += 1;
                }
                Err(error) => return Err(NflogError { what: "read", error }),
            }
        }
        Ok(denied)
    }

    /// How many packets were refused but found no room, since the last call. A loss that nothing followed
    /// yet counts as one; the rest of it is reported once the next packet shows the gap.
    pub fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn count(&mut self, sequence: Option<u32>) {
        let Some(sequence) = sequence else { return };
        let gap = u64::from(sequence.wrapping_sub(self.next));
        if gap > 0 {
            self.lost += gap.saturating_sub(self.foretold);
            self.foretold = 0;
        }
        self.next = sequence.wrapping_add(1);
    }
}

impl AsFd for Nflog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The packets of a datagram, each with its number. What is no packet is left out.
pub(crate) fn packets(datagram: &[u8]) -> impl Iterator<Item = (Option<u32>, Option<Denied>)> {
    messages(datagram).map_while(Result::ok).filter_map(|message| packet(&message))
}

fn packet(message: &NetlinkBuffer<&[u8]>) -> Option<(Option<u32>, Option<Denied>)> {
    // The library reads the other messages of netfilter too, and not all of them with care.
    if message.message_type() != PACKET {
        return None;
    }
    let mut header = NetlinkHeader::default();
    header.message_type = message.message_type();
    let message = NetfilterMessage::deserialize(&header, message.payload()).ok()?;
    let NetfilterMessageInner::ULog(ULogMessage::Packet(attributes)) = message.inner else { return None };
    let mut found = (None, None);
    for attribute in &attributes {
        match attribute {
            PacketNla::Seq(sequence) => found.0 = Some(*sequence),
            PacketNla::Payload(payload) => found.1 = parse(payload),
            _ => {}
        }
    }
    Some(found)
}

/// What the first bytes of an IP packet say; `None` if they are not even a whole IP header.
pub(crate) fn parse(payload: &[u8]) -> Option<Denied> {
    let (ip, _) = LaxIpSlice::from_slice(payload).ok()?;
    let number = ip.payload_ip_number();
    let (protocol, has_ports) = match number {
        IpNumber::TCP => ("tcp".to_owned(), true),
        IpNumber::UDP => ("udp".to_owned(), true),
        IpNumber::ICMP | IpNumber::IPV6_ICMP => ("icmp".to_owned(), false),
        other => (other.0.to_string(), false),
    };
    // Source port, destination port; a fragment may begin anywhere.
    let payload = ip.payload();
    let ports = payload.payload.first_chunk::<4>().filter(|_| has_ports && !payload.fragmented);
    let port = ports.map(|[_, _, high, low]| u16::from_be_bytes([*high, *low]));
    let from = ports.map(|[high, low, ..]| (ip.source_addr(), u16::from_be_bytes([*high, *low])).into());
    let header = payload.payload.first_chunk::<14>().filter(|_| ports.is_some() && number == IpNumber::TCP);
    let first = header.filter(|header| header[13] & (SYN | ACK) == SYN);
    let sequence = first.map(|header| u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
    Some(Denied { protocol, address: ip.destination_addr(), port, from, sequence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 10, 200, 0, 2, 192, 0, 2, 1];
        packet.extend([0x80, 0, 0, 53, 0, 9, 0, 0, b'x']);
        packet
    }

    #[test]
    fn headers_are_read_as_far_as_they_go() {
        let parsed = |packet: &[u8]| parse(packet).map(|d| (d.protocol, d.address.to_string(), d.port));
        let is = |protocol: &str, port| Some((protocol.to_owned(), "192.0.2.1".to_owned(), port));
        assert_eq!(parsed(&udp4()), is("udp", Some(53)));
        assert_eq!(parsed(&udp4()[..24]), is("udp", Some(53)));
        assert_eq!(parsed(&udp4()[..23]), is("udp", None));
        assert_eq!(parsed(&udp4()[..19]), None);
        assert_eq!(parse(&udp4()).unwrap().from, Some("10.200.0.2:32768".parse().unwrap()));
        assert_eq!(parse(&udp4()).unwrap().sequence, None);
        let mut syn = udp4()[..24].to_vec();
        (syn[3], syn[9]) = (40, 6);
        syn.extend([1, 2, 3, 4, 0, 0, 0, 0, 0x50, SYN, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&syn).unwrap().sequence, Some(0x0102_0304));
        assert_eq!(parse(&syn[..33]).unwrap().sequence, None);
        syn[33] |= ACK;
        assert_eq!(parse(&syn).unwrap().sequence, None);
        // A later fragment has no ports, whatever its first bytes look like.
        let mut fragment = udp4();
        fragment[7] = 1;
        assert_eq!(parsed(&fragment), is("udp", None));
        let mut gre = udp4();
        gre[9] = 47;
        assert_eq!(parsed(&gre), is("47", None));
    }

    #[test]
    fn losses_are_counted_once() {
        let socket = Netlink::open(netlink::NETFILTER).unwrap();
        let mut nflog = Nflog { socket, next: 0, lost: 0, foretold: 0 };
        for sequence in [0, 1, 5, u32::MAX] {
            nflog.count(Some(sequence));
        }
        assert_eq!(nflog.lost(), 3 + u64::from(u32::MAX) - 6);
        nflog.count(Some(0));
        assert_eq!(nflog.lost(), 0);
        (nflog.lost, nflog.foretold) = (1, 1);
        nflog.count(Some(4));
        assert_eq!(nflog.lost(), 3);
    }

    #[test]
    fn other_messages_are_left_out() {
        // Of nf_tables, with an attribute that is shorter than its own header.
        let mut datagram = vec![0; 36];
        datagram[..4].copy_from_slice(&36_u32.to_ne_bytes());
        datagram[4..6].copy_from_slice(&0x0a09_u16.to_ne_bytes());
        datagram[20..24].copy_from_slice(&[16, 0, 17, 0]);
        datagram[24..28].copy_from_slice(&[2, 0, 1, 0]);
        assert_eq!(packets(&datagram).count(), 0);
    }

    proptest! {
        #[test]
        fn hostile_packets_never_panic(
            first in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60), any::<u8>()],
            rest in proptest::collection::vec(any::<u8>(), 0..128),
        ) {
            let mut packet = vec![first];
            packet.extend(rest);
            if let Some(denied) = parse(&packet) {
                prop_assert!(denied.protocol.len() <= 4);
            }
        }

        #[test]
        fn damaged_packets_never_panic(at in 0usize..29, with in any::<u8>(), cut in 0usize..30) {
            let mut packet = udp4();
            packet[at] = with;
            packet.truncate(cut);
            let _ = parse(&packet);
        }

        #[test]
        fn hostile_datagrams_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..256),
            length in 0u32..256,
        ) {
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes[4..6].copy_from_slice(&[0, 4]);
            let _ = packets(&bytes).count();
        }
    }
}
