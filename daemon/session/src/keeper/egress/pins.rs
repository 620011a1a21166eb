//! Which addresses which names have answered with lately, and what of it the kernel lets through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use agentd_kernel::nft::{Element, MAX_ELEMENTS, NftError, Table};
use agentd_policy::egress::Egress;
use agentd_policy::hosts::HostName;
use agentd_policy::protocol::Protocol;
use rustix::net::ipproto;

/// The most pairs of address and name.
const MAX_PAIRS: usize = 4096;
/// How long a name keeps its address here after the kernel lets nothing new to it through: what it let through last is
/// still to be dialled.
const SLACK: Duration = Duration::from_secs(15);

/// What has less left is not given to the kernel any more.
const LEAST: Duration = Duration::from_secs(1);

/// The most pairs whose pin ran out and that are still known.
const MAX_EXPIRED: usize = 1024;

/// All of them.
#[derive(Debug, Default)]
pub struct Pins {
    /// Until when the kernel lets each through for a name.
    names: BTreeMap<IpAddr, BTreeMap<HostName, Instant>>,
    /// When those ran out that are not among these any more.
    expired: BTreeMap<IpAddr, BTreeMap<HostName, Instant>>,
    /// Until when at least the kernel has each.
    held: BTreeMap<Element, Instant>,
}

impl Pins {
    /// Whether `name` has answered with `address` lately.
    pub fn holds(&self, address: IpAddr, name: &HostName, now: Instant) -> bool {
        self.names.get(&address).and_then(|names| names.get(name)).is_some_and(|until| now < *until + SLACK)
    }

    /// Whether the kernel lets `address` through for `name`.
    pub fn passes(&self, address: IpAddr, name: &HostName, now: Instant) -> bool {
        self.names.get(&address).and_then(|names| names.get(name)).is_some_and(|until| now < *until)
    }

    /// The names that have answered with `address`, the latest first, however long ago that was.
    pub fn names_of(&self, address: IpAddr) -> Vec<HostName> {
        let both = [self.names.get(&address), self.expired.get(&address)];
        let mut names: Vec<_> = both.into_iter().flatten().flatten().collect();
        names.sort_by_key(|(_, until)| std::cmp::Reverse(**until));
        names.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// The latest of them.
    pub fn name_of(&self, address: IpAddr) -> Option<String> {
        self.names_of(address).first().map(HostName::to_string)
    }

    /// Pins a name's addresses from `now` on for `lasts`. Those for which there is no room are taken out of
    /// `addresses`.
    ///
    /// # Errors
    /// If the kernel holds something else than what was meant.
    pub fn add(
        &mut self,
        egress: &Egress,
        table: &Table,
        name: &HostName,
        addresses: &mut Vec<IpAddr>,
        (now, lasts): (Instant, Duration),
    ) -> Result<(), NftError> {
        self.forget(now);
        let until = now + lasts;
        let mut due = Vec::new();
        let mut pairs: usize = self.names.values().map(BTreeMap::len).sum();
        addresses.retain(|address| {
            let known = self.names.get(address).is_some_and(|names| names.contains_key(name));
            let wanted = elements(egress, name, *address);
            let new = wanted.iter().filter(|element| !self.held.contains_key(element)).count();
            let room = self.held.len() + due.len() + new <= MAX_ELEMENTS as usize;
            if !room || (!known && pairs >= MAX_PAIRS) {
                return false;
            }
            pairs += usize::from(!known);
            due.extend(wanted.into_iter().filter_map(|element| match self.held.get(&element) {
                Some(held) if *held >= until => None,
                held => Some((element, held.is_some())),
            }));
            true
        });
        match table.pin(&due, lasts) {
            Ok(()) => {}
            Err(differs @ NftError::Differs(_)) => return Err(differs),
            Err(error) => {
                tracing::warn!(%error, "addresses cannot be pinned");
                addresses.clear();
                return Ok(());
            }
        }
        self.held.extend(due.into_iter().map(|(element, _)| (element, until)));
        for address in addresses.iter() {
            let end = self.names.entry(*address).or_default().entry(name.clone()).or_insert(until);
            *end = until.max(*end);
            if let Some(names) = self.expired.get_mut(address) {
                names.remove(name);
            }
        }
        Ok(())
    }

    /// Keeps what another policy allows, and has the kernel let through just that.
    ///
    /// # Errors
    /// If the kernel refuses, or holds something else afterwards.
    pub fn judge_again(&mut self, egress: &Egress, table: &Table, now: Instant) -> Result<(), NftError> {
        self.forget(now);
        let mut wanted: BTreeMap<Element, Instant> = BTreeMap::new();
        for (address, names) in &mut self.names {
            names.retain(|name, _| egress.pin(name, *address).is_ok());
            for (name, until) in names {
                for element in elements(egress, name, *address) {
                    let end = wanted.entry(element).or_insert(*until);
                    *end = (*end).max(*until);
                }
            }
        }
        self.names.retain(|_, names| !names.is_empty());
        for (address, names) in &mut self.expired {
            names.retain(|name, _| egress.pin(name, *address).is_ok());
        }
        let gone: Vec<Element> =
            self.held.keys().filter(|held| !wanted.contains_key(held)).copied().collect();
        table.unpin(&gone)?;
        self.held.retain(|element, _| wanted.contains_key(element));
        for (element, until) in wanted {
            let left = until.saturating_duration_since(now);
            let room = self.held.len() < MAX_ELEMENTS as usize;
            // One that is nearly over would be gone before it is read back: the name is asked for again.
            if room && left >= LEAST && !self.held.contains_key(&element) {
                table.pin(&[(element, false)], left)?;
                self.held.insert(element, until);
            }
        }
        Ok(())
    }

    /// Forgets what is over: of what ran out, the oldest beyond the bound.
    fn forget(&mut self, now: Instant) {
        self.held.retain(|_, until| now < *until);
        for (address, names) in &mut self.names {
            let expired = &mut self.expired;
            names.retain(|name, until| {
                let lasts = now < *until + SLACK;
                if !lasts {
                    expired.entry(*address).or_default().insert(name.clone(), *until);
                }
                lasts
            });
        }
        self.names.retain(|_, names| !names.is_empty());
        self.expired.retain(|_, names| !names.is_empty());
        let count: usize = self.expired.values().map(BTreeMap::len).sum();
        let Some(beyond) = count.checked_sub(MAX_EXPIRED).filter(|beyond| *beyond > 0) else { return };
        let of = |(address, names): (&IpAddr, &BTreeMap<HostName, Instant>)| {
            let address = *address;
            names.iter().map(|(name, until)| (*until, address, name.clone())).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.expired.iter().flat_map(of).collect();
        all.sort_unstable();
        for (_, address, name) in all.into_iter().take(beyond) {
            if let Some(names) = self.expired.get_mut(&address) {
                names.remove(&name);
            }
        }
        self.expired.retain(|_, names| !names.is_empty());
    }
}

/// What a name's rules let through to one of its addresses.
fn elements(egress: &Egress, name: &HostName, address: IpAddr) -> BTreeSet<Element> {
    let mut elements = BTreeSet::new();
    for rule in egress.hosts.allowing(name) {
        let protocol = match rule.protocol {
            Protocol::Tcp => ipproto::TCP,
            Protocol::Udp => ipproto::UDP,
        };
        let protocol = u8::try_from(protocol.as_raw().get()).unwrap_or(u8::MAX);
        let every = rule.ports.is_empty().then_some(None);
        let ports = rule.ports.iter().copied().map(Some).chain(every);
        elements.extend(ports.map(|port| Element { address, protocol, port }));
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_kernel::loopback;
    use agentd_kernel::nft::Ruleset;
    use agentd_policy::hosts::{HostPattern, HostRule, HostRules};

    fn rule(host: &str, ports: &[u16], protocol: Protocol) -> HostRule {
        HostRule { host: HostPattern::parse(host).unwrap(), ports: ports.to_vec(), protocol, opaque: false }
    }

    fn egress(allow: Vec<HostRule>) -> Egress {
        Egress { hosts: HostRules { deny: vec![], allow }, ..Egress::default() }
    }

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn in_a_session(test: impl FnOnce(Table) + Send + 'static) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not run: this needs root");
            return;
        }
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            loopback::bring_up().unwrap();
            test(Table::install(&Ruleset::open(&[])).unwrap());
        });
        thread.join().unwrap();
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn every_rule_of_a_name_counts() {
        let egress = egress(vec![
            rule("a.example", &[443, 80], Protocol::Tcp),
            rule("*.example", &[443], Protocol::Tcp),
            rule("*.example", &[443], Protocol::Udp),
            rule("b.example", &[], Protocol::Tcp),
        ]);
        let at = |host: &str| elements(&egress, &name(host), [11, 0, 0, 1].into());
        assert_eq!(at("a.example").len(), 3);
        assert_eq!(at("b.example").iter().filter(|element| element.port.is_none()).count(), 1);
        assert!(at("example.org").is_empty());
    }

    #[test]
    fn pins_are_bounded_and_end() {
        in_a_session(|table| {
            let egress = egress(vec![rule("*.example", &[443], Protocol::Tcp)]);
            let mut pins = Pins::default();
            let now = Instant::now();
            let address = |number: u32| IpAddr::from((0x0b00_0000 + number).to_be_bytes());
            let mut pinned = 0;
            for number in 0..300 {
                let mut addresses: Vec<_> = (number * 16..number * 16 + 16).map(address).collect();
                pins.add(&egress, &table, &name("a.example"), &mut addresses, (now, HOUR)).unwrap();
                pinned += addresses.len();
            }
            assert_eq!((pinned, pins.held.len()), (MAX_PAIRS, MAX_PAIRS));
            assert!(pins.holds(address(0), &name("a.example"), now));
            assert!(!pins.holds(address(0), &name("b.example"), now));
            assert!(!pins.holds(address(0), &name("a.example"), now + HOUR + SLACK));
            // What is over makes room, and is known for as long as there is room for that.
            let mut one = vec![address(9999)];
            pins.add(&egress, &table, &name("a.example"), &mut one, (now + HOUR + SLACK, HOUR)).unwrap();
            assert_eq!((one.len(), pins.held.len(), pins.names.len()), (1, 1, 1));
            let known: usize = pins.expired.values().map(BTreeMap::len).sum();
            assert_eq!(known, MAX_EXPIRED);
        });
    }

    #[test]
    fn what_ran_out_is_known_until_a_rule_denies_it() {
        in_a_session(|table| {
            let before = egress(vec![rule("*.example", &[443], Protocol::Tcp)]);
            let (mut pins, now, address) = (Pins::default(), Instant::now(), IpAddr::from([11, 0, 0, 1]));
            let (a, b) = (name("a.example"), name("b.example"));
            let mut pin = |name: &HostName, at| {
                pins.add(&before, &table, name, &mut vec![address], (at, HOUR)).unwrap();
                pins.names_of(address)
            };
            assert_eq!(pin(&a, now), std::slice::from_ref(&a));
            let later = now + HOUR + SLACK;
            assert_eq!(pin(&b, later), [b.clone(), a.clone()]);
            assert!(!pins.passes(address, &a, later) && pins.passes(address, &b, later));
            assert!(!pins.holds(address, &a, later));
            pins.add(&before, &table, &a, &mut vec![address], (later + HOUR / 2, HOUR)).unwrap();
            assert_eq!(pins.names_of(address), [a.clone(), b.clone()]);
            pins.forget(later + 2 * HOUR + SLACK);
            assert!(pins.names.is_empty() && pins.names_of(address).len() == 2);
            let mut after = before.clone();
            after.hosts.deny.push(HostPattern::parse("a.example").unwrap());
            pins.judge_again(&after, &table, later + 2 * HOUR + SLACK).unwrap();
            assert_eq!(pins.names_of(address), [b]);
        });
    }

    #[test]
    fn another_policy_takes_away_and_gives() {
        in_a_session(|table| {
            let both = |ports: &[u16]| {
                ["a.example", "b.example"].map(|host| rule(host, ports, Protocol::Tcp)).to_vec()
            };
            let mut pins = Pins::default();
            let now = Instant::now();
            let (shared, own): (IpAddr, IpAddr) = ([11, 0, 0, 1].into(), [11, 0, 0, 2].into());
            let before = egress(both(&[443]));
            pins.add(&before, &table, &name("a.example"), &mut vec![shared, own], (now, HOUR)).unwrap();
            pins.add(&before, &table, &name("b.example"), &mut vec![shared], (now, HOUR)).unwrap();
            let held =
                |address, port| table.holds(&Element { address, protocol: 6, port: Some(port) }).unwrap();
            assert!(held(shared, 443) && held(own, 443) && !held(shared, 8443));
            let mut after = egress(both(&[443, 8443]));
            after.hosts.deny.push(HostPattern::parse("a.example").unwrap());
            pins.judge_again(&after, &table, now).unwrap();
            assert!(held(shared, 443) && held(shared, 8443) && !held(own, 443) && !held(own, 8443));
            assert!(
                !pins.holds(shared, &name("a.example"), now) && pins.holds(shared, &name("b.example"), now)
            );
            pins.judge_again(&Egress::default(), &table, now).unwrap();
            assert!(!held(shared, 443) && !held(shared, 8443) && pins.held.is_empty());
        });
    }
}
