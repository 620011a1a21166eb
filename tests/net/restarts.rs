//! Parts of agentd die while connections are open.

use std::io::Write;
use std::net::SocketAddrV4;
use std::time::Duration;

use agentd_tests::harness::{
    Named, Part, Parts, Snapshot, World, complete, kill, patience, signal, text_at, within,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::internet;
use crate::rules::rest;

pub const TESTS: &[Named] = &[
    ("a_killed_relay_ends_its_session", |_| ends(1, "relay", |parts| kill(parts.relay.expect("a relay")))),
    ("a_crashed_relay_ends_its_session", |_| {
        ends(2, "relay", |parts| signal(parts.relay.expect("a relay"), Signal::ABORT, true));
    }),
    ("a_killed_keeper_ends_its_session", |_| {
        ends(4, "keeper", |parts| kill(parts.keeper.expect("a keeper")))
    }),
    ("streams_outlive_the_service", |_| outlive(&[Part::Service])),
    ("streams_outlive_the_launcher", |_| outlive(&[Part::Launcher])),
    ("streams_outlive_both", |_| outlive(&[Part::Launcher, Part::Service])),
];

/// How long what ended may be seen.
const GONE: Duration = Duration::from_secs(5);
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The host as it is without a session.
fn settled(world: &World) -> Snapshot {
    world.session().past_the_proxy().option("--rm").run(["true"]).expect_code(0);
    Snapshot::settled(world.daemon())
}

/// Open connections of every kind, and then something happens to a part of their session.
fn ends(number: u8, what: &str, strike: fn(&Parts)) {
    let world = internet().world_without_spares();
    let clean = settled(&world);
    let to: SocketAddrV4 = format!("198.51.100.{}:80", 200 + number).parse().expect("an address");
    let session = world.session().past_the_proxy();
    let rules = [format!("{to}").replace(':', "/32:"), "echo.test:7".into(), "good.test".into()];
    let session = session.options(rules.iter().flat_map(|rule| ["--allow", rule]));
    // One whose server waits for the rest, one that both sides keep, one that carries much; and on and on.
    let script = format!(
        "exec 3<>/dev/tcp/{}/80 && printf 'GET / HTTP/1.1\\r\\n' >&3
        exec 4<>/dev/tcp/echo.test/7 && read -r <&4
        (while curl -sS -o /dev/null http://good.test/bulk; do :; done) &
        echo ready; cat <&3; cat <&4; wait; sleep 1000 # {}",
        to.ip(),
        session.name()
    );
    let child = session.spawn_ready(&script);
    let parts = world.daemon().await_session(world.a(), session.name());
    let (host, far) = (internet().host(), internet().internet());
    let open = || (host.connections(to).len(), far.connections(to).len());
    let dialled = within(patience(RECONNECT_TIMEOUT), || if open() == (1, 1) { Ok(()) } else { Err(open()) });
    assert_eq!(dialled, Ok(()), "connections to {to}");
    strike(&parts);
    let output = rest(child);
    assert_eq!(output.code, Some(125), "{}{}", output.text(), output.stderr);
    assert_eq!((output.stderr.lines().count(), output.stderr.contains(what)), (1, true), "{}", output.stderr);
    let gone = within(patience(GONE), || if open() == (0, 0) { Ok(()) } else { Err(open()) });
    assert_eq!(gone, Ok(()), "connections to {to}: {:?} {:?}", host.connections(to), far.connections(to));
    let over = within(patience(GONE), || {
        let events = world.events(world.a(), session.name());
        events.last().filter(|event| event["kind"] == "session.ended").cloned().ok_or(())
    });
    let end = over.expect("an end");
    assert_eq!(text_at(&end, "/lifecycle/reason"), "failed", "{end}");
    assert!(end.to_string().contains(what), "{end}");
    world.agentctl(world.a(), ["rm", session.name()]).expect_code(0);
    clean.assert_same_within(world.daemon(), GONE);
    world.end();
}

/// A download and echoes go on while `parts` are killed and started again; then the rules are changed.
fn outlive(parts: &[Part]) {
    let world = internet().world_of_units();
    let clean = settled(&world);
    let dir = world.workspace(world.a());
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    let rules = ["--allow", "good.test", "--allow", "git.test", "--allow", "echo.test:7"];
    let session = world.session_in(&dir).past_the_proxy().options(rules);
    let script =
        "python3 client.py through good.test; curl -sS http://good.test/; curl -sS http://other.test/
        curl -sS http://git.test/ 2>/dev/null || echo $?";
    let mut child = session.spawn_ready(script);
    parts.iter().for_each(|part| world.daemon().kill(*part));
    world.daemon().begin(parts);
    world.agentctl(world.a(), ["allow", session.name(), "other.test"]).expect_code(0);
    world.agentctl(world.a(), ["deny", session.name(), "git.test"]).expect_code(0);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    let output = rest(child);
    let mut sha256sum = world.a().command("/usr/bin/sha256sum");
    let digest =
        complete(sha256sum.arg("-"), std::fs::read(internet().bulk()).expect("a file"), "sum".into());
    let wanted = digest.text().replace("  -", "") + "this is good.test\nthis is other.test\n6\n";
    assert_eq!((output.text(), output.code), (wanted, Some(0)), "{}", output.stderr);
    told_once(&world.all_events(world.a(), session.name()));
    world.agentctl(world.a(), ["rm", session.name()]).expect_code(0);
    clean.assert_same_within(world.daemon(), GONE);
    world.end();
}

/// What was done before and after is recorded once, and in order.
fn told_once(events: &[Value]) {
    let places = |kind: &str, pointer: &str, wanted: &str| -> Vec<usize> {
        let all = events.iter().enumerate();
        all.filter(|(_, e)| e["kind"] == kind && text_at(e, pointer) == wanted).map(|(at, _)| at).collect()
    };
    let one = |kind: &str, pointer: &str, wanted: &str| match places(kind, pointer, wanted)[..] {
        [at] => at,
        ref others => panic!("{kind} with {wanted}: {} times in {events:#?}", others.len()),
    };
    let changes = ["allow other.test:80,443", "deny git.test"]
        .map(|text| one("policy.changed", "/policy/change", text));
    let echo = ["net.connect", "net.closed"].map(|kind| one(kind, "/net/name", "echo.test"));
    let other = ["net.connect", "net.closed"].map(|kind| one(kind, "/net/name", "other.test"));
    let order = [echo[0], changes[0], changes[1], echo[1], other[0], other[1]];
    assert!(order.is_sorted(), "{order:?} in {events:#?}");
    for kind in ["net.connect", "net.closed"] {
        assert_eq!(places(kind, "/net/name", "good.test").len(), 2, "{kind} in {events:#?}");
        assert_eq!(places(kind, "/net/name", "git.test").len(), 0, "{kind} in {events:#?}");
    }
    let received = |at: &usize| events[*at]["net"]["received"].as_u64().unwrap_or(0);
    let bulk = places("net.closed", "/net/name", "good.test").iter().map(received).max();
    assert!(bulk >= Some(16_777_216), "{bulk:?}");
    let curls =
        events.iter().filter(|e| e["kind"] == "process.exec" && text_at(e, "/exec/path") == "/usr/bin/curl");
    assert_eq!(curls.count(), 3, "{events:#?}");
    assert!(events.iter().all(|event| event["kind"] != "audit.dropped"), "{events:#?}");
}
