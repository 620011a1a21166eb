//! How a user asks: threads that are that user, offers, and honest plans.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentd_kernel::packets::Packets;
use agentd_policy::consent::Consent;
use agentd_policy::digest::Digest;
use agentd_policy::limits::Limits;
use agentd_policy::mode::{Mode, Role};
use agentd_policy::mount::Workspace;
use agentd_policy::names::{AbsPath, SessionId, UserName};
use agentd_policy::offer::{FromClient, Grant, Offer, ToClient};
use agentd_policy::plan::Plan;
use agentd_policy::wire::{MAX_PACKET, Ticket, decode, encode};
use agentd_tests::harness::User;
pub use agentd_tests::harness::{as_user, number_of};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::place::Launcher;

/// Longer than any answer takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects a packet socket to `path`.
pub fn seqpacket(path: &Path) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// What a client holds at the side socket.
pub struct Held {
    pub ticket: Ticket,
    /// It lasts as long as this.
    pub socket: Packets,
}

pub fn grant(role: Role, mode: Mode) -> Grant {
    Grant { role, mode }
}

/// Offers descriptors as `user`, who agrees to `plan`.
pub fn offer(launcher: &Launcher, user: &User, offered: &[(Grant, OwnedFd)], plan: &Plan) -> Held {
    let path = launcher.runtime().join("offer.sock");
    offer_at(&path, (user.uid, user.gid), launcher.socket_gid, offered, plan)
}

/// Offers descriptors at the socket `path`, as the user and group `ids`.
pub fn offer_at(
    path: &Path,
    (uid, gid): (u32, u32),
    group: u32,
    offered: &[(Grant, OwnedFd)],
    plan: &Plan,
) -> Held {
    let socket = as_user(uid, gid, &[group], || side_socket(path));
    let grants: Vec<_> = offered.iter().map(|(grant, _)| *grant).collect();
    let borrowed: Vec<_> = offered.iter().map(|(_, fd)| fd.as_fd()).collect();
    socket.send(&packet(grants, plan), &borrowed).expect("an offer");
    match answer(&socket) {
        ToClient::Held(ticket) => Held { ticket, socket },
        other => panic!("{other:?}"),
    }
}

/// A side connection to the launcher at `path`, which has said what it says first.
pub fn side_socket(path: &Path) -> Packets {
    let socket = seqpacket(path).expect("a member may connect");
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT)).expect("a socket option");
    let socket = Packets::from_fd(socket);
    assert!(matches!(answer(&socket), ToClient::Site(_)));
    socket
}

/// What the launcher says next.
pub fn answer(socket: &Packets) -> ToClient {
    let packet = socket.receive(MAX_PACKET, 0).expect("an answer").expect("an answer");
    decode(&packet.bytes).expect("an answer")
}

/// An offer in which somebody agrees to `plan`.
pub fn packet(grants: Vec<Grant>, plan: &Plan) -> Vec<u8> {
    let consent = Consent::to(plan).expect("a plan");
    encode(&FromClient::Offer(Box::new(Offer { consent, grants }))).expect("an offer within bounds")
}

/// Opens a directory as `user` would.
pub fn open_dir(user: &User, path: &Path) -> OwnedFd {
    as_user(user.uid, user.gid, &[], || std::fs::File::open(path)).expect("the user's own").into()
}

/// The workspace `path` as descriptor `descriptor`.
pub fn workspace(path: &Path, descriptor: u16, mode: Mode) -> Workspace {
    Workspace {
        path: abs(path),
        descriptor,
        mode,
        mask: vec![],
        mask_anywhere: vec![],
        protect: vec![],
        sockets: vec![],
        git: None,
    }
}

/// A checked path.
pub fn abs(path: impl AsRef<Path>) -> AbsPath {
    AbsPath::parse(path.as_ref().to_str().expect("our own name")).expect("a path in form")
}

/// A session id that no other plan has.
pub fn session() -> SessionId {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, a, b] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let [c, d, e, f] = std::process::id().to_be_bytes();
    SessionId::from_random([c, d, e, f, a, b])
}

/// An honest plan that needs no descriptor: it waits until it is ended.
pub fn plan(user: &User) -> Plan {
    Plan {
        session: session(),
        profile: Digest::default(),
        user: UserName::parse(&user.name).expect("a login name"),
        home: abs(&user.home),
        shell: abs("/bin/bash"),
        command: ["sleep", "1000"].map(|word| word.as_bytes().to_vec()).to_vec(),
        env: vec![(b"PATH".to_vec(), b"/usr/bin:/bin".to_vec())],
        cwd: abs(&user.home),
        terminal: None,
        workspaces: vec![],
        inputs: vec![],
        scratch: vec![],
        home_size: 1 << 20,
        limits: Limits {
            memory: 256 << 20,
            pids: 32,
            cpus: 1.0,
            disk: 1 << 20,
            inodes: 1 << 20,
            timeout_ms: 60_000,
            idle_ms: 0,
            open_files: 256,
        },
        landlock_abi: 2,
        remove: false,
        umask: 0o022,
        egress: None,
    }
}

/// An honest plan with workspaces.
pub fn plan_with(user: &User, workspaces: Vec<Workspace>) -> Plan {
    Plan { workspaces, ..plan(user) }
}
