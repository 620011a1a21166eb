//! Egress, in an internet of the tests' own: that it is there, what programs do in it with nothing in between,
//! and the same in sessions that may.

mod around;
mod caps;
mod ceiling;
mod dials;
mod endurance;
mod lists;
mod over_tls;
mod pins;
mod programs;
mod publish;
mod restarts;
mod rules;
mod upstream;

use std::process::ExitCode;
use std::sync::OnceLock;

use agentd_tests::harness::{Internet, Test, named, run_in};

/// The internet of this program's tests.
pub fn internet() -> &'static Internet {
    static INTERNET: OnceLock<Internet> = OnceLock::new();
    INTERNET.get_or_init(Internet::start)
}

fn main() -> ExitCode {
    let mut tests: Vec<Test> = named("around", around::TESTS).collect();
    for program in programs::PROGRAMS {
        let name = format!("outside::{}", program.name);
        tests.push((name, Box::new(move |world| programs::outside(world, program))));
    }
    for program in programs::PROGRAMS {
        let name = format!("inside::{}", program.name);
        tests.push((name, Box::new(move |world| programs::inside(world, program))));
    }
    for program in programs::PROGRAMS {
        let name = format!("proxied::{}", program.name);
        tests.push((name, Box::new(move |world| programs::proxied(world, program))));
    }
    tests.extend(named("rules", rules::TESTS));
    tests.extend(named("pins", pins::TESTS));
    tests.extend(named("caps", caps::TESTS));
    tests.extend(named("dials", dials::TESTS));
    tests.extend(named("publish", publish::TESTS));
    tests.extend(named("lists", lists::TESTS));
    tests.extend(named("ceiling", ceiling::TESTS));
    tests.extend(named("restarts", restarts::TESTS));
    tests.extend(named("endurance", endurance::TESTS));
    tests.extend(named("over_tls", over_tls::TESTS));
    tests.extend(named("upstream", upstream::TESTS));
    run_in("net", || internet().world(), tests, |_| internet().end())
}
