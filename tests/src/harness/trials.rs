//! A test program's `main`: names and output as `cargo test` has them, one daemon for all.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use super::world::World;

/// One test: its name, and what it does with the daemon.
pub type Test = (String, Box<dyn FnOnce(&'static World) + Send>);

/// Runs `tests` against one daemon, then `after` once it has been stopped. Without root nothing is run, and
/// all of it is counted as ignored.
pub fn run_tests(program: &str, tests: Vec<Test>, after: impl FnOnce(&'static World)) -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list || !rustix::process::geteuid().is_root() {
        if !arguments.list {
            eprintln!("SKIPPED: {} tests of {program}: they start a daemon, which needs root", tests.len());
        }
        let trials = tests.into_iter().map(|(name, _)| Trial::test(name, || Ok(())).with_ignored_flag(true));
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    let world: &'static World = Box::leak(Box::new(World::new()));
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test(world);
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let log = world.daemon().log();
    if conclusion.has_failed() && std::env::var_os("AGENTD_TEST_LOG").is_some() {
        eprintln!("the daemon's log:\n{log}");
    }
    after(world);
    world.end();
    conclusion.exit_code()
}
