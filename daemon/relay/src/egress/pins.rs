//! Which name may be meant by which address: what the keeper has let through, as far as the relay has to know it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentd_policy::hosts::HostName;

/// The most names of one address.
const MAX_NAMES: usize = 256;
/// The most pairs of both: the keeper has as many.
const MAX_PAIRS: usize = 4096;
/// How many pairs are kept although they are over: a program may still use the address.
const MAX_EXPIRED: usize = 1024;
/// How often it is looked whether there are more.
const SWEEP: Duration = Duration::from_secs(60);
/// A connection that the kernel let through in a pin's last moment is still judged by it.
const GRACE: Duration = Duration::from_secs(15);

type Names = Vec<(HostName, Instant)>;

#[derive(Default)]
struct Held {
    addresses: HashMap<IpAddr, Names>,
    swept: Option<Instant>,
}

impl Held {
    fn pairs(&self) -> usize {
        self.addresses.values().map(Vec::len).sum()
    }

    fn expired(&self, now: Instant) -> usize {
        self.addresses.values().flatten().filter(|(_, end)| *end <= now).count()
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = Some(now);
        self.addresses.retain(|_, names| {
            names.retain(|(_, end)| *end > now);
            !names.is_empty()
        });
    }
}

/// The pins of a session.
#[derive(Default)]
pub struct Pins(Mutex<Held>);

impl Pins {
    /// `name` may be meant by each of `addresses` for so long.
    pub fn add(&self, name: &HostName, addresses: &[IpAddr], ttl: Duration) {
        let now = Instant::now();
        let mut held = self.pins();
        let due = held.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP);
        if (due && held.expired(now) > MAX_EXPIRED) || held.pairs() + addresses.len() > MAX_PAIRS {
            held.sweep(now);
        }
        let mut room = MAX_PAIRS.saturating_sub(held.pairs());
        for address in addresses {
            let names = held.addresses.entry(*address).or_default();
            let before = names.len();
            let full = names.len() >= MAX_NAMES;
            names.retain(|(other, end)| other != name && (*end > now || !full));
            room += before - names.len();
            if names.len() < MAX_NAMES && room > 0 {
                names.push((name.clone(), now + ttl + GRACE));
                room -= 1;
            }
        }
    }

    /// The names that pinned `address`, the latest first.
    pub fn names(&self, address: IpAddr) -> Vec<HostName> {
        let now = Instant::now();
        let pins = self.pins();
        let names = pins.addresses.get(&address).into_iter().flatten().rev();
        names.filter(|(_, end)| *end > now).map(|(name, _)| name.clone()).collect()
    }

    /// Whether `name` pinned `address` once, and that is over.
    pub fn ran_out(&self, name: &HostName, address: IpAddr) -> bool {
        let now = Instant::now();
        let pins = self.pins();
        pins.addresses.get(&address).into_iter().flatten().any(|(other, end)| other == name && *end <= now)
    }

    /// Other addresses that `name` pinned, of the other family and of that of `than` by turns (RFC 8305 §4).
    pub fn others(&self, name: &HostName, than: IpAddr) -> Vec<IpAddr> {
        let now = Instant::now();
        let pins = self.pins();
        let pinned = |names: &Names| names.iter().any(|(other, end)| other == name && *end > now);
        let addresses = pins.addresses.iter().filter(|(address, names)| **address != than && pinned(names));
        let mut addresses: Vec<IpAddr> = addresses.map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        let (same, other): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|address| address.is_ipv4() == than.is_ipv4());
        let turn =
            |(number, address): (usize, IpAddr)| (number, address.is_ipv4() == than.is_ipv4(), address);
        let mut turns: Vec<_> =
            same.into_iter().enumerate().chain(other.into_iter().enumerate()).map(turn).collect();
        turns.sort_unstable();
        turns.into_iter().map(|(.., address)| address).collect()
    }

    fn pins(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_lasts_as_long_as_it_was_given() {
        let (pins, name) = (Pins::default(), |text| HostName::parse(text).unwrap());
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        pins.add(&name("x.example"), &[a, b], Duration::from_secs(60));
        pins.add(&name("y.example"), &[a], Duration::from_secs(60));
        pins.add(&name("x.example"), &[a], Duration::from_secs(60));
        assert_eq!(pins.names(a), [name("x.example"), name("y.example")]);
        assert_eq!(pins.others(&name("x.example"), a), [b]);
        assert!(pins.names("192.0.2.2".parse().unwrap()).is_empty());
        for (_, end) in pins.pins().addresses.values_mut().flatten() {
            *end = Instant::now();
        }
        assert!(pins.names(a).is_empty() && pins.others(&name("x.example"), a).is_empty());
        assert!(pins.ran_out(&name("x.example"), a) && !pins.ran_out(&name("z.example"), a));
        pins.add(&name("x.example"), &[a], Duration::from_secs(60));
        assert!(!pins.ran_out(&name("x.example"), a) && pins.ran_out(&name("y.example"), a));
    }

    #[test]
    fn other_addresses_come_family_by_family() {
        let (pins, name) = (Pins::default(), HostName::parse("x.example").unwrap());
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"];
        let all = all.map(|text| text.parse::<IpAddr>().unwrap());
        pins.add(&name, &all, Duration::from_secs(60));
        assert_eq!(pins.others(&name, all[1]), [all[3], all[0], all[4], all[2]]);
        assert_eq!(pins.others(&name, all[3]), [all[0], all[4], all[1], all[2]]);
    }

    #[test]
    fn an_address_has_no_more_names_than_there_is_room_for() {
        let (pins, address) = (Pins::default(), IpAddr::from([192, 0, 2, 1]));
        for n in 0..MAX_NAMES + 9 {
            let name = HostName::parse(&format!("n{n}.example")).unwrap();
            pins.add(&name, &[address], Duration::from_secs(60));
        }
        assert_eq!(pins.names(address).len(), MAX_NAMES);
    }

    #[test]
    fn all_together_have_no_more_than_there_is_room_for_and_what_is_over_makes_some() {
        let (pins, name) = (Pins::default(), |n| HostName::parse(&format!("n{n}.example")).unwrap());
        let address = |n: u32| IpAddr::from((0xc000_0000 + n).to_be_bytes());
        for n in 0..64 {
            let many: Vec<_> = (0..100).map(|m| address(100 * n + m)).collect();
            pins.add(&name(n), &many, Duration::from_secs(60));
        }
        assert_eq!(pins.pins().pairs(), MAX_PAIRS);
        // What is there already is renewed.
        pins.add(&name(0), &[address(0)], Duration::from_secs(60));
        assert_eq!(pins.pins().pairs(), MAX_PAIRS);
        assert_eq!(pins.names(address(0)), [name(0)]);
        assert!(pins.names(address(6399)).is_empty());
        for (_, end) in pins.pins().addresses.values_mut().flatten() {
            *end = Instant::now();
        }
        pins.add(&name(7), &[address(7)], Duration::from_secs(60));
        let held = pins.pins();
        assert_eq!((held.pairs(), held.addresses.len()), (1, 1));
    }
}
