//! What users and scripts may rely on, shown by real programs in real sessions.

mod codes;
mod events;
mod identity;
mod life;
mod limits;
mod owners;
mod programs;
mod refusals;
mod streams;
mod sysfs;
mod terminal;
mod workspace;

use std::process::ExitCode;

use agentd_tests::harness::{Named, named, run_tests};

fn main() -> ExitCode {
    let groups: [(&str, &[Named]); 12] = [
        ("codes", codes::TESTS),
        ("streams", streams::TESTS),
        ("terminal", terminal::TESTS),
        ("identity", identity::TESTS),
        ("workspace", workspace::TESTS),
        ("limits", limits::TESTS),
        ("sysfs", sysfs::TESTS),
        ("refusals", refusals::TESTS),
        ("owners", owners::TESTS),
        ("events", events::TESTS),
        ("programs", programs::TESTS),
        ("life", life::TESTS),
    ];
    let tests = groups.iter().flat_map(|(group, tests)| named(group, tests));
    run_tests("compliance", tests.collect(), |_| {})
}
