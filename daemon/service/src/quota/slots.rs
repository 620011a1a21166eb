//! What each account may have only so many of at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;

use crate::sync::lock;

/// Whether a connection is of use. Streams hold it while they are open.
#[derive(Default)]
pub struct Activity {
    requested: AtomicBool,
}

impl Activity {
    /// A request has come.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether one has.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}

/// How many of something each account has.
pub struct Slots {
    each: AtomicU32,
    taken: Mutex<HashMap<u32, u32>>,
}

/// One of them. It is given back when this is dropped.
pub struct Slot {
    slots: Arc<Slots>,
    account: u32,
    /// Of the connection on which it is used.
    activity: Option<Arc<Activity>>,
}

impl Slots {
    pub fn new(each: u32) -> Arc<Self> {
        Arc::new(Self { each: AtomicU32::new(each), taken: Mutex::default() })
    }

    /// The most that an account may have.
    pub fn each(&self) -> u32 {
        self.each.load(Ordering::Relaxed)
    }

    /// From now on that is so many. Who has more keeps them.
    pub fn set(&self, each: u32) {
        self.each.store(each, Ordering::Relaxed);
    }

    /// How many all have together.
    pub fn taken(&self) -> u32 {
        lock(&self.taken).values().sum()
    }

    /// One for a stream of `account`'s, whose connection is in use for as long.
    pub fn take_for(self: &Arc<Self>, account: u32, activity: Option<Arc<Activity>>) -> Option<Slot> {
        self.take(account).map(|mut slot| {
            slot.activity = activity;
            slot
        })
    }

    /// One for `account`, if it has fewer than it may.
    pub fn take(self: &Arc<Self>, account: u32) -> Option<Slot> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(account).or_insert(0);
        if *count >= self.each() {
            return None;
        }
        *count += 1;
        Some(Slot { slots: self.clone(), account, activity: None })
    }
}

/// A user has all that it may have.
pub fn crowded(what: &str, slots: &Slots) -> Refusal {
    Refusal::new(
        format!("more than {} {what} at a time", slots.each()),
        Rule::ServiceCrowded,
        "let some of them end, and try again",
    )
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = lock(&self.slots.taken);
        if let Some(count) = taken.get_mut(&self.account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_all() {
        let slots = Slots::new(2);
        let (first, _second) = (slots.take(1).unwrap(), slots.take(1).unwrap());
        assert!(slots.take(1).is_none());
        drop(slots.take(2).unwrap());
        drop(first);
        let _third = slots.take(1).unwrap();
        assert!(slots.take(1).is_none());
        assert!(!lock(&slots.taken).contains_key(&2));
    }
}
