//! How often something may be done.

use std::time::Instant;

/// So many at once, and so many again in every second.
#[derive(Debug)]
pub struct Bucket {
    most: u32,
    rate: u32,
    left: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Of `most` at once, and `rate` again in every second.
    pub fn new(most: u32, rate: u32) -> Self {
        Self { most, rate, left: most.into(), at: None }
    }

    /// Whether it may be done once more, now.
    pub fn take(&mut self, now: Instant) -> bool {
        let since = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        self.left = (self.left + since * f64::from(self.rate)).min(self.most.into());
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_fills_again_and_not_beyond() {
        let mut bucket = Bucket::new(4, 4);
        let start = Instant::now();
        let takes = |bucket: &mut Bucket, at| (0..9).filter(|_| bucket.take(start + at)).count();
        assert_eq!(takes(&mut bucket, Duration::ZERO), 4);
        assert_eq!(takes(&mut bucket, Duration::from_millis(500)), 2);
        assert_eq!(takes(&mut bucket, Duration::from_secs(60)), 4);
        // Time that goes back gives nothing.
        assert_eq!(takes(&mut bucket, Duration::ZERO), 0);
    }
}
