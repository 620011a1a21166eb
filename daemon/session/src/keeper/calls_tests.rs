//! Histories of threads that run, fail to run and look as if they ran, against what is said of them.

use proptest::prelude::*;

use super::*;

const LEADER: i32 = 1;

fn file(number: u64) -> FileId {
    FileId { device: 1, inode: number }
}

fn before(number: u64) -> Before {
    Before { exe: Some(file(number)), forked: false }
}

/// Opens files one after the other, each by the last of a path.
fn open(calls: &mut Calls, files: &[(u64, &str)], before: Before) {
    for (number, path) in files {
        assert!(calls.open(LEADER, file(*number), path, true, before).is_empty());
    }
}

fn said(outcomes: &[Outcome]) -> Vec<String> {
    let one = |o: &Outcome| format!("{:?} {} {}", o.result, o.path, o.interpreters.join(" "));
    outcomes.iter().map(|o| one(o).trim().to_owned()).collect()
}

#[test]
fn a_loader_and_interpreters_are_their_programs() {
    let mut calls = Calls::default();
    open(&mut calls, &[(2, "git"), (3, "ld.so")], before(1));
    assert_eq!(said(&calls.changed(Some(file(2)), before(1)).1), ["Ran git ld.so"]);
    open(&mut calls, &[(4, "script"), (5, "script too"), (2, "sh"), (3, "ld.so")], before(1));
    assert_eq!(said(&calls.changed(Some(file(2)), before(1)).1), ["Ran script script too sh ld.so"]);
    // ld.so PROG.
    open(&mut calls, &[(3, "ld.so")], before(1));
    assert_eq!(said(&calls.changed(Some(file(3)), before(1)).1), ["Ran ld.so"]);
}

#[test]
fn what_failed_first_does_not_name_what_ran() {
    let mut calls = Calls::default();
    for (number, path) in [(2, "git"), (6, "sh"), (3, "ld.so")] {
        open(&mut calls, &[(number, path)], before(1));
        calls.closed(LEADER, file(number));
        assert_eq!(said(&calls.unchanged(before(1))), [format!("Failed {path}")]);
    }
    open(&mut calls, &[(7, "target"), (3, "ld.so")], before(1));
    assert_eq!(said(&calls.changed(Some(file(7)), before(1)).1), ["Ran target ld.so"]);
    // A script that was only looked at, and then its interpreter.
    open(&mut calls, &[(4, "script")], before(1));
    calls.closed(LEADER, file(4));
    open(&mut calls, &[(2, "sh"), (3, "ld.so")], before(1));
    assert_eq!(said(&calls.changed(Some(file(2)), before(1)).1), ["Failed script", "Ran sh ld.so"]);
}

#[test]
fn of_two_threads_the_one_whose_file_it_is_ran() {
    let mut calls = Calls::default();
    calls.open(LEADER, file(7), "target", true, before(1));
    calls.open(2, file(2), "git", true, before(1));
    calls.open(2, file(3), "ld.so", true, before(1));
    calls.open(LEADER, file(3), "ld.so", true, before(1));
    let (found, outcomes) = calls.changed(Some(file(7)), before(1));
    assert_eq!((found, said(&outcomes)), (true, vec!["Ran target ld.so".into(), "Failed git ld.so".into()]));
}

#[test]
fn without_reports_of_closes_a_script_is_in_doubt_and_a_program_is_not() {
    let mut calls = Calls::default();
    calls.open(LEADER, file(4), "script", false, before(1));
    open(&mut calls, &[(2, "sh"), (3, "ld.so")], before(1));
    assert_eq!(said(&calls.changed(Some(file(2)), before(1)).1), ["Unknown script", "Ran sh ld.so"]);
    calls.open(LEADER, file(2), "git", false, before(1));
    open(&mut calls, &[(3, "ld.so")], before(1));
    assert_eq!(said(&calls.changed(Some(file(2)), before(1)).1), ["Ran git ld.so"]);
    // A file whose number changed while it was open.
    open(&mut calls, &[(4, "script")], before(1));
    calls.closed(LEADER, file(40));
    open(&mut calls, &[(2, "sh")], before(1));
    let (_, outcomes) = calls.changed(Some(file(2)), before(1));
    assert_eq!(said(&outcomes), ["Unknown script", "Ran sh"]);
    assert_eq!(outcomes[0].marked, [file(4)]);
}

#[test]
fn what_nobody_asked_for_ran_and_what_is_gone_is_unknown() {
    let mut calls = Calls::default();
    open(&mut calls, &[(2, "arm"), (3, "ld.so")], before(1));
    let (found, outcomes) = calls.changed(Some(file(9)), before(1));
    assert_eq!((found, said(&outcomes)), (false, vec!["Unknown arm ld.so".into()]));
    open(&mut calls, &[(2, "git"), (3, "ld.so")], before(1));
    assert_eq!(said(&calls.gone(before(1))), ["Unknown git ld.so"]);
    // The program that runs is run again by itself: nothing distinguishes that from a failure.
    open(&mut calls, &[(1, "sh")], before(1));
    calls.closed(LEADER, file(1));
    assert_eq!(said(&calls.unchanged(before(1))), ["Unknown sh"]);
    let forked = Before { forked: true, ..before(1) };
    open(&mut calls, &[(1, "sh")], forked);
    calls.closed(LEADER, file(1));
    assert_eq!(said(&calls.unchanged(forked)), ["Failed sh"]);
}

#[test]
fn what_is_in_question_is_bounded() {
    let mut calls = Calls::default();
    let mut outcomes = Vec::new();
    for _ in 0..1000 {
        outcomes.extend(calls.open(LEADER, file(4), "data", false, before(1)));
        assert!(calls.len() <= MAX_OPENED);
    }
    assert_eq!(outcomes.len(), 1000 - MAX_OPENED);
    assert!(outcomes.iter().all(|o| o.result == ExecResult::Failed));
}

/// One call as a thread makes it: its files, after how many it fails if it does, and whether a loader is the last.
#[derive(Clone, Debug)]
struct Made {
    files: Vec<u64>,
    fails_after: Option<usize>,
    loader: bool,
}

impl Made {
    fn program(&self) -> usize {
        self.files.len() - 1 - usize::from(self.loader && self.files.len() > 1)
    }
}

fn made() -> impl Strategy<Value = Made> {
    let files = prop::collection::vec(0_u64..5, 1..5);
    (files, prop::option::weighted(0.7, 1_usize..5), any::<bool>()).prop_map(|(files, fails, loader)| Made {
        fails_after: fails.map(|after| after.min(files.len())),
        files,
        loader,
    })
}

/// What the test knows and the keeper does not.
#[derive(Default)]
struct Truth {
    /// Of each call: whose it is and whether it ran.
    ran: Vec<Option<usize>>,
    opened: usize,
    said: Vec<Outcome>,
}

impl Truth {
    fn check(&self) {
        let call = |path: &str| path.split('.').next().unwrap().parse::<usize>().unwrap();
        let mut seen = 0;
        for outcome in &self.said {
            let paths: Vec<&String> = std::iter::once(&outcome.path).chain(&outcome.interpreters).collect();
            seen += paths.len();
            let number = call(&outcome.path);
            assert!(paths.iter().all(|path| call(path) == number), "two calls in one: {outcome:?}");
            let program = self.ran[number].map(|program| format!("{number}.{program}"));
            let names_it = program.is_some_and(|program| paths.iter().any(|path| **path == program));
            match outcome.result {
                ExecResult::Ran => assert!(names_it, "it did not run: {outcome:?}"),
                ExecResult::Failed => assert!(self.ran[number].is_none(), "it ran: {outcome:?}"),
                ExecResult::Unknown => {}
            }
        }
        assert_eq!(seen, self.opened, "each file is said once: {:?}", self.said);
    }
}

proptest! {
    /// Whatever threads try: what is said to have run did, what is said to have failed did not, and nothing is left
    /// out. `hidden`: an image of the same file looks like the one before.
    #[test]
    fn no_history_makes_it_name_another_program(
        threads in prop::collection::vec(prop::collection::vec(made(), 0..6), 1..4),
        turns in prop::collection::vec(0_usize..3, 0..60),
        first in 0_u64..5, forked: bool, hidden: bool, unmarkable in 0_u8..32, lost: bool,
    ) {
        let mut calls = Calls::default();
        let mut truth = Truth::default();
        let mut image = Before { exe: Some(file(first)), forked };
        let mut threads: Vec<_> = threads.into_iter().map(|calls| (calls, None::<(usize, usize)>)).collect();
        for turn in turns {
            let at = turn % threads.len();
            let thread = i32::try_from(at).unwrap() + LEADER;
            let (waiting, current) = &mut threads[at];
            let Some(made) = waiting.first().cloned() else { continue };
            let (number, opened) = current.unwrap_or_else(|| { truth.ran.push(None); (truth.ran.len() - 1, 0) });
            if opened < made.fails_after.unwrap_or(made.files.len()) {
                let number_of = made.files[opened];
                let marked = unmarkable & (1 << number_of) == 0;
                let path = format!("{number}.{opened}");
                truth.said.extend(calls.open(thread, file(number_of), &path, marked, image));
                truth.opened += 1;
                *current = Some((number, opened + 1));
                continue;
            }
            *current = None;
            waiting.remove(0);
            let closes = |calls: &mut Calls, but: Option<usize>| {
                for (_, f) in made.files[..opened].iter().enumerate().filter(|(i, _)| Some(*i) != but) {
                    if unmarkable & (1 << f) == 0 { calls.closed(thread, file(*f)); }
                }
                if lost { calls.doubt(None); }
            };
            if made.fails_after.is_some() {
                closes(&mut calls, None);
                truth.said.extend(calls.unchanged(image));
                continue;
            }
            // The kernel ends the other threads first, and with them their calls.
            for (other, (waiting, current)) in threads.iter().enumerate().filter(|(other, _)| *other != at) {
                let Some((_, opened)) = current else { continue };
                for f in waiting[0].files[..*opened].iter().filter(|f| unmarkable & (1 << **f) == 0) {
                    calls.closed(i32::try_from(other).unwrap() + LEADER, file(*f));
                }
            }
            truth.ran[number] = Some(made.program());
            let now = file(made.files[made.program()]);
            closes(&mut calls, Some(made.program()));
            // What is left of them is the leader.
            let together = threads.len();
            threads.swap(0, at);
            threads.truncate(1);
            if hidden && !image.forked && image.exe == Some(now) {
                truth.said.extend(calls.unchanged(image));
            } else {
                let (found, said) = calls.changed(Some(now), image);
                let once = made.files.iter().filter(|f| file(**f) == now).count() == 1;
                let clear = once && together == 1 && !hidden && !lost && unmarkable == 0;
                prop_assert!(calls.is_empty() && (found || !clear), "{said:?}");
                prop_assert_eq!(said.iter().any(|o| o.result == ExecResult::Ran), found);
                truth.said.extend(said);
                image = Before { exe: Some(now), forked: false };
            }
        }
        truth.said.extend(calls.gone(image));
        truth.check();
    }
}
