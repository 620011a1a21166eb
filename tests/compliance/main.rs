//! What users and scripts may rely on, shown by real programs in real sessions.

mod codes;
mod events;
mod identity;
mod limits;
mod owners;
mod programs;
mod refusals;
mod streams;
mod terminal;
mod workspace;

use std::process::ExitCode;

use agentd_tests::harness::{Test, World, run_tests};

/// A group's tests, by name.
type Group = &'static [(&'static str, fn(&World))];

fn main() -> ExitCode {
    let groups: [(&str, Group); 10] = [
        ("codes", codes::TESTS),
        ("streams", streams::TESTS),
        ("terminal", terminal::TESTS),
        ("identity", identity::TESTS),
        ("workspace", workspace::TESTS),
        ("limits", limits::TESTS),
        ("refusals", refusals::TESTS),
        ("owners", owners::TESTS),
        ("events", events::TESTS),
        ("programs", programs::TESTS),
    ];
    let tests = groups.iter().flat_map(|(group, tests)| {
        tests
            .iter()
            .map(move |(name, test)| -> Test { (format!("{group}::{name}"), Box::new(move |w| test(w))) })
    });
    run_tests("compliance", tests.collect(), |_| {})
}
