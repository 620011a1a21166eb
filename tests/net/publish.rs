//! Ports of sessions on the host's loopback: who is on the host gets in by them, and nobody gets out.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use agentd_tests::harness::{
    Named, Part, RunOutput, Session, World, complete, objects, text_at, wait_for_exit, within,
};
use agentd_tests::tests;
use serde_json::Value;

use crate::internet;

pub const TESTS: &[Named] = tests![
    a_server_is_reached_by_both_families,
    one_that_has_ipv6_alone_is_reached_too,
    the_hosts_port_may_be_another,
    much_comes_whole_both_ways,
    an_end_of_one_side_is_carried,
    resets_are_carried,
    without_a_server_it_is_closed_at_once,
    a_port_that_is_taken_is_refused,
    two_sessions_cannot_have_the_same,
    roots_ports_are_refused,
    what_cannot_be_published_is_refused,
    it_is_no_way_out,
    agents_do_not_reach_it,
    visitors_are_bounded_and_told,
    a_stream_outlives_the_service,
    a_port_is_free_again_at_once,
];

/// Ports of the internet's `host` that nothing there has.
fn unused() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A directory with the server in it.
fn place(world: &World) -> PathBuf {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("server.py"), include_str!("server.py"));
    dir
}

/// A session with a server that listens, published as `publish`.
fn serving<'a>(
    world: &'a World,
    dir: &Path,
    publish: &str,
    server: (&str, &str, u16),
) -> (Session<'a>, Child) {
    let (act, address, port) = server;
    let session = world.session_in(dir).past_the_proxy().options(["--publish", publish]);
    let child = session.spawn_ready(&format!("exec python3 server.py {act} {address} {port}"));
    (session, child)
}

/// Runs a script on the host.
fn bash(world: &World, dir: &Path, script: &str) -> RunOutput {
    let mut command = internet().command(world.a(), "/bin/bash");
    complete(command.args(["-c", script]).current_dir(dir), vec![], "outside".into())
}

fn connect(to: &str) -> TcpStream {
    try_connect(to).expect("the relay accepts")
}

fn try_connect(to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().expect("an address");
    let stream = internet().host().enter(|| TcpStream::connect(to))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn end(world: &World, session: &Session<'_>, mut child: Child) -> Vec<Value> {
    world.agentctl(world.a(), ["kill", session.name()]).expect_code(0);
    wait_for_exit(&mut child, Duration::from_secs(20)).expect("a killed session ends");
    world.all_events(world.a(), session.name())
}

/// What came in, of this kind.
fn inward<'a>(events: &'a [Value], kind: &'a str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["kind"] == kind && text_at(e, "/net/direction") == "in").collect()
}

fn a_server_is_reached_by_both_families(world: &World) {
    let (port, dir) = (unused(), place(world));
    let (session, child) = serving(world, &dir, &port.to_string(), ("web", "127.0.0.1", port));
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let output = bash(world, &dir, &format!("curl -gsS http://{host}:{port}/")).expect_code(0);
        assert_eq!(output.text(), "inside\n", "{host}: {}", output.stderr);
    }
    // There alone: not at any other address of the host, from wherever.
    for (from, to) in [
        (internet().host(), "10.66.0.1"),
        (internet().host(), "20.30.40.50"),
        (internet().internet(), "10.66.0.1"),
    ] {
        let to: SocketAddr = format!("{to}:{port}").parse().expect("an address");
        let refused = from.enter(|| TcpStream::connect(to)).expect_err("it is reached from elsewhere");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    let shown = |args: &[&str]| world.agentctl(world.a(), args).expect_code(0).text();
    let inspected = &objects(&shown(&["inspect", "--json", session.name()]))[0];
    assert_eq!(inspected["network"]["publish"], serde_json::json!([port.to_string()]), "{inspected}");
    assert!(shown(&["inspect", session.name()]).contains(&format!("  publish     {port}\n")));
    let listed = objects(&shown(&["ps", "--json"]));
    let own = listed.iter().find(|s| s["name"] == session.name()).expect("it is listed");
    assert_eq!(own["publish"], serde_json::json!([port.to_string()]), "{own}");
    assert!(shown(&["ps"]).lines().any(|line| line.contains(&format!(" {port} "))));
    let events = end(world, &session, child);
    let (connects, ends) = (inward(&events, "net.connect"), inward(&events, "net.closed"));
    assert_eq!((connects.len(), ends.len()), (3, 3), "{events:#?}");
    let mut from: Vec<String> = connects.iter().map(|event| text_at(event, "/net/address")).collect();
    from.sort();
    from.dedup();
    assert_eq!(from, ["127.0.0.1", "::1"]);
    for event in connects.iter().chain(&ends) {
        assert_eq!(text_at(event, "/rule"), format!("publish {port}"), "{event}");
        assert_eq!(event["net"]["published"], port, "{event}");
        assert!(event["net"]["port"].as_u64() >= Some(1024), "{event}");
    }
    assert!(connects.iter().all(|event| event["decision"] == "allow"));
    for event in ends {
        let net = &event["net"];
        assert!(net["sent"].as_u64() > Some(7) && net["received"].as_u64() > Some(0), "{event}");
        assert_eq!(text_at(net, "/reason"), "closed");
    }
}

fn one_that_has_ipv6_alone_is_reached_too(world: &World) {
    let (port, dir) = (unused(), place(world));
    let (session, child) = serving(world, &dir, &port.to_string(), ("web", "::1", port));
    let output = bash(world, &dir, &format!("curl -gsS http://127.0.0.1:{port}/")).expect_code(0);
    assert_eq!(output.text(), "inside\n", "{}", output.stderr);
    let events = end(world, &session, child);
    assert_eq!(inward(&events, "net.connect").len(), 1, "one connection is recorded once: {events:#?}");
}

/// By a flag and by a profile.
fn the_hosts_port_may_be_another(world: &World) {
    let (flag, entry, port, dir) = (unused(), unused(), unused(), place(world));
    let profile = format!(
        "schema = 1\nname = \"web\"\nextends = [\"default\"]\n[[network.publish]]\nport = {port}\nhost_port = {entry}\n"
    );
    world.a().write(dir.join("web.toml"), profile);
    let session = world.session_in(&dir).past_the_proxy().options(["--profile", "./web.toml"]);
    let session = session.options(["--publish", &format!("{flag}:{port}")]);
    let child = session.spawn_ready(&format!("exec python3 server.py web 0.0.0.0 {port}"));
    for host in [flag, entry] {
        let output = bash(world, &dir, &format!("curl -gsS http://127.0.0.1:{host}/")).expect_code(0);
        assert_eq!(output.text(), "inside\n", "{host}: {}", output.stderr);
    }
    let none = internet().host().enter(|| TcpStream::connect(("127.0.0.1", port)));
    assert_eq!(none.map(drop).map_err(|e| e.kind()), Err(ErrorKind::ConnectionRefused));
    let events = end(world, &session, child);
    let rules: Vec<_> = inward(&events, "net.connect").iter().map(|event| text_at(event, "/rule")).collect();
    assert_eq!(rules, [format!("publish {flag}:{port}"), format!("publish {entry}:{port}")]);
}

fn much_comes_whole_both_ways(world: &World) {
    let (port, dir) = (unused(), place(world));
    bash(world, &dir, "head -c 64M /dev/urandom > bulk").expect_code(0);
    let (session, child) = serving(world, &dir, &port.to_string(), ("web", "127.0.0.1", port));
    let script = format!(
        "sum() {{ sha256sum | cut -d ' ' -f 1; }}; own=$(sum < bulk)
        test \"$(curl -sS http://127.0.0.1:{port}/bulk | sum)\" = $own && echo down
        test \"$(curl -sS --data-binary @bulk 'http://[::1]:{port}/')\" = $own && echo up"
    );
    let output = bash(world, &dir, &script);
    assert_eq!(output.text(), "down\nup\n", "{}", output.stderr);
    let events = end(world, &session, child);
    let counts = |pointer: &str| -> u64 {
        inward(&events, "net.closed").iter().filter_map(|e| e.pointer(pointer)?.as_u64()).max().unwrap_or(0)
    };
    assert!(counts("/net/sent") >= 64 << 20 && counts("/net/received") >= 64 << 20, "{events:#?}");
}

fn an_end_of_one_side_is_carried(world: &World) {
    let (port, dir) = (unused(), place(world));
    let (session, child) = serving(world, &dir, &port.to_string(), ("half", "127.0.0.1", port));
    let mut stream = connect(&format!("127.0.0.1:{port}"));
    stream.write_all(&vec![b'x'; 3_000_000]).expect("it reads all");
    stream.shutdown(Shutdown::Write).expect("a connection");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an answer after our end");
    assert_eq!(said.split(' ').next(), Some("3000000"), "{said}");
    end(world, &session, child);
}

fn resets_are_carried(world: &World) {
    let (port, dir) = (unused(), place(world));
    let (session, child) = serving(world, &dir, &port.to_string(), ("reset", "127.0.0.1", port));
    let mut stream = connect(&format!("127.0.0.1:{port}"));
    stream.write_all(b"x").expect("a connection");
    let read = stream.read(&mut [0]);
    assert_eq!(read.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
    let events = end(world, &session, child);
    assert_eq!(text_at(inward(&events, "net.closed")[0], "/net/reason"), "reset");
    // And the other way.
    let (session, mut child) = serving(world, &dir, &port.to_string(), ("last", "127.0.0.1", port));
    let mut stream = connect(&format!("[::1]:{port}"));
    stream.read_exact(&mut [0]).expect("a byte");
    stream.write_all(&[0; 1 << 20]).expect("a connection");
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
    drop(stream);
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut said).expect("a line");
    assert_eq!(said, "reset\n");
    let status = wait_for_exit(&mut child, Duration::from_secs(20)).expect("its server has ended");
    assert_eq!(status.code(), Some(0), "{}", session.name());
}

/// The connection goes at once, and that is recorded, as is that nobody listened.
fn without_a_server_it_is_closed_at_once(world: &World) {
    let (port, dir) = (unused(), place(world));
    let session = world.session_in(&dir).past_the_proxy().options(["--publish", &port.to_string()]);
    let child = session.spawn_ready("echo ready; read -r");
    let read = connect(&format!("127.0.0.1:{port}")).read(&mut [0]);
    assert_eq!(read.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
    let events = end(world, &session, child);
    let (connects, ends) = (inward(&events, "net.connect"), inward(&events, "net.closed"));
    assert_eq!((connects.len(), ends.len()), (1, 1), "{events:#?}");
    assert!(text_at(ends[0], "/net/reason").starts_with("failed: Connection refused"), "{events:#?}");
}

#[track_caller]
fn not_published(world: &World, publish: &[&str], says: &[&str]) {
    let options = publish.iter().flat_map(|publish| ["--publish", publish]);
    let output = world.session().past_the_proxy().options(options).run(["true"]);
    assert_eq!(output.code, Some(125), "{publish:?}: {}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{publish:?}: {}", output.stderr);
    let formed = output.stderr.starts_with("agentctl: refused: ");
    assert!(formed && says.iter().all(|word| output.stderr.contains(word)), "{publish:?}: {}", output.stderr);
}

fn a_port_that_is_taken_is_refused(world: &World) {
    for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
        let (port, free) = (unused(), unused());
        let held = internet().host().enter(|| TcpListener::bind((address, port))).expect("it is free");
        let hint = format!("HOSTPORT:{port}");
        not_published(world, &[&free.to_string(), &port.to_string()], &["network.publish)", "in use", &hint]);
        drop(held);
        // Nothing is left of the one that could be had.
        world
            .session()
            .past_the_proxy()
            .options(["--publish", &free.to_string()])
            .run(["true"])
            .expect_code(0);
    }
}

fn two_sessions_cannot_have_the_same(world: &World) {
    let (port, dir) = (unused(), place(world));
    let (session, child) = serving(world, &dir, &port.to_string(), ("web", "127.0.0.1", port));
    not_published(world, &[&port.to_string()], &["network.publish)", "in use"]);
    not_published(world, &[&format!("{port}:80")], &["network.publish)", "in use"]);
    let output = bash(world, &dir, &format!("curl -gsS http://127.0.0.1:{port}/")).expect_code(0);
    assert_eq!(output.text(), "inside\n");
    let events = end(world, &session, child);
    assert_eq!(inward(&events, "net.connect").len(), 1);
}

fn roots_ports_are_refused(world: &World) {
    not_published(world, &["80"], &["port 80 on 127.0.0.1", "network.publish)", "HOSTPORT:80"]);
    let port = unused();
    world
        .session()
        .past_the_proxy()
        .options(["--publish", &format!("{port}:80")])
        .run(["true"])
        .expect_code(0);
}

fn what_cannot_be_published_is_refused(world: &World) {
    for (publish, word) in [
        (&["0"][..], "HOSTPORT:PORT"),
        (&["0.0.0.0:80:80"], "loopback"),
        (&["3000/udp"], "TCP"),
        (&["3128"], "agentd's own"),
        (&["8080:53"], "agentd's own"),
        (&["8080:80", "8080:81"], "twice"),
    ] {
        not_published(world, publish, &["network.publish)", word]);
    }
    let looped = world
        .session()
        .past_the_proxy()
        .options(["--publish", "3000", "--allow", "local:3000"])
        .run(["true"]);
    assert!(looped.code == Some(125) && looped.stderr.contains("network.publish)"), "{}", looped.stderr);
    let plan = world
        .session()
        .past_the_proxy()
        .options(["--publish", "8080:80", "--dry-run", "--json"])
        .run(["true"]);
    let plan = &objects(&plan.expect_code(0).text())[0];
    assert_eq!(plan["network"]["publish"], serde_json::json!([{ "host": 8080, "port": 80 }]), "{plan}");
}

/// A session that publishes and may reach nothing has what one without any network has.
fn it_is_no_way_out(world: &World) {
    let port = unused().to_string();
    let script = "echo ready; read -r
        wc -l < /proc/net/tcp; wc -l < /proc/net/udp
        curl -sS -m 20 http://good.test/ 2>/dev/null; echo $?
        for to in 192.0.2.80/80 192.0.2.53/53 127.0.0.1/3128 127.0.0.1/53 10.66.0.1/80; do
            (exec 3<>/dev/tcp/$to) 2>/dev/null; echo -n \"$? \"
        done";
    let session = world.session().past_the_proxy().options(["--publish", &port]);
    let mut child = session.spawn_ready(script);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    let output = child.wait_with_output().expect("its output");
    let said = String::from_utf8_lossy(&output.stdout);
    // The proxy, a listener for what may be allowed later, and the resolver; DNS over TCP is taken, whomever it is for.
    assert_eq!(said, "3\n2\n6\n1 0 0 0 1 ", "{}", String::from_utf8_lossy(&output.stderr));
    let events = world.all_events(world.a(), session.name());
    let denied = |address: &str| {
        events.iter().any(|e| e["kind"] == "net.denied" && text_at(e, "/net/address") == address)
    };
    assert!(denied("192.0.2.80") && denied("10.66.0.1"), "{events:#?}");
    let asked = |e: &&serde_json::Value| e["kind"] == "dns.query";
    assert!(events.iter().filter(asked).all(|e| e["rule"] == "network.none"), "{events:#?}");
    assert!(!events.iter().any(|e| e["kind"] == "net.connect"), "{events:#?}");
}

/// Neither the host's port of its own session nor another session's.
fn agents_do_not_reach_it(world: &World) {
    let (host, port, dir) = (unused(), unused(), place(world));
    let (session, child) = serving(world, &dir, &format!("{host}:{port}"), ("web", "0.0.0.0", port));
    let tries = format!(
        "for to in 127.0.0.1 [::1] 10.66.0.1 [fd66::1]; do for port in {host} {port}; do
            curl -gsS -m 20 http://$to:$port/ 2>/dev/null | grep -q inside; echo -n \"$? \"
        done; done"
    );
    let own = world.agentctl(world.a(), ["exec", "-T", session.name(), "--", "bash", "-c", &tries]);
    assert_eq!(own.text(), "1 0 1 1 1 1 1 1 ", "its own server alone: {}", own.stderr);
    for options in [&["--allow", "good.test"][..], &["--allow", "0.0.0.0/0:*"], &[]] {
        let other = world.session().past_the_proxy().options(options).bash(&tries);
        assert_eq!(other.text(), "1 1 1 1 1 1 1 1 ", "{options:?}: {}", other.stderr);
    }
    let events = end(world, &session, child);
    assert!(inward(&events, "net.connect").is_empty(), "{events:#?}");
}

/// More than may come: those who are in stay, the session's own egress has its own room.
fn visitors_are_bounded_and_told(world: &World) {
    let (port, dir) = (unused(), place(world));
    let session = world.session_in(&dir).past_the_proxy().options([
        "--publish",
        &port.to_string(),
        "--allow",
        "good.test",
    ]);
    let child = session.spawn_ready(&format!("exec python3 server.py echo 127.0.0.1 {port}"));
    let to = format!("127.0.0.1:{port}");
    // One that is reset may be so before connect(2) has returned.
    let mut streams: Vec<TcpStream> = (0..300).filter_map(|_| try_connect(&to).ok()).collect();
    streams.retain_mut(|stream| stream.read_exact(&mut [0; 6]).is_ok());
    assert_eq!(streams.len(), 256);
    for stream in &mut streams {
        stream.write_all(b"mine").expect("it is in");
    }
    for stream in &mut streams {
        let mut back = [0; 4];
        stream.read_exact(&mut back).expect("it is in");
        assert_eq!(&back, b"mine");
    }
    let curl = ["exec", "-T", session.name(), "--", "curl", "-sS", "http://good.test/"];
    let output = world.agentctl(world.a(), curl);
    assert_eq!(output.text(), "this is good.test\n", "{}", output.stderr);
    drop(streams);
    let again = within(Duration::from_secs(20), || try_connect(&to)?.read_exact(&mut [0; 6]));
    assert!(again.is_ok(), "there is room again: {again:?}");
    let events = end(world, &session, child);
    let denied = inward(&events, "net.denied");
    assert!(denied.iter().all(|event| text_at(event, "/rule") == "publish.connections"), "{denied:#?}");
    assert!(!denied.is_empty(), "{events:#?}");
}

fn a_stream_outlives_the_service(_: &World) {
    let world = internet().world();
    let (port, dir) = (unused(), place(&world));
    let (session, child) = serving(&world, &dir, &port.to_string(), ("web", "127.0.0.1", port));
    let mut stream = connect(&format!("127.0.0.1:{port}"));
    stream.write_all(b"GET /lines HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a connection");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("the stream goes on"));
    assert!(lines.by_ref().any(|line| line == "line 20"), "it streams");
    let old = world.daemon().service_pid();
    world.daemon().kill(Part::Service);
    let back = within(Duration::from_secs(20), || match world.daemon().service_pid() {
        pid if pid.is_some() && pid != old => Ok(()),
        same => Err(same),
    });
    assert_eq!(back, Ok(()), "another service comes");
    let rest: Vec<String> = lines.by_ref().take(400).collect();
    let expected: Vec<String> = (21..421).map(|number| format!("line {number}")).collect();
    assert_eq!(rest, expected);
    drop(lines);
    let output = bash(&world, &dir, &format!("curl -gsS http://127.0.0.1:{port}/")).expect_code(0);
    assert_eq!(output.text(), "inside\n");
    let events = end(&world, &session, child);
    assert_eq!(inward(&events, "net.connect").len(), 2, "{events:#?}");
    world.end();
}

/// Whoever ended its connections first.
fn a_port_is_free_again_at_once(world: &World) {
    let (port, dir) = (unused(), place(world));
    for _ in 0..3 {
        let (session, child) = serving(world, &dir, &port.to_string(), ("half", "127.0.0.1", port));
        let mut stream = connect(&format!("127.0.0.1:{port}"));
        stream.shutdown(Shutdown::Write).expect("a connection");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("an answer");
        let open = connect(&format!("127.0.0.1:{port}"));
        end(world, &session, child);
        let late = internet().host().enter(|| TcpStream::connect(("127.0.0.1", port)));
        assert_eq!(late.map(drop).map_err(|e| e.kind()), Err(ErrorKind::ConnectionRefused));
        drop(open);
    }
    internet().host().enter(|| TcpListener::bind(("0.0.0.0", port))).expect("it is free");
}
