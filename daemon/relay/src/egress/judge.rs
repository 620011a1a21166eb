//! What a connection is for, by its first bytes, and whether it may be.

use std::fmt::Write as _;
use std::net::SocketAddr;

use agentd_policy::egress::{Denial, Egress, Purpose};
use agentd_policy::hosts::{HostName, HostVerdict};
use agentd_policy::profile::Protocol;
use agentd_relay::hello::{self, ClientHello, Progress};
use agentd_relay::http::{Sniff, Watch, sniff};
use agentd_relay::proxy::{Authority, Host};

use super::pins::Pins;
use super::rules::Rules;
use crate::Endpoint;

/// What the client is told of a refusal, in its own protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// By a reset.
    Plain,
    /// By an alert.
    Tls,
    /// By a response.
    Http,
}

/// Why a connection goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule.
    pub rule: String,
    /// For the client, in its words.
    pub why: String,
    /// How it is told.
    pub manner: Manner,
    /// The name that it gave.
    pub name: Option<String>,
    /// The method of the request that it is about.
    pub method: Option<String>,
}

impl Refusal {
    /// By `rule`.
    pub fn new(manner: Manner, rule: impl Into<String>, why: impl Into<String>) -> Self {
        Self { rule: rule.into(), why: why.into(), manner, name: None, method: None }
    }

    /// What the client reads before the end.
    pub fn answer(&self) -> Vec<u8> {
        match self.manner {
            Manner::Plain => Vec::new(),
            // Fatal, access_denied (RFC 8446 §6.2).
            Manner::Tls => vec![21, 3, 3, 0, 2, 2, 49],
            Manner::Http => forbidden(&self.rule, &self.why),
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

/// By what right `name` may be reached at `to`.
///
/// # Errors
/// The rule by which it may not.
pub fn named(plan: &Rules, pins: &Pins, name: &HostName, to: SocketAddr) -> Result<Purpose, String> {
    let verdict = plan.hosts.connect(name, to.port(), Protocol::Tcp);
    if let HostVerdict::Denied(pattern) = verdict {
        return Err(Denial::Denied(pattern.to_string()).to_string());
    }
    let allowed = matches!(verdict, HostVerdict::Allowed(_));
    if allowed && pins.names(to.ip()).contains(name) {
        return Ok(Purpose::Name(name.clone()));
    }
    let by_net = plan.net(to, Protocol::Tcp).is_some();
    if allowed || by_net {
        plan.unlisted(name).map_err(|denial| denial.to_string())?;
    }
    if by_net {
        return Ok(Purpose::Net);
    }
    Err(if allowed { Denial::Unpinned } else { Denial::Default }.to_string())
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
pub fn tls(plan: &Rules, pins: &Pins, hello: &ClientHello, to: SocketAddr) -> Result<Purpose, Refusal> {
    let Some(name) = &hello.name else {
        return match plan.net(to, Protocol::Tcp) {
            Some(_) => Ok(Purpose::Net),
            None => Err(Refusal::new(Manner::Tls, "tls.unnamed", "the ClientHello names no host")),
        };
    };
    named(plan, pins, name, to).map_err(|rule| {
        let why = format!("{name} is not allowed at this address");
        Refusal { name: Some(name.to_string()), ..Refusal::new(Manner::Tls, rule, why) }
    })
}

/// Judges the host of a request; the name, if it is one.
pub fn http(
    plan: &Rules,
    pins: &Pins,
    authority: &Authority,
    to: SocketAddr,
) -> Result<(Purpose, Option<HostName>), String> {
    if authority.port.is_some_and(|port| port != to.port()) {
        return Err("http.port".into());
    }
    match &authority.host {
        Host::Name(name) => Ok((named(plan, pins, name, to)?, Some(name.clone()))),
        Host::Address(_) if plan.net(to, Protocol::Tcp).is_some() => Ok((Purpose::Net, None)),
        Host::Address(_) => Err(Denial::Default.to_string()),
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
    /// Something else; a first line that has no end yet is to be watched.
    Other(Option<Watch>),
    /// Nothing before the server has spoken.
    Spoken(Endpoint),
}

/// Reads the first bytes as they come.
pub struct Opening {
    hello: Option<hello::Reader>,
    fed: usize,
}

impl Default for Opening {
    fn default() -> Self {
        Self { hello: Some(hello::Reader::new()), fed: 0 }
    }
}

impl Opening {
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
                        return Err(Refusal::new(Manner::Tls, "tls.malformed", why));
                    }
                    return Ok(Some(First::Tls(hello, length)));
                }
                Progress::Malformed(why) => {
                    return Err(Refusal::new(Manner::Tls, "tls.malformed", why.to_string()));
                }
                Progress::NotTls => self.hello = None,
            }
        }
        match sniff(held) {
            Sniff::NeedMore => Ok(None),
            Sniff::Http => Ok(Some(First::Http)),
            Sniff::Other => Ok(Some(First::Other(None))),
            Sniff::Binary => Ok(Some(First::Other(Some(Watch::after(held))))),
            Sniff::Proxied => {
                let why = "a header of the PROXY protocol hides the names behind it";
                Err(Refusal::new(Manner::Plain, "tcp.proxied", why))
            }
            Sniff::TooLong => {
                Err(Refusal::new(Manner::Plain, "http.malformed", "a first line without an end"))
            }
        }
    }
}
