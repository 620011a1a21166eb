//! What a hostile agent tries: every case of the probe, inside a session, where it must fail with the error
//! that its table names and leave the event that it names; and outside, where it must work.

mod direct;
mod fixture;
mod git_places;
mod inside;
mod masks;
mod outside;
mod record;
mod refused;
mod steering;

use std::process::ExitCode;

use agentd_tests::harness::{Named, Test, named, run_tests};
use agentd_tests::probe::{Outside, cases};

fn main() -> ExitCode {
    let mut tests: Vec<Test> = Vec::new();
    for case in cases() {
        tests.push((format!("inside::{}", case.name), Box::new(move |world| inside::check(world, case))));
    }
    // What `exec` starts is confined by the same code: no case may come out otherwise. Bombs are for their session.
    for case in cases().filter(|case| !case.may_end_session) {
        tests
            .push((format!("later::{}", case.name), Box::new(move |world| inside::check_later(world, case))));
    }
    for case in cases().filter(|case| !matches!(case.outside, Outside::Nowhere(_))) {
        tests.push((format!("outside::{}", case.name), Box::new(move |world| outside::check(world, case))));
    }
    let more: [Named; 19] = [
        ("the_table_is_well_formed", inside::table),
        ("double_fork_dies_with_it", inside::double_fork),
        ("another_of_the_same_user_is_out_of_reach", inside::other_session),
        ("the_callers_process_is_unharmed", fixture::sleeper_lives),
        ("hostile_output_stays_data", inside::hostile_output),
        ("what_remains_of_the_host_in_usr", inside::remains),
        ("what_it_stops_on_its_way_holds_nothing_up", steering::stopped_on_the_way),
        ("git_outside_runs_nothing_of_the_agents", direct::held),
        ("what_git_outside_would_run_is_told_of", direct::found),
        ("files_that_other_programs_run_are_held_or_told_of", direct::tools),
        ("placeholders_are_never_committed", direct::placeholders_are_never_committed),
        ("a_repository_can_be_made_in_direct", direct::a_repository_can_be_made),
        ("the_profile_of_a_session_is_read_only_in_it", direct::its_profile_is_read_only),
        ("what_is_masked_stays_so_when_it_appears_later", masks::late),
        ("where_git_leads_nothing_is_opened", git_places::leads),
        ("what_git_leads_to_can_be_allowed", git_places::allowed),
        ("repositories_of_others_above_are_not_followed", git_places::of_others),
        ("keys_are_masked_at_any_depth", masks::anywhere),
        ("every_name_of_a_masked_file_is_masked", masks::links),
    ];
    tests.extend(named("session", &more));
    tests.extend(named("record", record::TESTS));
    tests.extend(named("refused", refused::TESTS));
    run_tests("escape", tests, |_| fixture::remove())
}
