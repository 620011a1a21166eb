//! What a connection is for, by its first bytes, and whether it may be.

use std::fmt::Write as _;
use std::net::SocketAddr;

use agentd_policy::egress::{Denial, Egress, Purpose};
use agentd_policy::hosts::{HostName, HostVerdict};
use agentd_policy::profile::Protocol;
use agentd_relay::hello::{self, ClientHello, Progress};
use agentd_relay::http::{Sniff, Watch, looks_cut, sniff};
use agentd_relay::http2;
use agentd_relay::proxy::{Authority, Host};

use super::pins::Pins;
use super::rules::Rules;
use super::ssh;
use crate::Endpoint;

/// What the client is told of a refusal, in its own protocol.
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
    /// The rule.
    pub rule: String,
    /// For the client, in its words.
    pub why: String,
    /// How it is told.
    pub reject_with: RejectWith,
    /// The name that it gave.
    pub name: Option<String>,
    /// The method of the request that it is about.
    pub method: Option<String>,
}

impl Refusal {
    /// By `rule`.
    pub fn new(reject_with: RejectWith, rule: impl Into<String>, why: impl Into<String>) -> Self {
        Self { rule: rule.into(), why: why.into(), reject_with, name: None, method: None }
    }

    /// What the client reads before the end.
    pub fn answer(&self) -> Vec<u8> {
        match self.reject_with {
            RejectWith::Plain => Vec::new(),
            // Fatal, access_denied (RFC 8446 §6.2).
            RejectWith::Tls => vec![21, 3, 3, 0, 2, 2, 49],
            RejectWith::Http => forbidden(&self.rule, &self.why),
            RejectWith::Http2(stream, grpc) => http2::refusal(stream, grpc, &self.rule, &self.why),
            RejectWith::Ssh => ssh::disconnect(&format!("agentd: {} ({})", self.why, self.rule)),
        }
    }
}

/// A response of 403 that says why.
pub fn forbidden(rule: &str, why: &str) -> Vec<u8> {
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(300).collect()
    };
    let body = format!("agentd: {}\n", plain(why));
    let mut head = "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n".to_owned();
    // Writing to a String cannot fail.
    let _ = write!(head, "X-Agentd-Reason: {}\r\nContent-Length: {}\r\n\r\n", plain(rule), body.len());
    (head + &body).into_bytes()
}

/// Where somebody wants to go who names a host.
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

/// By what right `name` may be reached.
///
/// # Errors
/// The rule by which it may not.
pub fn named(plan: &Rules, pins: &Pins, name: &HostName, place: Place) -> Result<Purpose, String> {
    let to = place.to;
    let verdict = plan.hosts.connect(name, to.port(), Protocol::Tcp);
    if let HostVerdict::Denied(pattern) = verdict {
        return Err(Denial::Denied(pattern.to_string()).to_string());
    }
    let allowed = matches!(verdict, HostVerdict::Allowed(_));
    if allowed && !place.proxied && pins.names(to.ip()).contains(name) {
        return Ok(Purpose::Name(name.clone()));
    }
    let by_net = !place.proxied && plan.net(to, Protocol::Tcp).is_some();
    if allowed || by_net {
        plan.unlisted(name).map_err(|denial| denial.to_string())?;
    }
    if by_net {
        return Ok(Purpose::Net);
    }
    if allowed && place.proxied {
        return Ok(Purpose::Name(name.clone()));
    }
    Err(if allowed { Denial::Unpinned } else { Denial::Default }.to_string())
}

/// The rule that denies `name` whatever allows it, if one does.
pub fn denied(plan: &Rules, name: &HostName) -> Option<String> {
    match plan.hosts.resolve(name) {
        HostVerdict::Denied(pattern) => Some(Denial::Denied(pattern.to_string()).to_string()),
        HostVerdict::Allowed(_) | HostVerdict::Unnamed => {
            plan.unlisted(name).err().map(|denial| denial.to_string())
        }
    }
}

/// Whether what goes to `to` is nobody's to look at, by the rule for a name that is there.
pub fn opaque(plan: &Egress, pins: &Pins, to: SocketAddr) -> bool {
    pins.names(to.ip()).iter().any(|name| plan.hosts.is_opaque(name, to.port()))
}

/// By what right `to` may be reached by a protocol that names nobody.
///
/// # Errors
/// The rule by which it may not.
pub fn unnamed(plan: &Egress, pins: &Pins, to: SocketAddr, protocol: Protocol) -> Result<Purpose, String> {
    meant(plan, pins, to, protocol).into_iter().next().ok_or_else(|| Denial::Unpinned.to_string())
}

/// All that may be meant by `to` if nobody is named, the likeliest first; nothing if it may not be reached.
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
            _ => Err(Refusal::new(RejectWith::Tls, "tls.unnamed", "the ClientHello names no host")),
        };
    };
    named(plan, pins, name, place).map_err(|rule| {
        let why = format!("{name} is not allowed at this address");
        Refusal { name: Some(name.to_string()), ..Refusal::new(RejectWith::Tls, rule, why) }
    })
}

/// Judges the host of a request; the name, if it is one.
pub fn http(
    plan: &Rules,
    pins: &Pins,
    authority: &Authority,
    place: Place,
) -> Result<(Purpose, Option<HostName>), String> {
    let to = place.to;
    if authority.port.is_some_and(|port| port != to.port()) {
        return Err("http.port".into());
    }
    match &authority.host {
        Host::Name(name) => Ok((named(plan, pins, name, place)?, Some(name.clone()))),
        Host::Address(address) => {
            let to = if place.proxied { SocketAddr::new(*address, to.port()) } else { to };
            match plan.net(to, Protocol::Tcp) {
                Some(_) => Ok((Purpose::Net, None)),
                None => Err(Denial::Default.to_string()),
            }
        }
    }
}

/// Whether nothing but a pin is missing.
pub fn is_unpinned(rule: &str) -> bool {
    rule == Denial::Unpinned.to_string()
}

/// Whether a server that speaks no TLS could find the host of a request in `hello`: some take any bytes before it for
/// a method.
fn holds_request(hello: &[u8]) -> bool {
    let is = |part: Option<&[u8]>, text: &[u8]| part.is_some_and(|part| part.eq_ignore_ascii_case(text));
    hello.iter().enumerate().any(|(at, byte)| match byte {
        b'\n' => is(hello.get(at + 1..at + 6), b"host:"),
        b':' => is(at.checked_sub(4).and_then(|begin| hello.get(begin..at + 3)), b"http://"),
        _ => false,
    })
}

/// What a connection's first bytes are.
#[derive(Debug)]
pub enum First {
    /// A ClientHello, and how long it is.
    Tls(ClientHello, usize),
    /// A request.
    Http,
    /// HTTP/2, without TLS.
    Http2,
    /// Something else; a first line that has no end yet is to be watched.
    Other(Option<Watch>),
    /// Nothing before the server has spoken.
    Spoken(Endpoint),
    /// A line that has no end yet, of no protocol that is judged: its client waits for an answer.
    Waiting,
}

/// Reads the first bytes as they come.
pub struct Detected {
    hello: Option<hello::Reader>,
    fed: usize,
}

impl Default for Detected {
    fn default() -> Self {
        Self { hello: Some(hello::Reader::new()), fed: 0 }
    }
}

impl Detected {
    /// Whether a client that waits behind `held`, of which [`Detected::look`] knows too little, is of another protocol
    /// than those that are judged.
    pub fn is_other(&self, held: &[u8]) -> bool {
        self.hello.is_none() && !looks_cut(held)
    }

    /// Looks at all bytes that there are; `None` while they do not say enough. Who stops waiting then must refuse.
    pub fn look(&mut self, held: &[u8]) -> Result<Option<First>, Refusal> {
        if let Some(reader) = &mut self.hello {
            let progress = reader.feed(&held[self.fed..]);
            self.fed = held.len();
            match progress {
                Progress::NeedMore => return Ok(None),
                Progress::Hello(hello, length) => {
                    if holds_request(&held[..length]) {
                        let why = "a request of HTTP inside the ClientHello";
                        return Err(Refusal::new(RejectWith::Tls, "tls.malformed", why));
                    }
                    return Ok(Some(First::Tls(hello, length)));
                }
                Progress::Malformed(why) => {
                    return Err(Refusal::new(RejectWith::Tls, "tls.malformed", why.to_string()));
                }
                Progress::NotTls => self.hello = None,
            }
        }
        if held.starts_with(http2::PREFACE) {
            return Ok(Some(First::Http2));
        }
        if http2::PREFACE.starts_with(held) {
            return Ok(None);
        }
        match sniff(held) {
            Sniff::NeedMore => Ok(None),
            Sniff::Http => Ok(Some(First::Http)),
            Sniff::Other => Ok(Some(First::Other(None))),
            Sniff::Binary => Ok(Some(First::Other(Some(Watch::after(held))))),
            Sniff::Proxied => {
                let why = "a header of the PROXY protocol hides the names behind it";
                Err(Refusal::new(RejectWith::Plain, "tcp.proxied", why))
            }
            Sniff::TooLong => {
                Err(Refusal::new(RejectWith::Plain, "http.malformed", "a first line without an end"))
            }
        }
    }
}
