//! Pins that ran out while their name is still allowed. Programs keep addresses for longer than names say: a connection
//! to one has its name asked for again, and goes on only if the name still answers with that very address. Until that
//! is known its first packet is dropped; the kernel sends it again within a second.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use agentd_kernel::resets::Syn;
use agentd_policy::event::Actor;
use agentd_policy::hosts::{HostName, HostVerdict};
use agentd_policy::protocol::Protocol;
use agentd_policy::wire::ToRelay;

use super::super::Keeper;

/// The least time between two questions for one name.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a connection waits for the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most names that are asked for one connection: an address may be several hosts'.
const MAX_NAMES: usize = 8;
/// The most questions without an answer, and the most connections that wait.
const MAX_ASKED: usize = 64;
const MAX_WAITING: usize = 256;
/// The most names of which it is known when they were asked for.
const MAX_KNOWN: usize = 1024;

/// Types of questions (RFC 1035 §3.2.2, RFC 3596 §2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

/// A question: a name, and of which family its addresses are to be.
type Question = (HostName, u16);

/// A connection that waits.
#[derive(Debug)]
struct Waiting {
    syn: Syn,
    actor: Option<Actor>,
    /// What has no answer yet, and what had one.
    asked: Vec<HostName>,
    name: HostName,
    until: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Renewals {
    waiting: Vec<Waiting>,
    asked: BTreeMap<Question, Instant>,
    /// When each was last asked for.
    known: BTreeMap<Question, Instant>,
}

impl Renewals {
    /// Whether the connection waits.
    pub fn has(&self, syn: &Syn) -> bool {
        self.waiting.iter().any(|waiting| (waiting.syn.from, waiting.syn.to) == (syn.from, syn.to))
    }

    /// Who waits for `name`.
    pub fn actor(&self, name: &HostName) -> Option<Actor> {
        self.waiting.iter().find(|waiting| waiting.asked.contains(name)).and_then(|w| w.actor.clone())
    }

    /// When somebody has waited for too long.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// Has a connection wait for what it may wait for; which of these names are to be asked for. `None` if none of them
    /// may be, or nothing more may wait.
    fn begin(
        &mut self,
        syn: Syn,
        actor: Option<Actor>,
        names: Vec<HostName>,
        now: Instant,
    ) -> Option<Vec<HostName>> {
        let name = names.first()?.clone();
        if self.waiting.len() >= MAX_WAITING {
            return None;
        }
        let (mut asked, mut new) = (Vec::new(), Vec::new());
        for name in names.into_iter().take(MAX_NAMES) {
            let question = (name.clone(), family(syn.to.ip()));
            if !self.asked.contains_key(&question) {
                let lately = self.known.get(&question).is_some_and(|last| now < *last + INTERVAL);
                if lately || self.asked.len() >= MAX_ASKED || !self.remember(&question, now) {
                    continue;
                }
                self.asked.insert(question, now);
                new.push(name.clone());
            }
            asked.push(name);
        }
        if asked.is_empty() {
            return None;
        }
        self.waiting.push(Waiting { syn, actor, asked, name, until: now + TIMEOUT });
        Some(new)
    }

    /// Notes that it is asked for; not if too many were lately.
    fn remember(&mut self, question: &Question, now: Instant) -> bool {
        if self.known.len() >= MAX_KNOWN {
            self.known.retain(|_, last| now < *last + INTERVAL);
        }
        let room = self.known.len() < MAX_KNOWN;
        if room {
            self.known.insert(question.clone(), now);
        }
        room
    }

    /// A question has its answer: the connections that wait for nothing more.
    fn answered(&mut self, name: &HostName, question: u16) -> Vec<Waiting> {
        self.asked.remove(&(name.clone(), question));
        for waiting in self.waiting.iter_mut().filter(|w| family(w.syn.to.ip()) == question) {
            waiting.asked.retain(|asked| asked != name);
        }
        self.waiting.extract_if(.., |waiting| waiting.asked.is_empty()).collect()
    }

    /// Those that have waited for too long. What they asked for may be asked again.
    fn late(&mut self, now: Instant) -> Vec<Waiting> {
        self.asked.retain(|_, since| now < *since + TIMEOUT);
        self.waiting.extract_if(.., |waiting| waiting.until <= now).collect()
    }
}

fn family(address: IpAddr) -> u16 {
    if address.is_ipv4() { A } else { AAAA }
}

impl Keeper {
    /// The names that may be meant by a connection that the kernel did not let through: allowed for its port, and
    /// pinned once.
    fn allowed_names(&self, syn: &Syn) -> Vec<HostName> {
        let Some(egress_state) = &self.egress_state else { return Vec::new() };
        let allowed = |name: &HostName| {
            let verdict = egress_state.egress.hosts.connect(name, syn.to.port(), Protocol::Tcp);
            matches!(verdict, HostVerdict::Allowed(_))
        };
        egress_state.pins.names_of(syn.to.ip()).into_iter().filter(allowed).collect()
    }

    /// The name of which only the pin is missing to a connection.
    pub(in super::super) fn expired_name(&self, syn: &Syn) -> Option<HostName> {
        self.allowed_names(syn).into_iter().next()
    }

    /// Has a connection wait for a new pin, if one may come.
    pub(in super::super) fn renew(&mut self, syn: Syn, actor: Option<Actor>, now: Instant) -> bool {
        let names = self.allowed_names(&syn);
        let Some(egress_state) = self.egress_state.as_mut().filter(|_| self.phase.is_running()) else {
            return false;
        };
        let Some(new) = egress_state.renewals.begin(syn, actor, names, now) else { return false };
        for name in new {
            self.ask_relay(&ToRelay::Renew { name, question: family(syn.to.ip()) }, vec![]);
        }
        true
    }

    /// The relay has asked for a name anew: what waited goes on by itself, or is refused.
    pub(super) fn renewed(&mut self, name: &HostName, question: u16) {
        let Some(egress_state) = &mut self.egress_state else { return };
        let done = egress_state.renewals.answered(name, question);
        self.settle(done);
    }

    /// Refuses what has waited for too long.
    pub(in super::super) fn expire_renewals(&mut self, now: Instant) {
        let Some(egress_state) = &mut self.egress_state else { return };
        let late = egress_state.renewals.late(now);
        self.settle(late);
    }

    fn settle(&mut self, done: Vec<Waiting>) {
        let now = Instant::now();
        for Waiting { syn, actor, name, .. } in done {
            let names = self.allowed_names(&syn);
            let Some(egress_state) = &self.egress_state else { return };
            if !names.iter().any(|name| egress_state.pins.passes(syn.to.ip(), name, now)) {
                self.refuse_expired(&syn, name.to_string(), actor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn(port: u16) -> Syn {
        let from = ([10, 200, 0, 2], port).into();
        Syn { from, to: ([192, 0, 2, 1], 443).into(), sequence: 1 }
    }

    fn names(texts: &[&str]) -> Vec<HostName> {
        texts.iter().map(|text| HostName::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_name_is_asked_for_once_in_a_while_however_many_wait() {
        let (mut renewals, now) = (Renewals::default(), Instant::now());
        let both = names(&["a.example", "b.example"]);
        assert_eq!(renewals.begin(syn(1), None, both.clone(), now), Some(both.clone()));
        assert!(renewals.has(&syn(1)) && !renewals.has(&syn(2)));
        assert_eq!(renewals.begin(syn(2), None, both.clone(), now), Some(vec![]));
        assert!(renewals.answered(&both[0], A).is_empty() && renewals.answered(&both[1], AAAA).is_empty());
        assert_eq!(renewals.answered(&both[1], A).len(), 2);
        // Not again for a while: then it is refused at once.
        assert_eq!(renewals.begin(syn(3), None, both.clone(), now + INTERVAL / 2), None);
        assert_eq!(renewals.begin(syn(3), None, both.clone(), now + INTERVAL), Some(both));
        assert!(renewals.late(now + INTERVAL).is_empty());
        assert_eq!(renewals.late(now + INTERVAL + TIMEOUT).len(), 1);
        assert!(renewals.asked.is_empty() && renewals.due().is_none());
    }

    #[test]
    fn what_waits_and_what_is_known_is_bounded() {
        let (mut renewals, now) = (Renewals::default(), Instant::now());
        for port in 0..u16::try_from(MAX_WAITING).unwrap() {
            assert!(renewals.begin(syn(port), None, names(&["a.example"]), now).is_some());
        }
        assert_eq!(renewals.begin(syn(9999), None, names(&["a.example"]), now), None);
        renewals.waiting.clear();
        for number in 0..2 * MAX_KNOWN {
            let name = HostName::parse(&format!("n{number}.example")).unwrap();
            renewals.begin(syn(1), None, vec![name.clone()], now);
            renewals.answered(&name, A);
        }
        assert_eq!((renewals.known.len(), renewals.asked.len()), (MAX_KNOWN, 1));
    }
}
