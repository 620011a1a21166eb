//! Descriptors that clients hand over before they ask for a session, each batch under a ticket.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agentd_kernel::offer::{self, Answer, MAX_OFFER};
use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::Refusal;
use agentd_policy::wire::{Peer, Ticket};

/// The most sockets at once.
const MAX: usize = 4096;
/// How long a client may take to say what it offers.
const SPEAK: Duration = Duration::from_secs(5);
/// How long an offer waits for the request that names it.
const HOLD: Duration = Duration::from_secs(60);

/// One client's side socket. The offer stays in it, for the builder: the launcher itself never has a client's
/// descriptor, because to close one can block.
#[derive(Debug)]
struct Offer {
    peer: Peer,
    socket: Packets,
    until: Instant,
    ticket: Option<Ticket>,
}

/// All side sockets.
#[derive(Debug, Default)]
pub struct Offers {
    last: u64,
    all: BTreeMap<u64, Offer>,
    /// Sockets that nobody needs, with what is left in them.
    dead: Vec<Packets>,
}

/// What became of a socket that reported something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing yet.
    Nothing,
    /// An offer, which is held: from now on only the client's end matters.
    Offer,
    /// It is done with.
    Over,
}

impl Offers {
    /// Whether one more of `uid` is within bounds.
    pub fn has_room(&self, uid: u32, each: usize) -> bool {
        self.all.len() + self.dead.len() < MAX
            && self.all.values().filter(|o| o.peer.uid == uid).count() < each
    }

    /// Takes a new side socket, non-blocking; its number.
    pub fn add(&mut self, peer: Peer, socket: Packets) -> u64 {
        self.last += 1;
        let until = Instant::now() + SPEAK;
        self.all.insert(self.last, Offer { peer, socket, until, ticket: None });
        self.last
    }

    /// The socket, for watching it.
    pub fn socket(&self, number: u64) -> Option<&Packets> {
        self.all.get(&number).map(|offer| &offer.socket)
    }

    /// The socket has something, or its client is gone.
    pub fn ready(&mut self, number: u64) -> Heard {
        let Some(offer) = self.all.get_mut(&number) else { return Heard::Over };
        let heard = match offer.socket.peek(MAX_OFFER) {
            // It was watched for its end alone.
            _ if offer.ticket.is_some() => Heard::Over,
            Err(PacketError::WouldBlock) => Heard::Nothing,
            Ok(None) | Err(PacketError::Socket(_)) => Heard::Over,
            Ok(Some(bytes)) => match offer::grants(&bytes) {
                Ok(_) => offer.hold(),
                Err(error) => offer.refuse(&error.to_string()),
            },
            Err(error @ PacketError::TooLong { .. }) => offer.refuse(&error.to_string()),
        };
        if heard == Heard::Over
            && let Some(offer) = self.all.remove(&number)
        {
            self.dead.push(offer.socket);
        }
        heard
    }

    /// Gives out the socket with the offer that `ticket` stands for, once, to the process that made it.
    pub fn take(&mut self, ticket: Ticket, caller: &Peer) -> Result<Packets, Refusal> {
        let found = self.all.iter().find(|(_, offer)| {
            let own = offer.peer.uid == caller.uid && offer.peer.pid == caller.pid;
            own && offer.ticket == Some(ticket)
        });
        let number = found.map(|(number, _)| *number);
        match number.and_then(|n| self.all.remove(&n)) {
            Some(offer) => Ok(offer.socket),
            None => Err(Refusal::new(
                "the ticket for the offered paths",
                "offer.ticket",
                "offer the paths again: a ticket is good once, for a minute, for the process that got it",
            )),
        }
    }

    /// Forgets clients that took too long.
    pub fn expire(&mut self, now: Instant) {
        let over: Vec<u64> = self.all.iter().filter(|(_, o)| o.until <= now).map(|(n, _)| *n).collect();
        self.dead.extend(over.into_iter().filter_map(|n| self.all.remove(&n)).map(|o| o.socket));
    }

    /// The sockets that are done with, to be closed by a child of their own.
    pub fn dead(&mut self) -> Vec<Packets> {
        std::mem::take(&mut self.dead)
    }

    /// When the next one takes too long.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.all.values().map(|o| o.until).min()
    }
}

impl Offer {
    fn hold(&mut self) -> Heard {
        let mut bytes = [0; 32];
        let full = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        if full != Ok(bytes.len()) || self.socket.send(&Answer::Ticket(bytes).encode(), &[]).is_err() {
            return Heard::Over;
        }
        self.ticket = Some(Ticket(bytes));
        self.until = Instant::now() + HOLD;
        Heard::Offer
    }

    fn refuse(&mut self, what: &str) -> Heard {
        let mend = "offer at most 253 open files and directories in one packet";
        let answer = Answer::Refused(what.to_owned(), "offer.form".to_owned(), mend.to_owned());
        // The client is cut off whether it hears why or not.
        let _ = self.socket.send(&answer.encode(), &[]);
        Heard::Over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_kernel::offer::{Grant, Mode, Role};
    use std::os::fd::AsFd;

    const PEER: Peer = Peer { uid: 1000, gid: 1000, pid: 7, admin: false };

    fn offered() -> (Offers, Packets, u64, Ticket) {
        let (client, ours) = Packets::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut offers = Offers::default();
        let number = offers.add(PEER, ours);
        let file = std::fs::File::open("/").unwrap();
        offer::send(&client, &[(Grant { role: Role::Input, mode: Mode::Ro }, file.as_fd())]).unwrap();
        assert_eq!(offers.ready(number), Heard::Offer);
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
        let socket = offers.take(ticket, &PEER).unwrap();
        let packet = socket.receive(MAX_OFFER, 253).unwrap().unwrap();
        assert_eq!(offer::parse(packet).unwrap().len(), 1);
        assert!(offers.take(ticket, &PEER).is_err());
    }

    #[test]
    fn it_goes_with_its_client_and_with_time() {
        let (mut offers, client, number, ticket) = offered();
        drop(client);
        assert_eq!(offers.ready(number), Heard::Over);
        assert_eq!(offers.dead().len(), 1);
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
        assert_eq!(offers.ready(number), Heard::Over);
        let packet = client.receive(offer::MAX_ANSWER, 0).unwrap().unwrap();
        assert!(matches!(Answer::parse(&packet.bytes), Ok(Answer::Refused(..))));
    }
}
