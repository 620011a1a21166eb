//! The names of this internet, and the tricks that some of them play.

use std::net::IpAddr;

/// Names that the servers' certificate holds.
pub const CERTIFIED: &[&str] = &[
    "good.test",
    "www.good.test",
    "six.test",
    "evil.test",
    "other.test",
    "git.test",
    "pypi.test",
    "npm.test",
    "stream.test",
    "*.wild.test",
    "*.rogue.test",
    "dns.test",
];

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// An answer with these addresses.
    Addresses(&'static [&'static str]),
    /// Another name of it, with that one's addresses.
    Alias(&'static str),
    /// It answers otherwise than servers should.
    Trick(Trick),
}

/// What a hostile server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// A public address the first time, the network's own from then on.
    Rebind,
    /// Says nothing at all.
    Dead,
    /// Answers with another number than the question's; and that with an address.
    WrongNumber,
    /// Answers another question.
    WrongQuestion,
    /// Addresses of a name that was not asked for.
    Stranger,
    /// A name whose compression points to itself.
    Loop,
    /// A thousand addresses.
    Many,
    /// A message of 60,000 bytes, over TCP too.
    Oversize,
    /// Two names that are each other's aliases.
    Circle,
    /// Cut off in the middle of a record.
    Short,
    /// The response code SERVFAIL.
    Fails,
}

const TABLE: &[(&str, Known)] = &[
    ("good.test", Known::Addresses(&["192.0.2.80", "2001:db8::80"])),
    ("www.good.test", Known::Alias("good.test")),
    ("six.test", Known::Addresses(&["2001:db8::86"])),
    // The same address as good.test, as on any server with many names.
    ("evil.test", Known::Addresses(&["192.0.2.80", "2001:db8::80"])),
    ("other.test", Known::Addresses(&["192.0.2.81", "2001:db8::81"])),
    ("elsewhere.test", Known::Addresses(&["198.51.100.7", "2001:db8:7::7"])),
    ("git.test", Known::Addresses(&["192.0.2.22"])),
    ("pypi.test", Known::Addresses(&["192.0.2.82"])),
    ("npm.test", Known::Addresses(&["192.0.2.83"])),
    ("stream.test", Known::Addresses(&["192.0.2.84", "2001:db8::84"])),
    // One of these addresses is dead.
    ("sixdead.test", Known::Addresses(&["192.0.2.80", "2001:db8:dead::1"])),
    ("fourdead.test", Known::Addresses(&["198.51.100.250", "2001:db8::80"])),
    ("echo.test", Known::Addresses(&["203.0.113.7", "2001:db8::7"])),
    ("localhost.wild.test", Known::Addresses(&["127.0.0.1", "::1"])),
    ("alias.rogue.test", Known::Alias("evil.test")),
    ("unspecified.rogue.test", Known::Addresses(&["0.0.0.0", "::"])),
    ("this-network.rogue.test", Known::Addresses(&["0.1.2.3"])),
    ("loopback.rogue.test", Known::Addresses(&["127.0.0.1", "::1"])),
    ("loopback-range.rogue.test", Known::Addresses(&["127.8.8.8"])),
    ("private10.rogue.test", Known::Addresses(&["10.0.0.1"])),
    ("private172.rogue.test", Known::Addresses(&["172.16.0.1"])),
    ("private192.rogue.test", Known::Addresses(&["192.168.0.1"])),
    ("link-local.rogue.test", Known::Addresses(&["169.254.1.1", "fe80::1"])),
    ("metadata.rogue.test", Known::Addresses(&["169.254.169.254", "fd00:ec2::254"])),
    ("cgnat.rogue.test", Known::Addresses(&["100.64.0.1"])),
    ("unique-local.rogue.test", Known::Addresses(&["fd12:3456::1"])),
    ("benchmarking.rogue.test", Known::Addresses(&["198.18.0.1"])),
    ("multicast.rogue.test", Known::Addresses(&["224.0.0.251", "ff02::1"])),
    ("broadcast.rogue.test", Known::Addresses(&["255.255.255.255"])),
    ("mapped.rogue.test", Known::Addresses(&["::ffff:10.0.0.1"])),
    ("compatible.rogue.test", Known::Addresses(&["::10.0.0.1"])),
    ("nat64.rogue.test", Known::Addresses(&["64:ff9b::a00:1"])),
    ("nat64-local.rogue.test", Known::Addresses(&["64:ff9b:1::a00:1"])),
    ("sixtofour.rogue.test", Known::Addresses(&["2002:a00:1::1"])),
    ("teredo.rogue.test", Known::Addresses(&["2001:0:a00:1::f5ff:fffe"])),
    // The host's own, which is no special one.
    ("own.rogue.test", Known::Addresses(&["20.30.40.50"])),
    ("rebind.rogue.test", Known::Trick(Trick::Rebind)),
    ("dead.rogue.test", Known::Trick(Trick::Dead)),
    ("number.rogue.test", Known::Trick(Trick::WrongNumber)),
    ("question.rogue.test", Known::Trick(Trick::WrongQuestion)),
    ("unasked.rogue.test", Known::Trick(Trick::Stranger)),
    ("loop.rogue.test", Known::Trick(Trick::Loop)),
    ("many.rogue.test", Known::Trick(Trick::Many)),
    ("oversize.rogue.test", Known::Trick(Trick::Oversize)),
    ("circle.rogue.test", Known::Trick(Trick::Circle)),
    ("short.rogue.test", Known::Trick(Trick::Short)),
    ("fails.rogue.test", Known::Trick(Trick::Fails)),
];

/// What is known of `name`, in lower case and without a trailing dot.
pub fn known(name: &str) -> Option<Known> {
    if let Some((_, known)) = TABLE.iter().find(|(own, _)| *own == name) {
        return Some(known.clone());
    }
    let below = [".wild.test", ".tunnel.test"].iter().any(|end| name.ends_with(end));
    below.then_some(Known::Addresses(&["198.51.100.10", "2001:db8:a::10"]))
}

/// The addresses of a name, through its aliases, and those.
pub fn resolve(name: &str) -> (Vec<&'static str>, Vec<IpAddr>) {
    let mut aliases = Vec::new();
    let mut known = known(name);
    while let Some(Known::Alias(next)) = known {
        aliases.push(next);
        known = self::known(next);
    }
    let addresses = match known {
        Some(Known::Addresses(texts)) => texts.iter().map(|t| t.parse().expect("an address")).collect(),
        _ => Vec::new(),
    };
    (aliases, addresses)
}
