//! Clients: accepted and attested here, then the service's. Connections are accepted many at a time, from any process,
//! and wait here by account: the kernel's queue is one for all, and must never be full for long.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::Packets;
use agentd_kernel::peer;
use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::offer::{FromClient, Site};
use agentd_policy::rule::Rule;
use agentd_policy::wire::{CallerNumber, FromLauncher, Peer};
use rustix::net::SocketFlags;

use super::Server;
use super::source::Source;
use crate::callers::{Arrival, each};
use crate::offers::Read;

/// How many connections of one listener are accepted in one turn.
const BATCH: usize = 64;
/// The most sockets with descriptors in them that wait for a child that closes them. Nobody is accepted meanwhile.
const MAX_UNCLEAN: usize = 1024;

/// What is accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Client,
    Offer,
}

/// Somebody who is there.
struct Guest {
    socket: OwnedFd,
    peer: Peer,
    account: u32,
}

impl Server {
    /// Accepts clients and attests them. They wait for their turn to be the service's.
    pub(super) fn accept_clients(&mut self) {
        for Guest { socket, peer, account } in self.arrivals(Kind::Client) {
            self.callers.wait(account, Arrival { peer, socket });
        }
    }

    /// Hands connections to the service under numbers, one account's after another's, as long as it keeps up.
    pub(super) fn hand_over(&mut self) {
        while self.link.as_ref().is_some_and(|link| self.callers.has_waiting() && link.keeps_up()) {
            let Some((account, Arrival { peer, socket })) = self.callers.next() else { return };
            let known = self.groups_of(&peer, socket.as_fd());
            let (own, groups) = match (socket.try_clone(), known) {
                (Ok(own), Ok(groups)) if !peer::has_hung_up(socket.as_fd()) => (own, groups),
                _ => {
                    self.callers.leave(account);
                    self.discard(socket);
                    continue;
                }
            };
            let number = self.callers.add(account, peer, own);
            // A second handle is kept for its hang-up alone: the data is the service's.
            let own = self.callers.socket(number);
            let watched = own.map(|own| self.watch(own.as_fd(), Source::Caller(number), EventFlags::RDHUP));
            if let Some(Err(error)) = watched {
                tracing::error!(user = peer.uid, %error, "a connection cannot be watched");
                self.callers.remove(number);
                continue;
            }
            self.send((FromLauncher::Caller { number, peer, account, groups }, vec![socket]));
        }
    }

    /// The groups with bounds of their own that the peer of `socket` is in.
    pub(super) fn groups_of(&self, peer: &Peer, socket: BorrowedFd<'_>) -> std::io::Result<Vec<String>> {
        let settings = &self.context.settings;
        match settings.groups.is_empty() {
            true => Ok(Vec::new()),
            false => Ok(settings.groups_of(peer, &peer::groups(socket)?)),
        }
    }

    /// The bounds of a caller's sessions, by the configuration as it is now.
    pub(super) fn bounds_of(&self, number: CallerNumber) -> Result<Bounds, Refusal> {
        let unknown = || Refusal::new("the caller", Rule::CallerUnknown, "connect again");
        let peer = self.callers.get(number).ok_or_else(unknown)?;
        let socket = self.callers.socket(number).ok_or_else(unknown)?;
        let groups = self.groups_of(&peer, socket.as_fd()).map_err(|_| unknown())?;
        Ok(self.context.settings.config.bounds.of_groups(&groups))
    }

    pub(super) fn forget(&mut self, number: CallerNumber) {
        if let Some(caller) = self.callers.remove(number) {
            self.unwatch(caller.socket.as_fd());
            self.discard(caller.socket);
        }
    }

    /// Takes a descriptor from epoll before it is closed: another process may have the same open file, and epoll
    /// would report on it for as long.
    pub(super) fn unwatch(&self, fd: BorrowedFd<'_>) {
        match self.event_loop.remove(fd) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => tracing::error!(error = %errno, "a descriptor is still watched"),
        }
    }

    /// Accepts clients' side sockets.
    pub(super) fn accept_offers(&mut self) {
        for Guest { socket, peer, account } in self.arrivals(Kind::Offer) {
            let mut site = Site::of(&self.context.settings.config);
            match self.groups_of(&peer, socket.as_fd()) {
                Ok(groups) => site.bounds = site.bounds.of_groups(&groups),
                Err(_) => {
                    self.discard(socket);
                    continue;
                }
            }
            let Some(number) = self.offers.add(account, peer, Packets::from_fd(socket), site) else {
                continue;
            };
            let flags = EventFlags::IN | EventFlags::RDHUP;
            let socket = self.offers.socket(number);
            let watched = socket.map(|socket| self.watch(socket.as_fd(), Source::Offer(number), flags));
            if let Some(Err(error)) = watched {
                tracing::error!(user = peer.uid, %error, "an offer cannot be watched");
            }
        }
    }

    /// An offer that is held stays in its socket, which is watched for its end alone from then on.
    pub(super) fn offer_readable(&mut self, number: u64) {
        let asked = match self.offers.ready(number) {
            Read::Nothing | Read::Over => return,
            Read::Offer => None,
            Read::Asked(peer, asked) => Some((peer, asked)),
        };
        let watched = self
            .offers
            .socket(number)
            .map(|socket| self.event_loop.modify(socket, Source::Offer(number), EventFlags::RDHUP));
        if let Some(Err(errno)) = watched {
            tracing::error!(error = %errno, "an offer cannot be watched");
        }
        match asked {
            Some((peer, FromClient::Steer(steer))) => self.steer(number, &peer, steer),
            Some((peer, FromClient::Review(session))) => self.review(number, peer, session),
            Some((peer, FromClient::Discard(session))) => self.discard_changes(number, &peer, &session),
            Some((_, FromClient::Offer(_))) | None => {}
        }
    }

    /// Accepts what waits in the kernel, up to a bound. Whoever has gone again, or has all that its account may have,
    /// is closed at once.
    fn arrivals(&mut self, kind: Kind) -> Vec<Guest> {
        let most = each(&self.context.settings.config.bounds);
        let mut guests: Vec<Guest> = Vec::new();
        let mut sifted = BTreeSet::new();
        for _ in 0..BATCH {
            if self.unclean.len() >= MAX_UNCLEAN {
                break;
            }
            let listener = match kind {
                Kind::Client => &self.clients,
                Kind::Offer => &self.offer_clients,
            };
            let Some(socket) = accept(listener.as_fd()) else { break };
            // Most of a flood has gone by now, and is to cost as little as it can.
            if peer::has_hung_up(socket.as_fd()) {
                self.discard(socket);
                continue;
            }
            let uid = match rustix::net::sockopt::socket_peercred(&socket) {
                Ok(credentials) => credentials.uid.as_raw(),
                Err(error) => {
                    tracing::warn!(%error, "a connection without credentials was closed");
                    self.discard(socket);
                    continue;
                }
            };
            let account = self.context.accounts.of(uid);
            let new = guests.iter().filter(|guest| guest.account == account).count();
            if kind == Kind::Client
                && !self.callers.has_room(account, most - new.min(most))
                && sifted.insert(account)
            {
                let gone = self.callers.sift(account, |socket| peer::has_hung_up(socket.as_fd()));
                gone.into_iter().for_each(|socket| self.discard(socket));
            }
            let has_room = match kind {
                Kind::Client => self.callers.has_room(account, most - new.min(most)),
                Kind::Offer => self.offers.has_room(account, most - new.min(most)),
            };
            if !has_room {
                let what = if kind == Kind::Client { "connection" } else { "offer" };
                tracing::warn!(user = uid, account, what, "refused: too many of one account");
                self.discard(socket);
                continue;
            }
            match peer::attest(socket.as_fd(), self.context.settings.admin_gid) {
                Ok(peer) => guests.push(Guest { socket, peer, account }),
                Err(error) => {
                    tracing::warn!(user = uid, %error, "a connection that cannot be attested was closed");
                    self.discard(socket);
                }
            }
        }
        guests
    }

    /// Closes a socket of a client's, here or in a child if that may take long.
    pub(super) fn discard(&mut self, socket: OwnedFd) {
        if peer::may_hold_descriptors(socket.as_fd()) {
            self.unclean.push(Packets::from_fd(socket));
        }
    }
}

/// The next connection, non-blocking; `None` if there is none.
pub(super) fn accept(listener: BorrowedFd<'_>) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        match rustix::net::accept_with(listener, flags) {
            Ok(socket) => return Some(socket),
            Err(rustix::io::Errno::AGAIN) => return None,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(errno) => {
                tracing::error!(error = %errno, "a connection cannot be accepted");
                return None;
            }
        }
    }
}
