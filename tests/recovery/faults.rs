//! Every step of a build goes wrong in every way: an error that says what, and nothing left.
//!
//! Builds of debug programs alone have these faults: `AGENTD_FAULT=STEP:KIND`, in the session's environment for
//! what one request asks for, in the launcher's for what is prepared.

use std::time::Duration;

use agentd_policy::step::Step;
use agentd_tests::harness::{
    Alone, RunOutput, Session, Setup, Snapshot, World, alone, has_faults, wait_for_exit, within,
};

use crate::{LIMIT, UNPREPARED, settled};

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fail,
    Kill,
    Hang,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Fail, Self::Kill, Self::Hang];

    fn at(self, step: Step) -> String {
        format!("{step}:{}", format!("{self:?}").to_lowercase())
    }
}

/// The tests of this file.
pub fn tests() -> Vec<Alone> {
    let mut tests = Vec::new();
    let why = (!has_faults()).then_some("the programs are built for release: they have no faults");
    for kind in Kind::ALL {
        let name = format!("faults::{kind:?}_at_every_step_of_a_request").to_lowercase();
        let every = alone(&name, Setup::with(UNPREPARED), move |world| requests(world, kind));
        tests.push(every.unless(why));
        for &step in Step::PREPARE {
            let name = format!("faults::{kind:?}_at_{step}").to_lowercase();
            let setup = Setup::with(UNPREPARED).env("AGENTD_FAULT", &kind.at(step));
            tests.push(alone(&name, setup, move |world| preparing(world, step, kind)).unless(why));
        }
    }
    tests
}

/// A step that goes wrong once, and ends quickly.
pub fn one_of_a_request(world: &World, number: usize) {
    let step = Step::COMPLETE[number % Step::COMPLETE.len()];
    let kind = if number.is_multiple_of(2) { Kind::Fail } else { Kind::Kill };
    let output = faulty(world, step, kind).run(["true"]);
    check(&output, step, kind);
}

fn faulty<'a>(world: &'a World, step: Step, kind: Kind) -> Session<'a> {
    let session = world.session().options(["--rm", "--env", &format!("AGENTD_FAULT={}", kind.at(step))]);
    // Steps that only some sessions have.
    match step {
        Step::Meter => session.options(["--disk", "64M"]),
        Step::Placeholder => session.options(["--workspace", ".:direct", "--mask", "made/for/it"]),
        _ => session,
    }
}

/// One line that says what went wrong, and at which step if the builder could still say it.
#[track_caller]
fn check(output: &RunOutput, step: Step, kind: Kind) {
    let line = output.stderr.trim_end();
    assert_eq!(output.code, Some(125), "{step} {kind:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{step} {kind:?}: one line: {line}");
    let says = match kind {
        Kind::Fail if step == Step::Answer => line.contains("keeper"),
        Kind::Fail => line.contains(step.name().trim_start_matches("prepare.")) && line.contains("injected"),
        // Who was killed, or was stopped for taking too long, reports nothing: the launcher does.
        Kind::Kill | Kind::Hang => !line.is_empty(),
    };
    assert!(says, "{step} {kind:?}: {line}");
    // At the last step the launcher knows of the session already.
    if step != Step::Answer {
        let form = line.strip_prefix("agentctl: refused: ").is_some_and(|rest| rest.contains(" (build."));
        assert!(form, "{step} {kind:?}: {line}");
    }
}

fn requests(world: &World, kind: Kind) {
    let before = settled(world);
    // One whose keeper hangs has been built: it runs until somebody ends it.
    let steps = Step::COMPLETE.iter().filter(|step| (kind, **step) != (Kind::Hang, Step::Answer));
    let started: Vec<_> = steps
        .map(|step| {
            let session = faulty(world, *step, kind);
            (*step, session.spawn(["true"]))
        })
        .collect();
    for (step, mut child) in started {
        // Of one account a few are built at a time, whether they hang or not.
        let ended = wait_for_exit(&mut child, Duration::from_secs(120));
        let status = ended.unwrap_or_else(|| panic!("{step} {kind:?} does not end"));
        let mut stderr = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().expect("a pipe"), &mut stderr)
            .expect("a pipe");
        let output = RunOutput { name: String::new(), code: status.code(), stdout: vec![], stderr };
        check(&output, step, kind);
    }
    before.assert_same_within(world.daemon(), LIMIT);
    let held = world.workspace(world.a()).join("made");
    let gone = within(LIMIT, || if held.exists() { Err("made") } else { Ok(()) });
    assert_eq!(gone, Ok(()), "{kind:?}: a placeholder stays");
    world.session().option("--rm").run(["true"]).expect_code(0);
    before.assert_same_within(world.daemon(), LIMIT);
}

/// No session can be built here: nothing may be there of those that were asked for.
fn preparing(world: &World, step: Step, kind: Kind) {
    // Where it hangs, each takes a builder's whole time.
    let times = if kind == Kind::Hang { 1 } else { 3 };
    for _ in 0..times {
        check(&world.session().option("--rm").run(["true"]), step, kind);
    }
    let clean = within(LIMIT, || {
        let now = Snapshot::take(world.daemon());
        let clean = now.cgroups.is_empty() && now.leases.is_empty() && now.uids.is_empty();
        if clean && now.processes.len() == 2 { Ok(now) } else { Err(format!("{now:#?}")) }
    });
    let before = clean.unwrap_or_else(|left| panic!("left behind by {step}: {left}"));
    if kind != Kind::Hang {
        check(&world.session().option("--rm").run(["true"]), step, kind);
        before.assert_same_within(world.daemon(), LIMIT);
    }
}
