//! What routing says of an address (`rtnetlink(7)`, `RTM_GETROUTE`): whether it is this host's own.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_REQUEST, NLMSG_ERROR, NetlinkMessage};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteType;

use crate::netlink::{self, Netlink, messages};

/// Room for one answer: a route with all its attributes has some hundred bytes.
const ANSWER: usize = 8 << 10;

/// Asks the routes of the network namespace in which it was opened. Needs no capability.
#[derive(Debug)]
pub struct Routes {
    socket: Netlink,
    sequence: Cell<u32>,
}

impl Routes {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// Those of `socket(2)` and `bind(2)`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Netlink::open(netlink::ROUTE)?, sequence: Cell::new(0) })
    }

    /// Whether what is sent to `address` comes to this host itself: it has the address, as the first or a further one
    /// of an interface, or a route says that it is local (`RTN_LOCAL`).
    ///
    /// # Errors
    /// `ENETUNREACH` and the like if there is no way to it; anything else if the kernel cannot be understood.
    pub fn is_own(&self, address: IpAddr) -> io::Result<bool> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let request = request(address, sequence);
        self.socket.send(&[IoSlice::new(&request)])?;
        let mut buffer = [0; ANSWER];
        let odd = || io::Error::other("an answer that is no route");
        loop {
            let datagram = self.socket.receive(&mut buffer)?.ok_or_else(odd)?;
            let answer = messages(datagram).next().ok_or_else(odd)?.map_err(io::Error::other)?;
            // What an earlier question left behind.
            if answer.sequence_number() != sequence {
                continue;
            }
            if answer.message_type() == NLMSG_ERROR {
                let code = answer.payload().first_chunk().map(|code| i32::from_ne_bytes(*code));
                return Err(code
                    .filter(|code| *code < 0)
                    .map_or_else(odd, |code| io::Error::from_raw_os_error(code.saturating_neg())));
            }
            // struct rtmsg, of which the eighth byte is rtm_type.
            let kind = answer.payload().get(7).filter(|_| answer.message_type() == libc::RTM_NEWROUTE);
            return kind.map(|kind| RouteType::from(*kind) == RouteType::Local).ok_or_else(odd);
        }
    }
}

impl AsFd for Routes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn request(address: IpAddr, sequence: u32) -> Vec<u8> {
    let route = match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
    };
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(route));
    message.header.flags = NLM_F_REQUEST;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_the_hosts_own_and_documentation_is_not() {
        let routes = Routes::open().unwrap();
        for own in ["127.0.0.1", "127.9.9.9", "::1"] {
            assert!(routes.is_own(own.parse().unwrap()).unwrap(), "{own}");
        }
        // Somebody else's, or out of reach.
        for other in ["192.0.2.1", "2001:db8::1"] {
            assert!(!routes.is_own(other.parse().unwrap()).unwrap_or(false), "{other}");
        }
        assert!(routes.is_own("127.0.0.1".parse().unwrap()).unwrap());
    }
}
