//! Whom names are asked of, and how.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::hosts::{HostError, HostName};

/// The most resolvers.
pub const MAX_RESOLVERS: usize = 8;
/// The most domains that names without a dot are looked for in: as many as every C library takes.
pub const MAX_SEARCH: usize = 6;
/// Where a resolver is asked if nothing else is said (RFC 1035).
const DNS: u16 = 53;
/// The same over TLS (RFC 7858).
const DNS_OVER_TLS: u16 = 853;
/// What is in front of one that is asked over TLS.
const TLS: &str = "tls://";
/// How such a one is written.
const TLS_FORM: &str = "tls://ADDRESS#NAME or tls://ADDRESS:PORT#NAME";

/// A DNS server that the relay asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolver {
    /// Where it is.
    pub address: SocketAddr,
    /// The name that its certificate must have: it is asked over TLS and in no other way. Without one it is asked in
    /// plain text.
    pub tls: Option<HostName>,
}

/// Why a text names no resolver that can be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolverError {
    /// Over TLS, without a name.
    #[error("the name that its certificate must have is missing: write {TLS_FORM}")]
    NoName,
    /// Over TLS, with something else than a host's name.
    #[error("{0:?} is no certificate's name: {1}")]
    Name(String, HostError),
    /// Neither an address nor one with a port; with the form that it should have.
    #[error("write {0}")]
    Form(&'static str),
    /// A port that nothing listens at.
    #[error("port 0 is none")]
    Port,
    /// The unspecified address, or a group's.
    #[error("it is no machine's address")]
    Address,
    /// A link-local address, or one with a scope.
    #[error("an address that needs an interface's name cannot be asked")]
    Scoped,
}

impl Resolver {
    /// One that is asked in plain text.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// Reads `ADDRESS[:PORT]`, or `tls://ADDRESS[:PORT]#NAME`.
    ///
    /// # Errors
    /// Why it cannot be asked, in one line.
    pub fn parse(text: &str) -> Result<Self, ResolverError> {
        let Some(rest) = text.strip_prefix(TLS) else {
            return Ok(Self::plain(address(text, DNS, "ADDRESS:PORT, ADDRESS or tls://ADDRESS#NAME")?));
        };
        let (at, name) = rest.split_once('#').ok_or(ResolverError::NoName)?;
        let name = HostName::parse(name).map_err(|error| ResolverError::Name(name.to_owned(), error))?;
        Ok(Self { address: address(at, DNS_OVER_TLS, TLS_FORM)?, tls: Some(name) })
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            Some(name) => write!(f, "{TLS}{}#{name}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// `ADDRESS:PORT`, or `ADDRESS` alone.
fn address(text: &str, port: u16, form: &'static str) -> Result<SocketAddr, ResolverError> {
    let bare = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, port));
    let parsed = text.parse::<SocketAddr>().or_else(|_| bare());
    let address = parsed.map_err(|_| ResolverError::Form(form))?;
    let ip = address.ip();
    let scoped = match address {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(v6) => v6.scope_id() != 0 || v6.flowinfo() != 0 || v6.ip().is_unicast_link_local(),
    };
    match () {
        () if address.port() == 0 => Err(ResolverError::Port),
        () if ip.is_unspecified() || ip.is_multicast() => Err(ResolverError::Address),
        () if scoped => Err(ResolverError::Scoped),
        () => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_shown_as_it_is_read() {
        for (text, shown) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("tls://192.0.2.53#dns.example", "tls://192.0.2.53:853#dns.example"),
            ("tls://2001:db8::53#DNS.example.", "tls://[2001:db8::53]:853#dns.example"),
            ("tls://[2001:db8::53]:8853#dns.example", "tls://[2001:db8::53]:8853#dns.example"),
        ] {
            let resolver = Resolver::parse(text).unwrap();
            assert_eq!(resolver.to_string(), shown);
            assert_eq!(Resolver::parse(shown), Ok(resolver));
        }
    }

    #[test]
    fn one_over_tls_has_a_name() {
        for bad in ["tls://192.0.2.53", "tls://192.0.2.53:853"] {
            assert!(Resolver::parse(bad).unwrap_err() == ResolverError::NoName, "{bad}");
        }
        for bad in [
            "tls://192.0.2.53#",
            "tls://192.0.2.53#192.0.2.53",
            "tls://192.0.2.53#*.example",
            "tls://192.0.2.53#a#b",
            "tls://dns.example#dns.example",
            "tls://192.0.2.53:0#dns.example",
            "tls://fe80::1#dns.example",
            "tls:192.0.2.53#dns.example",
            "TLS://192.0.2.53#dns.example",
            "https://192.0.2.53#dns.example",
            "192.0.2.53#dns.example",
            "192.0.2.53:853#dns.example",
        ] {
            assert!(Resolver::parse(bad).is_err(), "{bad}");
        }
    }
}
