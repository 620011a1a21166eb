//! Which name may be meant by which address: what the keeper has let through, as far as the relay has to know it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentd_policy::hosts::HostName;

/// The most addresses.
const MAX_ADDRESSES: usize = 8192;
/// The most names of one address.
const MAX_NAMES: usize = 256;
/// A connection that the kernel let through in a pin's last moment is still judged by it.
const GRACE: Duration = Duration::from_secs(15);

type Names = Vec<(HostName, Instant)>;

/// The pins of a session.
#[derive(Default)]
pub struct Pins(Mutex<HashMap<IpAddr, Names>>);

impl Pins {
    /// `name` may be meant by each of `addresses` for so long.
    pub fn add(&self, name: &HostName, addresses: &[IpAddr], ttl: Duration) {
        let now = Instant::now();
        let mut pins = self.pins();
        for address in addresses {
            if pins.len() >= MAX_ADDRESSES && !pins.contains_key(address) {
                pins.retain(|_, names| names.iter().any(|(_, end)| *end > now));
                if pins.len() >= MAX_ADDRESSES {
                    return;
                }
            }
            let names = pins.entry(*address).or_default();
            names.retain(|(other, end)| other != name && *end > now);
            if names.len() < MAX_NAMES {
                names.push((name.clone(), now + ttl + GRACE));
            }
        }
    }

    /// The names that pinned `address`, the latest first.
    pub fn names(&self, address: IpAddr) -> Vec<HostName> {
        let now = Instant::now();
        let pins = self.pins();
        let names = pins.get(&address).into_iter().flatten().rev();
        names.filter(|(_, end)| *end > now).map(|(name, _)| name.clone()).collect()
    }

    /// Other addresses that `name` pinned, those of the family of `than` first.
    pub fn others(&self, name: &HostName, than: IpAddr) -> Vec<IpAddr> {
        let now = Instant::now();
        let pins = self.pins();
        let pinned = |names: &Names| names.iter().any(|(other, end)| other == name && *end > now);
        let addresses = pins.iter().filter(|(address, names)| **address != than && pinned(names));
        let mut addresses: Vec<IpAddr> = addresses.map(|(address, _)| *address).collect();
        addresses.sort_unstable_by_key(|address| (address.is_ipv4() != than.is_ipv4(), *address));
        addresses
    }

    fn pins(&self) -> MutexGuard<'_, HashMap<IpAddr, Names>> {
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
        for (_, end) in pins.pins().values_mut().flatten() {
            *end = Instant::now();
        }
        assert!(pins.names(a).is_empty() && pins.others(&name("x.example"), a).is_empty());
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
}
