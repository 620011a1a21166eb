//! One entry of what passes, in the one form in which it is given (`--allow`) and shown: `HOST`, `HOST:443`,
//! `*.HOST:80,443`, `HOST:*`, `192.0.2.0/24:8080`, `[2001:db8::/32]:443`, `HOST:123/udp`, `local:5432`.

pub(crate) mod parse;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::addresses::Net;
use crate::hosts::HostRule;
use crate::protocol::Protocol;

/// The most rules of all kinds together, in one session.
pub const MAX_RULES: usize = 1024;
/// What a flag means that names no port.
pub const WEB: [u16; 2] = [80, 443];

/// One entry of what passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllowRule {
    /// What a name resolves to.
    Host(HostRule),
    /// Addresses of a network, without a name.
    Net(NetRule),
    /// A port of the host's loopback.
    Local(u16),
}

/// Addresses that may be connected to without a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetRule {
    /// The network; one address is a network with the longest prefix.
    pub net: Net,
    /// Which ports; none: all.
    pub ports: Vec<u16>,
    /// By which protocol.
    pub protocol: Protocol,
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ports, behind) = match self {
            Self::Local(port) => return write!(f, "local:{port}"),
            Self::Host(HostRule { host, ports, protocol, opaque }) => {
                write!(f, "{host}:")?;
                (ports, if *opaque { "/opaque" } else { suffix(*protocol) })
            }
            Self::Net(NetRule { net, ports, protocol }) => {
                if net.address().is_ipv4() {
                    write!(f, "{net}:")?
                } else {
                    write!(f, "[{net}]:")?
                }
                (ports, suffix(*protocol))
            }
        };
        match ports.as_slice() {
            [] => f.write_str("*")?,
            [first, rest @ ..] => {
                write!(f, "{first}")?;
                rest.iter().try_for_each(|port| write!(f, ",{port}"))?;
            }
        }
        f.write_str(behind)
    }
}

/// What follows a rule's ports.
fn suffix(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "",
        Protocol::Udp => "/udp",
    }
}
