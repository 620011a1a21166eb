//! What rules let through at most: connections at a time, and bytes from the session in its whole life.

use std::io::{BufRead, BufReader, Write};

use agentd_tests::harness::{Named, Session, World, text_at};
use agentd_tests::tests;
use serde_json::Value;

use crate::internet;
use crate::rules::rest;

pub const TESTS: &[Named] = tests![
    bytes_end_at_the_cap,
    an_upload_by_tls_or_in_chunks_ends_at_the_cap,
    datagrams_end_at_the_cap,
    no_more_connections_are_open_than_the_cap_says,
    what_a_cap_refuses_says_so,
    an_allow_lifts_what_it_names_and_begins_nothing_anew,
    caps_are_shown,
];

/// A session with a profile of these entries.
fn capped<'a>(world: &'a World, entries: &str) -> Session<'a> {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("caps.py"), include_str!("caps.py"));
    world.a().write(dir.join("ca.pem"), std::fs::read(internet().authority()).expect("a certificate"));
    let profile = format!("schema = 1\nname = \"caps\"\nextends = [\"default\"]\n{entries}");
    world.a().write(dir.join("caps.toml"), profile);
    world.session_in(&dir).past_the_proxy().options(["--profile", "./caps.toml"])
}

fn entry(host: &str, port: u16, rest: &str) -> String {
    format!("[[network.allow]]\nhost = \"{host}\"\nports = [{port}]\n{rest}\n")
}

/// Of a kind, in a session.
fn events(world: &World, session: &str, kind: &str) -> Vec<Value> {
    let all = world.all_events(world.a(), session);
    all.into_iter().filter(|event| event["kind"] == kind).collect()
}

/// Bytes and reason of each connection that ended.
fn ends(world: &World, session: &str) -> Vec<(u64, String)> {
    let closed = events(world, session, "net.closed");
    closed
        .iter()
        .map(|event| (event["net"]["sent"].as_u64().unwrap_or(0), text_at(event, "/net/reason")))
        .collect()
}

fn denied_by(world: &World, session: &str, rule: &str) -> bool {
    events(world, session, "net.denied").iter().any(|event| text_at(event, "/rule") == rule)
}

fn bytes_end_at_the_cap(world: &World) {
    let session = capped(world, &entry("echo.test", 7, "max_sent = 100500"));
    let output = session.bash("python3 caps.py echo 200000; python3 caps.py echo 1000");
    assert_eq!(output.code, Some(1), "{}", output.text());
    let back: u64 = output.text().split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    // The last part may be lost on its way back.
    assert!((100_000..=100_500).contains(&back), "{} {}", output.text(), output.stderr);
    assert_eq!(ends(world, &output.name), [(100_500, "limit".to_owned())]);
    assert!(denied_by(world, &output.name, "cap.sent echo.test:7"));
}

fn an_upload_by_tls_or_in_chunks_ends_at_the_cap(world: &World) {
    let post = "head -c 300000 /dev/zero >zeros; curl -sS --http1.1 -H Expect: --data-binary @zeros";
    let tls = "--cacert ca.pem https://good.test/app/upload";
    let chunks = "-H 'Transfer-Encoding: chunked' http://good.test/";
    for (port, to) in [(443, tls), (80, chunks)] {
        let session = capped(world, &entry("good.test", port, "max_sent = \"100K\""));
        // A client that had its answer before may call that good.
        let output = session.bash(&format!("{post} {to}"));
        assert_eq!(ends(world, &output.name), [(100 << 10, "limit".to_owned())], "{}", output.stderr);
        assert!(denied_by(world, &output.name, &format!("cap.sent good.test:{port}")));
    }
}

fn datagrams_end_at_the_cap(world: &World) {
    let udp = "protocol = \"udp\"\nmax_sent = 105";
    let output = capped(world, &entry("echo.test", 7, udp)).bash("python3 caps.py datagrams 20 10 100");
    assert_eq!(output.text(), "100 back\n", "{}", output.stderr);
    assert_eq!(ends(world, &output.name), [(100, "limit".to_owned())]);
    assert!(denied_by(world, &output.name, "cap.sent echo.test:7/udp"));
}

fn no_more_connections_are_open_than_the_cap_says(world: &World) {
    let session = capped(world, &entry("echo.test", 7, "max_connections = 3"));
    let output = session.bash("python3 caps.py held 5").expect_code(0);
    assert_eq!(output.text(), "3 at a time, one more later\n", "{}", output.stderr);
    assert!(denied_by(world, &output.name, "cap.connections echo.test:7"));
}

fn what_a_cap_refuses_says_so(world: &World) {
    let session = capped(world, &entry("good.test", 80, "max_sent = 1"));
    let script = "curl -sS http://good.test/ 2>/dev/null; curl -sSD - -o /dev/null http://good.test/";
    let text = session.bash(script).expect_code(0).text().to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 403 "), "{text}");
    assert!(text.contains("\nx-agentd-reason: cap.sent good.test:80\r\n"), "{text}");
}

fn an_allow_lifts_what_it_names_and_begins_nothing_anew(world: &World) {
    let session = capped(world, &entry("echo.test", 7, "max_sent = 1500"));
    let script = "python3 caps.py echo 9000 >/dev/null; echo ready; read -r
        python3 caps.py echo 1000 2>/dev/null || echo refused; read -r; python3 caps.py echo 9000";
    let mut child = session.spawn_ready(script);
    let allow = |rule| world.agentctl(world.a(), ["allow", session.name(), rule]).expect_code(0);
    // Neither another name nor another port is of that rule.
    allow("other.test");
    allow("echo.test:80");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"go\n").expect("it reads");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "refused\n");
    allow("echo.test:7");
    stdin.write_all(b"go\n").expect("it reads");
    let output = rest(child);
    assert_eq!(output.text(), "9000 back\n", "{}", output.stderr);
    assert!(denied_by(world, session.name(), "cap.sent echo.test:7"));
}

fn caps_are_shown(world: &World) {
    let entries = entry("echo.test", 7, "max_connections = 3\nmax_sent = \"10M\"");
    let session = capped(world, &entries);
    let mut child = session.spawn_ready("echo ready; read -r");
    let inspected = world.agentctl(world.a(), ["inspect", session.name()]).expect_code(0).text();
    assert!(inspected.contains("echo.test:7, 3 at a time, 10M sent in all\n"), "{inspected}");
    let json = world.agentctl(world.a(), ["inspect", "--json", session.name()]).expect_code(0).text();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let cap = &json["network"]["caps"][0];
    assert_eq!(
        (text_at(cap, "/rule"), text_at(cap, "/max_sent")),
        ("echo.test:7".into(), "10485760".into()),
        "{json}"
    );
    drop(child.stdin.take());
    rest(child);
    let plan = capped(world, &entries).option("--dry-run").run(["true"]).expect_code(0).text();
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(plan["network"]["caps"][0]["caps"]["connections"], 3, "{plan}");
}
