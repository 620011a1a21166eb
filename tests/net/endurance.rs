//! What only time shows: `AGENTD_TEST_MINUTES` says how long. `make soak` runs them.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentd_tests::harness::{Named, Snapshot, World, descriptors_of, long, not_tried, wait_for_exit};
use agentd_tests::tests;

use crate::internet;
use crate::rules::rest;

pub const TESTS: &[Named] = tests![streams_go_on, sessions_leave_nothing,];

/// Longer than what a stream takes beside its own time.
const MORE: Duration = Duration::from_secs(60);
/// Sessions at a time.
const AT_A_TIME: usize = 4;
/// What launcher and service may grow by: caches that fill, not leaks.
const GROWTH: u64 = 8 << 20;
const GONE: Duration = Duration::from_secs(5);

/// What sessions do with their egress, and the code that this ends with.
const KINDS: &[(&str, i32)] = &[
    ("curl -sS -o /dev/null http://good.test/", 0),
    ("curl -ksS -o /dev/null https://good.test/bulk", 0),
    ("curl -sS -o /dev/null -x http://127.0.0.1:3128 http://good.test/", 0),
    ("curl -sS http://evil.test/", 6),
    ("for i in {1..40}; do getent ahosts n$i.wild.test; done >/dev/null", 0),
    // Left open by the process that made them.
    ("for i in {10..60}; do eval \"exec $i<>/dev/tcp/echo.test/7\"; done", 0),
    ("curl -sS http://good.test/bulk | head -c 100000 >/dev/null; exit ${PIPESTATUS[1]}", 0),
    ("for i in {1..200}; do (exec 3<>/dev/tcp/192.0.2.1/80); done 2>/dev/null; exit 3", 3),
    ("curl -sS -o /dev/null http://good.test/bulk & kill -9 $$", 137),
];
const RULES: [&str; 8] =
    ["--allow", "good.test", "--allow", "*.wild.test", "--allow", "echo.test:7", "--deny", "evil.test"];

fn time() -> Duration {
    long().unwrap_or_else(|| not_tried("AGENTD_TEST_MINUTES does not say how long; make soak does"))
}

/// A WebSocket and server-sent events, each in a session of its own, a message a second both ways or one.
fn streams_go_on(world: &World) {
    let time = time();
    let seconds = time.as_secs();
    let dir = world.workspace(world.a());
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    world.a().write(dir.join("ca.pem"), std::fs::read(internet().authority()).expect("a certificate"));
    let scripts = [
        format!("echo ready; python3 client.py websocket stream.test {seconds} 1"),
        format!(
            "echo ready; curl -sSN --cacert ca.pem https://stream.test/app/events/{seconds}/1000 | grep -c '^data:'"
        ),
    ];
    let sessions = scripts.map(|script| {
        let session = world.session_in(&dir).past_the_proxy().options(["--allow", "stream.test"]);
        session.spawn_ready(&script)
    });
    let outputs = sessions.map(|mut child| {
        wait_for_exit(&mut child, time * 2 + MORE).expect("a stream ends");
        rest(child)
    });
    let said = outputs.map(|output| format!("{}{}", output.text(), output.stderr));
    assert_eq!(said, [format!("{seconds} echoes\n"), format!("{seconds}\n")]);
}

/// Sessions without a pause: afterwards the host is as it was, and nobody has grown.
fn sessions_leave_nothing(_: &World) {
    let time = time();
    let world = internet().world_without_spares();
    let number = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let one = || {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let outcome = match number % (KINDS.len() + 2) {
            at if at < KINDS.len() => of_a_kind(&world, KINDS[at]),
            at if at == KINDS.len() => abandoned(&world),
            _ => changed(&world),
        };
        let mut wrong = wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        wrong.extend(outcome.err());
        wrong.len() < 20
    };
    let _warm: Vec<bool> = (0..KINDS.len() + 2).map(|_| one()).collect();
    let clean = Snapshot::settled(world.daemon());
    let pids = [world.daemon().pid(), world.daemon().service_pid().expect("a service")];
    let before = pids.map(resident);
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| while Instant::now() < until && one() {});
        }
    });
    clean.assert_same_within(world.daemon(), GONE);
    let after = pids.map(resident);
    eprintln!(
        "{} sessions; launcher and service: {before:?} -> {after:?} bytes, {:?} descriptors",
        number.into_inner(),
        pids.map(descriptors_of)
    );
    assert_eq!(wrong.into_inner().unwrap_or_default(), Vec::<String>::new());
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + GROWTH, "grown from {before} to {after} bytes");
    }
    world.end();
}

fn of_a_kind(world: &World, (script, code): (&str, i32)) -> Result<(), String> {
    let output = world.session().past_the_proxy().option("--rm").options(RULES).bash(script);
    if output.code == Some(code) {
        Ok(())
    } else {
        Err(format!("{script}: {:?} {}", output.code, output.stderr))
    }
}

/// Its client is killed in the middle of a download.
fn abandoned(world: &World) -> Result<(), String> {
    let session = world.session().past_the_proxy().option("--rm").options(RULES);
    let mut child =
        session.spawn_ready("echo ready; while :; do curl -sS -o /dev/null http://good.test/bulk; done");
    let killed = child.kill().and_then(|()| child.wait());
    killed.map(drop).map_err(|error| error.to_string())
}

/// Its rules change while it has connections.
fn changed(world: &World) -> Result<(), String> {
    let session = world.session().past_the_proxy().option("--rm").options(RULES);
    let script = "exec 3<>/dev/tcp/echo.test/7; read -r <&3; echo ready; cat <&3; read -r; curl -sS http://other.test/";
    let mut child = session.spawn_ready(script);
    for change in [["deny", session.name(), "echo.test"], ["allow", session.name(), "other.test"]] {
        world.agentctl(world.a(), change).expect_code(0);
    }
    let reported = child.stdin.take().expect("a pipe").write_all(b"go\n");
    let output = rest(child);
    reported.map_err(|error| error.to_string())?;
    if output.text() == "this is other.test\n" { Ok(()) } else { Err(output.text() + &output.stderr) }
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
