//! Memory of TCP and UDP: the host has so much for everybody (`net.ipv4.tcp_mem`, `net.ipv4.udp_mem`), and once it is
//! used up every connection on it suffers. Where a hierarchy bounds it for a group, sessions stay together below the
//! least of what the kernel begins to save at.

use std::sync::OnceLock;

use crate::open_files::memory;
use agentd_session::error::{HostError, On as _};

/// What the kernel counts in, on x86_64.
const PAGE: u64 = 4096;

/// Of what the host has, for all sessions.
pub fn of_host() -> Result<u64, HostError> {
    Ok(low()? / 4 * 3)
}

/// For all sessions of a user.
pub fn of_user() -> Result<u64, HostError> {
    Ok(of_host()? / 2)
}

/// For one session.
pub fn of_session() -> Result<u64, HostError> {
    Ok(of_host()? / 4)
}

/// The bytes from which on the kernel begins to save, when this was first asked.
fn low() -> Result<u64, HostError> {
    static LOW: OnceLock<u64> = OnceLock::new();
    match LOW.get() {
        Some(low) => Ok(*low),
        None => read_low().map(|low| *LOW.get_or_init(|| low)),
    }
}

fn read_low() -> Result<u64, HostError> {
    let mut least = u64::MAX;
    for path in ["/proc/sys/net/ipv4/tcp_mem", "/proc/sys/net/ipv4/udp_mem"] {
        let pages = match std::fs::read_to_string(path) {
            Ok(text) => first(&text).ok_or(HostError::unfit("no number")).on(path)?,
            // They are the first network namespace's alone: what the kernel takes by itself, of the host's memory.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => memory()? / 32 / PAGE,
            Err(error) => return Err(error).on(path),
        };
        least = least.min(pages.saturating_mul(PAGE));
    }
    Ok(least)
}

fn first(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_keeps_most_of_it() {
        let (host, user, session) = (of_host().unwrap(), of_user().unwrap(), of_session().unwrap());
        assert!(session > 0 && session < user && user < host && host < low().unwrap());
        assert_eq!((first("12\t3 4\n"), first("x"), first("")), (Some(12), None, None));
    }
}
