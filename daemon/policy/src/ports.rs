//! Ports and addresses of a session's loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most ports of the host's loopback, and as many of the session's that are published: each has two sockets.
pub const MAX_LOCAL: usize = 32;
/// Where programs find the explicit proxy on the session's loopback.
pub const PROXY_PORT: u16 = 3128;
/// Where the session's questions for names are answered.
pub(crate) const DNS_PORT: u16 = 53;
/// Where servers of a host, or of a session, listen for itself.
pub(crate) const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// TCP ports of the session's loopback that are not a program's: of what is let through, of DNS, of the proxy.
pub(crate) const OWN_PORTS: [u16; 3] = [1, DNS_PORT, PROXY_PORT];
