//! Who is connected: each connection with its number and what the kernel said of its peer.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use agentd_policy::config::Bounds;
use agentd_policy::wire::{CallerNumber, Peer};

/// The most connections at once.
const MAX: usize = 4096;
/// Of one user, besides one for each session that it may have.
const SPARE: usize = 32;

/// The most connections, and the most offers, of one user: all its sessions may be asked for at once, and nobody
/// has more than a quarter of what there is.
pub fn each(bounds: &Bounds) -> usize {
    (bounds.max_sessions_per_user as usize).saturating_add(SPARE).min(MAX / 4)
}

/// One connection. The socket is a second handle of what the service has: it tells when the client is gone.
#[derive(Debug)]
pub struct Caller {
    /// Who.
    pub peer: Peer,
    /// Kept for its hang-up. epoll knows it by this number until it is told otherwise, even after the last
    /// handle here is closed: the service has the same open file.
    pub socket: OwnedFd,
}

/// All connections.
#[derive(Debug)]
pub struct Callers {
    last: u64,
    all: BTreeMap<u64, Caller>,
}

impl Default for Callers {
    /// None yet. A service that outlives a launcher still has numbers that an earlier one gave out: ours begin
    /// with the microseconds since boot, beyond all of those.
    fn default() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let micros = u64::try_from(now.tv_nsec).unwrap_or(0) / 1000;
        Self { last: seconds * 1_000_000 + micros, all: BTreeMap::new() }
    }
}

impl Callers {
    /// Whether one more of `uid` is within bounds.
    pub fn has_room(&self, uid: u32, each: usize) -> bool {
        self.all.len() < MAX && self.all.values().filter(|c| c.peer.uid == uid).count() < each
    }

    /// Remembers a connection under a number that was never used before.
    pub fn add(&mut self, peer: Peer, socket: OwnedFd) -> CallerNumber {
        self.last += 1;
        self.all.insert(self.last, Caller { peer, socket });
        CallerNumber(self.last)
    }

    /// The peer of a connection that is still open.
    pub fn get(&self, number: CallerNumber) -> Option<Peer> {
        self.all.get(&number.0).map(|c| c.peer)
    }

    /// The connection's own handle.
    pub fn socket(&self, number: CallerNumber) -> Option<&OwnedFd> {
        self.all.get(&number.0).map(|c| &c.socket)
    }

    /// Forgets a connection.
    pub fn remove(&mut self, number: CallerNumber) -> Option<Caller> {
        self.all.remove(&number.0)
    }

    /// Forgets all of them: the service that had them is gone.
    pub fn clear(&mut self) -> Vec<Caller> {
        std::mem::take(&mut self.all).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_used_twice_and_one_user_cannot_fill_the_table() {
        let mut callers = Callers::default();
        let peer = Peer { uid: 1000, gid: 1000, pid: 1, admin: false };
        let socket = || OwnedFd::from(std::io::pipe().unwrap().0);
        let first = callers.add(peer, socket());
        assert!(callers.remove(first).is_some());
        let second = callers.add(peer, socket());
        assert_ne!(first, second);
        for _ in 1..10 {
            callers.add(peer, socket());
        }
        assert!(!callers.has_room(1000, 10));
        assert!(callers.has_room(1001, 10));
        assert_eq!(callers.get(first), None);
    }
}
