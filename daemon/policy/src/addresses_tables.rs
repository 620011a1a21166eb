//! The special ranges: what lies in another comes before it.

use super::{IpAddr, Ipv4Addr, Ipv6Addr, Kind, Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Net {
    Net { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
}

const fn v6(address: u128, length: u8) -> Net {
    Net { address: IpAddr::V6(Ipv6Addr::from_bits(address)), length }
}

/// `a:b:c:d::` as a number.
const fn high(a: u16, b: u16, c: u16, d: u16) -> u128 {
    ((a as u128) << 112) | ((b as u128) << 96) | ((c as u128) << 80) | ((d as u128) << 64)
}

/// IPv4, by the IANA registry.
pub(super) const V4: [(Net, Kind); 26] = [
    (v4(0, 0, 0, 0, 32), Kind::Unspecified),
    (v4(0, 0, 0, 0, 8), Kind::ThisNetwork),
    (v4(10, 0, 0, 0, 8), Kind::Private),
    // Alibaba Cloud.
    (v4(100, 100, 100, 200, 32), Kind::Metadata),
    (v4(100, 64, 0, 0, 10), Kind::Shared),
    (v4(127, 0, 0, 0, 8), Kind::Loopback),
    // Nearly everybody; then AWS for tasks and for pods.
    (v4(169, 254, 169, 254, 32), Kind::Metadata),
    (v4(169, 254, 170, 2, 32), Kind::Metadata),
    (v4(169, 254, 170, 23, 32), Kind::Metadata),
    (v4(169, 254, 0, 0, 16), Kind::LinkLocal),
    // Azure's, in the midst of public addresses.
    (v4(168, 63, 129, 16, 32), Kind::Metadata),
    (v4(172, 16, 0, 0, 12), Kind::Private),
    // Oracle Cloud.
    (v4(192, 0, 0, 192, 32), Kind::Metadata),
    (v4(192, 0, 0, 0, 24), Kind::Protocol),
    (v4(192, 0, 2, 0, 24), Kind::Documentation),
    (v4(192, 31, 196, 0, 24), Kind::As112),
    (v4(192, 52, 193, 0, 24), Kind::Amt),
    (v4(192, 88, 99, 0, 24), Kind::RelayAnycast),
    (v4(192, 168, 0, 0, 16), Kind::Private),
    (v4(192, 175, 48, 0, 24), Kind::As112),
    (v4(198, 18, 0, 0, 15), Kind::Benchmarking),
    (v4(198, 51, 100, 0, 24), Kind::Documentation),
    (v4(203, 0, 113, 0, 24), Kind::Documentation),
    (v4(224, 0, 0, 0, 4), Kind::Multicast),
    (v4(255, 255, 255, 255, 32), Kind::Broadcast),
    (v4(240, 0, 0, 0, 4), Kind::Reserved),
];

/// IPv6, by the IANA registry; at its end all that was never given out.
pub(super) const V6: [(Net, Kind); 33] = [
    (v6(0, 128), Kind::Unspecified),
    (v6(1, 128), Kind::Loopback),
    (v6(0xffff_0000_0000, 96), Kind::Mapped),
    (v6(0xffff_0000_0000_0000, 96), Kind::Translated),
    (v6(0, 96), Kind::Compatible),
    (v6(high(0x64, 0xff9b, 0, 0), 96), Kind::Nat64),
    (v6(high(0x64, 0xff9b, 1, 0), 48), Kind::Nat64Local),
    (v6(high(0x100, 0, 0, 0), 64), Kind::Discard),
    (v6(high(0x100, 0, 0, 1), 64), Kind::Discard),
    (v6(high(0x2001, 0, 0, 0), 32), Kind::Teredo),
    (v6(high(0x2001, 2, 0, 0), 48), Kind::Benchmarking),
    (v6(high(0x2001, 3, 0, 0), 32), Kind::Amt),
    (v6(high(0x2001, 4, 0x112, 0), 48), Kind::As112),
    (v6(high(0x2001, 0x10, 0, 0), 28), Kind::Orchid),
    (v6(high(0x2001, 0x20, 0, 0), 28), Kind::Orchid),
    (v6(high(0x2001, 0x30, 0, 0), 28), Kind::Orchid),
    (v6(high(0x2001, 0, 0, 0), 23), Kind::Protocol),
    (v6(high(0x2001, 0xdb8, 0, 0), 32), Kind::Documentation),
    (v6(high(0x2002, 0, 0, 0), 16), Kind::SixToFour),
    (v6(high(0x2620, 0x4f, 0x8000, 0), 48), Kind::As112),
    (v6(high(0x3fff, 0, 0, 0), 20), Kind::Documentation),
    (v6(high(0x5f00, 0, 0, 0), 16), Kind::Srv6),
    // AWS, Google Cloud, Scaleway.
    (v6(high(0xfd00, 0xec2, 0, 0) | 0x254, 128), Kind::Metadata),
    (v6(high(0xfd20, 0xce, 0, 0) | 0x254, 128), Kind::Metadata),
    (v6(high(0xfd00, 0x42, 0, 0) | 0x42, 128), Kind::Metadata),
    (v6(high(0xfc00, 0, 0, 0), 7), Kind::UniqueLocal),
    // Oracle Cloud and others.
    (v6(high(0xfe80, 0, 0, 0) | 0xa9fe_a9fe, 128), Kind::Metadata),
    (v6(high(0xfe80, 0, 0, 0), 10), Kind::LinkLocal),
    (v6(high(0xfec0, 0, 0, 0), 10), Kind::SiteLocal),
    (v6(high(0xff00, 0, 0, 0), 8), Kind::Multicast),
    (v6(0, 3), Kind::Reserved),
    (v6(high(0x4000, 0, 0, 0), 2), Kind::Reserved),
    (v6(high(0x8000, 0, 0, 0), 1), Kind::Reserved),
];
