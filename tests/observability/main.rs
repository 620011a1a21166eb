//! What a daemon reports about itself: metrics for Prometheus, and its log.

mod log;
mod metrics;
mod scrape;

use std::process::ExitCode;

use agentd_tests::harness::{Setup, World, alone, run_alone};

/// A test's name, its daemon, and what it does.
type Case = (&'static str, Setup, fn(&World));

fn main() -> ExitCode {
    let json = |level: &str| Setup::with(&format!("[log]\nformat = \"json\"\nlevel = \"{level}\""));
    let tests: [Case; 9] = [
        ("metrics::what_happens_is_counted", Setup::default(), metrics::counted),
        ("metrics::members_only", Setup::default(), metrics::members),
        ("metrics::nothing_else_is_there", Setup::default(), metrics::nothing_else),
        ("metrics::hostile_scrapers", Setup::default(), metrics::hostile),
        ("metrics::outlive_restarts", Setup::default().as_units(), metrics::restarts),
        ("metrics::off", Setup::with("[metrics]\nsocket = \"\""), metrics::off),
        ("log::a_session_is_named_on_each_line", json("debug"), log::sessions),
        ("log::nothing_is_forged", Setup::default(), log::hostile),
        ("log::the_level_is_reloaded", json("info").as_units(), log::level),
    ];
    let all =
        tests.into_iter().map(|(name, setup, test)| alone(&format!("observability::{name}"), setup, test));
    run_alone("observability", Some(4), all.collect())
}
