//! How often each account may ask.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use agentd_policy::token_bucket::TokenBucket;

use crate::sync::lock;

/// Accounts that are remembered before those with a full bucket are forgotten.
const MANY: usize = 1024;

/// A bucket of requests for each account: so many flow in a second, and twice as many fit.
pub struct Rate {
    each: AtomicU32,
    buckets: Mutex<HashMap<u32, TokenBucket>>,
}

impl Rate {
    pub fn new(each: u32) -> Self {
        Self { each: AtomicU32::new(each), buckets: Mutex::default() }
    }

    /// Requests a second, on average.
    pub fn each(&self) -> f64 {
        f64::from(self.each.load(Ordering::Relaxed).max(1))
    }

    /// From now on those are so many.
    pub fn set(&self, each: u32) {
        self.each.store(each, Ordering::Relaxed);
    }

    /// Whether `account` may ask at this moment.
    pub fn take(&self, account: u32, now: Instant) -> bool {
        let each = self.each();
        let most = 2.0 * each;
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= MANY {
            buckets.retain(|_, bucket| {
                bucket.resize(most, each);
                !bucket.is_full(now)
            });
        }
        let bucket = buckets.entry(account).or_insert_with(|| TokenBucket::new(most, each));
        bucket.resize(most, each);
        bucket.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_of_twice_the_average_and_then_the_average() {
        let rate = Rate::new(10);
        let start = Instant::now();
        let taken = |uid, at| (0..1000).filter(|_| rate.take(uid, at)).count();
        assert_eq!((taken(1, start), taken(2, start)), (20, 20));
        assert_eq!(taken(1, start + Duration::from_secs(1)), 10);
        assert_eq!(taken(1, start + Duration::from_secs(60)), 20);
        for uid in 0..5000 {
            rate.take(uid, start + Duration::from_secs(120) + Duration::from_secs(u64::from(uid)));
        }
        assert!(lock(&rate.buckets).len() <= MANY);
    }
}
