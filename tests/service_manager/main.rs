//! Operating a daemon: reading its configuration again, sockets that a service manager holds, the watchdog.

mod activation;
mod limits;
mod lists;
mod reload;
mod watchdog;

use std::process::ExitCode;

use agentd_tests::harness::{Setup, World, alone, run_alone};

/// A test's name, what its daemon has in its `agentd.toml`, and what it does.
type Operated = (&'static str, &'static str, fn(&World));

fn main() -> ExitCode {
    let units: [Operated; 14] = [
        ("reload::bounds_are_others", "[bounds]\nmax_sessions_per_user = 1", reload::bounds),
        ("reload::a_bad_file_is_refused", "[bounds]\nmax_sessions_per_user = 1", reload::bad),
        ("reload::what_needs_a_restart_is_refused", "", reload::restart),
        ("reload::profiles", "", reload::profiles),
        ("reload::owners", "", reload::owners),
        ("reload::prewarmed_sessions_go", "prewarmed_sessions = 2", reload::prewarmed),
        (
            "reload::limits_of_groups_that_live",
            "[bounds]\nuser_cpus = 1.5\nuser_pids = 500",
            limits::rewritten,
        ),
        ("reload::memory_in_use_is_not_taken", "", limits::memory),
        ("lists::sessions_have_those_that_they_began_with", "", lists::reloaded),
        ("lists::one_that_is_none_is_refused_with_all_else", "", lists::bad),
        ("lists::without_them_nothing_starts", "", lists::start),
        ("activation::clients_wait_for_a_restart", "", activation::waits),
        ("activation::other_sockets_are_refused", "", activation::refused),
        ("watchdog::as_long_as_it_lives", "", watchdog::notified),
    ];
    let mut all: Vec<_> = units
        .into_iter()
        .map(|(name, config, test)| {
            let setup = Setup::with(config).as_units().env("WATCHDOG_USEC", "600000");
            alone(&format!("service-manager::{name}"), setup, test)
        })
        .collect();
    all.push(alone("service-manager::reload::by_hand", Setup::with(""), reload::by_hand));
    run_alone("service-manager", Some(4), all)
}
