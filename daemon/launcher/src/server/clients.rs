//! Clients: accepted and attested here, then the service's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentd_kernel::packets::Packets;
use agentd_kernel::peer;
use agentd_policy::Refusal;
use agentd_policy::config::Bounds;
use agentd_policy::offer::Site;
use agentd_policy::wire::{CallerNumber, FromLauncher, Peer};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::SocketFlags;

use super::{Server, Source};
use crate::callers::each;
use crate::offers::Heard;

impl Server {
    /// Accepts one client, attests it, and hands it to the service under a number.
    pub(super) fn accept_client(&mut self) {
        let Some((socket, peer)) = self.accept(|server| server.clients.as_fd()) else { return };
        if !self.callers.has_room(peer.uid, each(&self.context.settings.config.bounds)) {
            tracing::warn!(user = peer.uid, pid = peer.pid, "connection refused: too many of one user");
            return;
        }
        let Ok(own) = socket.try_clone() else { return };
        let groups = match self.groups_of(&peer, own.as_fd()) {
            Ok(groups) => groups,
            Err(error) => {
                tracing::warn!(user = peer.uid, pid = peer.pid, %error, "connection refused: its groups are not known");
                return;
            }
        };
        let number = self.callers.add(peer, own);
        // A second handle is kept for its hang-up alone: the data is the service's.
        let own = self.callers.socket(number);
        let watched = own.map(|own| self.watch(own.as_fd(), Source::Caller, number.0, EventFlags::RDHUP));
        if let Some(Err(error)) = watched {
            tracing::error!(user = peer.uid, %error, "a connection cannot be watched");
            self.callers.remove(number);
            return;
        }
        self.tell((FromLauncher::Caller { number, peer, groups }, vec![socket]));
    }

    /// The groups with bounds of their own that the peer of `socket` is in.
    fn groups_of(&self, peer: &Peer, socket: BorrowedFd<'_>) -> std::io::Result<Vec<String>> {
        let settings = &self.context.settings;
        match settings.groups.is_empty() {
            true => Ok(Vec::new()),
            false => Ok(settings.groups_of(peer, &peer::groups(socket)?)),
        }
    }

    /// The bounds of a caller's sessions, by the configuration as it is now.
    pub(super) fn bounds_of(&self, number: CallerNumber) -> Result<Bounds, Refusal> {
        let unknown = || Refusal::new("the caller", "caller.unknown", "connect again");
        let peer = self.callers.get(number).ok_or_else(unknown)?;
        let socket = self.callers.socket(number).ok_or_else(unknown)?;
        let groups = self.groups_of(&peer, socket.as_fd()).map_err(|_| unknown())?;
        Ok(self.context.settings.config.bounds.of_groups(&groups))
    }

    pub(super) fn forget(&mut self, number: CallerNumber) {
        if let Some(caller) = self.callers.remove(number) {
            self.unwatch(caller.socket.as_fd());
        }
    }

    /// Takes a descriptor from epoll before it is closed: another process may have the same open file, and epoll
    /// would report on it for as long.
    pub(super) fn unwatch(&self, fd: BorrowedFd<'_>) {
        match epoll::delete(&self.epoll, fd) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => tracing::error!(error = %errno, "a descriptor is still watched"),
        }
    }

    pub(super) fn accept_offer(&mut self) {
        let Some((socket, peer)) = self.accept(|server| server.offer_clients.as_fd()) else { return };
        if !self.offers.has_room(peer.uid, each(&self.context.settings.config.bounds)) {
            tracing::warn!(user = peer.uid, pid = peer.pid, "offer refused: too many of one user");
            return;
        }
        let mut site = Site::of(&self.context.settings.config);
        match self.groups_of(&peer, socket.as_fd()) {
            Ok(groups) => site.bounds = site.bounds.of_groups(&groups),
            Err(error) => {
                tracing::warn!(user = peer.uid, pid = peer.pid, %error, "offer refused: its groups are not known");
                return;
            }
        }
        let Some(number) = self.offers.add(peer, Packets::from_fd(socket), site) else { return };
        let flags = EventFlags::IN | EventFlags::RDHUP;
        let watched = self.offers.socket(number).map(|s| self.watch(s.as_fd(), Source::Offer, number, flags));
        if let Some(Err(error)) = watched {
            tracing::error!(user = peer.uid, %error, "an offer cannot be watched");
        }
    }

    /// An offer that is held stays in its socket, which is watched for its end alone from then on.
    pub(super) fn offer_says(&mut self, number: u64) {
        if self.offers.ready(number) != Heard::Offer {
            return;
        }
        let data = EventData::new_u64((Source::Offer as u64) << 56 | number);
        let socket = self.offers.socket(number);
        if let Some(Err(errno)) = socket.map(|s| epoll::modify(&self.epoll, s, data, EventFlags::RDHUP)) {
            tracing::error!(error = %errno, "an offer cannot be watched");
        }
    }

    pub(super) fn accept(
        &self,
        listener: impl Fn(&Self) -> BorrowedFd<'_>,
    ) -> Option<(OwnedFd, agentd_policy::wire::Peer)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener(self), flags) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {
                return None;
            }
            Err(errno) => {
                tracing::error!(error = %errno, "a connection cannot be accepted");
                return None;
            }
        };
        match peer::attest(socket.as_fd(), self.context.settings.admin_gid) {
            Ok(peer) => Some((socket, peer)),
            Err(error) => {
                tracing::warn!(%error, "a connection of nobody knows whom was closed");
                None
            }
        }
    }
}
