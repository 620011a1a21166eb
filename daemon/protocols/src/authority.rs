//! `host:port` as requests name it: in Host (RFC 9110 §7.2), in the target of CONNECT (§9.3.6) and of requests to a
//! proxy (RFC 9112 §3.2.2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agentd_policy::hosts::{HostError, HostName};

/// Why a text is no authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// No valid host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Not in brackets, with a zone, or not an IPv6 address.
    #[error("not an IPv6 address in brackets")]
    Brackets,
    /// Not a number from 1 to 65535 without a sign, spaces or zeros before it.
    #[error("not a port from 1 to 65535")]
    Port,
    /// CONNECT needs one.
    #[error("no port is given")]
    NoPort,
    /// A user name.
    #[error("a user name in front of the host")]
    User,
    /// Another scheme than `http://`.
    #[error("a scheme other than http")]
    Scheme,
}

/// A host as it was named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// By a name.
    Name(HostName),
    /// By an address, in the one spelling that everybody reads alike.
    Address(IpAddr),
}

impl Host {
    /// Reads a name, an IPv4 address of four decimal numbers, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// [`AuthorityError`]; every other spelling of an address.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if let Some(rest) = text.strip_prefix('[') {
            let address = rest.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
            return address.map(|address| Self::Address(address.into())).ok_or(AuthorityError::Brackets);
        }
        match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Self::Address(address.into())),
            Err(_) => Ok(Self::Name(HostName::parse(text)?)),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A host, and a port if one was named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// A name or an address.
    pub host: Host,
    /// `None` if the text names no port.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `host` or `host:port`.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.contains('@') {
            return Err(AuthorityError::User);
        }
        // The last colon, unless it is one of an address in brackets.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let host = Host::parse(host)?;
        let port = port.map(parse_port).transpose()?;
        Ok(Self { host, port })
    }

    /// Reads the target of CONNECT: `host:port`.
    ///
    /// # Errors
    /// [`AuthorityError`]; a missing port.
    pub fn connect(target: &str) -> Result<(Host, u16), AuthorityError> {
        let Self { host, port } = Self::parse(target)?;
        port.map(|port| (host, port)).ok_or(AuthorityError::NoPort)
    }

    /// Reads `http://authority/path` and returns where the path begins. It may be empty.
    ///
    /// # Errors
    /// [`AuthorityError`]; a scheme other than `http`.
    pub fn absolute(target: &str) -> Result<(Self, usize), AuthorityError> {
        const SCHEME: &str = "http://";
        let scheme = target.get(..SCHEME.len()).filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
        let rest = &target[scheme.ok_or(AuthorityError::Scheme)?.len()..];
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        Ok((Self::parse(&rest[..end])?, SCHEME.len() + end))
    }

    /// Whether both name the same host and port, where none means `default`.
    pub fn is_same(&self, other: &Self, default: u16) -> bool {
        self.host == other.host && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    let digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| digits).ok_or(AuthorityError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_reading_for_each_spelling() {
        for (text, shown) in [
            ("Example.org", "example.org"),
            ("example.org.:8080", "example.org:8080"),
            ("192.0.2.1:65535", "192.0.2.1:65535"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
            ("[::1]:1", "[::1]:1"),
            ("[::ffff:192.0.2.1]:443", "[::ffff:192.0.2.1]:443"),
        ] {
            assert_eq!(Authority::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        use AuthorityError::{Brackets, Host, Port, User};
        for (text, why) in [
            ("", Host(HostError::Empty)),
            (":80", Host(HostError::Empty)),
            ("a:", Port),
            ("a:0", Port),
            ("a:080", Port),
            ("a:+80", Port),
            ("a:65536", Port),
            ("a: 80", Port),
            ("a:80:80", Host(HostError::Address)),
            ("a:80@b", User),
            ("user@a", User),
            ("127.1", Host(HostError::Address)),
            ("0x7f000001:80", Host(HostError::Address)),
            ("192.0.2.01", Host(HostError::Address)),
            ("::1", Host(HostError::Address)),
            ("fe80::1", Host(HostError::Address)),
            ("[::1", Brackets),
            ("[::1]]", Brackets),
            ("[fe80::1%eth0]:80", Brackets),
            ("[fe80::1%25eth0]", Brackets),
            ("[v1.a]", Brackets),
            ("[example.org]", Brackets),
            ("[192.0.2.1]", Brackets),
            ("[::1]x", Brackets),
            ("localhost:80", Host(HostError::Own)),
            ("a,b", Host(HostError::Character(','))),
            ("a b", Host(HostError::Character(' '))),
            ("a/b", Host(HostError::Character('/'))),
        ] {
            assert_eq!(Authority::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn targets() {
        assert_eq!(Authority::connect("a.example:443").unwrap().1, 443);
        assert_eq!(Authority::connect("a.example"), Err(AuthorityError::NoPort));
        assert!(Authority::connect("http://a.example:443").is_err());
        for (target, path) in
            [("http://a/x?y", "/x?y"), ("HTTP://a:80", ""), ("http://a?q", "?q"), ("http://[::1]:8/", "/")]
        {
            let (_, at) = Authority::absolute(target).unwrap();
            assert_eq!(&target[at..], path);
        }
        for bad in [
            "https://a/",
            "http:/a",
            "http:///x",
            "//a/",
            "http://a\\@b/",
            "http://a@b/",
            "ftp://a/",
            "http://a%2eb/",
            "é",
        ] {
            assert!(Authority::absolute(bad).is_err(), "{bad}");
        }
        let read = |text| Authority::parse(text).unwrap();
        assert!(read("a:80").is_same(&read("A."), 80) && !read("a:81").is_same(&read("a"), 80));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(text in "\\PC{0,60}|[a-c.:0-9\\[\\]%@]{0,20}") {
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(&authority.to_string()).unwrap(), authority);
            }
            crate::exercise::target(text.as_bytes());
        }
    }
}
