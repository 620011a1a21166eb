//! One entry: how it is read, and how it is shown.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::addresses::Net;
use crate::caps::{self, Capped, Caps};
use crate::egress::NetRule;
use crate::hosts::{HostError, HostPattern, HostRule};
use crate::profile::{self, Looked, Protocol};

/// What a flag means that names no port.
pub const WEB: [u16; 2] = [80, 443];
/// One entry of what passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// By name.
    Host(HostRule),
    /// By address.
    Net(NetRule),
    /// A port of the host's loopback.
    Local(u16),
}

impl Rule {
    /// Reads `HOST[:PORTS]`, `CIDR[:PORTS]` or `local:PORT`; PORTS are [`WEB`] if none are named, `*` for all, or a
    /// list with commas, and are TCP's unless `/udp` follows. `HOST:PORT/opaque` is TCP that nobody looks at.
    ///
    /// # Errors
    /// What cannot be meant, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let at = Place { list: "allow", text };
        if text.contains("://") {
            return Err(at.bad("network.form", "it is a URL", "leave out the scheme and the path"));
        }
        if let Some(port) = text.strip_prefix("local:") {
            return at.local(port.parse().unwrap_or(0));
        }
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Looked::Tcp),
            Some((rest, "udp")) => (rest, Looked::Udp),
            Some((rest, "opaque")) => (rest, Looked::Opaque),
            _ => (text, Looked::Tcp),
        };
        let (target, ports) = split(rest);
        let ports = match (ports, protocol) {
            (Some("*"), _) | (None, Looked::Udp | Looked::Opaque) => Vec::new(),
            (None, Looked::Tcp) => WEB.to_vec(),
            (Some(list), _) => list.split(',').map(|port| port.parse().unwrap_or(0)).collect(),
        };
        if target.contains('/') { at.net(target, ports, protocol) } else { at.host(target, ports, protocol) }
    }

    /// Reads an entry of a profile.
    ///
    /// # Errors
    /// As [`Rule::parse`]; a cap of nothing.
    pub fn of(entry: &profile::Allow) -> Result<Capped, Refusal> {
        let rule = Self::without_caps(entry)?;
        let caps = Caps { connections: entry.max_connections, sent: entry.max_sent.map(|size| size.0) };
        caps::check(&rule, caps)?;
        Ok(Capped { rule, caps })
    }

    fn without_caps(entry: &profile::Allow) -> Result<Self, Refusal> {
        let protocol = entry.protocol.unwrap_or(Looked::Tcp);
        let at = |text| Place { list: "network.allow", text };
        match (&entry.host, &entry.cidr, entry.local) {
            (Some(host), None, None) => at(host).host(host, entry.ports.clone(), protocol),
            (None, Some(cidr), None) => at(cidr).net(cidr, entry.ports.clone(), protocol),
            (None, None, Some(port)) if entry.ports.is_empty() && protocol == Looked::Tcp => {
                at(&format!("local = {port}")).local(port)
            }
            (None, None, Some(_)) => Err(Refusal::new(
                "network.allow with local and ports or UDP",
                "network.local",
                "`local` is itself the port, of TCP: give an entry to each",
            )),
            _ => Err(Refusal::new(
                "an entry of network.allow without one of host, cidr and local, or with two of them",
                "network.form",
                "give each entry exactly one of `host`, `cidr` and `local`",
            )),
        }
    }
}

/// Where an entry is, for messages.
struct Place<'a> {
    list: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn bad(&self, rule: &str, why: impl fmt::Display, hint: impl AsRef<str>) -> Refusal {
        Refusal::new(format!("{} {:?}: {why}", self.list, self.text), rule, hint)
    }

    fn host(&self, host: &str, ports: Vec<u16>, looked: Looked) -> Result<Rule, Refusal> {
        let host = self.pattern(host)?;
        // Shown, it would be read as a port of the host's.
        if host.to_string() == "local" {
            return Err(self.bad(
                "network.local",
                "this means the host's loopback, and is no name",
                MEND_LOCAL,
            ));
        }
        let protocol = looked.protocol();
        let ports = self.ports(ports, protocol)?;
        let rule = HostRule { host, ports, protocol, opaque: looked == Looked::Opaque };
        rule.check()?;
        Ok(Rule::Host(rule))
    }

    fn net(&self, cidr: &str, ports: Vec<u16>, looked: Looked) -> Result<Rule, Refusal> {
        let hint = "write ADDRESS/LENGTH with zeros behind the prefix, such as 192.0.2.0/24 or 2001:db8::/32";
        let net = Net::parse(cidr).map_err(|error| self.bad("network.cidr", error, hint))?;
        // No shorter prefix leaves such an address without bits behind it.
        if net.address().to_canonical().is_loopback() {
            let why = "inside, the session's own loopback has these addresses";
            return Err(self.bad("network.loopback", why, MEND_LOCAL));
        }
        if looked == Looked::Opaque {
            let hint = "leave it out: what goes to addresses is looked at for the sake of denied names alone";
            return Err(self.bad("network.opaque", "`opaque` is for names", hint));
        }
        let protocol = looked.protocol();
        Ok(Rule::Net(NetRule { net, ports: self.ports(ports, protocol)?, protocol }))
    }

    fn local(&self, port: u16) -> Result<Rule, Refusal> {
        match port {
            0 => Err(self.bad("network.local", "it is no port", "name one port from 1 to 65535")),
            port => Ok(Rule::Local(port)),
        }
    }

    fn ports(&self, ports: Vec<u16>, protocol: Protocol) -> Result<Vec<u16>, Refusal> {
        let mut kept = Vec::with_capacity(ports.len());
        for port in ports {
            if port == 0 {
                let hint = "name ports from 1 to 65535 with commas between them, or * for all of TCP";
                return Err(self.bad("network.port", "it names no port", hint));
            }
            if !kept.contains(&port) {
                kept.push(port);
            }
        }
        if kept.is_empty() && protocol == Protocol::Udp {
            let hint = "name the ports of UDP: each has a socket of its own";
            return Err(self.bad("network.udp", "every port of UDP", hint));
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
                (HostError::Own, _) | (HostError::Address, Ok(_)) => MEND_LOCAL.to_owned(),
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
            self.bad("network.host", error, hint)
        })
    }
}

/// What to do about the host's loopback.
const MEND_LOCAL: &str = "for a port of the host's loopback write local:PORT, in a profile local = PORT";

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
pub(super) fn denied(list: &str, text: &str) -> Result<HostPattern, Refusal> {
    let at = Place { list, text };
    if let Some((name, port)) = text.split_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*')
        && HostPattern::parse(name).is_ok()
    {
        return Err(at.bad(
            "network.deny",
            "a name is denied with all of its ports",
            format!("write {name}"),
        ));
    }
    if let Err(error @ HostError::Address) = HostPattern::parse(text) {
        let hint = "deny names: an address passes only by a rule that names its network, or by a name";
        return Err(at.bad("network.deny", error, hint));
    }
    at.pattern(text)
}

impl fmt::Display for Rule {
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
