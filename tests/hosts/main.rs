//! What differs between hosts: `agentctl doctor` reports this one as it is, and sessions go by it.

mod file_systems;
mod rows;

use std::process::{Command, ExitCode};

use agentd_tests::harness::{Alone, Setup, alone, run_alone};
use nix::sched::{CloneFlags, unshare};

fn main() -> ExitCode {
    if rustix::process::geteuid().is_root() {
        // What is mounted here is nobody else's, and goes with this process.
        unshare(CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
        run(Command::new("mount").args(["--make-rprivate", "/"]));
    }
    let mut tests: Vec<Alone> = file_systems::KINDS
        .iter()
        .map(|kind| {
            alone(&format!("hosts::file_systems::{}", kind.name), Setup::default(), |world| {
                file_systems::home_and_workspace(world, kind);
            })
        })
        .collect();
    for (name, test) in rows::TESTS {
        tests.push(alone(&format!("hosts::rows::{name}"), Setup::default(), test));
    }
    // Each has the same home mounted over.
    run_alone("hosts", Some(1), tests)
}

/// Runs a program of the host's, which must succeed.
#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
