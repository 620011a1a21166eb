//! Ways past what a session egress may reach: every case of the probe outside, where it must work, and in
//! such a session, where it must fail with the error that its table names and leave the event that it names.

mod caps;
mod cases;
mod crowds;

use std::process::ExitCode;
use std::sync::OnceLock;

use agentd_tests::harness::{Internet, Named, Test, named, run_in};
use agentd_tests::probe::{Outside, egress_cases};

/// The internet of this program's tests.
pub fn internet() -> &'static Internet {
    static INTERNET: OnceLock<Internet> = OnceLock::new();
    INTERNET.get_or_init(Internet::start)
}

fn main() -> ExitCode {
    let table: [Named; 1] = [("the_table_is_well_formed", cases::table)];
    let mut tests: Vec<Test> = named("cases", &table).collect();
    for case in egress_cases().filter(|case| !matches!(case.outside, Outside::Nowhere(_))) {
        tests.push((format!("outside::{}", case.name), Box::new(move |world| cases::outside(world, case))));
    }
    for case in egress_cases() {
        tests.push((format!("inside::{}", case.name), Box::new(move |world| cases::inside(world, case))));
    }
    tests.extend(caps::tests());
    tests.extend(named("crowds", crowds::TESTS));
    run_in("escape-net", || internet().world(), tests, |_| internet().end())
}
