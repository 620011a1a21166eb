//! Descriptors that clients hand over before they ask for a session, each batch under a ticket.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agentd_kernel::offer::{self, Answer, Grant, MAX_OFFER};
use agentd_kernel::packets::{MAX_DESCRIPTORS, PacketError, Packets};
use agentd_policy::Refusal;
use agentd_policy::wire::{Peer, Ticket};

/// The most sockets at once.
const MAX: usize = 256;
/// Of one user.
const MAX_PER_USER: usize = 16;
/// How long a client may take to say what it offers.
const SPEAK: Duration = Duration::from_secs(5);
/// How long an offer waits for the request that names it.
const HOLD: Duration = Duration::from_secs(60);

/// One client's side socket.
#[derive(Debug)]
struct Offer {
    peer: Peer,
    socket: Packets,
    until: Instant,
    held: Option<(Ticket, Vec<(Grant, OwnedFd)>)>,
}

/// All side sockets.
#[derive(Debug, Default)]
pub struct Offers {
    last: u64,
    all: BTreeMap<u64, Offer>,
}

impl Offers {
    /// Whether one more of `uid` is within bounds.
    pub fn has_room(&self, uid: u32) -> bool {
        self.all.len() < MAX && self.all.values().filter(|o| o.peer.uid == uid).count() < MAX_PER_USER
    }

    /// Takes a new side socket, non-blocking; its number.
    pub fn add(&mut self, peer: Peer, socket: Packets) -> u64 {
        self.last += 1;
        let until = Instant::now() + SPEAK;
        self.all.insert(self.last, Offer { peer, socket, until, held: None });
        self.last
    }

    /// The socket has something, or its client is gone. Whether it stays.
    pub fn ready(&mut self, number: u64) -> bool {
        let Some(offer) = self.all.get_mut(&number) else { return false };
        let stays = match offer.socket.receive(MAX_OFFER, MAX_DESCRIPTORS) {
            Err(PacketError::WouldBlock) => true,
            Ok(None) | Err(PacketError::Socket(_)) => false,
            Ok(Some(_)) if offer.held.is_some() => false,
            Ok(Some(packet)) => match offer::parse(packet) {
                Ok(grants) => offer.hold(grants),
                Err(error) => offer.refuse(&error.to_string()),
            },
            Err(error @ PacketError::TooLong { .. }) => offer.refuse(&error.to_string()),
        };
        if !stays {
            self.all.remove(&number);
        }
        stays
    }

    /// Gives out what `ticket` stands for, once, to the process that offered it.
    pub fn take(&mut self, ticket: Ticket, caller: &Peer) -> Result<Vec<(Grant, OwnedFd)>, Refusal> {
        let found = self.all.iter().find(|(_, offer)| {
            let own = offer.peer.uid == caller.uid && offer.peer.pid == caller.pid;
            own && offer.held.as_ref().is_some_and(|(held, _)| *held == ticket)
        });
        let number = found.map(|(number, _)| *number);
        match number.and_then(|n| self.all.remove(&n)).and_then(|offer| offer.held) {
            Some((_, grants)) => Ok(grants),
            None => Err(Refusal::new(
                "the ticket for the offered paths",
                "offer.ticket",
                "offer the paths again: a ticket is good once, for a minute, for the process that got it",
            )),
        }
    }

    /// Forgets clients that took too long.
    pub fn expire(&mut self, now: Instant) {
        self.all.retain(|_, offer| offer.until > now);
    }

    /// When the next one does.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.all.values().map(|o| o.until).min()
    }
}

impl Offer {
    fn hold(&mut self, grants: Vec<(Grant, OwnedFd)>) -> bool {
        let mut bytes = [0; 32];
        let full = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        if full != Ok(bytes.len()) {
            return false;
        }
        self.held = Some((Ticket(bytes), grants));
        self.until = Instant::now() + HOLD;
        self.socket.send(&Answer::Ticket(bytes).encode(), &[]).is_ok()
    }

    fn refuse(&mut self, what: &str) -> bool {
        let mend = "offer at most 253 open files and directories in one packet";
        let answer = Answer::Refused(what.to_owned(), "offer.form".to_owned(), mend.to_owned());
        // The client is cut off whether it hears why or not.
        let _ = self.socket.send(&answer.encode(), &[]);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_kernel::offer::{Mode, Role};
    use std::os::fd::AsFd;

    const PEER: Peer = Peer { uid: 1000, gid: 1000, pid: 7, admin: false };

    fn offered() -> (Offers, Packets, u64, Ticket) {
        let (client, ours) = Packets::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut offers = Offers::default();
        let number = offers.add(PEER, ours);
        let file = std::fs::File::open("/").unwrap();
        offer::send(&client, &[(Grant { role: Role::Input, mode: Mode::Ro }, file.as_fd())]).unwrap();
        assert!(offers.ready(number));
        let packet = client.receive(offer::MAX_ANSWER, 0).unwrap().unwrap();
        let Answer::Ticket(ticket) = Answer::parse(&packet.bytes).unwrap() else { panic!("refused") };
        (offers, client, number, Ticket(ticket))
    }

    #[test]
    fn a_ticket_is_good_once_and_for_its_process_alone() {
        let (mut offers, _client, _, ticket) = offered();
        assert!(offers.take(ticket, &Peer { pid: 8, ..PEER }).is_err());
        assert!(offers.take(ticket, &Peer { uid: 1001, ..PEER }).is_err());
        assert!(offers.take(Ticket([0; 32]), &PEER).is_err());
        assert_eq!(offers.take(ticket, &PEER).unwrap().len(), 1);
        assert!(offers.take(ticket, &PEER).is_err());
    }

    #[test]
    fn it_goes_with_its_client_and_with_time() {
        let (mut offers, client, number, ticket) = offered();
        drop(client);
        assert!(!offers.ready(number));
        assert!(offers.take(ticket, &PEER).is_err());
        let (mut offers, _client, _, ticket) = offered();
        offers.expire(Instant::now() + HOLD);
        assert!(offers.take(ticket, &PEER).is_err());
    }

    #[test]
    fn nonsense_is_answered_and_cut_off() {
        let (client, ours) = Packets::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut offers = Offers::default();
        let number = offers.add(PEER, ours);
        client.send(b"hello", &[]).unwrap();
        assert!(!offers.ready(number));
        let packet = client.receive(offer::MAX_ANSWER, 0).unwrap().unwrap();
        assert!(matches!(Answer::parse(&packet.bytes), Ok(Answer::Refused(..))));
    }
}
