//! Who is connected: each connection with its number and what the kernel said of its peer.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use agentd_policy::wire::{CallerNumber, Peer};

/// The most connections at once.
const MAX: usize = 1024;
/// Of one user.
const MAX_PER_USER: usize = 64;

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
#[derive(Debug, Default)]
pub struct Callers {
    last: u64,
    all: BTreeMap<u64, Caller>,
}

impl Callers {
    /// Whether one more of `uid` is within bounds.
    pub fn has_room(&self, uid: u32) -> bool {
        self.all.len() < MAX && self.all.values().filter(|c| c.peer.uid == uid).count() < MAX_PER_USER
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
        for _ in 1..MAX_PER_USER {
            callers.add(peer, socket());
        }
        assert!(!callers.has_room(1000));
        assert!(callers.has_room(1001));
        assert_eq!(callers.get(first), None);
    }
}
