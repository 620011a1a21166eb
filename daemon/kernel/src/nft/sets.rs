//! Sets of what may be reached, each element for a time: an address, a protocol, and mostly a port.

use std::ffi::c_void;
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::NetfilterProtoFamily;
use nftnl::nftnl_sys as sys;
use nftnl::{MsgType, NlMsg};

use super::encode::{Expr, REGISTER, c_string, family, message, meta_to, payload_to};
use super::readback;
use super::rules::TABLE;

// Of linux/netfilter/nf_tables.h; libc has none of these.
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_DATA_VALUE: u16 = 1;
/// `NFT_REG32_00`: the first four bytes of `NFT_REG_1`.
const NFT_REG32_00: u32 = 8;

/// The most elements of one set.
pub const MAX_ELEMENTS: u32 = 16_384;
/// How many elements one message speaks of.
pub(super) const AT_ONCE: usize = 128;

/// A set of the table, by what its elements match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Of IPv4 addresses with a port.
    Pin4,
    /// Of IPv6 addresses with a port.
    Pin6,
    /// Of IPv4 addresses, for every port.
    Host4,
    /// Of IPv6 addresses, for every port.
    Host6,
}

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The destination that it lets pass.
    pub address: IpAddr,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Which port; `None`: every.
    pub port: Option<u16>,
}

impl Set {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pin4, Self::Pin6, Self::Host4, Self::Host6];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pin4 => "pin4",
            Self::Pin6 => "pin6",
            Self::Host4 => "host4",
            Self::Host6 => "host6",
        }
    }

    /// What of a packet is looked up in it.
    pub(super) fn expression(self) -> &'static str {
        match self {
            Self::Pin4 => "ip daddr . meta l4proto . th dport",
            Self::Pin6 => "ip6 daddr . meta l4proto . th dport",
            Self::Host4 => "ip daddr . meta l4proto",
            Self::Host6 => "ip6 daddr . meta l4proto",
        }
    }

    fn is_ipv4(self) -> bool {
        matches!(self, Self::Pin4 | Self::Host4)
    }

    fn has_port(self) -> bool {
        matches!(self, Self::Pin4 | Self::Pin6)
    }

    fn address_len(self) -> u32 {
        if self.is_ipv4() { 4 } else { 16 }
    }

    fn key_len(self) -> u32 {
        self.address_len() + if self.has_port() { 8 } else { 4 }
    }

    /// By nft(8)'s numbers for `ipv4_addr`, `ipv6_addr`, `inet_proto` and `inet_service`, six bits each.
    fn key_type(self) -> u32 {
        let pair = if self.is_ipv4() { 7 << 6 | 12 } else { 8 << 6 | 12 };
        if self.has_port() { pair << 6 | 13 } else { pair }
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let address = if self.is_ipv4() { "ipv4_addr" } else { "ipv6_addr" };
        let port = if self.has_port() { " . inet_service" } else { "" };
        writeln!(f, "\tset {} {{", self.name())?;
        writeln!(f, "\t\ttype {address} . inet_proto{port}")?;
        writeln!(f, "\t\tsize {MAX_ELEMENTS}")?;
        writeln!(f, "\t\tflags timeout\n\t}}")
    }
}

impl Element {
    /// Where it belongs.
    pub fn set(&self) -> Set {
        match (self.address, self.port) {
            (IpAddr::V4(_), Some(_)) => Set::Pin4,
            (IpAddr::V6(_), Some(_)) => Set::Pin6,
            (IpAddr::V4(_), None) => Set::Host4,
            (IpAddr::V6(_), None) => Set::Host6,
        }
    }

    /// As packets carry it; each field fills whole registers of four bytes.
    fn key(&self) -> Vec<u8> {
        let mut key = match self.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        key.extend([self.protocol, 0, 0, 0]);
        if let Some(port) = self.port {
            let [high, low] = port.to_be_bytes();
            key.extend([high, low, 0, 0]);
        }
        key
    }
}

/// Looks a packet up in a set.
pub(super) fn lookup(set: Set) -> Vec<Expr> {
    let (nfproto, offset) = if set.is_ipv4() { (libc::NFPROTO_IPV4, 16) } else { (libc::NFPROTO_IPV6, 24) };
    let mut exprs = family(nfproto);
    exprs.push(payload_to(REGISTER, libc::NFT_PAYLOAD_NETWORK_HEADER, offset, set.address_len()));
    exprs.push(meta_to(register(set.address_len()), libc::NFT_META_L4PROTO));
    if set.has_port() {
        let at = register(set.address_len() + 4);
        exprs.push(payload_to(at, libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2));
    }
    let attributes = vec![
        (sys::NFTNL_EXPR_LOOKUP_SREG, REGISTER.to_ne_bytes().to_vec()),
        (sys::NFTNL_EXPR_LOOKUP_SET, c_string(set.name()).into_bytes_with_nul()),
    ];
    exprs.push(Expr(c"lookup", attributes));
    exprs
}

/// The register of a key's byte: one of 16 bytes where one begins, as the kernel lists it.
fn register(byte: u32) -> u32 {
    if byte.is_multiple_of(16) { REGISTER + byte / 16 } else { NFT_REG32_00 + byte / 4 }
}

/// A set to be made.
pub(super) struct NewSet(pub(super) Set);

// SAFETY: what is written is the hundred bytes of one message.
unsafe impl NlMsg for NewSet {
    unsafe fn write(&self, buf: *mut c_void, sequence: u32, _: MsgType) {
        let number = |kind, value: u32| DefaultNla::new(kind, value.to_be_bytes().to_vec());
        let size = nest(&[number(NFTA_SET_DESC_SIZE, MAX_ELEMENTS)]);
        let attributes = vec![
            DefaultNla::new(NFTA_SET_TABLE, c_string(TABLE).into_bytes_with_nul()),
            DefaultNla::new(NFTA_SET_NAME, c_string(self.0.name()).into_bytes_with_nul()),
            number(NFTA_SET_FLAGS, NFT_SET_TIMEOUT),
            number(NFTA_SET_KEY_TYPE, self.0.key_type()),
            number(NFTA_SET_KEY_LEN, self.0.key_len()),
            DefaultNla::new(NFTA_SET_DESC | NLA_F_NESTED, size),
            // Rules name it by its name; the kernel wants one all the same.
            number(NFTA_SET_ID, 0),
        ];
        let flags = NLM_F_CREATE | NLM_F_ACK;
        let bytes = message(libc::NFT_MSG_NEWSET, NetfilterProtoFamily::Inet, flags, sequence, attributes);
        // SAFETY: `buf` has room for the largest message, which the caller of `write` vouches for.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast::<u8>(), bytes.len()) };
    }
}

/// Elements of one set, at most [`AT_ONCE`], to be added for some milliseconds or taken away.
pub(super) struct Elements<'e>(pub(super) &'e [Element], pub(super) u64);

// SAFETY: what is written is one message of at most `AT_ONCE` elements of 64 bytes, far less than the largest.
unsafe impl NlMsg for Elements<'_> {
    unsafe fn write(&self, buf: *mut c_void, sequence: u32, msg_type: MsgType) {
        let (kind, flags, timeout) = match msg_type {
            MsgType::Add => (libc::NFT_MSG_NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, Some(self.1)),
            MsgType::Del => (libc::NFT_MSG_DELSETELEM, NLM_F_ACK, None),
        };
        let elements = &self.0[..self.0.len().min(AT_ONCE)];
        let attributes = list(elements, timeout);
        let bytes = message(kind, NetfilterProtoFamily::Inet, flags, sequence, attributes);
        // SAFETY: `buf` has room for the largest message, which the caller of `write` vouches for.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast::<u8>(), bytes.len()) };
    }
}

/// Asks for elements of one set. There is one answer for each, or an error.
pub(super) fn get(elements: &[Element]) -> Vec<u8> {
    message(libc::NFT_MSG_GETSETELEM, NetfilterProtoFamily::Inet, 0, 1, list(elements, None))
}

fn list(elements: &[Element], timeout: Option<u64>) -> Vec<DefaultNla> {
    let element = |element: &Element| {
        let key = nest(&[DefaultNla::new(NFTA_DATA_VALUE, element.key())]);
        let mut attributes = vec![DefaultNla::new(NFTA_SET_ELEM_KEY | NLA_F_NESTED, key)];
        let timeout = timeout.map(|ms| DefaultNla::new(NFTA_SET_ELEM_TIMEOUT, ms.to_be_bytes().to_vec()));
        attributes.extend(timeout);
        DefaultNla::new(NFTA_LIST_ELEM | NLA_F_NESTED, nest(&attributes))
    };
    let set = elements.first().map_or("", |element| element.set().name());
    let elements: Vec<_> = elements.iter().map(element).collect();
    vec![
        DefaultNla::new(NFTA_SET_ELEM_LIST_TABLE, c_string(TABLE).into_bytes_with_nul()),
        DefaultNla::new(NFTA_SET_ELEM_LIST_SET, c_string(set).into_bytes_with_nul()),
        DefaultNla::new(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, nest(&elements)),
    ]
}

fn nest(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// How long `element` still lasts, in milliseconds, if the answer's body is about that very one.
pub(super) fn lasts(element: &Element, body: &[u8]) -> Option<u64> {
    let list = readback::attribute(body.get(readback::NFGENMSG..)?, NFTA_SET_ELEM_LIST_ELEMENTS)?;
    let held = readback::attribute(list, NFTA_LIST_ELEM)?;
    let key = readback::attribute(readback::attribute(held, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
    if key != element.key() {
        return None;
    }
    let left = readback::attribute(held, NFTA_SET_ELEM_EXPIRATION)?;
    Some(u64::from_be_bytes(left.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_the_kernel_puts_them_together() {
        let element = |address: &str, port| Element { address: address.parse().unwrap(), protocol: 6, port };
        let pin = element("192.0.2.1", Some(443));
        assert_eq!(pin.key(), [192, 0, 2, 1, 6, 0, 0, 0, 1, 0xbb, 0, 0]);
        assert_eq!(element("192.0.2.1", None).key().len(), 8);
        for one in [pin, element("2001:db8::1", Some(1)), element("2001:db8::1", None)] {
            assert_eq!(one.key().len(), one.set().key_len() as usize);
        }
        assert_eq!(Set::Pin4.key_type(), 7 << 12 | 12 << 6 | 13);
        assert_eq!([register(0), register(4), register(16), register(20)], [1, 9, 2, 13]);
    }
}
