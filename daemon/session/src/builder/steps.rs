//! How long each step of a build takes.

use std::time::Instant;

use agentd_policy::wire::Timing;

/// A clock that began when the launcher read the request.
#[derive(Debug)]
pub struct Steps {
    zero: Instant,
    last: u64,
    done: Vec<Timing>,
}

impl Steps {
    /// Begins at `zero`.
    pub fn since(zero: Instant) -> Self {
        Self { zero, last: 0, done: Vec::with_capacity(16) }
    }

    /// The step that has just ended, which began where the one before it ended.
    pub fn done(&mut self, step: &str) {
        let now = u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::trace!(step, start_us = self.last, end_us = now, "build step");
        self.done.push(Timing { step: step.to_owned(), start_us: self.last, end_us: now });
        self.last = now;
    }

    /// All of them.
    pub fn finish(self) -> Vec<Timing> {
        self.done
    }
}
