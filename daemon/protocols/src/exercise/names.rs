//! `host:port`, and SOCKS.

use agentd_policy::hosts::HostName;

use crate::authority::{Authority, Host};
use crate::socks::{self, SocksError};

/// `host:port` in each place where it can be.
pub fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(authority) = Authority::parse(&text) {
        in_form(&authority.host);
        assert_ne!(authority.port, Some(0));
        assert!(!text.contains(['@', '/', '?', '#', ' ', '\\']));
        assert_eq!(Authority::connect(&text).is_ok(), authority.port.is_some());
        assert_eq!(Authority::parse(&authority.to_string()), Ok(authority.clone()));
        let absolute = format!("HTTP://{text}/x?y");
        assert_eq!(Authority::absolute(&absolute), Ok((authority, absolute.len() - 4)));
    }
    if let Ok((authority, path)) = Authority::absolute(&text) {
        in_form(&authority.host);
        assert!(text[path..].is_empty() || text[path..].starts_with(['/', '?']));
    }
}

/// A name is none that somebody reads as an address.
pub(super) fn in_form(host: &Host) {
    if let Host::Name(name) = host {
        assert_eq!(HostName::parse(name.as_str()).as_ref(), Ok(name));
        assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
    }
    let text = host.to_string();
    assert_eq!(Host::parse(&text).as_ref(), Ok(host));
}

/// SOCKS: what follows changes nothing of what was read, and what is missing is waited for.
pub fn socks(bytes: &[u8]) {
    let greeting = grown(bytes, socks::greeting);
    if let Ok(Some(len)) = greeting {
        assert!(bytes[2..len].contains(&0));
        assert_eq!(socks::greeting(&bytes[..len - 1]), Ok(None));
    }
    let request = grown(bytes, socks::request);
    if let Err(error) = &request {
        assert_ne!(error.reply().message(None)[1], 0);
    }
    if let Ok(Some((host, port, len))) = request {
        in_form(&host);
        assert!(len <= 7 + 255 && port != 0);
        assert_eq!(socks::request(&bytes[..len - 1]), Ok(None));
        let written = written(&host, port);
        assert_eq!(socks::request(&written), Ok(Some((host, port, written.len()))));
    }
}

/// What `read` says of `bytes`, which is what it says once it has enough of them.
fn grown<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> Result<Option<T>, SocksError>,
) -> Result<Option<T>, SocksError> {
    let whole = read(bytes);
    for end in 0..bytes.len().min(300) {
        let part = read(&bytes[..end]);
        if part != Ok(None) {
            assert_eq!(part, whole);
        }
    }
    whole
}

fn written(host: &Host, port: u16) -> Vec<u8> {
    let mut message = vec![5, 1, 0];
    match host {
        Host::Name(name) => {
            message.extend([3, u8::try_from(name.as_str().len()).unwrap_or(u8::MAX)]);
            message.extend(name.as_str().as_bytes());
        }
        Host::Address(std::net::IpAddr::V4(address)) => {
            message.push(1);
            message.extend(address.octets());
        }
        Host::Address(std::net::IpAddr::V6(address)) => {
            message.push(4);
            message.extend(address.octets());
        }
    }
    message.extend(port.to_be_bytes());
    message
}
