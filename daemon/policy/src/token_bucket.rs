//! A token bucket: how often, or how much of something, on average and at once.

use std::time::{Duration, Instant};

/// `burst` tokens at once, and `rate` more each second. The caller passes the time in; time that goes back
/// adds nothing.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    burst: f64,
    rate: f64,
    tokens: f64,
    /// When `tokens` was counted; `None` before the first use.
    counted: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(burst: impl Into<f64>, rate: impl Into<f64>) -> Self {
        let (burst, rate) = (burst.into(), rate.into());
        Self { burst, rate, tokens: burst, counted: None }
    }

    /// Another size and rate from now on. What is beyond the size is lost.
    pub fn resize(&mut self, burst: impl Into<f64>, rate: impl Into<f64>) {
        (self.burst, self.rate) = (burst.into(), rate.into());
        self.tokens = self.tokens.min(self.burst);
    }

    /// What is in it at `now`; below zero, what is owed.
    pub fn tokens(&self, now: Instant) -> f64 {
        let since = self.counted.map_or(0.0, |counted| now.saturating_duration_since(counted).as_secs_f64());
        (self.tokens + since * self.rate).min(self.burst)
    }

    /// Takes one token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let enough = self.tokens(now) >= 1.0;
        self.charge(if enough { 1.0 } else { 0.0 }, now);
        enough
    }

    /// Takes `tokens`, whether there are as many or not.
    pub fn charge(&mut self, tokens: f64, now: Instant) {
        self.tokens = self.tokens(now) - tokens;
        self.counted = Some(self.counted.map_or(now, |counted| counted.max(now)));
    }

    /// How long something is owed after `now`; `None` if nothing is, or it is paid within a nanosecond.
    pub fn owed_for(&self, now: Instant) -> Option<Duration> {
        let tokens = self.tokens(now);
        let wait = || Duration::try_from_secs_f64(-tokens / self.rate).unwrap_or(Duration::MAX);
        (tokens < 0.0).then(wait).filter(|wait| !wait.is_zero())
    }

    /// Whether it holds all that it can: then it is as good as a new one.
    pub fn is_full(&self, now: Instant) -> bool {
        self.tokens(now) >= self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fills_again_and_not_beyond() {
        let mut bucket = TokenBucket::new(4, 4);
        let start = Instant::now();
        let takes = |bucket: &mut TokenBucket, at| (0..9).filter(|_| bucket.take(start + at)).count();
        assert_eq!(takes(&mut bucket, Duration::ZERO), 4);
        assert_eq!(takes(&mut bucket, Duration::from_millis(500)), 2);
        assert_eq!(takes(&mut bucket, Duration::from_secs(60)), 4);
        assert!(!bucket.is_full(start + Duration::from_millis(60_900)));
        assert!(bucket.is_full(start + Duration::from_secs(61)));
        // Time that goes back gives nothing, and takes nothing when it comes again.
        assert_eq!(takes(&mut bucket, Duration::ZERO), 0);
        assert_eq!(takes(&mut bucket, Duration::from_secs(60)), 0);
    }

    #[test]
    fn what_is_owed_is_paid_by_the_rate() {
        let mut bucket = TokenBucket::new(10, 100);
        let start = Instant::now();
        assert_eq!(bucket.owed_for(start), None);
        bucket.charge(60.0, start);
        assert_eq!(bucket.owed_for(start), Some(Duration::from_millis(500)));
        assert!(!bucket.take(start + Duration::from_millis(500)));
        assert!(bucket.take(start + Duration::from_millis(510)));
        bucket.resize(2, 100);
        assert!((bucket.tokens(start + Duration::from_secs(9)) - 2.0).abs() < 1e-9);
        // Who waits for so long owes nothing then, whatever was lost in rounding.
        let mut bucket = TokenBucket::new(0, 3e7);
        for charge in 1..1000 {
            bucket.charge(f64::from(charge), start);
            let at = start + bucket.owed_for(start).unwrap();
            assert_eq!(bucket.owed_for(at), None, "{charge}");
        }
    }
}
