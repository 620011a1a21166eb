//! How fast output is taken from a session's relay. What the service spends on it is the session's to pay: who has few
//! processors is read from slowly, and the command waits as it does for a slow reader.

use std::sync::Mutex;

use agentd_policy::token_bucket::TokenBucket;
use tokio::time::Instant;

use crate::sync::lock;

/// Bytes a second for each processor that the session has: what the service needs a small part of one for.
const RATE: f64 = (96 << 20) as f64;
/// What may be taken at once after a pause.
const BURST: f64 = (4 << 20) as f64;

/// One session's, for all its commands.
#[derive(Debug)]
pub struct Pace {
    bytes: Mutex<TokenBucket>,
}

impl Pace {
    /// For a session with so many processors.
    pub fn new(cpus: f64) -> Self {
        // No limit is below a hundredth (see `Plan::check`); a division by nothing is none.
        Self { bytes: Mutex::new(TokenBucket::new(BURST, RATE * cpus.max(0.01))) }
    }

    /// So many bytes were taken.
    pub fn took(&self, bytes: usize, now: Instant) {
        lock(&self.bytes).charge(bytes as f64, now.into_std());
    }

    /// When more may be taken, if that is not now.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        lock(&self.bytes).owed_for(now.into_std()).map(|wait| now + wait)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn on_average_no_more_is_taken_than_is_paid_for() {
        let pace = Pace::new(0.5);
        let start = Instant::now();
        let (mut now, mut taken) = (start, 0_usize);
        while now < start + Duration::from_secs(10) {
            match pace.due(now) {
                Some(due) => now = due,
                None => {
                    pace.took(100_000, now);
                    taken += 100_000;
                }
            }
        }
        let paid = RATE * 0.5 * 10.0;
        assert!((taken as f64) < paid + 2.0 * BURST && taken as f64 > paid * 0.9, "{taken} of {paid}");
        // What was not taken is not saved up.
        let later = now + Duration::from_secs(100);
        assert_eq!(pace.due(later), None);
        pace.took((4 << 20) + 1, later);
        assert!(pace.due(later).is_some());
    }
}
