//! What names were found to mean, for as long as that holds. A session has its own: one for several would show each of
//! them what the others ask for, by how soon the answer comes, and answer one by what another was answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agentd_policy::denial::Denial;
use agentd_policy::rule::Rule;
use agentd_policy::wire::Client;
use agentd_protocols::dns::Key;

use super::query_log::Tally;

/// The most bytes of all that is kept, as far as it is counted: an entry with an address is some 250.
const MAX_BYTES: usize = 1 << 20;
/// What an entry takes besides its key and what is found, with its share of the table.
const ENTRY: usize = 192;
/// What a piece of data takes besides its bytes.
const PIECE: usize = 32;

/// What is known of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Addresses that can be reached, until then.
    Addresses(Arc<[IpAddr]>, Instant),
    /// Data of a type that the profile lists, as in records, until then.
    Data(Arc<[Vec<u8>]>, Instant),
    /// The name is there, and nothing of that type; until then.
    Nothing(Option<Instant>),
    /// There is no such name; until then.
    NoName(Instant),
    /// Why the name is denied.
    Denied(Denial),
    /// The rule that refuses the question.
    Refused(Rule),
    /// Why it could not be found out.
    Failed(String),
}

impl Found {
    /// The addresses, if it is some.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Addresses(addresses, _) => addresses,
            _ => &[],
        }
    }

    /// Why it is nothing, if a rule says so.
    pub fn denied(&self) -> Option<Denial> {
        match self {
            Self::Denied(denial) => Some(denial.clone()),
            Self::Refused(rule) => Some((*rule).into()),
            _ => None,
        }
    }

    /// Until when it can be answered again.
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Addresses(_, until) | Self::Data(_, until) | Self::NoName(until) => Some(*until),
            Self::Nothing(until) => *until,
            Self::Denied(_) | Self::Refused(_) | Self::Failed(_) => None,
        }
    }

    /// Bytes that it takes.
    fn size(&self) -> usize {
        match self {
            Self::Addresses(addresses, _) => size_of_val::<[IpAddr]>(addresses),
            Self::Data(data, _) => data.iter().map(|data| PIECE + data.len()).sum(),
            _ => 0,
        }
    }
}

/// One that is kept.
struct Entry {
    found: Found,
    until: Instant,
    /// What counts who asks.
    tally: Option<Tally>,
}

/// The cache of a session: those that came or were asked for lately, and those that were so before. Once the first
/// are as many as may be, they take the place of the others, which go.
#[derive(Default)]
pub struct Cache(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    recent: Half,
    older: Half,
    /// How often all was forgotten.
    generation: u64,
}

#[derive(Default)]
struct Half {
    entries: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
}

impl Half {
    fn insert(&mut self, key: Box<[u8]>, entry: Entry) {
        let size = |found: &Found| ENTRY + key.len() + found.size();
        self.bytes += size(&entry.found);
        let before = self.entries.get(&key).map_or(0, |before| size(&before.found));
        self.entries.insert(key, entry);
        self.bytes -= before;
    }

    fn remove(&mut self, key: &[u8]) -> Option<(Box<[u8]>, Entry)> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.bytes -= ENTRY + key.len() + entry.found.size();
        Some((key, entry))
    }
}

impl Entries {
    fn insert(&mut self, key: Box<[u8]>, entry: Entry) {
        self.recent.insert(key, entry);
        if self.recent.bytes > MAX_BYTES / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
    }

    /// The entry, which has been asked for, if it still holds.
    fn find(&mut self, key: &[u8], now: Instant) -> Option<&mut Entry> {
        if !self.recent.entries.contains_key(key) {
            let (key, entry) = self.older.remove(key)?;
            self.insert(key, entry);
        }
        let half = if self.recent.entries.is_empty() { &mut self.older } else { &mut self.recent };
        if half.entries.get(key)?.until <= now {
            half.remove(key);
            return None;
        }
        half.entries.get_mut(key)
    }
}

impl Cache {
    /// What is known of `key`.
    pub fn get(&self, key: &Key) -> Option<Found> {
        self.entries().find(key.as_bytes(), Instant::now()).map(|entry| entry.found.clone())
    }

    /// Shows what is known of `key`, if further queries of `client` are counted already.
    pub fn counted<T>(
        &self,
        key: &Key,
        client: &Client,
        now: Instant,
        show: impl FnOnce(&Found) -> T,
    ) -> Option<T> {
        let mut entries = self.entries();
        let entry = entries.find(key.as_bytes(), now)?;
        if entry.tally.as_ref().is_some_and(|tally| tally.again(client)) {
            return Some(show(&entry.found));
        }
        entry.tally = None;
        None
    }

    /// Has those counted who ask for `key` from now on.
    pub fn count(&self, key: &Key, tally: Option<Tally>) {
        if let Some(entry) = self.entries().find(key.as_bytes(), Instant::now()) {
            entry.tally = tally;
        }
    }

    /// Keeps what was found out since [`Cache::generation`] was that.
    pub fn put(&self, key: &Key, found: &Found, generation: u64) {
        let now = Instant::now();
        let mut entries = self.entries();
        let Some(until) = found.until().filter(|until| *until > now) else { return };
        if entries.generation == generation {
            let _ = entries.older.remove(key.as_bytes());
            entries.insert(key.as_bytes().into(), Entry { found: found.clone(), until, tally: None });
        }
    }

    /// Changes whenever all is forgotten.
    pub fn generation(&self) -> u64 {
        self.entries().generation
    }

    /// Forgets all: other rules are in force.
    pub fn clear(&self) {
        let mut entries = self.entries();
        *entries = Entries { generation: entries.generation + 1, ..Entries::default() };
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::hosts::HostName;
    use agentd_protocols::dns::RecordType;
    use proptest::prelude::*;
    use std::time::Duration;

    fn key(n: usize) -> Key {
        Key::new(&HostName::parse(&format!("n{n}.example")).unwrap(), RecordType::A)
    }

    fn lasting() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_is_known_is_known_for_a_time_and_until_the_rules_change() {
        let cache = Cache::default();
        let found = Found::NoName(lasting());
        cache.put(&key(1), &found, 0);
        cache.put(&key(2), &Found::NoName(Instant::now()), 0);
        cache.put(&key(3), &Found::Failed("slow".into()), 0);
        assert_eq!(cache.get(&key(1)), Some(found.clone()));
        assert_eq!((cache.get(&key(2)), cache.get(&key(3))), (None, None));
        assert_eq!(cache.entries().find(key(1).as_bytes(), lasting()).map(|_| ()), None);
        assert_eq!(cache.entries().recent.bytes, 0);
        let before = cache.generation();
        cache.clear();
        cache.put(&key(4), &found, before);
        assert_eq!((cache.get(&key(1)), cache.get(&key(4))), (None, None));
    }

    #[test]
    fn what_is_asked_for_stays_and_what_nobody_asks_for_goes() {
        let cache = Cache::default();
        let found = Found::Addresses(vec![[192, 0, 2, 1].into(); 16].into(), lasting());
        for n in 0..20_000 {
            cache.put(&key(n), &found, 0);
            assert_eq!(cache.get(&key(0)), Some(found.clone()), "{n}");
        }
        assert_eq!(cache.get(&key(19_999)), Some(found.clone()));
        assert_eq!(cache.get(&key(1)), None);
        let entries = cache.entries();
        let count = entries.recent.entries.len() + entries.older.entries.len();
        assert!((1000..4000).contains(&count), "{count}");
    }

    proptest! {
        #[test]
        fn its_bytes_are_counted_and_bounded(acts in prop::collection::vec((0_usize..64, 0_usize..9000, 0..3), 1..400)) {
            let cache = Cache::default();
            for (name, length, act) in acts {
                match act {
                    0 => cache.put(&key(name), &Found::NoName(lasting()), 0),
                    1 => cache.put(&key(name), &Found::Data(vec![vec![0; length]; 4].into(), lasting()), 0),
                    _ => drop(cache.get(&key(name))),
                }
                let entries = cache.entries();
                for half in [&entries.recent, &entries.older] {
                    let sizes = half.entries.iter().map(|(key, entry)| ENTRY + key.len() + entry.found.size());
                    prop_assert_eq!(sizes.sum::<usize>(), half.bytes);
                }
                // The last that came may lie above the half.
                prop_assert!(entries.recent.bytes <= MAX_BYTES / 2);
                prop_assert!(entries.older.bytes <= MAX_BYTES / 2 + 64 * 1024);
                let twice = entries.recent.entries.keys().any(|key| entries.older.entries.contains_key(key));
                prop_assert!(!twice);
            }
        }
    }
}
