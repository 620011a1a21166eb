//! The session's network, tried in a network namespace of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use agentd_kernel::creds::NoHostRights;
use agentd_kernel::loopback;
use agentd_kernel::nflog::Nflog;
use agentd_kernel::nft::{self, LOG_GROUP, Ruleset, Table};
use agentd_kernel::resets::{Resets, Syn};
use agentd_policy::wire::{Check, Status};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::verdict;
use crate::doctor::apart::{Lack, Tried, ready};

/// Of TEST-NET-1: nobody has it.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// How long a refusal may take before it is none.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

const KERNEL: &str =
    "use a kernel with CONFIG_NF_TABLES_INET, NFT_REJECT, NFT_LOG, NFT_OBJREF; modprobe nf_tables";

/// What a filter on cgroups does shows in the cgroup of sessions alone, whatever is done elsewhere.
const FILTER: &str = "under systemd, IPAddressDeny= of a slice that sessions are in does it: systemctl set-property \
                      agentd.slice IPAddressAllow=any; what else filters them: bpftool cgroup tree";

/// Each in a network of its own: packets pass, rules refuse, refusals are logged, and transparent sockets work.
pub const TRIALS: [fn(&NoHostRights) -> Tried<()>; 4] = [passes, refused, witnessed, transparent];

/// The way of packets inside a session, rules, their witness, and transparent sockets.
pub fn checks(tried: &[Tried<()>; TRIALS.len()]) -> Vec<Check> {
    let [passes, refused, witnessed, transparent] = tried;
    let impact = "a session's own servers do not answer, and what it is refused hangs";
    let pass = passes.as_ref().map(|()| "packets pass inside a session");
    let mut checks = vec![verdict("loopback", pass, Status::Missing, impact, FILTER)];
    if passes.is_ok() {
        checks.extend([
            verdict(
                "nf_tables",
                refused.as_ref().map(|()| "what is not allowed is refused at once"),
                Status::Missing,
                "no session runs: what it sends could not be judged",
                KERNEL,
            ),
            verdict(
                "nflog",
                witnessed.as_ref().map(|()| "a connection is logged, and refused at once"),
                Status::Missing,
                "no session runs: refused connections could not be logged",
                "use a kernel with CONFIG_NETFILTER_NETLINK_LOG; modprobe nfnetlink_log nft_log",
            ),
        ]);
    }
    checks.push(verdict(
        "tproxy",
        transparent.as_ref().map(|()| "connections can be given to transparent sockets"),
        Status::Reduced,
        "sessions can be given no egress to named hosts",
        "use a kernel with CONFIG_NFT_TPROXY; modprobe nft_tproxy",
    ));
    checks
}

/// Nobody listens at this network's own address: without any rule the kernel itself says so.
fn passes(_: &NoHostRights) -> Tried<()> {
    loopback::bring_up()?;
    let began = Instant::now();
    match TcpStream::connect_timeout(&(loopback::ADDRESS4, 80).into(), REFUSAL_TIMEOUT) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => {
            Err(Lack::new(format!("packets are lost: {error} after {:.1} s", began.elapsed().as_secs_f32())))
        }
        Ok(_) => Err(Lack::new("somebody answers who is not there")),
    }
}

/// A session's table, and the reader of its log.
fn table() -> Tried<(Table, Nflog)> {
    loopback::bring_up()?;
    let log = Nflog::open(LOG_GROUP);
    let table = Table::install(&Ruleset::closed())?;
    Ok((table, log?))
}

/// A session's table refuses a datagram, and counts it.
fn refused(_: &NoHostRights) -> Tried<()> {
    let (table, _log) = table()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    match socket.send_to(b"x", (NOBODY, 53)) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        other => return Err(Lack::new(format!("UDP was not refused: {other:?}"))),
    }
    match table.denied()? {
        0 => Err(Lack::new("what was refused was not counted")),
        _ => Ok(()),
    }
}

/// The kernel logs a connection, which is then refused as a keeper does it.
fn witnessed(_: &NoHostRights) -> Tried<()> {
    let (_table, mut log) = table()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddr::from((NOBODY, 80))) {
        Err(Errno::INPROGRESS) => {}
        other => return Err(Lack::new(format!("a connection that is not allowed: {other:?}"))),
    }
    if !ready(log.as_fd(), REFUSAL_TIMEOUT) {
        return Err(Lack::new("a connection that is not allowed was not logged"));
    }
    let logged = log.read(&mut [0; 16 << 10])?;
    let syn = logged
        .iter()
        .find_map(|denied| Some(Syn { from: denied.from?, to: denied.to()?, sequence: denied.sequence? }));
    let Some(syn) = syn.filter(|syn| syn.to == SocketAddr::from((NOBODY, 80))) else {
        return Err(Lack::new(format!("something else was logged: {logged:?}")));
    };
    Resets::open().and_then(|resets| resets.refuse(&syn)).map_err(|e| Lack::on("raw sockets", e))?;
    match rustix::net::sockopt::socket_error(&socket) {
        Ok(Err(Errno::CONNREFUSED)) => Ok(()),
        other => Err(Lack::new(format!("TCP was not refused: {other:?}"))),
    }
}

fn transparent(_: &NoHostRights) -> Tried<()> {
    Ok(nft::transparent()?)
}
