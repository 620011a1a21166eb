//! Whether a connection, or a request on it, may go where it names, and what a client reads that may not.

use std::net::SocketAddr;

use agentd_policy::denial::Denial;
use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::hosts::{HostName, HostVerdict};
use agentd_policy::protocol::Protocol;
use agentd_policy::rule::Rule;
use agentd_protocols::authority::{Authority, Host};
use agentd_protocols::hello::ClientHello;
use agentd_protocols::http2;

use super::pins::Pins;
use super::rules::Rules;
use super::ssh;

/// As much of a method as is recorded, in characters.
pub const MAX_METHOD: usize = 32;

/// How a client is refused, in its own protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectWith {
    /// By a reset.
    Plain,
    /// By an alert.
    Tls,
    /// By a response.
    Http,
    /// By a response on this stream of HTTP/2, in gRPC's form or not; on stream 0, by a farewell.
    Http2(u32, bool),
    /// By a message of the transport layer (RFC 4253 §11.1).
    Ssh,
}

/// Why a connection goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub denial: Denial,
    /// One line for the client.
    pub why: String,
    pub reject_with: RejectWith,
    pub subject: Subject,
}

/// What a refusal is about, for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The connection, whatever it names.
    Connection,
    /// The connection, by the name that its client gave.
    Name(String),
    /// A request of HTTP for this host.
    Request {
        /// At most [`MAX_METHOD`] characters.
        method: String,
        host: String,
    },
    /// Bytes of HTTP that cannot be read in one way only, and so have no method and no host.
    Malformed,
}

impl Subject {
    /// The name that the client gave.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) | Self::Request { host: name, .. } => Some(name),
            Self::Connection | Self::Malformed => None,
        }
    }

    /// A request by `method`, of which so much is kept as is recorded.
    pub fn request(method: &str, host: String) -> Self {
        Self::Request { method: method.chars().take(MAX_METHOD).collect(), host }
    }
}

impl Refusal {
    /// Of the connection.
    pub fn new(reject_with: RejectWith, denial: impl Into<Denial>, why: impl Into<String>) -> Self {
        Self { denial: denial.into(), why: why.into(), reject_with, subject: Subject::Connection }
    }

    /// What the client reads before the end.
    pub fn answer(&self) -> Vec<u8> {
        let rule = self.denial.to_string();
        match self.reject_with {
            RejectWith::Plain => Vec::new(),
            // Fatal, access_denied (RFC 8446 §6.2).
            RejectWith::Tls => vec![21, 3, 3, 0, 2, 2, 49],
            RejectWith::Http => forbidden(&rule, &self.why),
            RejectWith::Http2(stream, grpc) => http2::refusal(stream, grpc, &rule, &self.why),
            RejectWith::Ssh => ssh::disconnect(&format!("agentd: {} ({rule})", self.why)),
        }
    }
}

/// A response of 403 with the reason.
pub fn forbidden(rule: &str, why: &str) -> Vec<u8> {
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(300).collect()
    };
    let body = format!("agentd: {}\n", plain(why));
    let mut head = "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n".to_owned();
    head.push_str(&format!("X-Agentd-Reason: {}\r\nContent-Length: {}\r\n\r\n", plain(rule), body.len()));
    (head + &body).into_bytes()
}

/// Where a client means to go that names a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address, and the port that is meant.
    pub to: SocketAddr,
    /// The address is a proxy's, which resolves names itself.
    pub proxied: bool,
}

impl Place {
    /// At `to` itself.
    pub fn direct(to: SocketAddr) -> Self {
        Self { to, proxied: false }
    }

    /// At `port` of what the proxy at `to` leads to.
    pub fn behind(to: SocketAddr, port: u16) -> Self {
        Self { to: SocketAddr::new(to.ip(), port), proxied: true }
    }
}

/// The purpose by which `name` may be reached.
///
/// # Errors
/// Why it may not.
pub fn named(plan: &Rules, pins: &Pins, name: &HostName, place: Place) -> Result<Purpose, Denial> {
    let to = place.to;
    let verdict = plan.hosts.connect(name, to.port(), Protocol::Tcp);
    if let HostVerdict::Denied(pattern) = verdict {
        return Err(Denial::about(Rule::Deny, pattern));
    }
    let allowed = matches!(verdict, HostVerdict::Allowed(_));
    if allowed && !place.proxied && pins.names(to.ip()).contains(name) {
        return Ok(Purpose::Name(name.clone()));
    }
    let by_net = !place.proxied && plan.net(to, Protocol::Tcp).is_some();
    if allowed || by_net {
        plan.unlisted(name)?;
    }
    if by_net {
        return Ok(Purpose::Net);
    }
    if allowed && place.proxied {
        return Ok(Purpose::Name(name.clone()));
    }
    Err(if allowed { Rule::PinUnknown } else { Rule::Default }.into())
}

/// Whether nothing denies `name`, whatever allows it.
///
/// # Errors
/// What denies it.
pub fn undenied(plan: &Rules, name: &HostName) -> Result<(), Denial> {
    match plan.hosts.resolve(name) {
        HostVerdict::Denied(pattern) => Err(Denial::about(Rule::Deny, pattern)),
        HostVerdict::Allowed(_) | HostVerdict::Unnamed => plan.unlisted(name),
    }
}

/// Whether what goes to `to` is not inspected, by an opaque rule for a name that is there.
pub fn opaque(plan: &Egress, pins: &Pins, to: SocketAddr) -> bool {
    pins.names(to.ip()).iter().any(|name| plan.hosts.is_opaque(name, to.port()))
}

/// The purpose by which `to` may be reached by a protocol that names no host.
///
/// # Errors
/// Why it may not.
pub fn unnamed(plan: &Egress, pins: &Pins, to: SocketAddr, protocol: Protocol) -> Result<Purpose, Denial> {
    meant(plan, pins, to, protocol).into_iter().next().ok_or(Rule::PinUnknown.into())
}

/// All that may be meant by `to` if no host is named, the likeliest first; nothing if it may not be reached.
pub fn meant(plan: &Egress, pins: &Pins, to: SocketAddr, protocol: Protocol) -> Vec<Purpose> {
    let allowed =
        |name: &HostName| matches!(plan.hosts.connect(name, to.port(), protocol), HostVerdict::Allowed(_));
    let names = pins.names(to.ip()).into_iter().filter(allowed);
    let net = plan.net(to, protocol).map(|_| Purpose::Net);
    names.map(Purpose::Name).chain(net).collect()
}

/// Judges the name in a ClientHello.
pub fn tls(plan: &Rules, pins: &Pins, hello: &ClientHello, place: Place) -> Result<Purpose, Refusal> {
    let Some(name) = &hello.name else {
        return match plan.net(place.to, Protocol::Tcp) {
            Some(_) if !place.proxied => Ok(Purpose::Net),
            _ => Err(Refusal::new(RejectWith::Tls, Rule::TlsUnnamed, "the ClientHello names no host")),
        };
    };
    named(plan, pins, name, place).map_err(|denial| {
        let why = format!("{name} is not allowed at this address");
        Refusal { subject: Subject::Name(name.to_string()), ..Refusal::new(RejectWith::Tls, denial, why) }
    })
}

/// Judges the host of a request; the name, if it is one.
pub fn http(
    plan: &Rules,
    pins: &Pins,
    authority: &Authority,
    place: Place,
) -> Result<(Purpose, Option<HostName>), Denial> {
    let to = place.to;
    if authority.port.is_some_and(|port| port != to.port()) {
        return Err(Rule::HttpPort.into());
    }
    match &authority.host {
        Host::Name(name) => Ok((named(plan, pins, name, place)?, Some(name.clone()))),
        Host::Address(address) => {
            let to = if place.proxied { SocketAddr::new(*address, to.port()) } else { to };
            match plan.net(to, Protocol::Tcp) {
                Some(_) => Ok((Purpose::Net, None)),
                None => Err(Rule::Default.into()),
            }
        }
    }
}
