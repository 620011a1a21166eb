//! The steps of a build: each is timed and logged when it is done, and can go wrong there in a test.

use std::time::Instant;

use agentd_policy::step::Step;
use agentd_policy::wire::Timing;

use super::fault::{self, Fault};

/// Where a build is in one of the lists of [`Step`].
#[derive(Debug)]
pub struct Steps {
    all: &'static [Step],
    zero: Instant,
    last: u64,
    done: Vec<Timing>,
}

impl Steps {
    /// Before the first of `all`, which began at `zero`.
    pub fn since(zero: Instant, all: &'static [Step]) -> Self {
        Self { all, zero, last: 0, done: Vec::with_capacity(all.len()) }
    }

    /// `step` has just ended, which began where the one before it ended.
    ///
    /// # Errors
    /// The fault that a test asked for, in debug builds.
    pub fn done(&mut self, step: Step) -> Result<(), Fault> {
        debug_assert!(self.all.contains(&step), "{step} is in no list");
        let now = u64::try_from(self.zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::trace!(step = step.name(), start_us = self.last, end_us = now, "build step");
        self.done.push(Timing { step, start_us: self.last, end_us: now });
        self.last = now;
        fault::here(step)
    }

    /// How long each took that is done.
    pub fn timings(&self) -> Vec<Timing> {
        self.done.clone()
    }
}
