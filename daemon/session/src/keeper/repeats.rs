//! A program that fails to run over and over: the first is an event, what follows is one with a count.

use std::time::{Duration, Instant};

use agentd_policy::event::ExecResult;

use super::calls::Outcome;

/// How long repetitions are counted before they are an event.
const WAIT: Duration = Duration::from_secs(1);

/// Of one process.
#[derive(Debug, Default)]
pub struct Repeats {
    last: Option<Outcome>,
    more: u64,
    due: Option<Instant>,
}

impl Repeats {
    /// What is an event now, with its count.
    pub fn pass(&mut self, outcome: Outcome, now: Instant) -> Vec<(Outcome, u64)> {
        if self.last.as_ref().is_some_and(|last| same(last, &outcome)) {
            self.more += 1;
            self.due.get_or_insert(now + WAIT);
            return Vec::new();
        }
        let mut due: Vec<_> = self.flush().into_iter().collect();
        self.last = (outcome.result == ExecResult::Failed).then(|| outcome.clone());
        due.push((outcome, 1));
        due
    }

    /// What was counted.
    pub fn flush(&mut self) -> Option<(Outcome, u64)> {
        self.due = None;
        let more = std::mem::take(&mut self.more);
        self.last.clone().filter(|_| more > 0).map(|last| (last, more))
    }

    /// What was counted for long enough.
    pub fn flush_older(&mut self, now: Instant) -> Option<(Outcome, u64)> {
        if self.due.is_some_and(|due| due <= now) { self.flush() } else { None }
    }

    /// When that is.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        usize::from(self.more > 0)
    }
}

/// Whether the two differ in nothing.
fn same(one: &Outcome, other: &Outcome) -> bool {
    one.result == other.result && one.path == other.path && one.interpreters == other.interpreters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_program_are_counted_and_nothing_else_is() {
        let of = |path: &str, result| Outcome { path: path.into(), result, ..Outcome::default() };
        let (failed, ran) = (ExecResult::Failed, ExecResult::Ran);
        let now = Instant::now();
        let mut repeats = Repeats::default();
        let mut said = Vec::new();
        for outcome in [of("a", failed), of("a", failed), of("a", failed), of("b", failed), of("b", failed)] {
            said.extend(repeats.pass(outcome, now));
        }
        assert_eq!((repeats.len(), repeats.due()), (1, Some(now + WAIT)));
        assert_eq!(repeats.flush_older(now), None);
        said.extend(repeats.flush_older(now + WAIT));
        assert_eq!((repeats.len(), repeats.due()), (0, None));
        for outcome in [of("b", failed), of("b", ran), of("b", ran), of("b", failed)] {
            said.extend(repeats.pass(outcome, now));
        }
        let said: Vec<_> = said.into_iter().map(|(o, count)| (o.path, o.result, count)).collect();
        let of = |path: &str, result, count| (path.to_owned(), result, count);
        let first = [of("a", failed, 1), of("a", failed, 2), of("b", failed, 1), of("b", failed, 1)];
        let then = [of("b", failed, 1), of("b", ran, 1), of("b", ran, 1), of("b", failed, 1)];
        assert_eq!(said, [first, then].concat());
    }
}
