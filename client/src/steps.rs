//! `run --timings`: how long each step of a start took, here and at the daemon, in one table.

use std::io::Write as _;
use std::time::Instant;

use agentd_proto::v1::Timing;
use serde_json::json;

use crate::show::{clean, json, table};

/// The step of ours in which the daemon does its own.
const WAITING: &str = "create";

/// Our own steps, from the process's start on.
#[derive(Debug)]
pub struct Steps {
    started: Instant,
    last: Instant,
    done: Vec<Timing>,
}

impl Steps {
    /// None is done.
    pub fn new(started: Instant) -> Self {
        Self { started, last: started, done: vec![] }
    }

    /// `step` is done; it began when the one before it was.
    pub fn mark(&mut self, step: &str) {
        self.mark_at(step, Instant::now());
    }

    /// The same, when it was done at `at`.
    pub fn mark_at(&mut self, step: &str, at: Instant) {
        let since = |at: Instant| u64::try_from((at - self.started).as_micros()).unwrap_or(u64::MAX);
        let timing = Timing { step: step.to_owned(), start_us: since(self.last), end_us: since(at) };
        self.done.push(timing);
        self.last = at;
    }

    /// Puts all of them on standard error, if that was asked for; what the daemon did stands before the step
    /// that waited for it.
    pub fn print(&self, daemon: &[Timing], asked: bool, as_json: bool) {
        if !asked {
            return;
        }
        let all = self.with(daemon);
        let text = if as_json { lines(&all) } else { text(&all) };
        // If nobody reads it, so be it.
        std::io::stderr().write_all(text.as_bytes()).ok();
    }

    fn with<'a>(&'a self, daemon: &'a [Timing]) -> Vec<(&'static str, &'a Timing)> {
        let waited = self.done.iter().position(|t| t.step == WAITING).unwrap_or(self.done.len());
        let (before, after) = self.done.split_at(waited);
        let ours = |timing| ("agentctl", timing);
        let daemon = daemon.iter().map(|timing| ("agentd", timing));
        before.iter().map(ours).chain(daemon).chain(after.iter().map(ours)).collect()
    }
}

fn lines(all: &[(&str, &Timing)]) -> String {
    let line = |(who, Timing { step, start_us, end_us }): &(&str, &Timing)| {
        json(&json!({ "who": who, "step": step, "start_us": start_us, "end_us": end_us })).ok()
    };
    all.iter().filter_map(line).map(|line| line + "\n").collect()
}

fn text(all: &[(&str, &Timing)]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|(who, Timing { step, start_us, end_us })| {
            let took = end_us.saturating_sub(*start_us);
            let number = |n: u64| format!("{n:>9}");
            [(*who).to_owned(), number(*start_us), number(*end_us), number(took), clean(step).into_owned()]
        })
        .collect();
    let heading = ["WHO", "FROM (µs)", "TO (µs)", "TOOK (µs)", "STEP"];
    table(heading, &rows, None)
        + "agentctl counts from its own start, agentd from when it took the request up.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_steps_stand_where_they_were_waited_for() {
        let mut steps = Steps::new(Instant::now());
        for step in ["read", "connect", "create", "command"] {
            steps.mark(step);
        }
        let daemon = [Timing { step: "build\n".into(), start_us: 1, end_us: 5 }];
        let all = steps.with(&daemon);
        let order: Vec<_> = all.iter().map(|(_, timing)| timing.step.as_str()).collect();
        assert_eq!(order, ["read", "connect", "build\n", "create", "command"]);
        assert!(text(&all).lines().nth(3).unwrap().ends_with("4  build\\u{a}"), "{}", text(&all));
        assert!(lines(&all).contains("\"step\":\"build\\n\""));
    }
}
