//! A terminal as a person has it, under tmux: programs with and without agentd side by side, detaching and
//! attaching, and what hostile output may do to it.

mod attached;
mod completion;
mod flow;
mod hostile;
mod programs;
mod side;

use std::process::ExitCode;

use agentd_tests::harness::{Alone, Named, Setup, alone, run_alone};

fn main() -> ExitCode {
    let groups: [(&str, &[Named]); 5] = [
        ("programs", programs::TESTS),
        ("flow", flow::TESTS),
        ("attached", attached::TESTS),
        ("hostile", hostile::TESTS),
        ("completion", completion::TESTS),
    ];
    let mut tests: Vec<Alone> = Vec::new();
    for (group, named) in groups {
        for &(name, test) in named {
            tests.push(alone(&format!("terminal::{group}::{name}"), Setup::default(), test));
        }
    }
    let patient = Setup::with("client_grace = \"30s\"");
    tests.push(alone("terminal::attached::again_within_the_grace", patient, attached::within_the_grace));
    let units = Setup::default().as_units();
    tests.push(alone("terminal::attached::through_a_restart", units, attached::through_a_restart));
    run_alone("terminal", Some(3), tests)
}
