//! The privilege side: what a user, a client, and each of agentd's own processes could try against root and
//! against other users. The service and the keeper are played here as compromised; nothing of the product is
//! changed for it. Each attempt is refused or bounded, says why, and leaves nothing behind.

mod as_keeper;
mod asking;
mod attempts;
mod client;
mod consent;
mod forged;
mod heritage;
mod keeper;
mod packets;
mod place;
mod played;
mod rogue;
mod tickets;
mod users;
mod views;

use std::process::ExitCode;

use agentd_tests::harness::{Test, World, run_tests};

/// A test's name, and what it does.
type Member = (&'static str, fn(&'static World));

fn main() -> ExitCode {
    if let Some(code) = as_keeper::helper() {
        return code;
    }
    let groups: [(&str, &[Member]); 9] = [
        ("user", users::TESTS),
        ("view", views::TESTS),
        ("client", client::TESTS),
        ("service", forged::TESTS),
        ("consent", consent::TESTS),
        ("tickets", tickets::TESTS),
        ("packets", packets::TESTS),
        ("keeper", keeper::TESTS),
        ("heritage", heritage::TESTS),
    ];
    let mut tests: Vec<Test> = Vec::new();
    for (group, members) in groups {
        for (name, test) in members {
            tests.push((format!("{group}::{name}"), Box::new(*test)));
        }
    }
    run_tests("privilege", tests, users::nothing_runs)
}
