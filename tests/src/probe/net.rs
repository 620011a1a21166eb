//! Ways past what a session egress may reach. It may reach `good.test`, `*.wild.test` and `*.rogue.test` by
//! HTTP and HTTPS and `echo.test:7`, and `evil.test` is denied by name. All of them are of the internet that
//! [`Internet`](crate::harness::Internet) plays.

mod acts;
pub mod crowds;
mod dns;
pub mod requests;
mod tls;

use libc::{EACCES, ECONNREFUSED, ECONNRESET, ENODATA, EPERM, EPROTONOSUPPORT, ESOCKTNOSUPPORT};

use super::case::{Case, Outside, case};
use super::network::ping;
use acts::{http, pinned_udp, proxied, reach, rebound, spelled, udp_sent};
use dns::{libc_lookup, lookup, many_names};
use tls::hello;

const DENIED: &str = "a denied name on the same address as an allowed one";
const REFUSED: &[i32] = &[ECONNREFUSED];
const NO_ANSWER: &[i32] = &[ENODATA];
/// A refusal that can be read, or none.
const NO_HANDSHAKE: &[i32] = &[EACCES, ECONNRESET];
const NO_DATAGRAM: &[i32] = &[EPERM];
/// A profile that lists TXT and SRV.
const TYPES: &[&str] = &["--profile", "{types}"];
const NEAR: &str = "what is near the host, by a name whose owner says that it is there";
const LOOKALIKE: &str = "a denied name by another spelling";

/// A name whose address no session may have.
macro_rules! special {
    ($name:literal, $host:literal, $kind:literal) => {
        case($name, lookup, &[$host, $kind, "udp"], NO_ANSWER, Outside::User, NEAR)
            .seen("dns.query", &[("/dns/name", $host), ("/decision", "deny")])
    };
}

/// A question that must not be answered.
macro_rules! question {
    ($name:literal, [$($arg:literal),*], $gain:expr) => {
        case($name, lookup, &[$($arg),*], NO_ANSWER, Outside::User, $gain)
    };
}

/// A connection that must not come to be.
macro_rules! connection {
    ($name:literal, $to:literal, $gain:expr) => {
        case($name, reach, &[$to], REFUSED, Outside::User, $gain)
    };
}

/// A ClientHello that must not be forwarded: where to, the name in it, and its shape.
macro_rules! handshake {
    ($name:literal, [$($arg:literal),*], $gain:expr) => {
        case($name, hello, &[$($arg),*], NO_HANDSHAKE, Outside::User, $gain)
            .seen("net.denied", &[("/decision", "deny"), ("/net/port", "443"), ("/net/protocol", "tcp")])
    };
}

/// A spelling of an address that is denied.
macro_rules! spelling {
    ($name:literal, $text:literal, $port:literal) => {
        case(
            $name,
            spelled,
            &[$text, $port],
            REFUSED,
            Outside::User,
            "an address that no rule names, spelled oddly",
        )
    };
}

/// What is asked of the session's own proxy.
macro_rules! proxy {
    ($name:literal, [$($arg:literal),*], $gain:expr) => {
        case(
            $name,
            proxied,
            &[$($arg),*],
            &[EACCES, ECONNRESET, ENODATA],
            Outside::Nowhere("there is no proxy outside"),
            $gain,
        )
    };
}

/// All of them, but for those of HTTP.
pub const CASES: &[Case] = &[
    // TLS: the name in the ClientHello has to be one that pinned the address.
    handshake!("tls_denied_name", ["good.test", "evil.test", "plain"], DENIED),
    handshake!("tls_upper_case", ["good.test", "EVIL.TEST", "plain"], DENIED),
    handshake!(
        "tls_no_name",
        ["good.test", "-", "plain"],
        "whatever the server shows to those who name nothing"
    ),
    handshake!("tls_unknown_name", ["good.test", "unheard-of.test", "plain"], "a name that nobody resolved"),
    handshake!("tls_trailing_dot", ["good.test", "evil.test.", "plain"], LOOKALIKE),
    handshake!("tls_fragmented", ["good.test", "evil.test", "records"], DENIED),
    handshake!("tls_byte_by_byte", ["good.test", "evil.test", "bytes"], DENIED),
    handshake!("tls_grease", ["good.test", "evil.test", "grease"], DENIED),
    handshake!(
        "tls_encrypted_hello",
        ["good.test", "evil.test", "ech"],
        "a name that only the far end can read"
    ),
    handshake!("tls_name_behind_padding", ["good.test", "evil.test", "padded"], DENIED),
    handshake!(
        "tls_allowed_name_elsewhere",
        ["a.wild.test", "good.test", "plain"],
        "an allowed name at another's address"
    ),
    handshake!("tls_hello_that_ends_early", ["good.test", "good.test", "cut"], "a name that was never said")
        .outside_args(&["good.test", "good.test", "plain"])
        .seen("net.denied", &[("/rule", "tcp.short")]),
    handshake!(
        "tls_hello_that_stops",
        ["good.test", "good.test", "stopped"],
        "a place that is held for ever"
    )
    .outside_args(&["good.test", "good.test", "plain"])
    .seen("net.denied", &[("/rule", "tcp.slow")]),
    case(
        "tls_hello_of_16_mb",
        hello,
        &["good.test", "good.test", "endless"],
        NO_HANDSHAKE,
        Outside::Nowhere("no server reads so much"),
        "the relay's memory",
    ),
    // What answers hold.
    special!("answer_unspecified", "unspecified.rogue.test", "1"),
    special!("answer_unspecified_ipv6", "unspecified.rogue.test", "28"),
    special!("answer_this_network", "this-network.rogue.test", "1"),
    special!("answer_loopback", "loopback.rogue.test", "1"),
    special!("answer_loopback_ipv6", "loopback.rogue.test", "28"),
    special!("answer_loopback_range", "loopback-range.rogue.test", "1"),
    special!("answer_private_10", "private10.rogue.test", "1"),
    special!("answer_private_172", "private172.rogue.test", "1"),
    special!("answer_private_192", "private192.rogue.test", "1"),
    special!("answer_link_local", "link-local.rogue.test", "1"),
    special!("answer_link_local_ipv6", "link-local.rogue.test", "28"),
    special!("answer_metadata", "metadata.rogue.test", "1").origin("the Capital One breach of 2019"),
    special!("answer_metadata_ipv6", "metadata.rogue.test", "28"),
    special!("answer_carrier_grade_nat", "cgnat.rogue.test", "1"),
    special!("answer_unique_local", "unique-local.rogue.test", "28"),
    special!("answer_benchmarking", "benchmarking.rogue.test", "1"),
    special!("answer_multicast", "multicast.rogue.test", "1"),
    special!("answer_multicast_ipv6", "multicast.rogue.test", "28"),
    special!("answer_broadcast", "broadcast.rogue.test", "1"),
    special!("answer_mapped", "mapped.rogue.test", "28"),
    special!("answer_compatible", "compatible.rogue.test", "28"),
    special!("answer_nat64", "nat64.rogue.test", "28"),
    special!("answer_nat64_local", "nat64-local.rogue.test", "28"),
    special!("answer_6to4", "sixtofour.rogue.test", "28"),
    special!("answer_teredo", "teredo.rogue.test", "28"),
    special!("answer_localhost_below_a_wildcard", "localhost.wild.test", "1"),
    case("answer_rebound", rebound, &["rebind.rogue.test"], NO_ANSWER, Outside::User, NEAR)
        .origin("DNS rebinding, RFC 8499's 'rebinding'"),
    question!("answer_alias_of_a_denied_name", ["alias.rogue.test", "1", "udp"], DENIED)
        .seen("dns.query", &[("/dns/name", "alias.rogue.test"), ("/decision", "deny")]),
    question!(
        "answer_with_another_number",
        ["number.rogue.test", "1", "udp"],
        "an answer that was not asked for"
    ),
    question!("answer_to_another_question", ["question.rogue.test", "1", "udp"], "the same"),
    question!("answer_of_another_server", ["unasked.rogue.test", "1", "udp"], "the same"),
    question!("answer_that_points_to_itself", ["loop.rogue.test", "1", "udp"], "the relay's processor"),
    question!("answer_in_a_circle", ["circle.rogue.test", "1", "udp"], "the same"),
    question!("answer_cut_short", ["short.rogue.test", "1", "udp"], "what was in the relay's memory"),
    case(
        "answer_never",
        lookup,
        &["dead.rogue.test", "1", "udp"],
        NO_ANSWER,
        Outside::Nowhere("it answers nobody"),
        "the relay's time",
    ),
    // Questions.
    question!("ask_denied_name", ["evil.test", "1", "udp"], DENIED).seen(
        "dns.query",
        &[("/dns/name", "evil.test"), ("/dns/type", "A"), ("/decision", "deny"), ("/rule", "deny evil.test")],
    ),
    question!("ask_denied_name_by_tcp", ["evil.test", "1", "tcp"], DENIED)
        .seen("dns.query", &[("/dns/name", "evil.test"), ("/decision", "deny")]),
    question!("ask_unnamed_name", ["other.test", "28", "udp"], "a name that no rule names").seen(
        "dns.query",
        &[("/dns/name", "other.test"), ("/dns/type", "AAAA"), ("/decision", "deny"), ("/rule", "default")],
    ),
    question!(
        "ask_tunnel_by_name",
        ["inside.c2VjcmV0.tunnel.test", "1", "udp"],
        "data in the labels of a name"
    )
    .outside_args(&["outside.c2VjcmV0.tunnel.test", "1", "udp"])
    .seen("dns.query", &[("/dns/name", "inside.c2vjcmv0.tunnel.test"), ("/decision", "deny")]),
    question!("ask_tunnel_by_tcp", ["inside.by.tcp.tunnel.test", "1", "tcp"], "the same")
        .outside_args(&["outside.by.tcp.tunnel.test", "1", "tcp"])
        .seen("dns.query", &[("/dns/name", "inside.by.tcp.tunnel.test"), ("/decision", "deny")]),
    question!("ask_tunnel_by_type", ["inside.wild.test", "16", "udp"], "data in texts").outside_args(&[
        "outside.wild.test",
        "16",
        "udp",
    ]),
    // Where the profile lists TXT and SRV: for names that pass, and in a form of ours.
    question!(
        "ask_listed_type_of_a_denied_name",
        ["evil.test", "16", "udp"],
        "data in a type that is listed"
    )
    .options(TYPES)
    .seen("dns.query", &[("/dns/name", "evil.test"), ("/dns/type", "TXT"), ("/rule", "deny evil.test")]),
    question!("ask_listed_type_of_an_unnamed_name", ["inside.text.tunnel.test", "16", "udp"], "the same")
        .outside_args(&["outside.text.tunnel.test", "16", "udp"])
        .options(TYPES)
        .seen("dns.query", &[("/dns/type", "TXT"), ("/decision", "deny"), ("/rule", "default")]),
    question!("ask_listed_type_by_tcp", ["inside.text.tcp.tunnel.test", "33", "tcp"], "the same")
        .outside_args(&["outside.text.tcp.tunnel.test", "33", "tcp"])
        .options(TYPES)
        .seen("dns.query", &[("/dns/type", "SRV"), ("/decision", "deny"), ("/rule", "default")]),
    question!("ask_type_that_is_not_listed", ["inside.mail.wild.test", "15", "udp"], "data in another type")
        .outside_args(&["outside.mail.wild.test", "15", "udp"])
        .options(TYPES)
        .seen("dns.query", &[("/dns/type", "MX"), ("/decision", "deny"), ("/rule", "dns.type")]),
    question!("answer_of_a_listed_type_without_end", ["oversize.rogue.test", "16", "tcp"], "much at once")
        .options(TYPES),
    question!(
        "ask_for_hints",
        ["good.test", "65", "udp"],
        "addresses and keys that nobody judged (RFC 9460)"
    ),
    case(
        "ask_many_names",
        many_names,
        &["wild.test", "5000"],
        NO_ANSWER,
        Outside::User,
        "data in names below a wildcard",
    )
    .seen("dns.query", &[("/decision", "deny")]),
    case("ask_with_a_trailing_dot", libc_lookup, &["evil.test."], NO_ANSWER, Outside::User, LOOKALIKE),
    case("ask_in_upper_case", libc_lookup, &["EVIL.TEST"], NO_ANSWER, Outside::User, LOOKALIKE),
    case(
        "ask_although_a_wildcard_allows_it",
        libc_lookup,
        &["evil.test"],
        NO_ANSWER,
        Outside::User,
        "a deny passed by an allow",
    )
    .options(&["--allow", "*.test"]),
    // Addresses, ports and protocols beside the rules.
    connection!("reach_unpinned_address", "192.0.2.81:80", "an address without a name")
        .seen("net.denied", &[("/net/address", "192.0.2.81"), ("/net/port", "80"), ("/decision", "deny")]),
    connection!("reach_allowed_address_unasked", "192.0.2.80:80", "an address that no question pinned"),
    connection!("reach_unpinned_ipv6", "[2001:db8::81]:80", "the same"),
    case(
        "reach_other_port_of_a_pin",
        reach,
        &["good.test", "8080"],
        REFUSED,
        Outside::User,
        "a port that no rule names",
    )
    .seen("net.denied", &[("/net/address", "192.0.2.80"), ("/net/port", "8080")]),
    connection!("reach_metadata", "169.254.169.254:80", "the cloud's credentials of this machine")
        .origin("the Capital One breach of 2019"),
    connection!("reach_metadata_ipv6", "[fd00:ec2::254]:80", "the same"),
    connection!("reach_the_hosts_gateway", "10.66.0.2:80", "the network that the host is in"),
    connection!("reach_private_network", "10.0.0.1:80", "the same"),
    connection!("reach_loopback_of_the_host", "127.0.0.1:{loopback}", "the host's own services"),
    connection!("reach_loopback_of_the_host_ipv6", "[::1]:{loopback}", "the same"),
    case(
        "reach_the_host_by_a_name_of_its_public_address",
        http,
        &["own.rogue.test", "80", "GET /it HTTP/1.1\r\nHost: own.rogue.test\r\n\r\n", "get /it"],
        &[ECONNRESET],
        Outside::User,
        "the host's own services, by a name whose owner says that it is there",
    )
    .seen("net.denied", &[("/net/address", "20.30.40.50"), ("/rule", "address.own")]),
    case(
        "reach_the_host_in_a_network",
        http,
        &["20.30.40.50", "80", "GET /it HTTP/1.1\r\nHost: 20.30.40.50\r\n\r\n", "get /it"],
        &[ECONNRESET],
        Outside::User,
        "the host's own services, in a network that a rule allows",
    )
    .options(&["--allow", "20.30.40.0/24:80"])
    .seen("net.denied", &[("/net/address", "20.30.40.50"), ("/rule", "address.own")]),
    case(
        "reach_a_private_range_by_a_name_and_another_port",
        http,
        &[
            "private10.rogue.test",
            "80",
            "GET / HTTP/1.1\r\nHost: private10.rogue.test\r\n\r\n",
            "this is private10",
        ],
        &[ECONNRESET],
        Outside::User,
        "more of a network that a rule names than that rule's port, by a name that leads there",
    )
    .options(&["--allow", "10.0.0.0/8:443"])
    .seen("net.denied", &[("/net/address", "10.0.0.1"), ("/rule", "address.private")]),
    case(
        "reach_a_second_address_of_the_host",
        http,
        &["10.66.0.9", "80", "GET /it HTTP/1.1\r\nHost: 10.66.0.9\r\n\r\n", "get /it"],
        &[ECONNRESET],
        Outside::User,
        "the host's own services, which see it come from the host's first address",
    )
    .options(&["--allow", "10.66.0.0/24:80"])
    .seen("net.denied", &[("/net/address", "10.66.0.9"), ("/rule", "address.own")]),
    connection!("reach_resolver_by_https", "192.0.2.53:443", "names by DNS over HTTPS"),
    connection!("reach_resolver_by_tls", "192.0.2.53:853", "names by DNS over TLS"),
    case("icmp_way_out", ping, &["192.0.2.80"], &[EPERM, EACCES], Outside::Root, "a tunnel through ICMP"),
    connection!("reach_mapped", "[::ffff:192.0.2.81]:80", "a rule for IPv4 passed by an IPv6 socket"),
    connection!("reach_outside_of_a_network", "203.0.113.129:80", "more than a rule's network")
        .options(&["--allow", "203.0.113.0/25:80"]),
    connection!("reach_other_port_of_a_network", "203.0.113.8:8080", "more than a rule's ports")
        .options(&["--allow", "203.0.113.0/25:80"]),
    case(
        "udp_of_a_network_for_tcp",
        udp_sent,
        &["203.0.113.7:7"],
        NO_DATAGRAM,
        Outside::User,
        "another protocol than a rule's",
    )
    .options(&["--allow", "203.0.113.0/25:7"]),
    case(
        "udp_quic",
        pinned_udp,
        &["good.test", "443"],
        NO_DATAGRAM,
        Outside::User,
        "HTTP/3, whose names nobody judges",
    )
    .seen("net.denied", &[("/net/protocol", "udp"), ("/net/port", "443")]),
    case(
        "udp_of_a_name_for_tcp",
        pinned_udp,
        &["echo.test", "7"],
        NO_DATAGRAM,
        Outside::User,
        "another protocol than a rule's",
    ),
    case(
        "udp_multicast_dns",
        udp_sent,
        &["192.0.2.53:5353"],
        NO_DATAGRAM,
        Outside::User,
        "names of the host's network",
    ),
    spelling!("spelled_short", "192.0.593", "80"),
    spelling!("spelled_decimal", "3221226065", "80"),
    spelling!("spelled_hexadecimal", "0xc0.0x0.0x2.0x51", "80"),
    spelling!("spelled_octal", "0300.0.02.0121", "80"),
    spelling!("spelled_as_one_hexadecimal", "0xc0000251", "80"),
    spelling!("spelled_loopback_short", "127.1", "{loopback}"),
    spelling!("spelled_loopback_decimal", "2130706433", "{loopback}"),
    spelling!("spelled_nothing", "0", "{loopback}"),
    // The session's own proxy judges as the rest does.
    proxy!(
        "proxy_connect_denied_name",
        ["CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n"],
        DENIED
    ),
    proxy!(
        "proxy_connect_address",
        ["CONNECT 192.0.2.81:443 HTTP/1.1\r\nHost: 192.0.2.81:443\r\n\r\n"],
        "an address without a name"
    ),
    proxy!(
        "proxy_connect_metadata",
        ["CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n"],
        "the cloud's credentials"
    ),
    proxy!(
        "proxy_connect_loopback",
        ["CONNECT 127.0.0.1:{loopback} HTTP/1.1\r\n\r\n"],
        "the host's own services"
    ),
    proxy!("proxy_connect_localhost", ["CONNECT localhost:{loopback} HTTP/1.1\r\n\r\n"], "the same"),
    proxy!(
        "proxy_connect_other_port",
        ["CONNECT good.test:22 HTTP/1.1\r\nHost: good.test:22\r\n\r\n"],
        "a port that no rule names"
    ),
    proxy!(
        "proxy_absolute_denied_name",
        ["GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
        DENIED
    ),
    proxy!(
        "proxy_absolute_and_another_host",
        ["GET http://good.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
        DENIED
    ),
    proxy!("proxy_socks_denied_name", ["socks5", "evil.test", "443"], DENIED),
    proxy!("proxy_socks_name_with_nul", ["socks5", "good.test%00.evil.test", "80"], LOOKALIKE)
        .origin("CVE-2023-38545 and its like: names that two readers read in two ways"),
    proxy!("proxy_socks_trailing_dot", ["socks5", "evil.test.", "80"], LOOKALIKE),
    proxy!("proxy_socks_upper_case", ["socks5", "EVIL.TEST", "80"], LOOKALIKE),
    proxy!("proxy_socks_ideographic_full_stop", ["socks5", "evil\u{3002}test", "80"], LOOKALIKE)
        .origin("UTS #46, which maps it to a dot"),
    proxy!("proxy_socks_wide_letter", ["socks5", "\u{ff45}vil.test", "80"], LOOKALIKE)
        .origin("UTS #46, which maps it to e"),
    proxy!("proxy_socks_punycode_of_ascii", ["socks5", "xn--evil-.test", "80"], LOOKALIKE),
    proxy!(
        "proxy_connect_trailing_dot",
        ["CONNECT evil.test.:80 HTTP/1.1\r\nHost: evil.test.:80\r\n\r\n"],
        LOOKALIKE
    ),
    proxy!(
        "proxy_connect_ideographic_full_stop",
        ["CONNECT evil\u{3002}test:80 HTTP/1.1\r\nHost: evil\u{3002}test:80\r\n\r\n"],
        LOOKALIKE
    ),
    proxy!("proxy_socks_address_as_a_name", ["socks5", "169.254.169.254", "80"], "the cloud's credentials"),
    proxy!(
        "proxy_socks_odd_address_as_a_name",
        ["socks5", "0x7f.1", "{loopback}"],
        "the host's own services"
    ),
    // What the relay itself listens on.
    case(
        "reach_transparent_listener",
        reach,
        &["127.0.0.1:1"],
        &[ECONNREFUSED, ECONNRESET, EACCES],
        Outside::Nowhere("there is none outside"),
        "a destination that no rule of the kernel judged",
    ),
    case(
        "reach_transparent_listener_ipv6",
        reach,
        &["[::1]:1"],
        &[ECONNREFUSED, ECONNRESET, EACCES],
        Outside::Nowhere("there is none outside"),
        "the same",
    ),
    // Protocols that nobody judges.
    case(
        "mptcp_way_out",
        acts::mptcp,
        &["192.0.2.81:80"],
        &[ECONNREFUSED, EPROTONOSUPPORT, EACCES, EPERM, libc::EAFNOSUPPORT],
        Outside::User,
        "TCP by another number",
    )
    .host_may_lack(),
    case(
        "sctp_way_out",
        acts::sctp,
        &["192.0.2.81:80"],
        &[EPROTONOSUPPORT, ESOCKTNOSUPPORT, EACCES, EPERM, ECONNREFUSED, libc::EAFNOSUPPORT],
        Outside::User,
        "a protocol without rules",
    )
    .host_may_lack(),
    // In numbers.
    case(
        "flood_of_denied_connections",
        crowds::flood,
        &["192.0.2.81:80", "{flood}"],
        REFUSED,
        Outside::User,
        "room that denials take, or a hole when they are many",
    )
    .outside_args(&["192.0.2.81:80", "20"]),
    case(
        "slow_connections",
        crowds::slow,
        &["echo.test", "7", "10000"],
        &[ECONNRESET],
        Outside::User,
        "exhausts the relay or the host",
    )
    .seen("net.denied", &[("/rule", "tcp.connections"), ("/net/port", "7")]),
];
