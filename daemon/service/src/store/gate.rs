//! A disk that the tests have in their hands.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::sync::lock;

/// What every sync goes through.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Default)]
struct State {
    shut: bool,
    broken: bool,
    passed: u32,
}

impl Gate {
    /// Whether syncs wait.
    pub fn shut(&self, shut: bool) {
        lock(&self.state).shut = shut;
        self.opened.notify_all();
    }

    /// From now on they fail.
    pub fn break_it(&self) {
        lock(&self.state).broken = true;
    }

    /// How many there were.
    pub fn passed(&self) -> u32 {
        lock(&self.state).passed
    }

    pub(super) fn pass(&self) -> io::Result<()> {
        let state = self.opened.wait_while(lock(&self.state), |state| state.shut);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.passed += 1;
        if state.broken { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
    }
}
