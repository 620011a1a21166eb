//! What a session wrote is deleted when it is to be, whatever happens meanwhile, and never otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agentd_tests::harness::{Alone, Part, Setup, World, alone, text_at, wait_for_exit, within};
use serde_json::Value;

use crate::UNPREPARED;

/// Between two tries there is a second at first.
const AGAIN: Duration = Duration::from_secs(15);

/// The tests of this file.
pub fn tests() -> Vec<Alone> {
    let units = || Setup::with(UNPREPARED).as_units();
    let named = |name: &str, setup, test: fn(&World)| alone(&format!("recovery::{name}"), setup, test);
    vec![
        named("a_record_that_cannot_be_read_keeps_its_overlay", units(), torn),
        named("a_deletion_that_fails_is_tried_again", units(), again),
        named("a_deletion_is_taken_up_by_the_next_launcher", units(), taken_up),
        named(
            "directories_made_ahead_are_no_leak_and_go_with_their_launcher",
            Setup::default().as_units(),
            ahead,
        ),
        named("a_session_of_another_format_is_ended_by_name", units(), of_another_format),
        named("what_it_did_unheard_is_not_lost_in_silence", units(), undelivered),
        named("a_service_that_dies_again_and_again_ends_no_session", Setup::with(UNPREPARED), dying),
    ]
}

/// The id of a session that wrote `word` into `note`, and the directory of its overlay.
fn session_with(world: &World, word: &str) -> (String, PathBuf) {
    let output = world.session().bash(&format!("mkdir -p d; echo {word} > d/note")).expect_code(0);
    let text = world.agentctl(world.a(), ["inspect", &output.name, "--json"]).expect_code(0).text();
    let row: Value = serde_json::from_str(&text).expect("an object");
    let id = row["session"]["id"].as_str().expect("an id").to_owned();
    let overlay = world.daemon().state().join(format!("overlays/u{}", world.a().uid)).join(&id);
    assert_eq!(notes(&overlay).len(), 1, "{}", overlay.display());
    (id, overlay)
}

/// The files called `note` below `dir`.
fn notes(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(notes(&entry.path()));
        } else if entry.file_name() == "note" {
            found.push(entry.path());
        }
    }
    found
}

/// What waits for a session that nobody has asked for yet.
fn ahead(world: &World) {
    let daemon = world.daemon();
    let waiting = || -> Vec<String> {
        let user = daemon.state().join(format!("overlays/u{}", world.a().uid));
        let names = std::fs::read_dir(user).into_iter().flatten().flatten().map(|e| e.file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("lease-")).collect()
    };
    let some = || within(AGAIN, || if waiting().is_empty() { Err(()) } else { Ok(waiting()) });
    session_with(world, "first");
    let before = some().expect("the next session is prepared");
    let (_, overlay) = session_with(world, "second");
    let gone = before.iter().find(|name| !waiting().contains(name));
    assert!(gone.is_some(), "the second session, in {}, took none of {before:?}", overlay.display());
    let admin = world.agentctl(world.admin(), ["doctor", "--leaks"]);
    assert!(!admin.text().contains("lease-"), "{}", admin.text());
    some().expect("one more is prepared");
    daemon.kill(Part::Launcher);
    daemon.begin(&[Part::Launcher]);
    let left = within(AGAIN, || if waiting().is_empty() { Ok(()) } else { Err(waiting()) });
    assert_eq!(left, Ok(()), "no session will ever take them");
    assert_eq!(notes(&overlay).len(), 1, "what was written is still there");
}

/// A launcher that meets a lease of another version of agentd: the session is ended for that reason, what it wrote and
/// what is on record of it stay.
fn of_another_format(world: &World) {
    let daemon = world.daemon();
    let session = world.session();
    let script = format!(": {}; mkdir d; echo word > d/note; echo ready; read line", session.name());
    let mut running = session.spawn_ready(&script);
    let parts = daemon.await_session(world.a(), session.name());
    daemon.kill(Part::Service);
    daemon.kill(Part::Launcher);
    let file = daemon.runtime().join("leases").join(&parts.lease);
    raise_format(&file);
    daemon.begin(&[Part::Launcher, Part::Service]);
    let ended = wait_for_exit(&mut running, Duration::from_secs(60)).expect("it ends");
    assert_eq!(ended.code(), Some(125));
    let text = world.agentctl(world.a(), ["inspect", session.name(), "--json"]).expect_code(0).text();
    let row: Value = serde_json::from_str(&text).expect("an object");
    let id = row["session"]["id"].as_str().expect("an id");
    let overlay = daemon.state().join(format!("overlays/u{}", world.a().uid)).join(id);
    assert_eq!(notes(&overlay).len(), 1, "what it wrote is gone");
    let events = world.all_events(world.a(), session.name());
    let kinds: Vec<_> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds.first(), Some(&"session.created"), "{kinds:?}");
    let last = events.last().expect("an event");
    assert_eq!(last["kind"], "session.ended");
    assert!(last.to_string().contains("another version of agentd"), "{last}");
    world.session().run(["true"]).expect_code(0);
    world.agentctl(world.a(), ["rm", session.name()]).expect_code(0);
    assert!(!overlay.exists());
}

/// What a session did while there was no service, and another version comes: none of it can be had any more, and the
/// record says that something is missing.
fn undelivered(world: &World) {
    let daemon = world.daemon();
    let dir = world.workspace(world.a());
    let session = world.session_in(&dir).options(["--workspace", ".:direct"]);
    let script = format!(
        ": {}; echo ready; until [ -e go ]; do sleep 0.05; done; date > out; read line",
        session.name()
    );
    let mut running = session.spawn_ready(&script);
    let parts = daemon.await_session(world.a(), session.name());
    daemon.kill(Part::Service);
    world.a().write(dir.join("go"), "");
    let done = || std::fs::metadata(dir.join("out")).is_ok_and(|out| out.len() > 0);
    within(AGAIN, || if done() { Ok(()) } else { Err("date did not run".to_owned()) })
        .expect("a program that runs");
    daemon.kill(Part::Launcher);
    raise_format(&daemon.runtime().join("leases").join(&parts.lease));
    daemon.begin(&[Part::Launcher, Part::Service]);
    wait_for_exit(&mut running, Duration::from_secs(60)).expect("it ends");
    let events = world.all_events(world.a(), session.name());
    let date = events.iter().any(|event| text_at(event, "/exec/path") == "/usr/bin/date");
    let dropped = events.iter().any(|event| event["kind"] == "audit.dropped");
    assert!(date || dropped, "{events:#?}");
}

/// Gives the record in a lease's file the format after the one that it has.
fn raise_format(file: &Path) {
    const HEADER: usize = 12;
    let mut bytes = std::fs::read(file).expect("the lease is on record");
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    let body = &mut bytes[HEADER..HEADER + usize::try_from(length).expect("a length")];
    let format = u16::from_le_bytes([body[0], body[1]]) + 1;
    body[..2].copy_from_slice(&format.to_le_bytes());
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let sum = body.iter().fold(0xcbf2_9ce4_8422_2325, step);
    bytes[4..HEADER].copy_from_slice(&u64::to_le_bytes(sum));
    std::fs::write(file, bytes).expect("root may write it");
}

fn torn(world: &World) {
    let daemon = world.daemon();
    let sessions: Vec<_> = ["whole", "torn", "empty", "of-another-version"]
        .iter()
        .map(|word| session_with(world, word))
        .collect();
    daemon.kill(Part::Service);
    let path = |id: &str| daemon.state().join(format!("audit/{id}.json"));
    let whole = std::fs::read(path(&sessions[1].0)).expect("a record");
    std::fs::write(path(&sessions[1].0), &whole[..whole.len() / 2]).expect("a file of ours");
    std::fs::write(path(&sessions[2].0), "").expect("a file of ours");
    let text = std::fs::read_to_string(path(&sessions[3].0)).expect("a record");
    std::fs::write(path(&sessions[3].0), text.replace("\"version\":", "\"version\":9"))
        .expect("a file of ours");
    daemon.begin(&[Part::Service]);
    world.agentctl(world.admin(), ["doctor", "--leaks", "--clean", "--json"]);
    for (id, overlay) in &sessions {
        assert_eq!(notes(overlay).len(), 1, "what session {id} wrote is gone");
    }
    // The session that is known is deleted when its user says so.
    world.agentctl(world.a(), ["rm", &sessions[0].0]).expect_code(0);
    assert!(!sessions[0].1.exists());
}

/// Whether a file can be made such that root cannot delete it.
fn immutable(file: &Path, on: bool) -> bool {
    let status = Command::new("chattr").arg(if on { "+i" } else { "-i" }).arg(file).status();
    status.is_ok_and(|status| status.success())
}

fn again(world: &World) {
    let (id, overlay) = session_with(world, "stays");
    let note = notes(&overlay).remove(0);
    if !immutable(&note, true) {
        eprintln!("NOT TRIED: chattr +i does not work below {}", overlay.display());
        return;
    }
    let refused = world.agentctl(world.a(), ["rm", &id]);
    assert_ne!(refused.code, Some(0), "it cannot be deleted");
    let user = overlay.parent().expect("a user's").to_owned();
    let left = notes(&user);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(immutable(&left[0], false));
    let gone = within(AGAIN, || if notes(&user).is_empty() { Ok(()) } else { Err(notes(&user)) });
    assert_eq!(gone, Ok(()), "it is not tried again");
}

fn taken_up(world: &World) {
    let (id, overlay) = session_with(world, "stays");
    let note = notes(&overlay).remove(0);
    if !immutable(&note, true) {
        eprintln!("NOT TRIED: chattr +i does not work below {}", overlay.display());
        return;
    }
    assert_ne!(world.agentctl(world.a(), ["rm", &id]).code, Some(0), "it cannot be deleted");
    let daemon = world.daemon();
    daemon.kill(Part::Launcher);
    let user = overlay.parent().expect("a user's").to_owned();
    assert!(notes(&user).iter().all(|note| immutable(note, false)));
    daemon.begin(&[Part::Launcher]);
    let gone = within(AGAIN, || if notes(&user).is_empty() { Ok(()) } else { Err(notes(&user)) });
    assert_eq!(gone, Ok(()), "nobody deletes it");
}

/// More deaths than there were ever allowed, within seconds.
fn dying(world: &World) {
    let daemon = world.daemon();
    let session = world.session();
    let mut running = session.spawn_ready("echo ready; read line; exit 7");
    let mut last = daemon.service_pid().expect("it runs");
    for number in 0..8 {
        daemon.kill(Part::Service);
        let new =
            within(Duration::from_secs(30), || daemon.service_pid().filter(|pid| *pid != last).ok_or(()));
        last = new.unwrap_or_else(|()| panic!("after death {number} the service is not started again"));
    }
    let there = within(Duration::from_secs(30), || {
        let rows = world.agentctl(world.a(), ["ps", "--json"]);
        let rows = if rows.code == Some(0) { rows.text() } else { String::new() };
        if rows.contains(session.name()) { Ok(()) } else { Err(rows) }
    });
    assert_eq!(there, Ok(()), "the session is gone");
    world.agentctl(world.a(), ["kill", session.name()]).expect_code(0);
    wait_for_exit(&mut running, Duration::from_secs(30)).expect("it ends");
}
