//! Each reader of netlink messages and of /proc with whatever bytes, for fuzzers: none may panic, and what each
//! promises of itself is asserted.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use crate::nft::{self, Ruleset};
use crate::{nflog, procfs};

/// The bodies of the messages that make the closed table's rules.
static RULES: LazyLock<BTreeSet<Vec<u8>>> = LazyLock::new(|| nft::rule_bodies(&Ruleset::closed()));

/// A message body that the kernel is said to hold: it is never what two different rules asked for. And two of them,
/// the first as long as the first byte says.
pub fn readback(bytes: &[u8]) {
    assert!(RULES.iter().filter(|sent| nft::agrees(sent, bytes)).count() <= 1);
    nft::read(bytes);
    let Some((len, rest)) = bytes.split_first() else { return };
    let (sent, held) = rest.split_at(usize::from(*len).min(rest.len()));
    if nft::agrees(sent, held) {
        assert_eq!(sent.first(), held.first());
    }
}

/// A packet that was refused, and a datagram of the kernel's that reports some.
pub fn denied(bytes: &[u8]) {
    let parsed = nflog::parse(bytes);
    if let Some(denied) = &parsed {
        assert!(denied.protocol.len() <= 4);
        match denied.address {
            IpAddr::V4(address) => assert_eq!(bytes[16..20], address.octets()),
            IpAddr::V6(address) => assert_eq!(bytes[24..40], address.octets()),
        }
        assert!(denied.port.is_none() || matches!(denied.protocol.as_str(), "tcp" | "udp"));
    }
    assert!(nflog::packets(bytes).count() <= bytes.len() / 16);
    // The same packet, as the kernel passes it on.
    let Ok(len) = u16::try_from(4 + bytes.len()) else { return };
    let mut datagram = (20 + u32::from(len)).to_ne_bytes().to_vec();
    datagram.extend([0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 42]);
    datagram.extend(len.to_ne_bytes());
    datagram.extend([9, 0]);
    datagram.extend(bytes);
    let found: Vec<_> = nflog::packets(&datagram).collect();
    assert_eq!(found, [(None, parsed)]);
}

/// `/proc/PID/status` and `/proc/PID/stat`: a process's name does not change what is read behind it.
pub fn proc(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = procfs::parse_fdinfo(bytes);
    let _ = (procfs::parse_ids(&text), procfs::parse_memory(&text), procfs::parse_thread_state(&text));
    let fields: Vec<String> = (3..=52).map(|number| number.to_string()).collect();
    let name: String = text.chars().take(64).collect();
    let memory = procfs::parse_memory(&format!("7 ({name}) {}", fields.join(" ")));
    assert_eq!(memory.map(|memory| memory.places), Some([26, 28, 48]));
}
