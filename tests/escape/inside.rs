//! Each case in a session of its own.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use agentd_tests::harness::{RunOutput, Session, Snapshot, World, complete, text_at, wait_for_exit, within};
use agentd_tests::probe::{Case, cases};
use serde_json::Value;

use crate::fixture::{Place, system};

/// Runs `case` as the command of a session: it must fail as its table says, and be seen.
pub fn check(world: &World, case: &Case) {
    let place = Place::new(world, case);
    let output = session(world, case, &place).run(command(world, case, &place));
    judge(world, case, &place, &output);
}

/// The same as a further command of a session that runs.
pub fn check_later(world: &World, case: &Case) {
    let place = Place::new(world, case);
    let first = session(world, case, &place).option("--detach").run(["sleep", "1000"]).expect_code(0);
    let mut agentctl = world.a().command(world.daemon().agentctl());
    agentctl.arg("--socket").arg(world.daemon().socket()).args(["exec", &first.name, "--"]);
    agentctl.args(command(world, case, &place));
    let output = complete(&mut agentctl, vec![], first.name);
    world.agentctl(world.a(), ["stop", "--time", "0s", &output.name]).expect_code(0);
    judge(world, case, &place, &output);
    world.agentctl(world.a(), ["rm", &output.name]).expect_code(0);
}

fn session<'a>(world: &'a World, case: &Case, place: &Place) -> Session<'a> {
    let input = place.fill("{input}");
    let socket = place.fill("{host_socket}");
    world
        .session_in(&place.workspace)
        .with_probe()
        .options(["--read", &input])
        .options(place.fill_all(case.options))
        .env("SSH_AUTH_SOCK", &socket)
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={socket}"))
}

fn command(world: &World, case: &Case, place: &Place) -> Vec<String> {
    let mut command = vec![world.daemon().probe().display().to_string(), case.name.to_owned()];
    command.extend(place.fill_all(case.args));
    command
}

fn judge(world: &World, case: &Case, place: &Place, output: &RunOutput) {
    let probe = world.daemon().probe().display().to_string();
    if !(case.may_end_session && output.code == Some(137)) {
        let output_text = output.text();
        assert_eq!(output.code, Some(0), "the probe broke: {output_text}{}", output.stderr);
        let report: Value = serde_json::from_str(output_text.trim()).expect("a line of JSON");
        assert_eq!(report["ok"], false, "{} got {}: {}", case.name, case.gain, report["detail"]);
        let errno = report["errno"].as_i64().expect("an error number");
        let errno = i32::try_from(errno).expect("an error number");
        assert!(case.refused.contains(&errno), "{}: errno {errno} ({})", case.name, report["detail"]);
    }
    let events = world.all_events(world.a(), &output.name);
    let of = |kind: &str| events.iter().filter(|e| e["kind"] == kind).cloned().collect::<Vec<_>>();
    let ran = of("process.exec").iter().any(|e| text_at(e, "/exec/path") == probe);
    assert!(ran, "no event of the probe's own start: {events:#?}");
    place.assert_unharmed(world);
    if let Some(call) = case.recorded_call {
        let found = of("confine.denied").iter().any(|event| {
            let of_probe = text_at(event, "/actor/exe") == probe && event["decision"] == "deny";
            of_probe && text_at(event, "/confine/call") == call
        });
        assert!(found, "{call} was refused and is not on record: {events:#?}");
    }
    if let Some(seen) = &case.seen {
        let found = of(seen.kind).iter().any(|event| {
            seen.fields.iter().all(|(pointer, wanted)| text_at(event, pointer) == place.fill(wanted))
        });
        assert!(found, "no event {} with {:?} in {events:#?}", seen.kind, seen.fields);
    }
}

/// The table itself: at least as many cases as were promised, each with a name of its own.
pub fn table(_: &World) {
    let names: BTreeSet<_> = cases().map(|case| case.name).collect();
    assert_eq!(names.len(), cases().count(), "two cases of one name");
    assert!(names.len() >= 60, "{} cases", names.len());
    for case in cases() {
        assert!(!case.gain.is_empty() && !case.refused.is_empty(), "{}", case.name);
    }
}

/// What has forked twice, leads a session and ignores signals still ends with its agentd session.
pub fn double_fork(world: &World) {
    let before = Snapshot::take(world.daemon());
    let probe = world.daemon().probe();
    let name = "outlives-it";
    let session = world.session().with_probe();
    let script = format!("{} --outlive {name}; sleep 0.3; cat /proc/[0-9]*/comm", probe.display());
    let output = session.bash(&script).expect_code(0);
    assert!(output.text().contains(name), "it did not even start: {}", output.text());
    let gone = within(Duration::from_secs(2), || {
        let now = Snapshot::take(world.daemon());
        let left: Vec<_> = now.processes.iter().filter(|p| p.contains(name)).cloned().collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(gone, Ok(()), "before: {:?}", before.processes);
}

/// A second session of the same user: no signal, no file, no socket of the first reaches it.
pub fn other_session(world: &World) {
    let first = world.session();
    let mut child = first.spawn(["bash", "-c", "echo secret > /tmp/mine; echo up; sleep 60 & wait"]);
    let mut up = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut up).expect("a line");
    assert_eq!(up, "up\n");
    let script = "kill -9 -1; cat /tmp/mine /proc/*/root/tmp/mine; ls -d /proc/[0-9]* | wc -l";
    let output = world.session().bash(&format!("({script}) 2>&1; true"));
    assert!(!output.text().contains("secret\n"), "{}", output.text());
    let state = world.agentctl(world.a(), ["ps", "--json"]).expect_code(0).text();
    assert!(state.contains(first.name()), "the first session ended: {state}");
    world.agentctl(world.a(), ["kill", first.name()]).expect_code(0);
    let status = wait_for_exit(&mut child, Duration::from_secs(10)).expect("a killed session ends");
    assert_eq!(status.code(), Some(137));
}

/// Arguments that would steer a terminal are shown escaped, and as they are in JSON.
pub fn hostile_output(world: &World) {
    let output =
        world.session().run(["bash", "-c", "/bin/true $'\\e]52;c;aGk=\\a\\n'; exit 0"]).expect_code(0);
    let shown = world.agentctl(world.a(), ["events", &output.name]).expect_code(0);
    assert!(!shown.stdout.contains(&0x1b) && !shown.stdout.contains(&7), "{:?}", shown.text());
    let listed = world.agentctl(world.a(), ["ps", "-a"]).expect_code(0);
    assert!(!listed.stdout.contains(&0x1b), "{:?}", listed.text());
}

/// /usr is a bind, because a view would mix old and new libraries: what SECURITY.md says that remains of the host
/// there. Whoever ends it has a sentence to change.
pub fn remains(world: &World) {
    let system = &system(world).usr;
    for (case, name) in [
        ("input_watch", "busy"),
        ("input_lock", "locked"),
        ("input_fifo_read", "fifo"),
        ("opt_socket", "sock"),
    ] {
        let path = system.join(name).display().to_string();
        let probe = world.daemon().probe().display().to_string();
        let output = world.session().with_probe().run([probe.as_str(), case, &path]).expect_code(0);
        let report: Value = serde_json::from_str(output.text().trim()).expect("a line of JSON");
        assert_eq!(report["ok"], true, "{case} on /usr: {report}");
    }
}
