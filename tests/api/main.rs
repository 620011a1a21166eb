//! Every call of the API by everybody on everybody's sessions, as `table.md` has it; and that one user's flood is
//! that user's alone.

mod calls;
mod flood;
mod seen;
mod table;

use std::process::ExitCode;

use agentd_tests::harness::{Named, Setup, alone, run_alone};

fn main() -> ExitCode {
    let others: [Named; 5] = [
        ("api::nobody_lists_what_is_anothers", seen::lists),
        ("api::what_is_followed_is_ones_own", seen::followed),
        ("api::health_and_reflection_answer", seen::health),
        ("api::outsiders_do_not_get_in", seen::outsiders),
        ("api::a_prefix_of_a_foreign_id_is_no_id", seen::prefixes),
    ];
    let mut tests = table::tests();
    tests.extend(others.into_iter().map(|(name, test)| alone(name, Setup::default(), test)));
    tests.extend(flood::tests());
    run_alone("api", None, tests)
}
