//! A test program's `main`: names and output as `cargo test` has them, one daemon for all.

use std::collections::BTreeSet;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::daemon::Setup;
use super::world::World;

/// One test: its name, and what it does with the daemon.
pub type Test = (String, Box<dyn FnOnce(&'static World) + Send>);

/// A test that is a function.
pub type Named = (&'static str, fn(&World));

/// A table of tests that are functions: each with its name, which is what cargo prints.
#[macro_export]
macro_rules! tests {
    ($($test:ident),* $(,)?) => { &[$((stringify!($test), $test)),*] };
}

/// What a test ends with that cannot be tried here.
struct NotTried(String);

/// Ends a test that has found that it cannot be tried here: it is counted as ignored, for the reason `why`.
pub fn not_tried(why: &str) -> ! {
    std::panic::resume_unwind(Box::new(NotTried(format!("NOT TRIED: {why}"))))
}

/// Runs `test`; whether it was tried.
fn tried(test: impl FnOnce()) -> Result<Completion, Failed> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)) {
        Ok(()) => Ok(Completion::Completed),
        Err(panic) => match panic.downcast::<NotTried>() {
            Ok(why) => Ok(Completion::ignored_with(why.0)),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// `tests` of a group.
pub fn named(group: &str, tests: &[Named]) -> impl Iterator<Item = Test> {
    tests.iter().map(move |&(name, test)| -> Test { (format!("{group}::{name}"), Box::new(test)) })
}

/// Runs `tests` against one daemon, then `after`. Without root nothing is run, and all of it is counted as
/// ignored.
pub fn run_tests(program: &str, tests: Vec<Test>, after: impl FnOnce(&'static World)) -> ExitCode {
    run(program, Arguments::from_args(), World::new, tests, after)
}

/// The same in a world that is not made as others are.
pub fn run_in(
    program: &str,
    world: impl FnOnce() -> World,
    tests: Vec<Test>,
    after: impl FnOnce(&'static World),
) -> ExitCode {
    run(program, Arguments::from_args(), world, tests, after)
}

/// The same, one test after the other, against a daemon that has `config` in its `agentd.toml`.
pub fn run_one_by_one(
    program: &str,
    config: &str,
    tests: Vec<Test>,
    after: impl FnOnce(&'static World),
) -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    run(program, arguments, || World::with(config), tests, after)
}

fn run(
    program: &str,
    arguments: Arguments,
    world: impl FnOnce() -> World,
    tests: Vec<Test>,
    after: impl FnOnce(&'static World),
) -> ExitCode {
    if arguments.list || !rustix::process::geteuid().is_root() {
        if !arguments.list {
            eprintln!("SKIPPED: {} tests of {program}: they start a daemon, which needs root", tests.len());
        }
        let trials = tests
            .into_iter()
            .map(|(name, _)| Trial::test(name, || Ok(())).with_ignored_flag(!arguments.list));
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    let world: &'static World = Box::leak(Box::new(world()));
    let trials =
        tests.into_iter().map(|(name, test)| Trial::ignorable_test(name, move || tried(|| test(world))));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if conclusion.has_failed() && std::env::var_os("AGENTD_TEST_LOG").is_some() {
        eprintln!("the daemon's log:\n{}", world.daemon().log());
    }
    after(world);
    world.end();
    conclusion.exit_code()
}

/// A test with a daemon of its own.
pub struct Alone {
    /// The name that cargo prints.
    pub name: String,
    /// How its daemon is started.
    pub setup: Setup,
    /// What it does with it.
    pub test: Box<dyn FnOnce(&World) + Send>,
    /// Why it cannot run here.
    pub skipped: Option<&'static str>,
}

impl Alone {
    /// Where `why` is something, the test is not run, and counted as ignored.
    #[must_use]
    pub fn unless(self, why: Option<&'static str>) -> Self {
        Self { skipped: why, ..self }
    }
}

/// A test that is a function, with a daemon of its own.
pub fn alone(name: &str, setup: Setup, test: impl FnOnce(&World) + Send + 'static) -> Alone {
    Alone { name: name.into(), setup, test: Box::new(test), skipped: None }
}

/// Runs `tests`, each against a daemon of its own. Without root nothing is run, and all of it is counted as
/// ignored. At most `threads` at a time, if that is said neither here nor on the command line as many as
/// there are CPUs.
pub fn run_alone(program: &str, threads: Option<usize>, tests: Vec<Alone>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(threads);
    let root = rustix::process::geteuid().is_root();
    if !root && !arguments.list {
        eprintln!("SKIPPED: {} tests of {program}: they start daemons, which needs root", tests.len());
    }
    let reasons: BTreeSet<_> = tests.iter().filter_map(|test| test.skipped).collect();
    reasons.iter().filter(|_| !arguments.list).for_each(|why| eprintln!("not run, some of {program}: {why}"));
    let trials = tests.into_iter().map(|Alone { name, setup, test, skipped }| {
        Trial::test(name, move || {
            let world = World::of(setup);
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&world)));
            if done.is_err() && std::env::var_os("AGENTD_TEST_LOG").is_some() {
                eprintln!("the daemon's log:\n{}", world.daemon().log());
            }
            match done {
                Ok(()) => world.end(),
                Err(panic) => {
                    drop(world);
                    std::panic::resume_unwind(panic);
                }
            }
            Ok(())
        })
        .with_ignored_flag((!root || skipped.is_some()) && !arguments.list)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
