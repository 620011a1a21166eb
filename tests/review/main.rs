//! Reviews: what the launcher shows of what a session changed, to whom, and what they can do with it. Each test says
//! what somebody would gain if it did not hold.

mod asking;
mod attacks;
mod commands;
mod seen;

use std::process::ExitCode;

use agentd_tests::harness::{Alone, Setup, World, alone, run_alone};

/// A test's name, and what it does.
type Member = (&'static str, fn(&World));

/// By whom the limits of disk are held decides where changes are.
const FORMS: [&str; 2] = ["watch", "image"];

fn main() -> ExitCode {
    let mut tests: Vec<Alone> = Vec::new();
    for form in FORMS {
        for &(name, test) in seen::TESTS {
            tests.push(alone(&format!("review::{form}::{name}"), setup(form), test));
        }
    }
    for &(name, test) in commands::TESTS {
        tests.push(alone(&format!("review::{name}"), setup("watch"), test));
    }
    for &(name, test) in attacks::TESTS {
        tests.push(alone(&format!("review::{name}"), setup("watch"), test));
    }
    run_alone("review", Some(2), tests)
}

/// Without sessions that are prepared: what is left behind is seen.
fn setup(form: &str) -> Setup {
    Setup::with(&format!("disk_limits = \"{form}\"\nprewarmed_sessions = 0"))
}
