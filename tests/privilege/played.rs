//! A launcher without its service, and a service that is played: it has the service's uid and its socket, and
//! says what it likes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::plan::Plan;
use agentd_policy::wire::{
    CallerNumber, FromLauncher, FromService, MAX_PACKET, Peer, RequestNumber, Ticket, decode, encode,
};
use agentd_tests::harness::User;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_acceptconn};

use crate::asking::{as_user, offer_at, seqpacket, session};
use crate::place::Launcher;

/// Longer than any answer takes.
const PACKET_TIMEOUT: Duration = Duration::from_secs(30);

/// A service in the test's hands.
pub struct Played {
    link: Packets,
    next: Cell<u64>,
    /// The launcher's side socket, and the group that may connect.
    offers: (PathBuf, u32),
    /// Who the callers are.
    callers: RefCell<BTreeMap<u64, Peer>>,
}

/// A client that is connected, and what the service received of it.
pub struct Client {
    pub number: CallerNumber,
    /// What the launcher attests.
    pub peer: Peer,
    /// The client's own end.
    pub socket: UnixStream,
    /// The service's end.
    pub served: OwnedFd,
}

/// A session that was built.
pub struct Built {
    /// The service's end of the keeper's socket, and of the relay's.
    pub sockets: Vec<OwnedFd>,
}

impl Played {
    /// Connects as the service.
    pub fn connect(launcher: &Launcher) -> Self {
        let path = launcher.runtime().join("service.sock");
        let socket =
            as_user(launcher.service_uid, 0, &[], || seqpacket(&path)).expect("the service may connect");
        set_socket_timeout(&socket, Timeout::Recv, Some(PACKET_TIMEOUT)).expect("a socket option");
        set_socket_timeout(&socket, Timeout::Send, Some(PACKET_TIMEOUT)).expect("a socket option");
        let offers = (launcher.runtime().join("offer.sock"), launcher.socket_gid);
        let link = Packets::from_fd(socket);
        let service = Self { link, next: Cell::new(1), offers, callers: RefCell::default() };
        service.live();
        service.metrics();
        service.settle();
        service
    }

    /// The first message to a service: which sessions live.
    fn live(&self) -> Vec<SessionId> {
        let mut all = Vec::new();
        loop {
            match self.recv() {
                Some((FromLauncher::Live { sessions, last, .. }, _)) => {
                    all.extend(sessions);
                    if last {
                        return all;
                    }
                }
                other => panic!("not the sessions that live: {other:?}"),
            }
        }
    }

    /// The second: the socket on which numbers are asked for, which listens.
    fn metrics(&self) {
        match self.recv() {
            Some((FromLauncher::Metrics, sockets)) => {
                let listening = sockets.iter().map(|socket| socket_acceptconn(socket).expect("a socket"));
                assert_eq!(listening.collect::<Vec<_>>(), [true]);
            }
            other => panic!("not the socket for numbers: {other:?}"),
        }
    }

    /// An answer says that the launcher is done with all that came before.
    fn settle(&self) {
        let nobody = self.remove(CallerNumber(0), 0, &session()).expect("nobody asks");
        assert_eq!(nobody.rule.name(), "caller.unknown");
    }

    /// Says something, as bytes.
    pub fn say(&self, packet: &[u8]) -> Result<(), PacketError> {
        self.link.send(packet, &[])
    }

    /// Sends one packet.
    pub fn send(&self, message: &FromService) {
        self.say(&encode(message).expect("a message within bounds")).expect("the launcher listens");
    }

    /// The socket itself.
    pub fn link(&self) -> &Packets {
        &self.link
    }

    /// The next message; `None` once the launcher has cut the link.
    pub fn recv(&self) -> Option<(FromLauncher, Vec<OwnedFd>)> {
        match self.link.receive(MAX_PACKET, 2) {
            Ok(packet) => {
                packet.map(|p| (decode(&p.bytes).expect("the launcher's own message"), p.descriptors))
            }
            Err(PacketError::Socket(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("the launcher sends nothing: {error}"),
        }
    }

    /// A client of `uid`, in the group that may connect.
    pub fn client_of(&self, launcher: &Launcher, uid: u32, gid: u32) -> Client {
        let path = launcher.runtime().join("agentd.sock");
        let socket = as_user(uid, gid, &[launcher.socket_gid], || UnixStream::connect(&path))
            .expect("a member of the group may connect");
        let (number, peer, served) = self.next_caller();
        self.settle();
        Client { number, peer, socket, served }
    }

    /// A client of `user`.
    pub fn client(&self, launcher: &Launcher, user: &User) -> Client {
        let client = self.client_of(launcher, user.uid, user.gid);
        assert_eq!((client.peer.uid, client.peer.gid), (user.uid, user.gid));
        assert_eq!(client.peer.pid, std::process::id().cast_signed());
        client
    }

    /// What the launcher sends about the next client.
    pub fn next_caller(&self) -> (CallerNumber, Peer, OwnedFd) {
        match self.recv() {
            Some((FromLauncher::Caller { number, peer, .. }, mut descriptors)) => {
                self.callers.borrow_mut().insert(number.0, peer);
                (number, peer, descriptors.pop().expect("the connection"))
            }
            other => panic!("not a caller: {other:?}"),
        }
    }

    fn request(&self) -> RequestNumber {
        self.next.set(self.next.get() + 1);
        RequestNumber(self.next.get())
    }

    /// Asks for a session. Without a ticket its caller agrees to just this plan, and offers nothing.
    pub fn build(&self, caller: CallerNumber, ticket: Option<Ticket>, plan: Plan) -> Result<Built, Refusal> {
        let request = self.request();
        let peer = self.callers.borrow().get(&caller.0).copied();
        let (path, group) = &self.offers;
        let own = match (ticket, peer) {
            (None, Some(peer)) => Some(offer_at(path, (peer.uid, peer.gid), *group, &[], &plan)),
            _ => None,
        };
        let agreed = own.as_ref().map_or(Ticket([0; 32]), |held| held.ticket);
        let ticket = ticket.unwrap_or(agreed);
        self.send(&FromService::Build { request, caller, ticket, plan: Box::new(plan) });
        match self.recv() {
            Some((FromLauncher::Built { request: answered, .. }, sockets)) if answered == request => {
                Ok(Built { sockets })
            }
            Some((FromLauncher::Refused { request: answered, refusal }, _)) if answered == request => {
                Err(refusal)
            }
            other => panic!("no answer to a request: {other:?}"),
        }
    }

    /// Asks for a session that must be refused under `rule`, in a form that a person can use.
    #[track_caller]
    pub fn refused(&self, caller: CallerNumber, ticket: Option<Ticket>, plan: Plan, rule: &str) {
        match self.build(caller, ticket, plan) {
            Ok(_) => panic!("built, and not refused under {rule}"),
            Err(refusal) => {
                assert_eq!(refusal.rule.name(), rule, "{refusal}");
                let parts = [&refusal.what, &refusal.hint];
                assert!(
                    parts.iter().all(|p| !p.is_empty() && !p.contains('\n') && p.len() < 600),
                    "{refusal}"
                );
            }
        }
    }

    /// Ends a session and waits until it is gone.
    pub fn end(&self, session: &SessionId) {
        self.send(&FromService::End { session: session.clone() });
        match self.recv() {
            Some((FromLauncher::Gone { session: gone, errors }, _)) => {
                assert_eq!(&gone, session);
                // It was ended by force, which is reported.
                assert!(errors.iter().all(|e| e.contains("Signal(9)")), "{errors:?}");
            }
            other => panic!("not gone: {other:?}"),
        }
    }

    /// Asks for the removal of an overlay.
    pub fn remove(&self, caller: CallerNumber, owner: u32, session: &SessionId) -> Option<Refusal> {
        let request = self.request();
        self.send(&FromService::Remove { request, caller, owner, session: session.clone() });
        loop {
            match self.recv() {
                Some((FromLauncher::Removed { request: answered, refusal }, _)) if answered == request => {
                    return refusal;
                }
                // Clients come when they like.
                Some((FromLauncher::Caller { .. }, _)) => {}
                other => panic!("no answer to a removal: {other:?}"),
            }
        }
    }

    /// Fails unless the launcher cuts the link.
    #[track_caller]
    pub fn expect_cut(&self) {
        if let Some((message, _)) = self.recv() {
            panic!("the launcher answers {message:?}");
        }
    }
}
