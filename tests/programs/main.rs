//! Programs that people use, each the same inside a session and outside. What the host does not have is not tried, and
//! said.

mod builds;
mod files;
mod git;
mod git_places;
mod languages;
mod refusals;
mod system;
mod tools;

use std::path::Path;
use std::process::ExitCode;

use agentd_tests::harness::{Named, RunOutput, Session, User, World, complete, named, run_tests};

fn main() -> ExitCode {
    let groups: [(&str, &[Named]); 8] = [
        ("builds", builds::TESTS),
        ("files", files::TESTS),
        ("git", git::TESTS),
        ("git_places", git_places::TESTS),
        ("languages", languages::TESTS),
        ("refusals", refusals::TESTS),
        ("system", system::TESTS),
        ("tools", tools::TESTS),
    ];
    let tests = groups.iter().flat_map(|(group, tests)| named(group, tests));
    run_tests("programs", tests.collect(), |_| {})
}

/// Whether the host has all of `programs` where sessions look.
fn has(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|p| !Path::new("/usr/bin").join(p).exists()).collect();
    if !missing.is_empty() {
        eprintln!("NOT TRIED: this host has no {missing:?} in /usr/bin");
    }
    missing.is_empty()
}

/// Runs `script` in bash outside, as `user` in `dir`, with the variables that a session has.
fn outside(user: &User, dir: &Path, script: &str) -> RunOutput {
    let mut command = user.command("/usr/bin/env");
    command.args(["-i", "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "SHELL=/bin/bash"]);
    command.arg(format!("HOME={}", user.home.display())).arg(format!("USER={}", user.name));
    command.args(["bash", "-c", script]).current_dir(dir);
    complete(&mut command, Vec::new(), "outside".into())
}

/// Runs `script` in a session and outside, each in a directory of its own that `fill` has filled, and asserts that both
/// say the same and end alike; what they said.
#[track_caller]
fn same(world: &World, options: &[&str], fill: &dyn Fn(&Path), script: &str) -> String {
    let [mine, theirs] = [(); 2].map(|()| {
        let dir = world.workspace(world.a());
        fill(&dir);
        dir
    });
    let here = outside(world.a(), &mine, script);
    let session = world.session_in(&theirs).options(options);
    let there = session.bash(script);
    let place = |text: &str, dir: &Path| text.replace(&*dir.to_string_lossy(), "DIR");
    assert_eq!(here.code, there.code, "outside: {}\ninside: {}", here.stderr, there.stderr);
    assert_eq!(
        place(&here.text(), &mine),
        place(&there.text(), &theirs),
        "{}\n{}",
        here.stderr,
        there.stderr
    );
    here.text()
}

/// A session of the first user in `dir`.
fn session<'a>(world: &'a World, dir: &Path) -> Session<'a> {
    world.session_in(dir)
}
