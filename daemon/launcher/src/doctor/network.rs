//! The session's network, tried in a network namespace of its own.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use agentd_kernel::nflog::Nflog;
use agentd_kernel::nft::{self, LOG_GROUP, Ruleset, Table};
use agentd_kernel::{loopback, process};
use agentd_policy::wire::{Check, Status};
use nix::sched::{CloneFlags, unshare};

use super::apart::{apart, ready};
use super::verdict;

/// Of TEST-NET-1: nobody has it.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// How long a refusal may take before it is none.
const PATIENCE: Duration = Duration::from_secs(1);

const KERNEL: &str =
    "use a kernel with CONFIG_NF_TABLES_INET, NFT_REJECT, NFT_LOG, NFT_OBJREF; modprobe nf_tables";

/// Rules, their witness, and transparent sockets.
pub fn checks(token: process::SingleThreaded) -> Vec<Check> {
    vec![
        verdict(
            "nf_tables",
            apart(token, || refused().map(|_| "a connection is refused at once".into())),
            Status::Missing,
            "no session runs: what it sends could not be judged",
            KERNEL,
        ),
        verdict(
            "nflog",
            apart(token, witnessed),
            Status::Missing,
            "no session runs: refused connections could not be told of",
            "use a kernel with CONFIG_NETFILTER_NETLINK_LOG; modprobe nfnetlink_log nft_log",
        ),
        verdict(
            "tproxy",
            apart(token, transparent),
            Status::Reduced,
            "sessions can be given no way out to named hosts",
            "use a kernel with CONFIG_NFT_TPROXY; modprobe nft_tproxy",
        ),
    ]
}

/// A session's table refuses a connection and a datagram.
fn refused() -> Result<Nflog, String> {
    // As a session's: owned by a user namespace, so that no right over the host's network is needed.
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|e| format!("unshare: {e}"))?;
    loopback::bring_up().map_err(|e| e.to_string())?;
    let log = Nflog::open(LOG_GROUP).map_err(|e| e.to_string());
    let table = Table::install(&Ruleset::closed()).map_err(|e| e.to_string())?;
    let began = Instant::now();
    match TcpStream::connect_timeout(&(NOBODY, 80).into(), PATIENCE) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
        other => return Err(format!("TCP was not refused: {other:?} after {:?}", began.elapsed())),
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|e| e.to_string())?;
    match socket.send_to(b"x", (NOBODY, 53)) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        other => return Err(format!("UDP was not refused: {other:?}")),
    }
    match table.denied().map_err(|e| e.to_string())? {
        0 => Err("what was refused was not counted".into()),
        _ => log,
    }
}

/// The kernel tells of what was refused.
fn witnessed() -> Result<String, String> {
    let mut log = refused()?;
    if !ready(std::os::fd::AsFd::as_fd(&log), PATIENCE) {
        return Err("nothing was told of a refused connection".into());
    }
    let told = log.read(&mut [0; 16 << 10]).map_err(|e| e.to_string())?;
    if told.iter().any(|denied| denied.address == NOBODY && denied.port == Some(80)) {
        Ok("refused connections are told of".into())
    } else {
        Err(format!("something else was told: {told:?}"))
    }
}

fn transparent() -> Result<String, String> {
    // As a session's: owned by a user namespace, so that no right over the host's network is needed.
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|e| format!("unshare: {e}"))?;
    nft::transparent().map_err(|e| e.to_string())?;
    Ok("connections can be given to transparent sockets".into())
}
