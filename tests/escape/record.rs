//! Whatever a process does before, beside or instead: what runs is what the record names.
//!
//! The agent gains a record that says `id` where its own program ran, at its start and at its end.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use agentd_tests::harness::{Named, RunOutput, World, text_at};
use serde_json::Value;

pub const TESTS: &[Named] = &[
    ("execs_that_fail_first_name_nothing", |world| names_the_target(world, "too_long")),
    ("execs_that_are_checked_name_nothing", |world| names_the_target(world, "checked")),
    ("one_exec_that_is_checked_names_nothing", |world| names_the_target(world, "checked_once")),
    ("a_script_that_is_looked_at_did_not_run", |world| names_the_target(world, "script_looked_at")),
    ("an_unreadable_script_did_not_run", |world| names_the_target(world, "unreadable_script")),
    ("a_program_that_runs_itself_first", |world| names_the_target(world, "same_program")),
    ("two_threads_at_once", threads),
    ("a_thread_that_is_not_the_first", |world| names_the_target(world, "another_thread")),
    ("a_child_that_shares_memory", |world| names_the_target(world, "vfork")),
    ("a_process_that_its_child_traces", |world| names_the_target(world, "traced")),
    ("a_file_that_changes_its_number", |world| names_the_target(world, "copied_up")),
    ("a_loader_run_by_hand_is_the_loader", loader),
    ("a_file_without_a_name", no_name),
    ("a_program_that_dies_before_it_runs", fails_late),
    ("a_flood_of_failures_is_counted", fails_often),
    ("another_name_of_the_same_file", hard_link),
    ("scripts_of_scripts_are_one_event", scripts),
];

/// The compiled witness.
fn program(world: &World) -> &'static Path {
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = world.workspace(world.a()).join("record");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/escape/record.c");
        let built =
            Command::new("cc").args(["-w", "-O1", "-pthread", "-o"]).arg(&program).arg(source).status();
        assert!(built.expect("cc").success(), "record.c does not compile");
        program
    })
}

/// Runs the witness beside `target`, a program that ends after 0.3 s; its events.
fn run(world: &World, way: &str) -> (RunOutput, Vec<Value>) {
    let dir = world.workspace(world.a());
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, dir.join(name)).expect("a copy");
        world.a().own(dir.join(name));
    };
    copy(program(world), "record");
    copy(Path::new("/usr/bin/sleep"), "target");
    let executable = |name: &str, content: &[u8]| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(dir.join(name), content).expect("a file");
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o755)).expect("ours");
        world.a().own(dir.join(name));
    };
    executable("script", b"#!/bin/sh\nexit 0\n");
    executable("broken", &broken());
    let output = world.session_in(&dir).run(["./record", way]);
    let events = world.all_events(world.a(), &output.name);
    (output, events)
}

/// A program whose first segment cannot be mapped: the old image is gone by then.
fn broken() -> Vec<u8> {
    let mut bytes = std::fs::read("/usr/bin/true").expect("a program");
    let at = |bytes: &[u8], offset: usize| {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight"))
    };
    let (table, size, count) =
        (usize::try_from(at(&bytes, 32)).unwrap(), 56, u16::from_le_bytes([bytes[56], bytes[57]]));
    for header in (0..usize::from(count)).map(|n| table + n * size) {
        if bytes[header] == 1 {
            // p_vaddr, far outside of what a process may have.
            bytes[header + 16..header + 24].copy_from_slice(&0x00ff_ffff_ffff_f000_u64.to_le_bytes());
            break;
        }
    }
    bytes
}

fn execs(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["kind"] == "process.exec").collect()
}

fn is(event: &Value, pointer: &str, name: &str) -> bool {
    text_at(event, pointer).rsplit('/').next() == Some(name)
}

/// No event says that one of the decoys ran, or ended.
fn no_decoy(events: &[Value]) {
    for decoy in ["id", "env", "cat", "cp", "mv", "rm", "ln", "head", "tail", "script"] {
        let lies = |e: &&Value| {
            e["exec"]["result"] == "ran" && (is(e, "/exec/path", decoy) || is(e, "/exec/image", decoy))
        };
        assert_eq!(execs(events).into_iter().find(lies), None, "{decoy} did not run: {events:#?}");
        let ended = events.iter().find(|e| e["kind"] == "process.exit" && is(e, "/actor/exe", decoy));
        assert_eq!(ended, None, "{decoy} did not end");
    }
    for event in execs(events) {
        let result = text_at(event, "/exec/result");
        assert!(["ran", "failed", "unknown"].contains(&result.as_str()), "{event}");
    }
}

/// That `name` ran, and what ended is it.
fn ran<'a>(events: &'a [Value], name: &str) -> &'a Value {
    let found = execs(events).into_iter().find(|e| e["exec"]["result"] == "ran" && is(e, "/exec/path", name));
    let found = found.unwrap_or_else(|| panic!("nothing says that {name} ran: {events:#?}"));
    let pid = &found["actor"]["pid"];
    let exit =
        events.iter().find(|e| e["kind"] == "process.exit" && e["actor"]["pid"] == *pid).expect("its end");
    assert!(is(exit, "/actor/exe", name), "{exit}");
    found
}

fn names_the_target(world: &World, way: &str) {
    let (output, events) = run(world, way);
    assert_eq!(output.code, Some(0), "{}{}", output.text(), output.stderr);
    no_decoy(&events);
    ran(&events, "target");
    // The keeper cannot read the unreadable one, and Linux before 6.14 opens nothing for AT_EXECVE_CHECK.
    let decoys =
        execs(&events).into_iter().filter(|e| is(e, "/exec/path", "id") || is(e, "/exec/path", "script"));
    let (decoys, doubtful): (Vec<_>, _) = (decoys.collect(), way == "unreadable_script");
    assert!(!decoys.is_empty() || way.starts_with("checked"), "{events:#?}");
    let failed = |e: &Value| e["exec"]["result"] == "failed" || doubtful && e["exec"]["result"] == "unknown";
    assert!(decoys.iter().all(|e| failed(e)), "what failed is not said to: {decoys:#?}");
}

/// Which of the two runs is the kernel's choice: of each process the record names the one that did.
fn threads(world: &World) {
    let (output, events) = run(world, "threads");
    let said = output.text().matches("uid=").count();
    let of = |name: &str| {
        execs(&events)
            .into_iter()
            .filter(|e| e["exec"]["result"] == "ran" && is(e, "/exec/path", name))
            .count()
    };
    let (targets, decoys) = (of("target"), of("id"));
    // `id` has written its line exactly where it ran; it is over in a moment, so it may be unknown, never the target.
    assert!(decoys <= said && targets == 20 - said, "{said} {decoys} {targets}: {events:#?}");
    let exits =
        events.iter().filter(|e| e["kind"] == "process.exit" && is(e, "/actor/exe", "target")).count();
    assert_eq!(exits, targets, "{events:#?}");
}

fn loader(world: &World) {
    let (output, events) = run(world, "loader_of_another");
    assert_eq!(output.code, Some(0), "{}{}", output.text(), output.stderr);
    no_decoy(&events);
    let lies = execs(&events).into_iter().find(|e| is(e, "/exec/path", "target"));
    assert_eq!(lies, None, "the kernel ran the loader");
    let loader = execs(&events).into_iter().find(|e| text_at(e, "/exec/path").contains("/ld-linux"));
    assert_eq!(loader.expect("the loader's event")["exec"]["result"], "ran");
}

fn no_name(world: &World) {
    let (output, events) = run(world, "no_name");
    assert_eq!(output.code, Some(0), "{}{}", output.text(), output.stderr);
    no_decoy(&events);
    let found = execs(&events).into_iter().find(|e| text_at(e, "/exec/path").ends_with("(deleted)"));
    assert_eq!(found.unwrap_or_else(|| panic!("{events:#?}"))["exec"]["result"], "ran");
}

fn fails_late(world: &World) {
    let (output, events) = run(world, "fails_late");
    assert_eq!(output.code, Some(0), "{}{}", output.text(), output.stderr);
    let broken: Vec<_> = execs(&events).into_iter().filter(|e| is(e, "/exec/path", "broken")).collect();
    assert!(!broken.is_empty(), "{events:#?}");
    assert!(broken.iter().all(|e| e["exec"]["result"] != "ran"), "no instruction of it ran: {broken:#?}");
}

/// The count is of all of them: with what found no room, and was refused for it.
fn fails_often(world: &World) {
    let (output, events) = run(world, "fails_often");
    assert_eq!(output.code, Some(0), "{}{}", output.text(), output.stderr);
    no_decoy(&events);
    ran(&events, "target");
    let of_id: Vec<_> = execs(&events).into_iter().filter(|e| is(e, "/exec/path", "id")).collect();
    let counted: u64 = of_id.iter().map(|e| e["exec"]["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(counted, 5000, "{} events", of_id.len());
    assert!(of_id.len() < 500, "{} events", of_id.len());
}

fn hard_link(world: &World) {
    let dir = world.workspace(world.a());
    std::fs::copy("/usr/bin/sleep", dir.join("target")).expect("a copy");
    std::fs::hard_link(dir.join("target"), dir.join("alias")).expect("the same file system");
    let output = world.session_in(&dir).run(["./alias", "0.3"]).expect_code(0);
    ran(&world.all_events(world.a(), &output.name), "alias");
}

fn scripts(world: &World) {
    let dir = world.workspace(world.a());
    use std::os::unix::fs::PermissionsExt;
    std::fs::copy("/usr/bin/sleep", dir.join("target")).expect("a copy");
    for (name, content) in [("inner", "#!./target 0.3\n"), ("outer", "#!./inner\n")] {
        world.a().write(dir.join(name), content);
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o755)).expect("a file");
    }
    // `sleep 0.3 ./inner ./outer` says that those are no times, after it was looked at.
    let output = world.session_in(&dir).bash("./outer; true").expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let outer: Vec<_> = execs(&events).into_iter().filter(|e| is(e, "/exec/path", "outer")).collect();
    assert_eq!(outer.len(), 1, "{events:#?}");
    let interpreters = text_at(outer[0], "/exec/interpreters");
    assert!(interpreters.contains("/inner") && interpreters.contains("/target"), "{}", outer[0]);
    if outer[0]["exec"]["result"] == "ran" {
        assert!(is(outer[0], "/exec/image", "target"), "{}", outer[0]);
    }
}
