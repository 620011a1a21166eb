//! Clients' side sockets: descriptors that they hand over before they ask for a session, each batch under a ticket, and
//! what they ask for of sessions that run.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use agentd_kernel::packets::{PacketError, Packets};
use agentd_kernel::peer;
use agentd_policy::Refusal;
use agentd_policy::consent::Consent;
use agentd_policy::offer::{FromClient, MAX_STEER, Site, ToClient};
use agentd_policy::rule::Rule;
use agentd_policy::wire::{self, Peer, Ticket};

use crate::shares::Shares;
use agentd_session::error::HostError;

/// How long a client may take to say what it offers.
const SPEAK: Duration = Duration::from_secs(5);
/// How long an offer waits for the request that names it.
const HOLD: Duration = Duration::from_secs(60);

/// One client's side socket. The offer stays in it, for the builder: the launcher itself never has a client's
/// descriptor, because to close one can block.
#[derive(Debug)]
struct Offer {
    peer: Peer,
    /// Which account it counts for.
    account: u32,
    socket: Packets,
    until: Instant,
    held: Option<(Ticket, Consent)>,
    /// Whether its client has asked for something and waits for the answer.
    asked: bool,
}

/// All side sockets.
#[derive(Debug, Default)]
pub struct Offers {
    last: u64,
    all: BTreeMap<u64, Offer>,
    shares: Shares,
    /// Sockets that nobody needs, with what is left in them.
    dead: Vec<Packets>,
}

/// What became of a socket that reported something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing was offered yet.
    Nothing,
    /// An offer, which is held: from now on only the client's end matters.
    Offer,
    /// Something else is asked for: answered by [`Offers::answer`]. Until then only the client's end matters.
    Asked(Peer, FromClient),
    /// It is done with.
    Over,
}

impl Offers {
    /// Whether one more of `account` is within bounds.
    pub fn has_room(&self, account: u32, each: usize) -> bool {
        self.dead.len() < Shares::MAX && self.shares.has_room(account, each)
    }

    /// Takes a new side socket, non-blocking, and sends `site` to its client; its number. One that cannot be written to
    /// is closed.
    pub fn add(&mut self, account: u32, peer: Peer, socket: Packets, site: Site) -> Option<u64> {
        let until = Instant::now() + SPEAK;
        let offer = Offer { peer, account, socket, until, held: None, asked: false };
        if let Err(error) = send(&offer.socket, &ToClient::Site(Box::new(site))) {
            tracing::debug!(user = peer.uid, pid = peer.pid, %error, "the site cannot be sent to a client");
            self.bury(Some(offer));
            return None;
        }
        self.last += 1;
        self.shares.add(account);
        self.all.insert(self.last, offer);
        Some(self.last)
    }

    /// The socket, for watching it.
    pub fn socket(&self, number: u64) -> Option<&Packets> {
        self.all.get(&number).map(|offer| &offer.socket)
    }

    /// The socket has something, or its client is gone.
    pub fn ready(&mut self, number: u64) -> Read {
        let Some(offer) = self.all.get_mut(&number) else { return Read::Over };
        let read = match offer.socket.peek(MAX_STEER) {
            // It was watched for its end alone.
            _ if offer.held.is_some() || offer.asked => Read::Over,
            Err(PacketError::WouldBlock) => Read::Nothing,
            Ok(None) | Err(PacketError::Socket(_)) => Read::Over,
            Ok(Some(bytes)) => match FromClient::decode(&bytes) {
                Ok(FromClient::Offer(offered)) => offer.hold(offered.consent),
                Ok(asked) => {
                    (offer.asked, offer.until) = (true, Instant::now() + HOLD);
                    Read::Asked(offer.peer, asked)
                }
                Err(error) => offer.refuse(&error.to_string()),
            },
            Err(error @ PacketError::TooLong { .. }) => offer.refuse(&error.to_string()),
        };
        if read == Read::Over {
            let over = self.remove(number);
            self.bury(over);
        }
        read
    }

    /// Tells the client what became of what it asked for, and is done with it.
    pub fn answer(&mut self, number: u64, message: &ToClient) {
        let Some(offer) = self.remove(number) else { return };
        if let Err(error) = send(&offer.socket, message) {
            tracing::debug!(user = offer.peer.uid, %error, "an answer cannot be sent to a client");
        }
        self.bury(Some(offer));
    }

    /// Gives out the socket of a client whose question somebody else answers.
    pub fn hand_over(&mut self, number: u64) -> Option<Packets> {
        self.remove(number).map(|offer| offer.socket)
    }

    /// Gives out the socket with the offer that `ticket` stands for, once, to the process that made it; and what its
    /// client agreed to.
    pub fn take(&mut self, ticket: Ticket, caller: &Peer) -> Result<(Packets, Consent), Refusal> {
        let found = self.all.iter().find(|(_, offer)| {
            let own = offer.peer.uid == caller.uid && offer.peer.pid == caller.pid;
            own && offer.held.as_ref().is_some_and(|(held, _)| *held == ticket)
        });
        let number = found.map(|(number, _)| *number);
        match number.and_then(|n| self.remove(n)).map(|offer| (offer.socket, offer.held)) {
            Some((socket, Some((_, consent)))) => Ok((socket, consent)),
            _ => Err(Refusal::new(
                "the ticket for the offered paths",
                Rule::OfferTicket,
                "offer the paths again: a ticket is good once, for a minute, for the process that got it",
            )),
        }
    }

    /// Forgets clients that took too long.
    pub fn expire(&mut self, now: Instant) {
        let over: Vec<u64> = self.all.iter().filter(|(_, o)| o.until <= now).map(|(n, _)| *n).collect();
        for number in over {
            let over = self.remove(number);
            self.bury(over);
        }
    }

    fn remove(&mut self, number: u64) -> Option<Offer> {
        let offer = self.all.remove(&number)?;
        self.shares.remove(offer.account);
        Some(offer)
    }

    /// One that is done with is closed here only if that cannot take long.
    fn bury(&mut self, over: Option<Offer>) {
        let held = over.filter(|offer| peer::may_hold_descriptors(offer.socket.as_fd()));
        self.dead.extend(held.map(|offer| offer.socket));
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
    fn hold(&mut self, consent: Consent) -> Read {
        let mut bytes = [0; 32];
        let full = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        let ticket = Ticket(bytes);
        if full != Ok(bytes.len()) || send(&self.socket, &ToClient::Held(ticket)).is_err() {
            return Read::Over;
        }
        self.held = Some((ticket, consent));
        self.until = Instant::now() + HOLD;
        Read::Offer
    }

    fn refuse(&mut self, what: &str) -> Read {
        let hint =
            "offer at most 253 open files and directories in one packet, by an agentctl of agentd's version";
        // The client is disconnected whether it reads why or not.
        send(&self.socket, &ToClient::Refused(Refusal::new(what, Rule::OfferForm, hint))).ok();
        Read::Over
    }
}

fn send(socket: &Packets, message: &ToClient) -> Result<(), HostError> {
    let packet = wire::encode(message)?;
    Ok(socket.send(&packet, &[])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::config::Config;
    use agentd_policy::mode::{Mode, Role};
    use agentd_policy::names::SessionId;
    use agentd_policy::network::Change;
    use agentd_policy::offer::Steer;
    use agentd_policy::offer::{self, Grant};
    use agentd_policy::wire::MAX_PACKET;

    const PEER: Peer = Peer { uid: 1000, gid: 1000, pid: 7, admin: false };

    /// What a client sends that agreed to something.
    fn packet(grants: usize) -> Vec<u8> {
        let consent = wire::decode::<Consent>(&wire::encode(&("0.1.0", [[1_u8; 32]; 6])).unwrap()).unwrap();
        let grants = vec![Grant { role: Role::Input, mode: Mode::Ro }; grants];
        wire::encode(&FromClient::Offer(Box::new(offer::Offer { consent, grants }))).unwrap()
    }

    fn answer(client: &Packets) -> ToClient {
        wire::decode(&client.receive(MAX_PACKET, 0).unwrap().unwrap().bytes).unwrap()
    }

    fn connected() -> (Offers, Packets, u64) {
        let (client, ours) = Packets::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut offers = Offers::default();
        let site = Site::of(&Config::default());
        let number = offers.add(PEER.uid, PEER, ours, site.clone()).unwrap();
        assert_eq!(answer(&client), ToClient::Site(Box::new(site)));
        (offers, client, number)
    }

    fn offered() -> (Offers, Packets, u64, Ticket) {
        let (mut offers, client, number) = connected();
        let file = std::fs::File::open("/").unwrap();
        client.send(&packet(1), &[file.as_fd()]).unwrap();
        assert_eq!(offers.ready(number), Read::Offer);
        let ToClient::Held(ticket) = answer(&client) else { panic!("refused") };
        (offers, client, number, ticket)
    }

    #[test]
    fn a_ticket_is_good_once_and_for_its_process_alone() {
        let (mut offers, _client, _, ticket) = offered();
        assert!(offers.take(ticket, &Peer { pid: 8, ..PEER }).is_err());
        assert!(offers.take(ticket, &Peer { uid: 1001, ..PEER }).is_err());
        assert!(offers.take(Ticket([0; 32]), &PEER).is_err());
        let (socket, _) = offers.take(ticket, &PEER).unwrap();
        let packet = socket.receive(MAX_STEER, 253).unwrap().unwrap();
        assert_eq!(packet.descriptors.len(), 1);
        assert!(offers.take(ticket, &PEER).is_err());
    }

    #[test]
    fn it_goes_with_its_client_and_with_time() {
        let (mut offers, client, number, ticket) = offered();
        drop(client);
        assert_eq!(offers.ready(number), Read::Over);
        assert_eq!(offers.dead().len(), 1);
        assert!(offers.take(ticket, &PEER).is_err());
        let (mut offers, _client, _, ticket) = offered();
        offers.expire(Instant::now() + HOLD);
        assert!(offers.take(ticket, &PEER).is_err());
    }

    #[test]
    fn what_is_asked_for_is_answered_once() {
        let (mut offers, client, number) = connected();
        let change = Box::new(Change::parse(&["a.example".into()], &[]).unwrap());
        let steer = Steer { session: SessionId::from_random([7; 6]), change };
        client.send(&wire::encode(&FromClient::Steer(steer.clone())).unwrap(), &[]).unwrap();
        assert_eq!(offers.ready(number), Read::Asked(PEER, FromClient::Steer(steer)));
        offers.answer(number, &ToClient::Steered);
        assert_eq!(answer(&client), ToClient::Steered);
        assert_eq!(offers.ready(number), Read::Over);
        assert!(client.receive(MAX_PACKET, 0).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_answered_and_cut_off() {
        for nonsense in [b"hello".to_vec(), packet(254), vec![0; MAX_STEER + 1]] {
            let (mut offers, client, number) = connected();
            client.send(&nonsense, &[]).unwrap();
            assert_eq!(offers.ready(number), Read::Over);
            assert!(matches!(answer(&client), ToClient::Refused(refusal) if refusal.rule == Rule::OfferForm));
        }
    }
}
