//! What names were found to mean, for as long as that holds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agentd_policy::hosts::HostName;
use agentd_relay::dns::RecordType;

/// The most questions whose answers are kept.
const MAX_ENTRIES: usize = 4096;

/// A question.
pub type Key = (HostName, RecordType);

/// What is known of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Addresses that can be reached, until then.
    Addresses(Arc<[IpAddr]>, Instant),
    /// The name is there, and nothing of that type; until then.
    Nothing(Option<Instant>),
    /// There is no such name; until then.
    NoName(Instant),
    /// The rule that denies the name.
    Denied(String),
    /// The rule that refuses the question.
    Refused(&'static str),
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

    /// The rule by which it is nothing.
    pub fn denied(&self) -> Option<&str> {
        match self {
            Self::Denied(rule) => Some(rule),
            Self::Refused(rule) => Some(rule),
            _ => None,
        }
    }

    /// Until when it can be said again.
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Addresses(_, until) | Self::NoName(until) => Some(*until),
            Self::Nothing(until) => *until,
            Self::Denied(_) | Self::Refused(_) | Self::Failed(_) => None,
        }
    }
}

/// The cache of a session.
#[derive(Default)]
pub struct Cache(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    found: HashMap<Key, Found>,
    /// How often all was forgotten.
    generation: u64,
}

impl Cache {
    /// What is known of `key`.
    pub fn get(&self, key: &Key) -> Option<Found> {
        let found = self.entries().found.get(key).cloned()?;
        found.until().is_some_and(|until| until > Instant::now()).then_some(found)
    }

    /// Keeps what was found out since [`Cache::generation`] was that.
    pub fn put(&self, key: &Key, found: &Found, generation: u64) {
        let now = Instant::now();
        let mut entries = self.entries();
        if entries.generation != generation || found.until().is_none_or(|until| until <= now) {
            return;
        }
        if entries.found.len() >= MAX_ENTRIES {
            entries.found.retain(|_, found| found.until().is_some_and(|until| until > now));
        }
        if entries.found.len() >= MAX_ENTRIES {
            // None is dearer than another: they are found again.
            entries.found.clear();
        }
        entries.found.insert(key.clone(), found.clone());
    }

    /// Changes whenever all is forgotten.
    pub fn generation(&self) -> u64 {
        self.entries().generation
    }

    /// Forgets all: other rules are in force.
    pub fn clear(&self) {
        let mut entries = self.entries();
        entries.generation += 1;
        entries.found.clear();
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(n: usize) -> Key {
        (HostName::parse(&format!("n{n}.example")).unwrap(), RecordType::A)
    }

    #[test]
    fn what_is_known_is_known_for_a_time_and_until_the_rules_change() {
        let cache = Cache::default();
        let now = Instant::now();
        let found = Found::NoName(now + Duration::from_secs(60));
        cache.put(&key(1), &found, 0);
        cache.put(&key(2), &Found::NoName(now), 0);
        cache.put(&key(3), &Found::Failed("slow".into()), 0);
        assert_eq!(cache.get(&key(1)), Some(found.clone()));
        assert_eq!((cache.get(&key(2)), cache.get(&key(3))), (None, None));
        let before = cache.generation();
        cache.clear();
        cache.put(&key(4), &found, before);
        assert_eq!((cache.get(&key(1)), cache.get(&key(4))), (None, None));
    }

    #[test]
    fn it_has_an_end() {
        let cache = Cache::default();
        let found = Found::NoName(Instant::now() + Duration::from_secs(60));
        for n in 0..=MAX_ENTRIES {
            cache.put(&key(n), &found, 0);
        }
        assert!(cache.entries().found.len() <= MAX_ENTRIES);
        assert_eq!(cache.get(&key(MAX_ENTRIES)), Some(found));
    }
}
