//! The socket on which numbers are asked for.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::time::Duration;

use agentd_proto::v1::{AskedLimits, RunSpec};
use agentd_tests::harness::{Part, User, World, number_of, within};

use crate::scrape::{GET, ask, connect, rest, scrape, value};

const LIMIT: Duration = Duration::from_secs(20);

/// A denied connection, then what stdin says.
const AGENT: &str = "exec 3<>/dev/tcp/192.0.2.1/80; echo ready; read x; exit 3";

pub fn counted(world: &World) {
    let before = scrape(world);
    let session = world.session();
    let name = session.name().to_owned();
    let mut child = session.spawn_ready(AGENT);
    let during = scrape(world);
    assert_eq!(value(&during, "agentd_sessions{state=\"running\"}"), 1.0, "{during}");
    assert_eq!(value(&during, "agentd_clients{what=\"commands\"}"), 1.0, "{during}");
    assert!(value(&during, "agentd_connections") >= 1.0, "{during}");
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("our own child").code(), Some(3));
    // As a client that asks without having looked: agentctl would refuse it by itself.
    let cwd = world.workspace(world.a());
    let spec = world.spec(world.a(), &cwd, &["true"]);
    let api = world.api(world.a());
    let limits = AskedLimits { memory: Some(1000 << 30), ..AskedLimits::default() };
    api.create(RunSpec { limits: Some(limits), ..spec }).expect_err("more than the bounds");
    drop(api);
    let series = [
        ("agentd_sessions_started_total", 1.0),
        ("agentd_sessions_ended_total{reason=\"exited\"}", 1.0),
        ("agentd_session_create_seconds_count", 1.0),
        ("agentd_session_start_seconds_count", 1.0),
        ("agentd_session_step_seconds_count{step=\"workspace\"}", 1.0),
        ("agentd_refusals_total{rule=\"bounds.memory\"}", 1.0),
        ("agentd_events_total{kind=\"session.created\"}", 1.0),
        ("agentd_events_total{kind=\"session.ended\"}", 1.0),
        ("agentd_denied_acts_total{kind=\"net.denied\"}", 1.0),
        ("agentd_relay_bytes_total{direction=\"out\"}", "ready\n".len() as f64),
    ];
    // Its end is on record before it is reported, and counted after.
    let after = within(LIMIT, || {
        let after = scrape(world);
        let calm = value(&after, "agentd_sessions{state=\"ended\"}") == 1.0
            && value(&after, "agentd_queue_length{queue=\"spools\"}") == 0.0;
        if calm { Ok(after) } else { Err(after) }
    })
    .expect("a session that is cleared away");
    for (name, grown) in series {
        let more = value(&after, name) - value(&before, name);
        assert!(more >= grown, "{name}: {more}, not {grown}\n{after}");
    }
    assert_eq!(value(&after, "agentd_launcher_up"), 1.0);
    assert_eq!(value(&after, "agentd_sessions{state=\"running\"}"), 0.0, "{after}");
    assert!(value(&after, "agentd_store_sync_seconds_count") >= 1.0, "{after}");
    assert!(value(&after, "agentd_store_bytes") >= 0.0 && value(&after, "agentd_store_failed") == 0.0);
    let sum = value(&after, "agentd_session_start_seconds_sum");
    assert!(sum > 0.0 && sum < LIMIT.as_secs_f64(), "{sum}");
    for secret in [&name, &world.a().name, &world.a().uid.to_string()] {
        assert!(!after.contains(secret.as_str()), "{secret}\n{after}");
    }
}

pub fn members(world: &World) {
    let path = world.daemon().runtime().join("metrics.sock");
    let meta = std::fs::symlink_metadata(&path).expect("it is there");
    assert!(meta.file_type().is_socket());
    let group = number_of("/etc/group", "agentd-test-adm");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (0, group, 0o660));
    for other in [world.a(), world.outsider()] {
        let refused = connect(world, other).expect_err("no member");
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{}: {refused}", other.name);
    }
    scrape(world);
}

pub fn nothing_else(world: &World) {
    let huge = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let fields = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(500));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("GET /metrics/x HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("GET /../metrics HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "405"),
        ("DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        ("\x16\x03\x01\r\n\r\n", "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (&huge, "431"),
        (&fields, "431"),
    ] {
        let answer = ask(world, world.admin(), request.as_bytes()).expect("an admin may connect");
        let begins = format!("HTTP/1.1 {status} ");
        assert!(status.is_empty() || answer.starts_with(&begins), "{status}: {answer}");
        assert!(!answer.contains("agentd_sessions"), "{answer}");
    }
    // A query is no other path, and one connection is one request.
    let asked = GET.replace("/metrics", "/metrics?x=y").repeat(2);
    let answer = ask(world, world.admin(), asked.as_bytes()).expect("an admin may connect");
    assert_eq!(answer.matches("# EOF").count(), 1, "{answer}");
}

pub fn hostile(world: &World) {
    let admin = world.admin();
    let open = || {
        let pid = world.daemon().service_pid().expect("a service that runs");
        std::fs::read_dir(format!("/proc/{pid}/fd")).expect("root may look").count()
    };
    let before = open();
    let mut silent: Vec<_> = (0..200).map(|_| connect(world, admin).expect("an admin may connect")).collect();
    for (number, stream) in silent.iter_mut().enumerate() {
        // One that was closed already takes nothing.
        stream.write_all(&GET.as_bytes()[..number % 40]).ok();
    }
    // Nobody else is held up. Who comes later is accepted later: all of them have been.
    let root = ask(world, &User::root(), GET.as_bytes()).expect("root may connect");
    assert!(root.starts_with("HTTP/1.1 200 OK\r\n"), "{root}");
    let more = open().saturating_sub(before);
    assert!(more < 20, "{more} connections of one user are held");
    world.session().run(["true"]).expect_code(0);
    // They are cut, and then there is room.
    for stream in &mut silent {
        assert_eq!(rest(stream).matches("agentd_sessions").count(), 0);
    }
    within(LIMIT, || match ask(world, admin, GET.as_bytes()) {
        Ok(answer) if answer.ends_with("# EOF\n") => Ok(()),
        other => Err(other),
    })
    .expect("an answer");
}

pub fn restarts(world: &World) {
    let up = |text: &str| value(text, "agentd_launcher_up") == 1.0;
    world.session().run(["true"]).expect_code(0);
    assert!(value(&scrape(world), "agentd_sessions_started_total") >= 1.0);
    world.daemon().kill(Part::Service);
    // Whoever connects meanwhile waits for the next one.
    let mut waiting = connect(world, world.admin()).expect("the launcher listens");
    waiting.write_all(GET.as_bytes()).expect("a socket that takes it");
    world.daemon().begin(&[Part::Service]);
    assert!(rest(&mut waiting).ends_with("# EOF\n"));
    assert_eq!(
        value(&scrape(world), "agentd_sessions_started_total"),
        0.0,
        "counters begin with the process"
    );
    world.daemon().kill(Part::Launcher);
    // The service serves the socket as long as there is no other.
    within(LIMIT, || if up(&scrape(world)) { Err(()) } else { Ok(()) })
        .expect("a service without a launcher");
    world.daemon().begin(&[Part::Launcher]);
    within(LIMIT, || if up(&scrape(world)) { Ok(()) } else { Err(()) }).expect("the next launcher");
    world.daemon().terminate(Part::Service);
    world.daemon().terminate(Part::Launcher);
    assert!(!world.daemon().runtime().join("metrics.sock").exists());
    world.daemon().begin(&[Part::Launcher, Part::Service]);
    scrape(world);
}

pub fn off(world: &World) {
    assert!(!world.daemon().runtime().join("metrics.sock").exists());
    world.session().run(["true"]).expect_code(0);
}
