//! How entries are read, and what is written instead of one that cannot be meant.

use std::fmt;
use std::net::IpAddr;

use super::{AllowRule, NetRule, WEB};
use crate::Refusal;
use crate::addresses::Net;
use crate::hosts::{HostError, HostPattern, HostRule};
use crate::protocol::{AllowProtocol, Protocol};
use crate::rule::Rule;

impl AllowRule {
    /// Reads `HOST[:PORTS]`, `CIDR[:PORTS]` or `local:PORT`; PORTS are [`WEB`] if none are named, `*` for all, or a
    /// list with commas, and are TCP's unless `/udp` follows. `HOST:PORT/opaque` is TCP that nobody looks at.
    ///
    /// # Errors
    /// What cannot be meant, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let at = Entry { list: "allow", text };
        if text.contains("://") {
            return Err(at.bad(Rule::NetworkForm, "it is a URL", "leave out the scheme and the path"));
        }
        if let Some(port) = text.strip_prefix("local:") {
            return at.local(port.parse().unwrap_or(0));
        }
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, AllowProtocol::Tcp),
            Some((rest, "udp")) => (rest, AllowProtocol::Udp),
            Some((rest, "opaque")) => (rest, AllowProtocol::Opaque),
            _ => (text, AllowProtocol::Tcp),
        };
        let (target, ports) = split(rest);
        let ports = match (ports, protocol) {
            (Some("*"), _) | (None, AllowProtocol::Udp | AllowProtocol::Opaque) => Vec::new(),
            (None, AllowProtocol::Tcp) => WEB.to_vec(),
            (Some(list), _) => list.split(',').map(|port| port.parse().unwrap_or(0)).collect(),
        };
        if target.contains('/') { at.net(target, ports, protocol) } else { at.host(target, ports, protocol) }
    }
}

/// Where an entry is, for messages.
pub(crate) struct Entry<'a> {
    pub(crate) list: &'a str,
    pub(crate) text: &'a str,
}

impl Entry<'_> {
    fn bad(&self, rule: Rule, why: impl fmt::Display, hint: impl AsRef<str>) -> Refusal {
        Refusal::new(format!("{} {:?}: {why}", self.list, self.text), rule, hint)
    }

    pub(crate) fn host(
        &self,
        host: &str,
        ports: Vec<u16>,
        given: AllowProtocol,
    ) -> Result<AllowRule, Refusal> {
        let host = self.pattern(host)?;
        // Shown, it would be read as a port of the host's.
        if host.to_string() == "local" {
            return Err(self.bad(
                Rule::NetworkLocal,
                "this means the host's loopback, and is no name",
                LOCAL_HINT,
            ));
        }
        let protocol = given.protocol();
        let ports = self.ports(ports, protocol)?;
        let rule = HostRule { host, ports, protocol, opaque: given == AllowProtocol::Opaque };
        rule.check()?;
        Ok(AllowRule::Host(rule))
    }

    pub(crate) fn net(
        &self,
        cidr: &str,
        ports: Vec<u16>,
        given: AllowProtocol,
    ) -> Result<AllowRule, Refusal> {
        let hint = "write ADDRESS/LENGTH with zeros behind the prefix, such as 192.0.2.0/24 or 2001:db8::/32";
        let net = Net::parse(cidr).map_err(|error| self.bad(Rule::NetworkCidr, error, hint))?;
        // No shorter prefix leaves such an address without bits behind it.
        if net.address().to_canonical().is_loopback() {
            let why = "inside, the session's own loopback has these addresses";
            return Err(self.bad(Rule::NetworkLoopback, why, LOCAL_HINT));
        }
        if given == AllowProtocol::Opaque {
            let hint = "leave it out: what goes to addresses is looked at for the sake of denied names alone";
            return Err(self.bad(Rule::NetworkOpaque, "`opaque` is for names", hint));
        }
        let protocol = given.protocol();
        Ok(AllowRule::Net(NetRule { net, ports: self.ports(ports, protocol)?, protocol }))
    }

    pub(crate) fn local(&self, port: u16) -> Result<AllowRule, Refusal> {
        match port {
            0 => Err(self.bad(Rule::NetworkLocal, "it is no port", "name one port from 1 to 65535")),
            port => Ok(AllowRule::Local(port)),
        }
    }

    fn ports(&self, ports: Vec<u16>, protocol: Protocol) -> Result<Vec<u16>, Refusal> {
        let mut kept = Vec::with_capacity(ports.len());
        for port in ports {
            if port == 0 {
                let hint = "name ports from 1 to 65535 with commas between them, or * for all of TCP";
                return Err(self.bad(Rule::NetworkPort, "it names no port", hint));
            }
            if !kept.contains(&port) {
                kept.push(port);
            }
        }
        if kept.is_empty() && protocol == Protocol::Udp {
            let hint = "name the ports of UDP: each has a socket of its own";
            return Err(self.bad(Rule::NetworkUdp, "every port of UDP", hint));
        }
        Ok(kept)
    }

    fn pattern(&self, text: &str) -> Result<HostPattern, Refusal> {
        HostPattern::parse(text).map_err(|error| {
            let hint = match (&error, text.parse::<IpAddr>()) {
                (HostError::Address, Ok(ip)) if !ip.is_loopback() => {
                    let length = if ip.is_ipv4() { 32 } else { 128 };
                    format!("name an address as a network, {ip}/{length}: in a profile cidr = \"{ip}/{length}\"")
                }
                (HostError::Own, _) | (HostError::Address, Ok(_)) => LOCAL_HINT.to_owned(),
                (HostError::Address, Err(_)) => {
                    "write HOST:PORT, or an address as a network, such as 192.0.2.1/32 or [2001:db8::1/128]:443"
                        .to_owned()
                }
                (HostError::Character(c), _) if !c.is_ascii() => {
                    "write it in ASCII, as certificates have it: each such part begins with xn--".to_owned()
                }
                (HostError::Character('*') | HostError::Wildcard, _) => {
                    "write a name, or `*.` and a name for all that is below it".to_owned()
                }
                _ => "write a name such as api.example.org".to_owned(),
            };
            self.bad(Rule::NetworkHost, error, hint)
        })
    }
}

/// What to do about the host's loopback.
const LOCAL_HINT: &str = "for a port of the host's loopback write local:PORT, in a profile local = PORT";

/// The target, and what follows the colon behind it. An IPv6 network may stand in brackets.
fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((inside, after)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        match after.strip_prefix(':') {
            _ if after.is_empty() => return (inside, None),
            Some(ports) => return (inside, Some(ports)),
            None => return (text, None),
        }
    }
    match text.split_once('/') {
        // A colon before the slash is the address's.
        Some((address, length)) => match length.split_once(':') {
            Some((length, ports)) => (&text[..=address.len() + length.len()], Some(ports)),
            None => (text, None),
        },
        None if text.matches(':').count() == 1 => {
            text.split_once(':').map_or((text, None), |(host, ports)| (host, Some(ports)))
        }
        None => (text, None),
    }
}

/// Reads a name that is denied.
///
/// # Errors
/// What cannot be meant, and what to write instead.
pub(crate) fn denied(list: &str, text: &str) -> Result<HostPattern, Refusal> {
    let at = Entry { list, text };
    if let Some((name, port)) = text.split_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*')
        && HostPattern::parse(name).is_ok()
    {
        return Err(at.bad(
            Rule::NetworkDeny,
            "a name is denied with all of its ports",
            format!("write {name}"),
        ));
    }
    if let Err(error @ HostError::Address) = HostPattern::parse(text) {
        let hint = "deny names: an address passes only by a rule that names its network, or by a name";
        return Err(at.bad(Rule::NetworkDeny, error, hint));
    }
    at.pattern(text)
}
