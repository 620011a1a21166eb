//! The session's only interface: `lo`, with an address of its own, and routes that keep every packet on
//! the host's side of no wire at all: the whole of IPv4 and IPv6 is local.
//!
//! Programs bind to the session's own addresses alone, and get `EADDRNOTAVAIL` for others as anywhere. For IPv6 the
//! kernel looks at addresses; for IPv4 at the table `local`, which is one with `main` until there is a rule of one's
//! own. So the route of IPv4 is in another table, behind a rule.

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, RouteMessageBuilder};

use crate::netlink::{self, Netlink, NetlinkError};

/// The session's own address.
pub const ADDRESS4: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// Its IPv6 twin.
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa9e, 0, 0, 0, 0, 0, 2);
/// `lo` has this index in every network namespace; the kernel does not start one where it has not.
const LO: u32 = 1;

// `RT_TABLE_LOCAL`
const RT_TABLE_LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;
/// The table of the route of IPv4, and when it is looked at: behind `local`, which is first.
const TABLE: u8 = 100;
const PRIORITY: u32 = 100;

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// The socket failed.
    #[error("loopback: {0}")]
    Netlink(#[source] std::io::Error),
    /// The kernel refused a step.
    #[error("loopback: {step}: {error}")]
    Refused {
        /// As `ip(8)` would say it.
        step: &'static str,
        /// The kernel's error for it.
        error: std::io::Error,
    },
}

/// Brings `lo` up in the calling thread's network namespace, with [`ADDRESS4`], [`ADDRESS6`] and the
/// routes `local default dev lo`.
///
/// # Errors
/// The first step that the kernel refused. What came before it stays: the namespace is of no use then.
pub fn bring_up() -> Result<(), LoopbackError> {
    let steps = steps();
    let mut bytes = Vec::with_capacity(512);
    for (sequence, (_, message)) in (1..).zip(&steps) {
        append(&mut bytes, message.clone(), sequence);
    }
    let socket = Netlink::open(netlink::ROUTE).map_err(LoopbackError::Netlink)?;
    socket.send(&[IoSlice::new(&bytes)]).map_err(LoopbackError::Netlink)?;
    socket.acknowledged(steps.len()).map_err(|error| refused(error, &steps))
}

type Step = (&'static str, RouteNetlinkMessage);

/// What is to be done, in order.
fn steps() -> [Step; 6] {
    let mut address6 = AddressMessageBuilder::<Ipv6Addr>::new().index(LO).address(ADDRESS6, 128).build();
    // Nobody else is there to have the address: without this it stays tentative for a second.
    address6.header.flags |= AddressHeaderFlags::Nodad;
    [
        ("link set lo up", RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(LO).up().build())),
        ("address add 10.200.0.2/32 dev lo", RouteNetlinkMessage::NewAddress(address4())),
        ("address add fd00:a9e::2/128 dev lo nodad", RouteNetlinkMessage::NewAddress(address6)),
        ("rule add lookup 100 priority 100", RouteNetlinkMessage::NewRule(rule4())),
        ("route add local default dev lo src 10.200.0.2 table 100", RouteNetlinkMessage::NewRoute(route4())),
        ("route add local default dev lo src fd00:a9e::2", RouteNetlinkMessage::NewRoute(route6())),
    ]
}

fn address4() -> AddressMessage {
    AddressMessageBuilder::<Ipv4Addr>::new().index(LO).address(ADDRESS4, 32).build()
}

fn route4() -> RouteMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().pref_source(ADDRESS4).scope(RouteScope::Host);
    local_default(route, TABLE.into()).build()
}

fn rule4() -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet;
    rule.header.table = TABLE;
    rule.header.action = RuleAction::ToTable;
    rule.attributes.push(RuleAttribute::Priority(PRIORITY));
    rule
}

fn route6() -> RouteMessage {
    local_default(RouteMessageBuilder::<Ipv6Addr>::new().pref_source(ADDRESS6), RT_TABLE_LOCAL).build()
}

/// Everything is local, as `ip route add local default dev lo` says it.
fn local_default<T>(route: RouteMessageBuilder<T>, table: u32) -> RouteMessageBuilder<T> {
    route.kind(RouteType::Local).table_id(table).protocol(RouteProtocol::Boot).output_interface(LO)
}

fn append(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, sequence: u32) {
    let create = match message {
        RouteNetlinkMessage::SetLink(_) => 0,
        _ => NLM_F_CREATE | NLM_F_EXCL,
    };
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | create;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

fn refused(error: NetlinkError, steps: &[Step]) -> LoopbackError {
    let NetlinkError::Refused { sequence, error } = error else {
        return LoopbackError::Netlink(std::io::Error::other(error));
    };
    let step = (sequence as usize).checked_sub(1).and_then(|index| steps.get(index));
    LoopbackError::Refused { step: step.map_or("unknown step", |(step, _)| step), error }
}
