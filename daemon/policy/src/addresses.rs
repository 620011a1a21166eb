//! Which addresses are the internet's, and which have a meaning of their own: the IANA special-purpose registries
//! (RFC 6890, as of 2025), the addresses at which clouds give out credentials, and every form that carries an IPv4
//! address inside an IPv6 one. Whoever answers a name with one of these tries to reach what is near the host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not `ADDRESS/LENGTH` nor `ADDRESS`.
    #[error("{0:?} is neither an address nor ADDRESS/LENGTH")]
    Form(String),
    /// Bits are set behind the prefix: likely another network was meant.
    #[error("{0} has bits set behind its prefix")]
    HostBits(String),
}

/// A network: an address and the length of its prefix; a single address with all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Net {
    address: IpAddr,
    length: u8,
}

impl Net {
    /// Reads `192.0.2.0/24`, `2001:db8::/32`, or a single address.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn parse(text: &str) -> Result<Self, NetError> {
        let form = || NetError::Form(text.chars().take(64).collect());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let length = match length {
            None => width(address),
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|length| *length <= width(address)).ok_or_else(form)?
            }
            Some(_) => return Err(form()),
        };
        let net = Self { address, length };
        if net.prefix_of(address) == bits(address) {
            Ok(net)
        } else {
            Err(NetError::HostBits(net.to_string()))
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses have in common.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is one address.
    pub fn is_single(&self) -> bool {
        self.length == width(self.address)
    }

    /// Whether `address` is in it. An IPv4-mapped IPv6 address is in no IPv4 network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && self.prefix_of(address) == bits(self.address)
    }

    /// Whether it lies in `other`, or is it.
    pub fn is_within(&self, other: &Net) -> bool {
        self.length >= other.length && other.contains(self.address)
    }

    /// The bits of `address` with those behind the prefix cleared.
    fn prefix_of(&self, address: IpAddr) -> u128 {
        let behind = u32::from(width(address) - self.length.min(width(address)));
        let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
        bits(address) & mask
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl TryFrom<String> for Net {
    type Error = NetError;
    fn try_from(text: String) -> Result<Self, NetError> {
        Self::parse(&text)
    }
}

impl From<Net> for String {
    fn from(net: Net) -> String {
        net.to_string()
    }
}

/// How many bits an address of that family has.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// What an address is for, if it is not the internet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `0.0.0.0`, `::`: connects to the own machine. Never permitted.
    Unspecified,
    /// The rest of 0.0.0.0/8.
    ThisNetwork,
    /// Private networks, RFC 1918.
    Private,
    /// Carrier-grade NAT, RFC 6598.
    Shared,
    /// The own machine.
    Loopback,
    /// RFC 3927, RFC 4291.
    LinkLocal,
    /// Where a cloud gives its machines their credentials.
    Metadata,
    /// IETF protocol assignments.
    Protocol,
    /// RFC 5737, RFC 3849, RFC 9637.
    Documentation,
    /// RFC 2544, RFC 5180.
    Benchmarking,
    /// The relays of 6to4, RFC 7526.
    RelayAnycast,
    /// AS112: sinks for reverse lookups, RFC 7534, RFC 7535.
    As112,
    /// Automatic multicast tunnelling, RFC 7450.
    Amt,
    /// Groups of hosts, RFC 5771 and RFC 4291.
    Multicast,
    /// Not in use.
    Reserved,
    /// 255.255.255.255. Never permitted.
    Broadcast,
    /// Private networks of IPv6, RFC 4193.
    UniqueLocal,
    /// The deprecated fec0::/10, RFC 3879.
    SiteLocal,
    /// `::ffff:a.b.c.d`, RFC 4291 §2.5.5.2.
    Mapped,
    /// `::a.b.c.d`, RFC 4291 §2.5.5.1.
    Compatible,
    /// `::ffff:0:a.b.c.d`, RFC 2765.
    Translated,
    /// 64:ff9b::/96, which carries an IPv4 address, RFC 6052.
    Nat64,
    /// 64:ff9b:1::/48, a site's own NAT64, RFC 8215.
    Nat64Local,
    /// 2002::/16, which carries an IPv4 address, RFC 3056.
    SixToFour,
    /// 2001::/32, which carries two IPv4 addresses, RFC 4380.
    Teredo,
    /// ORCHID and what came after it, RFC 4843, RFC 7343, RFC 9374.
    Orchid,
    /// RFC 6666, RFC 9780.
    Discard,
    /// Segment routing, RFC 9602.
    Srv6,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::ThisNetwork => "this-network",
            Self::Private => "private",
            Self::Shared => "carrier-grade NAT",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Protocol => "protocol assignment",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::RelayAnycast => "6to4 relay",
            Self::As112 => "AS112",
            Self::Amt => "multicast tunnelling",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Broadcast => "broadcast",
            Self::UniqueLocal => "unique local",
            Self::SiteLocal => "site-local",
            Self::Mapped => "IPv4-mapped",
            Self::Compatible => "IPv4-compatible",
            Self::Translated => "IPv4-translated",
            Self::Nat64 => "NAT64",
            Self::Nat64Local => "local NAT64",
            Self::SixToFour => "6to4",
            Self::Teredo => "Teredo",
            Self::Orchid => "ORCHID",
            Self::Discard => "discard",
            Self::Srv6 => "segment routing",
        })
    }
}

/// What [`judge`] says of an address.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The internet's, or named as if it were.
    Global,
    /// Neither, with what it is for.
    Special(Kind),
}

/// Judges `address`. A network of `also` makes what it holds of a special range count as global if it lies in that
/// range: `0.0.0.0/0` names none of them, and `10.0.0.0/8` no address of a cloud's metadata service, which has to be
/// named by itself. An address that carries an IPv4 address is global if its form is named and the inner one is
/// global too.
pub fn judge(address: IpAddr, also: &[Net]) -> Judgement {
    let Some((range, kind)) = special(address) else { return Judgement::Global };
    let naming = also.iter().find(|net| net.contains(address) && net.is_within(&range));
    let Some(net) = naming.filter(|_| !matches!(kind, Kind::Unspecified | Kind::Broadcast)) else {
        return Judgement::Special(kind);
    };
    let Some(inner) = embedded(address, kind, net) else { return Judgement::Special(kind) };
    let special = |inner: &Ipv4Addr| match judge(IpAddr::V4(*inner), also) {
        Judgement::Special(kind) => Some(kind),
        Judgement::Global => None,
    };
    inner.iter().find_map(special).map_or(Judgement::Global, Judgement::Special)
}

/// The kind of special-purpose addresses that a rule for `net` names, if it names some that `also` does not make
/// global.
pub fn named(net: &Net, also: &[Net]) -> Option<Kind> {
    let (range, kind) = special(net.address())?;
    let global = judge(net.address(), also) == Judgement::Global;
    (net.is_within(&range) && !global).then_some(kind)
}

/// The IPv4 addresses inside `address`; `None` if there is no telling where they are.
fn embedded(address: IpAddr, kind: Kind, named: &Net) -> Option<Vec<Ipv4Addr>> {
    let bits = bits(address);
    let word = |shift: u32| ((bits >> shift) & 0xffff_ffff) as u32;
    let at = |shift: u32| Ipv4Addr::from(word(shift));
    Some(match kind {
        Kind::Mapped | Kind::Compatible | Kind::Translated | Kind::Nat64 => vec![at(0)],
        Kind::SixToFour => vec![at(80)],
        // The server, and the client with its bits inverted (RFC 4380 §4).
        Kind::Teredo => vec![at(64), !at(0)],
        // By the length of the prefix, around the eight bits from the 64th on (RFC 6052 §2.2).
        Kind::Nat64Local => vec![match named.length {
            48 => Ipv4Addr::from((word(48) & 0xffff_0000) | (word(40) & 0xffff)),
            56 => Ipv4Addr::from((word(40) & 0xff00_0000) | (word(32) & 0x00ff_ffff)),
            64 => at(24),
            96 => at(0),
            _ => return None,
        }],
        _ => Vec::new(),
    })
}

/// `address`, and every IPv4 address that it may carry.
pub fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    const LENGTHS: [u8; 4] = [48, 56, 64, 96];
    let inner = special(address).into_iter().flat_map(move |(_, kind)| {
        let of = |length| embedded(address, kind, &Net { address, length }).unwrap_or_default();
        let lengths = if kind == Kind::Nat64Local { &LENGTHS[..] } else { &LENGTHS[..1] };
        lengths.iter().flat_map(move |length| of(*length)).collect::<Vec<_>>()
    });
    std::iter::once(address).chain(inner.map(IpAddr::V4))
}

/// The range that `address` is special by. The first in the tables counts.
fn special(address: IpAddr) -> Option<(Net, Kind)> {
    let find = |table: &[(Net, Kind)]| table.iter().find(|(net, _)| net.contains(address)).copied();
    match address {
        IpAddr::V4(_) => find(&tables::V4),
        // All that is not 2000::/3 ends in the last lines.
        IpAddr::V6(_) => find(&tables::V6),
    }
}

#[path = "addresses_tables.rs"]
mod tables;

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
