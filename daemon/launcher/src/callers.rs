//! Who is connected: each connection with its number and what the kernel said of its peer.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use agentd_policy::config::Bounds;
use agentd_policy::wire::{CallerNumber, Peer};

use crate::shares::{Shares, Turns};

/// Of one account, besides one for each session that it may have.
const SPARE: usize = 32;

/// The most connections, and the most offers, of one account: all its sessions may be asked for at once, and nobody
/// has more than a quarter of what there is.
pub fn each(bounds: &Bounds) -> usize {
    (bounds.max_sessions_per_user as usize).saturating_add(SPARE).min(Shares::MAX / 4)
}

/// One connection. The socket is a second handle of what the service has: its hang-up shows that the client is gone.
#[derive(Debug)]
pub struct Caller {
    pub peer: Peer,
    /// Which account it counts for.
    account: u32,
    /// Kept for its hang-up. epoll reports it under this number until it is removed, even after the last
    /// handle here is closed: the service has the same open file.
    pub socket: OwnedFd,
}

/// A connection that the service does not have yet.
#[derive(Debug)]
pub struct Arrival {
    pub peer: Peer,
    pub socket: OwnedFd,
}

#[derive(Debug)]
pub struct Callers {
    last: u64,
    all: BTreeMap<u64, Caller>,
    /// Both of those, and of those that wait.
    shares: Shares,
    waiting: Turns<Arrival>,
}

impl Default for Callers {
    /// None yet. A service that outlives a launcher still has numbers that an earlier one gave out: ours begin
    /// with the microseconds since boot, beyond all of those.
    fn default() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let micros = u64::try_from(now.tv_nsec).unwrap_or(0) / 1000;
        let (shares, waiting) = (Shares::default(), Turns::default());
        Self { last: seconds * 1_000_000 + micros, all: BTreeMap::new(), shares, waiting }
    }
}

impl Callers {
    /// Whether one more of `account` is within bounds.
    pub fn has_room(&self, account: u32, each: usize) -> bool {
        self.shares.has_room(account, each)
    }

    /// Takes a connection that is to wait until the service has room for it.
    pub fn wait(&mut self, account: u32, arrival: Arrival) {
        self.shares.add(account);
        self.waiting.push(account, arrival);
    }

    /// Whether a connection waits.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The connection whose turn it is, and its account. It is to be [added](Self::add) or [let go](Self::leave).
    pub fn next(&mut self) -> Option<(u32, Arrival)> {
        self.waiting.pop(|_| true)
    }

    /// Takes out what waits for an account and of which `gone` says that nobody is there any more.
    pub fn sift(&mut self, account: u32, gone: impl Fn(&OwnedFd) -> bool) -> Vec<OwnedFd> {
        let out = self.waiting.sift(account, |arrival| !gone(&arrival.socket));
        out.iter().for_each(|_| self.shares.remove(account));
        out.into_iter().map(|arrival| arrival.socket).collect()
    }

    /// A connection that waited is not there any more.
    pub fn leave(&mut self, account: u32) {
        self.shares.remove(account);
    }

    /// Remembers a connection that waited under a number that was never used before.
    pub fn add(&mut self, account: u32, peer: Peer, socket: OwnedFd) -> CallerNumber {
        self.last += 1;
        self.all.insert(self.last, Caller { peer, account, socket });
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
        let caller = self.all.remove(&number.0)?;
        self.shares.remove(caller.account);
        Some(caller)
    }

    /// Forgets all that a service had which is gone. What waits is for the next one.
    pub fn clear(&mut self) -> Vec<Caller> {
        let all: Vec<Caller> = std::mem::take(&mut self.all).into_values().collect();
        all.iter().for_each(|caller| self.shares.remove(caller.account));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Peer = Peer { uid: 1000, gid: 1000, pid: 1, admin: false };

    fn socket() -> OwnedFd {
        OwnedFd::from(std::io::pipe().unwrap().0)
    }

    fn arrive(callers: &mut Callers, account: u32) -> CallerNumber {
        callers.wait(account, Arrival { peer: PEER, socket: socket() });
        let (account, arrival) = callers.next().unwrap();
        callers.add(account, arrival.peer, arrival.socket)
    }

    #[test]
    fn numbers_are_never_used_twice_and_one_account_cannot_fill_the_table() {
        let mut callers = Callers::default();
        let first = arrive(&mut callers, 1000);
        assert!(callers.remove(first).is_some());
        let second = arrive(&mut callers, 1000);
        assert_ne!(first, second);
        for _ in 1..10 {
            arrive(&mut callers, 1000);
        }
        assert!(!callers.has_room(1000, 10));
        assert!(callers.has_room(1001, 10));
        assert_eq!(callers.get(first), None);
        assert_eq!(callers.clear().len(), 10);
        assert!(callers.has_room(1000, 10));
    }

    #[test]
    fn what_waits_counts_too_and_goes_in_turn() {
        let mut callers = Callers::default();
        for account in [1, 1, 1, 2] {
            callers.wait(account, Arrival { peer: PEER, socket: socket() });
        }
        assert!(!callers.has_room(1, 3));
        assert_eq!(callers.next().map(|(account, _)| account), Some(1));
        assert_eq!(callers.next().map(|(account, _)| account), Some(2));
        callers.leave(1);
        assert!(callers.has_room(1, 3));
        assert_eq!(callers.sift(1, |_| true).len(), 2);
        assert!(!callers.has_waiting());
    }
}
