//! Names of hosts as resolvers, TLS and HTTP carry them, patterns over them, and what a list of rules says of them.
//!
//! One spelling for each name: lower case, no trailing dot, ASCII. Names in other scripts are their A-labels
//! (RFC 5890 §2.3.2.1), which is what resolvers send and certificates hold; U-labels are refused, so that nothing is
//! converted twice by two different rules. What some program would read as an address (`inet_aton(3)`, the URL
//! standard's "ends in a number") is no name, nor is what means the own machine (RFC 6761 §6.3).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::protocol::Protocol;
use crate::rule::Rule;

/// The longest name, in bytes, without the trailing dot (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 253;
/// The longest label.
const MAX_LABEL: usize = 63;

/// Names that mean the own machine, by RFC 6761 or by the /etc/hosts of some system; and all that is below them.
const OWN: [&str; 11] = [
    "localhost",
    "localdomain",
    "localhost4",
    "localdomain4",
    "localhost6",
    "localdomain6",
    "ip6-localhost",
    "ip6-loopback",
    "ipv6-localhost",
    "ipv6-loopback",
    "loopback",
];

/// Why a text is no name of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing, or nothing but a dot.
    #[error("the name is empty")]
    Empty,
    /// Beyond RFC 1035 §2.3.4.
    #[error("the name is longer than {MAX_NAME} bytes")]
    TooLong,
    /// Two dots in a row, a dot at the beginning, or more than 63 bytes between two.
    #[error("the name has a part that is empty or longer than {MAX_LABEL} bytes")]
    Label,
    /// Neither letter, digit, hyphen nor underscore.
    #[error("the name holds {0:?}: only letters, digits, hyphens and underscores; other scripts as xn--")]
    Character(char),
    /// A label that begins with a hyphen: no resolver library looks it up.
    #[error("a part of the name begins with a hyphen")]
    Hyphen,
    /// Some program takes it for an address.
    #[error("an address, or a spelling of one, is no name")]
    Address,
    /// It means the own machine.
    #[error("the name means the own machine")]
    Own,
    /// An asterisk elsewhere than in `*.` at the beginning of a pattern.
    #[error("a pattern is a name, or `*.` and a name")]
    Wildcard,
}

/// A name of a host, in its one spelling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(Box<str>);

impl HostName {
    /// Reads `text`, in any case, with or without a trailing dot.
    ///
    /// # Errors
    /// [`HostError`], for every spelling that two programs could understand in two ways.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains([':', '[', ']', '%']) {
            return Err(HostError::Address);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        match name.len() {
            0 => return Err(HostError::Empty),
            1..=MAX_NAME => {}
            _ => return Err(HostError::TooLong),
        }
        for label in name.split('.') {
            check_label(label.as_bytes())?;
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(HostError::Address);
        }
        let name = name.to_ascii_lowercase();
        if OWN.iter().any(|own| is_or_below(&name, own)) {
            return Err(HostError::Own);
        }
        Ok(Self(name.into()))
    }

    /// Reads labels as a DNS message has them. A dot inside a label is no separator, and refused.
    ///
    /// # Errors
    /// As [`HostName::parse`].
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, HostError> {
        let mut name = String::with_capacity(64);
        for label in labels {
            check_label(label)?;
            if name.len() + label.len() > MAX_NAME {
                return Err(HostError::TooLong);
            }
            name.extend(label.iter().map(|byte| char::from(*byte)));
            name.push('.');
        }
        Self::parse(&name)
    }

    /// The name, in lower case, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, the leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl TryFrom<String> for HostName {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        Self::parse(&text)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> String {
        name.0.into()
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name, or `*.` and a name: whatever is below it at any depth, the name itself not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    below: bool,
    name: HostName,
}

impl HostPattern {
    /// Reads `api.example.org` or `*.example.org`.
    ///
    /// # Errors
    /// [`HostError`] of the name; an asterisk anywhere else.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.contains('*') {
            return Err(HostError::Wildcard);
        }
        Ok(Self { below, name: HostName::parse(name)? })
    }

    /// Whether it is one of `*.`: its names have a budget.
    pub fn is_wildcard(&self) -> bool {
        self.below
    }

    /// Whether it means every name that `other` means.
    pub fn covers(&self, other: &Self) -> bool {
        self == other || (self.below && self.matches(&other.name))
    }

    /// Whether it means `name`.
    pub fn matches(&self, name: &HostName) -> bool {
        if self.below { name != &self.name && is_or_below(&name.0, &self.name.0) } else { name == &self.name }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        Self::parse(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        pattern.to_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// What may be connected to by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRule {
    /// The name, or all names below one.
    pub host: HostPattern,
    /// Which ports; none: all.
    pub ports: Vec<u16>,
    /// By which protocol.
    pub protocol: Protocol,
    /// Of TCP: its bytes are nobody's to look at, but for a denied name at their beginning.
    pub opaque: bool,
}

impl HostRule {
    /// Whether it may be opaque, if it is: for names and ports that its owner has in mind one by one.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Refusal> {
        let why = match self {
            Self { opaque: false, .. } => return Ok(()),
            Self { protocol: Protocol::Udp, .. } => "it is of UDP, which nobody looks at",
            Self { host, .. } if host.is_wildcard() => "it is for every name below another",
            Self { ports, .. } if ports.is_empty() => "it names no port",
            _ => return Ok(()),
        };
        let what = format!("an opaque rule for {}: {why}", self.host);
        Err(Refusal::new(what, Rule::NetworkOpaque, "write HOST:PORT/opaque, for each host by itself"))
    }

    /// Whether it allows `port` by `protocol`.
    pub fn covers(&self, port: u16, protocol: Protocol) -> bool {
        self.protocol == protocol && (self.ports.is_empty() || self.ports.contains(&port))
    }
}

/// All that a session's profile says of names. A deny wins over every allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRules {
    /// Names that nothing can allow.
    pub deny: Vec<HostPattern>,
    /// Names that may be resolved and connected to.
    pub allow: Vec<HostRule>,
}

/// What [`HostRules`] say of a name.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostVerdict<'a> {
    /// By the first rule that covers it.
    Allowed(&'a HostRule),
    /// By a pattern of the deny list.
    Denied(&'a HostPattern),
    /// No rule covers it: the profile's default decides.
    Unnamed,
}

impl HostRules {
    /// Whether `name` may be resolved: some rule names it, whatever the port.
    pub fn resolve(&self, name: &HostName) -> HostVerdict<'_> {
        self.judge(name, |_| true)
    }

    /// Whether `port` of `name` may be connected to by `protocol`.
    pub fn connect(&self, name: &HostName, port: u16, protocol: Protocol) -> HostVerdict<'_> {
        self.judge(name, |rule| rule.covers(port, protocol))
    }

    /// Whether what goes to `port` of `name` is nobody's to look at.
    pub fn is_opaque(&self, name: &HostName, port: u16) -> bool {
        self.allowing(name).any(|rule| rule.opaque && rule.covers(port, Protocol::Tcp))
    }

    /// The rules that allow `name` something: their ports together are what its addresses are pinned for. None if it
    /// is denied.
    pub fn allowing<'a>(&'a self, name: &'a HostName) -> impl Iterator<Item = &'a HostRule> {
        let denied = self.deny.iter().any(|pattern| pattern.matches(name));
        self.allow.iter().filter(move |rule| !denied && rule.host.matches(name))
    }

    fn judge(&self, name: &HostName, covers: impl Fn(&HostRule) -> bool) -> HostVerdict<'_> {
        if let Some(pattern) = self.deny.iter().find(|pattern| pattern.matches(name)) {
            return HostVerdict::Denied(pattern);
        }
        match self.allow.iter().find(|rule| rule.host.matches(name) && covers(rule)) {
            Some(rule) => HostVerdict::Allowed(rule),
            None => HostVerdict::Unnamed,
        }
    }
}

/// Whether `name` is `base` or a name below it.
fn is_or_below(name: &str, base: &str) -> bool {
    name.strip_suffix(base).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The URL standard's "ends in a number": a last label of digits, or hexadecimal, makes all of it an IPv4 address in
/// decimal, octal, hexadecimal or a short form.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn check_label(label: &[u8]) -> Result<(), HostError> {
    if let Some(byte) = label.iter().find(|byte| !(byte.is_ascii_alphanumeric() || b"-_".contains(byte))) {
        return Err(match std::str::from_utf8(label) {
            Ok(text) if !byte.is_ascii() => HostError::Character(
                text.chars().find(|c| !c.is_ascii()).unwrap_or(char::REPLACEMENT_CHARACTER),
            ),
            _ if byte.is_ascii() => HostError::Character(char::from(*byte)),
            _ => HostError::Character(char::REPLACEMENT_CHARACTER),
        });
    }
    match label.len() {
        1..=MAX_LABEL if label.starts_with(b"-") => Err(HostError::Hyphen),
        1..=MAX_LABEL => Ok(()),
        _ => Err(HostError::Label),
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
