//! Crowds and floods, seen from outside: what they take of the relay, of the keeper and of others.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use agentd_tests::harness::{
    Named, Parts, World, descriptors_of, long, patience, peak_memory, text_at, wait_for_exit,
};
use agentd_tests::tests;
use serde_json::Value;

use crate::internet;

pub const TESTS: &[Named] = tests![
    ten_thousand_slow_connections,
    more_connections_than_may_begin,
    a_flood_of_denied_connections,
    a_flood_of_allowed_connections,
];

/// Longer than what is left to do takes.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The most connections of a session.
const CONNECTIONS: usize = 1024;
/// What the relay may need, whatever its session does: its own, and buffers for each connection.
const RELAY_MEMORY: u64 = 64 << 20;
const KEEPER_MEMORY: u64 = 16 << 20;
/// Events of a flood to one place are one in 100 ms at the most, and one for each second in which there was no room.
const EVENTS: usize = 4096;

/// How many connections a flood has.
pub fn flood() -> u64 {
    const SECOND: Duration = Duration::from_secs(1);
    match long() {
        Some(_) => 1_000_000,
        None if patience(SECOND) > SECOND => 10_000,
        None => 100_000,
    }
}

/// A session of another user's reaches what it may, whatever goes on beside it.
fn others_go_on(world: &World) {
    let output = world.session().options(["--allow", "good.test"]).bash("curl -sS http://good.test/");
    assert_eq!(output.expect_code(0).text(), "this is good.test\n");
}

fn within_bounds(parts: &Parts) {
    let (relay, keeper) = (parts.relay.expect("a relay"), parts.keeper.expect("a keeper"));
    let memory = (peak_memory(relay), peak_memory(keeper));
    eprintln!(
        "relay and keeper: {memory:?} bytes, {} and {} descriptors",
        descriptors_of(relay),
        descriptors_of(keeper)
    );
    assert!(memory.0 > 0 && memory.0 < RELAY_MEMORY, "the relay has had {} bytes", memory.0);
    assert!(memory.1 > 0 && memory.1 < KEEPER_MEMORY, "the keeper has had {} bytes", memory.1);
    // Two for each connection, and pipes for those that carry much.
    let descriptors = descriptors_of(relay);
    assert!(descriptors < 4 * CONNECTIONS + 64, "the relay has {descriptors} descriptors");
    assert!(descriptors_of(keeper) < CONNECTIONS, "the keeper has {} descriptors", descriptors_of(keeper));
}

fn ten_thousand_slow_connections(world: &World) {
    let probe = world.daemon().probe().display().to_string();
    let session = world.session().with_probe().options(["--allow", "echo.test:7"]);
    let mut child = session.spawn([&probe, "--slow", "echo.test", "7", "10000", session.name()]);
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    assert_eq!(line, format!("{CONNECTIONS} of 10000\n"));
    within_bounds(&world.daemon().await_session(world.a(), session.name()));
    others_go_on(world);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("its output");
    assert_eq!(rest, "again\n");
    let status = wait_for_exit(&mut child, patience(EXIT_TIMEOUT)).expect("it ends");
    assert_eq!(status.code(), Some(0));
}

/// A session begins 4,096 at once and 512 in every second after that. What comes beyond that waits, and none is lost.
fn more_connections_than_may_begin(world: &World) {
    let probe = world.daemon().probe().display().to_string();
    let session = world.session().with_probe().options(["--allow", "echo.test:7"]);
    let name = session.name().to_owned();
    let output = session.run([&probe, "--quick", "echo.test", "7", "6000"]);
    assert_eq!(output.expect_code(0).text(), "6000 of 6000\n");
    let events = world.all_events(world.a(), &name);
    let count = |kind| events.iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((count("net.connect"), count("net.closed"), count("net.denied")), (6000, 6000, 0));
}

/// Runs a flood in a session that is looked at when it is over and reaches something then.
fn flooded(world: &World, name: &str, port: u16, allow: &str) -> (Value, Vec<Value>) {
    let probe = world.daemon().probe().display().to_string();
    let script =
        format!("{probe} --flood {name} {port} {}; read -r; curl -sS http://good.test/ # $0", flood());
    let session = world.session().with_probe().options(["--allow", "good.test", "--allow", allow]);
    let mut child = session.spawn(["bash", "-c", &script, session.name()]);
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    let tally: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    eprintln!("{name}:{port}: {tally}");
    within_bounds(&world.daemon().await_session(world.a(), session.name()));
    others_go_on(world);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("its output");
    assert_eq!(rest, "this is good.test\n");
    assert_eq!(wait_for_exit(&mut child, patience(EXIT_TIMEOUT)).and_then(|status| status.code()), Some(0));
    let tracked = (internet().host().tracked(), internet().internet().tracked());
    assert_eq!(tracked, (0, 0), "connections are tracked");
    (tally, world.all_events(world.a(), session.name()))
}

/// How many of a kind are recorded, with those that stand for many.
fn recorded(events: &[Value], kind: &str) -> (usize, u64) {
    let of_kind: Vec<_> = events.iter().filter(|event| event["kind"] == kind).collect();
    let count = |event: &&Value| event["net"]["count"].as_u64().unwrap_or(1);
    (of_kind.len(), of_kind.iter().map(count).sum())
}

/// Each is refused by the kernel; the record has each, or says how many it has not.
fn a_flood_of_denied_connections(world: &World) {
    let (tally, events) = flooded(world, "good.test", 8080, "other.test");
    assert_eq!(tally["refused"].as_u64(), Some(flood()), "{tally}");
    let (recorded, count) = recorded(&events, "net.denied");
    let dropped: u64 = events
        .iter()
        .filter(|event| event["kind"] == "audit.dropped")
        .map(|event| text_at(event, "/dropped/count").parse::<u64>().unwrap_or_else(|_| panic!("{event}")))
        .sum();
    eprintln!("{recorded} events stand for {count}, {dropped} are dropped");
    assert!(recorded < EVENTS, "{recorded} events");
    assert_eq!(count + dropped, flood(), "{recorded} events");
}

/// Each is accepted by the relay and gone before it has said anything, or there is no room for it: nobody is dialled
/// for any.
fn a_flood_of_allowed_connections(world: &World) {
    let (tally, events) = flooded(world, "other.test", 80, "other.test");
    assert_eq!(tally["refused"].as_u64(), Some(0), "{tally}");
    let connects = events.iter().filter(|event| event["kind"] == "net.connect");
    let dialled = connects.filter(|event| text_at(event, "/net/name") == "other.test").count();
    assert_eq!(dialled, 0, "something was dialled");
    let (recorded, _) = recorded(&events, "net.denied");
    eprintln!("{recorded} events of {}", events.len());
    assert!(events.len() < EVENTS, "{} events", events.len());
}
