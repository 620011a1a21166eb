//! What a SOCKS 5 client sends (RFC 1928): without authentication, and CONNECT only. Versions 4 and 4a are refused.

use std::net::{IpAddr, SocketAddr};

use crate::authority::{AuthorityError, Host};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;

/// The answer to a greeting that offers no authentication.
pub const GREETED: [u8; 2] = [VERSION, NO_AUTHENTICATION];
/// The answer to one that does not; the connection is closed then.
pub const NO_METHOD: [u8; 2] = [VERSION, 0xff];

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// Not SOCKS 5. There is no answer that such a client understands.
    #[error("SOCKS version {0} is not spoken here")]
    Version(u8),
    /// Every offered method is one of authentication: [`NO_METHOD`].
    #[error("the client insists on authentication")]
    Method,
    /// BIND, UDP ASSOCIATE, or none.
    #[error("SOCKS command {0} is not CONNECT")]
    Command(u8),
    /// Neither IPv4, IPv6 nor a name.
    #[error("address type {0} is unknown")]
    AddressType(u8),
    /// Bytes that have to be zero, or a port that is.
    #[error("the request is malformed")]
    Form,
    /// No valid host name.
    #[error(transparent)]
    Name(#[from] AuthorityError),
}

impl SocksError {
    /// The reply to a request (RFC 1928 §6).
    pub fn reply(&self) -> Reply {
        match self {
            Self::Command(_) => Reply::CommandNotSupported,
            Self::AddressType(_) => Reply::AddressTypeNotSupported,
            Self::Name(_) => Reply::NotAllowed,
            Self::Version(_) | Self::Method | Self::Form => Reply::Failure,
        }
    }
}

/// The outcome of a request (RFC 1928 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// The connection is open.
    Succeeded = 0,
    /// Any other failure.
    Failure = 1,
    /// By the rules.
    NotAllowed = 2,
    /// No route to the network.
    NetworkUnreachable = 3,
    /// No route to the host.
    HostUnreachable = 4,
    /// Refused by the host.
    Refused = 5,
    /// No answer in time.
    Expired = 6,
    /// Another command than CONNECT.
    CommandNotSupported = 7,
    /// An unknown type.
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// The message, with the address that the connection was made from; zeros if there is none.
    pub fn message(self, bound: Option<SocketAddr>) -> Vec<u8> {
        let bound = bound.unwrap_or(SocketAddr::from(([0; 4], 0)));
        let mut message = vec![VERSION, self as u8, 0];
        match bound.ip() {
            IpAddr::V4(address) => {
                message.push(1);
                message.extend(address.octets());
            }
            IpAddr::V6(address) => {
                message.push(4);
                message.extend(address.octets());
            }
        }
        message.extend(bound.port().to_be_bytes());
        message
    }
}

/// Reads a greeting (§3) at the beginning of `input`; how long it is, or `None` while bytes are missing.
///
/// # Errors
/// [`SocksError`], as early as it is known.
pub fn greeting(input: &[u8]) -> Result<Option<usize>, SocksError> {
    let Some(methods) = after_version(input)? else { return Ok(None) };
    let [count, methods @ ..] = methods else { return Ok(None) };
    match methods.get(..usize::from(*count)) {
        None => Ok(None),
        Some(offered) if offered.contains(&NO_AUTHENTICATION) => Ok(Some(2 + offered.len())),
        Some(_) => Err(SocksError::Method),
    }
}

/// Reads a request (§4) at the beginning of `input`: where to, and how long it is; `None` while bytes are missing. A
/// name that is an address in its one spelling is that address.
///
/// # Errors
/// [`SocksError`], as early as it is known; its [`reply`](SocksError::reply) is the answer.
pub fn request(input: &[u8]) -> Result<Option<(Host, u16, usize)>, SocksError> {
    const CONNECT: u8 = 1;
    let Some(rest) = after_version(input)? else { return Ok(None) };
    match rest.first() {
        Some(&CONNECT) => {}
        Some(command) => return Err(SocksError::Command(*command)),
        None => return Ok(None),
    }
    if rest.get(1).is_some_and(|reserved| *reserved != 0) {
        return Err(SocksError::Form);
    }
    let Some((kind, rest)) = rest.get(2..).and_then(<[u8]>::split_first) else { return Ok(None) };
    let (host, rest) = match (kind, rest) {
        (1, rest) => match rest.split_first_chunk::<4>() {
            Some((octets, rest)) => (Host::Address((*octets).into()), rest),
            None => return Ok(None),
        },
        (4, rest) => match rest.split_first_chunk::<16>() {
            Some((octets, rest)) => (Host::Address((*octets).into()), rest),
            None => return Ok(None),
        },
        (3, []) => return Ok(None),
        (3, [len, rest @ ..]) => match rest.split_at_checked((*len).into()) {
            Some((name, rest)) => (name_of(name)?, rest),
            None => return Ok(None),
        },
        _ => return Err(SocksError::AddressType(*kind)),
    };
    match rest {
        [0, 0, ..] => Err(SocksError::Form),
        [high, low, after @ ..] => {
            Ok(Some((host, u16::from_be_bytes([*high, *low]), input.len() - after.len())))
        }
        _ => Ok(None),
    }
}

fn after_version(input: &[u8]) -> Result<Option<&[u8]>, SocksError> {
    match input {
        [] => Ok(None),
        [VERSION, rest @ ..] => Ok(Some(rest)),
        [other, ..] => Err(SocksError::Version(*other)),
    }
}

/// A name of a request. Brackets are for texts with a port behind.
fn name_of(bytes: &[u8]) -> Result<Host, SocksError> {
    let text = String::from_utf8_lossy(bytes);
    if text.starts_with('[') {
        return Err(AuthorityError::Brackets.into());
    }
    Ok(Host::parse(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::hosts::HostError;
    use proptest::prelude::*;

    fn named(name: &[u8]) -> Vec<u8> {
        [&[5, 1, 0, 3, u8::try_from(name.len()).unwrap()][..], name, &[1, 187]].concat()
    }

    #[test]
    fn greetings() {
        assert_eq!(greeting(&[5, 1, 0]), Ok(Some(3)));
        assert_eq!(greeting(&[5, 3, 2, 1, 0, 9]), Ok(Some(5)));
        for short in [&[][..], &[5], &[5, 1], &[5, 2, 0]] {
            assert_eq!(greeting(short), Ok(None));
        }
        assert_eq!(greeting(&[5, 0]), Err(SocksError::Method));
        assert_eq!(greeting(&[5, 1, 2]), Err(SocksError::Method));
        // SOCKS 4, and 4a with its name.
        assert_eq!(greeting(b"\x04\x01\x01\xbb\x00\x00\x00\x01u\0a.example\0"), Err(SocksError::Version(4)));
    }

    #[test]
    fn requests() {
        let (host, port, len) = request(&[&named(b"A.example")[..], b"more"].concat()).unwrap().unwrap();
        assert_eq!((host.to_string().as_str(), port, len), ("a.example", 443, 16));
        let four = request(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]).unwrap().unwrap();
        assert_eq!((four.0.to_string().as_str(), four.1, four.2), ("192.0.2.1", 80, 10));
        let six = [&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat();
        assert_eq!(request(&six).unwrap().unwrap().0.to_string(), "[::1]");
        for end in 0..six.len() {
            assert_eq!(request(&six[..end]), Ok(None));
        }
    }

    #[test]
    fn hostile_requests() {
        for (name, why) in [
            (&b"a.example\0.evil.example"[..], HostError::Character('\0')),
            (b"", HostError::Empty),
            (b"a.example:443", HostError::Address),
            (b"::1", HostError::Address),
            (b"127.1", HostError::Address),
            (b"0177.0.0.1", HostError::Address),
            (b"2130706433", HostError::Address),
            (b"localhost", HostError::Own),
            (b"a\xff", HostError::Character(char::REPLACEMENT_CHARACTER)),
        ] {
            let error = request(&named(name)).unwrap_err();
            assert_eq!(error, SocksError::Name(AuthorityError::Host(why)), "{name:?}");
            assert_eq!(error.reply(), Reply::NotAllowed);
        }
        assert_eq!(request(&named(b"[::1]")), Err(SocksError::Name(AuthorityError::Brackets)));
        for command in [0, 2, 3, 255] {
            let error = request(&[5, command]).unwrap_err();
            assert_eq!(error.reply().message(None), [5, 7, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        assert_eq!(request(&[5, 1, 1]), Err(SocksError::Form));
        assert_eq!(request(&[5, 1, 0, 2]), Err(SocksError::AddressType(2)));
        assert_eq!(request(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 0]), Err(SocksError::Form));
    }

    #[test]
    fn replies_tell_the_address() {
        let bound = "[2001:db8::1]:258".parse().unwrap();
        let message = Reply::Succeeded.message(Some(bound));
        assert_eq!((&message[..4], &message[20..]), (&[5, 0, 0, 4][..], &[1, 2][..]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_more_bytes_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..40), name: Vec<u8>) {
            crate::exercise::socks(&bytes);
            crate::exercise::socks(&named(&name[..name.len().min(255)]));
        }
    }
}
