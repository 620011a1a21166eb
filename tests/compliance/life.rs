//! A session's life beyond its first client: states, detaching, further commands, logs, stop, doctor.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use agentd_tests::harness::{
    Named, RunOutput, Session, World, complete, objects, patience, text_at, wait_for_exit, within,
};
use agentd_tests::tests;
use serde_json::Value;

pub const TESTS: &[Named] = tests![
    states_are_told_and_seen,
    a_detached_session_lives_without_a_client,
    stop_asks_and_then_ends,
    stop_gives_what_ends_by_itself_its_own_end,
    inspect_tells_what_was_asked_for,
    logs_have_what_was_written,
    logs_follow,
    logs_tail,
    attach_replays_what_is_kept,
    exec_carries_streams_and_codes,
    exec_is_confined_as_the_first,
    exec_is_told,
    exec_does_not_wait_for_what_it_leaves_behind,
    exec_ends_with_the_session,
    exec_without_a_session,
    many_execs_at_once,
    events_are_followed,
    doctor_says_what_there_is,
    doctor_finds_no_leak,
    completion_for_each_shell,
];

const LIMIT: Duration = Duration::from_secs(10);

/// A session that runs, detached; its name.
fn start(world: &World, script: &str) -> String {
    let session = world.session().option("--detach");
    let output = session.run(["bash", "-c", script]).expect_code(0);
    let id = output.text();
    assert_eq!(id.trim_end().len(), 12, "its id: {id:?}");
    output.name
}

fn inspected(world: &World, name: &str) -> Value {
    let output = world.agentctl(world.a(), ["inspect", name, "--json"]).expect_code(0);
    serde_json::from_str(output.text().trim_end()).expect("JSON")
}

#[track_caller]
fn await_state(world: &World, name: &str, wanted: &str) {
    let so = within(LIMIT, || {
        let is = text_at(&inspected(world, name), "/session/state");
        if is == wanted { Ok(()) } else { Err(is) }
    });
    assert_eq!(so, Ok(()), "{name} does not become {wanted}");
}

fn kinds(world: &World, name: &str) -> Vec<String> {
    let of = |event: &Value| text_at(event, "/kind");
    world.all_events(world.a(), name).iter().map(of).filter(|kind| kind.starts_with("session.")).collect()
}

fn states_are_told_and_seen(world: &World) {
    let name = start(world, "trap '' TERM; echo up; sleep 1000");
    let listed = |all: &[&str]| -> Vec<Value> {
        let text = world.agentctl(world.a(), [&["ps", "--json"], all].concat()).expect_code(0).text();
        objects(&text).into_iter().filter(|line| line["name"] == name.as_str()).collect()
    };
    assert_eq!(text_at(&listed(&[])[0], "/state"), "running");
    let mut stop = world.a().command(world.daemon().agentctl());
    stop.arg("--socket").arg(world.daemon().socket()).args(["stop", "--time", "1s", &name]);
    let mut stop = stop.stdout(Stdio::null()).spawn().expect("agentctl");
    await_state(world, &name, "stopping");
    assert_eq!(wait_for_exit(&mut stop, LIMIT).expect("it ends").code(), Some(0));
    await_state(world, &name, "ended");
    assert!(listed(&[]).is_empty());
    let ended = &listed(&["-a"])[0];
    assert_eq!((text_at(ended, "/state"), text_at(ended, "/exit/reason")), ("ended".into(), "killed".into()));
    assert_eq!(
        kinds(world, &name),
        ["session.created", "session.started", "session.stopping", "session.ended"]
    );
    world.agentctl(world.a(), ["rm", &name]).expect_code(0);
    assert!(listed(&["-a"]).is_empty());
    world.agentctl(world.a(), ["inspect", &name]).expect_code(3);
}

fn a_detached_session_lives_without_a_client(world: &World) {
    // As long as a client needs to attach.
    let pause = patience(Duration::from_secs(1)).as_secs();
    let name = start(world, &format!("echo one; sleep {pause}; echo two; exit 6"));
    assert_eq!(text_at(&inspected(world, &name), "/session/detached"), "true");
    let output = world.agentctl(world.a(), ["attach", &name]).expect_code(6);
    assert_eq!(output.text(), "one\ntwo\n");
    assert!(kinds(world, &name).contains(&"session.attached".to_owned()));
}

fn stop_asks_and_then_ends(world: &World) {
    let name = start(world, "trap '' TERM; echo up; sleep 1000 & wait; sleep 1000");
    let began = Instant::now();
    world.agentctl(world.a(), ["stop", "--time", "500ms", &name]).expect_code(0);
    assert!((Duration::from_millis(500)..LIMIT).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(text_at(&inspected(world, &name), "/session/exit/reason"), "killed");
}

fn stop_gives_what_ends_by_itself_its_own_end(world: &World) {
    let name = start(world, "trap 'echo bye; exit 9' TERM; echo up; sleep 1000 & wait");
    within(LIMIT, || {
        let logs = world.agentctl(world.a(), ["logs", &name]).text();
        if logs.contains("up") { Ok(()) } else { Err(()) }
    })
    .expect("it is up");
    world.agentctl(world.a(), ["stop", &name]).expect_code(0);
    let exit = inspected(world, &name);
    assert_eq!(
        (text_at(&exit, "/session/exit/reason"), text_at(&exit, "/session/exit/code")),
        ("exited".into(), "9".into())
    );
    assert_eq!(world.agentctl(world.a(), ["logs", &name]).text(), "up\nbye\n");
}

fn inspect_tells_what_was_asked_for(world: &World) {
    let options =
        ["--detach", "--memory", "100M", "--pids", "50", "--cpus", "0.5", "--timeout", "1h", "--idle", "30m"];
    let cwd = world.workspace(world.a());
    let output = world.session_in(&cwd).options(options).run(["sleep", "1000"]).expect_code(0);
    let is = inspected(world, &output.name);
    for (pointer, wanted) in [
        ("/session/name", output.name.as_str()),
        ("/session/user", &world.a().name),
        ("/session/state", "running"),
        ("/cwd", cwd.to_str().expect("our own name")),
        ("/command/0", "sleep"),
        ("/command/1", "1000"),
        ("/limits/memory", "104857600"),
        ("/limits/pids", "50"),
        ("/limits/cpus", "0.5"),
        ("/limits/timeout_ms", "3600000"),
        ("/limits/idle_ms", "1800000"),
        ("/terminal", "false"),
    ] {
        assert_eq!(text_at(&is, pointer), wanted, "{pointer} in {is:#}");
    }
    let mounts = is["mounts"].as_array().expect("mounts");
    let workspace = mounts.iter().find(|m| m["kind"] == "workspace").expect("the workspace");
    assert_eq!((&workspace["path"], &workspace["mode"]), (&Value::from(cwd.to_str()), &"overlay".into()));
    assert!(!text_at(&is, "/started").is_empty());
    let text = world.agentctl(world.a(), ["inspect", &output.name]).expect_code(0).text();
    assert!(text.contains(&output.name) && text.contains("running"), "{text}");
    world.agentctl(world.a(), ["kill", &output.name]).expect_code(0);
}

fn logs_have_what_was_written(world: &World) {
    let output = world.session().bash("echo out; echo err >&2; printf 'half'; exit 3").expect_code(3);
    let logs = world.agentctl(world.a(), ["logs", &output.name]).expect_code(0);
    assert_eq!((logs.text().trim_end(), logs.stderr.trim_end()), ("out\nhalf", "err"));
    // More than is kept: the last of it, and how much is missing.
    let much = world.session().bash("seq 3000000; echo last").expect_code(0);
    assert!(much.text().ends_with("last\n"));
    let logs = world.agentctl(world.a(), ["logs", &much.name]).expect_code(0);
    assert!(
        logs.text().ends_with("3000000\nlast\n") && logs.stdout.len() <= 8 << 20,
        "{}",
        logs.stdout.len()
    );
    assert!(logs.stdout.len() >= 3 << 20, "{} bytes are kept", logs.stdout.len());
}

fn logs_follow(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("echo ready; read x; echo $x; read x; exit 2");
    let mut follow = world.a().command(world.daemon().agentctl());
    follow.arg("--socket").arg(world.daemon().socket()).args(["logs", "-f", session.name()]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("agentctl");
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, b"line\n").expect("agentctl reads");
    assert_eq!(lines.next().expect("a line").expect("text"), "line");
    drop(stdin);
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(2));
    assert!(lines.next().is_none(), "the log ends with the session");
    assert_eq!(wait_for_exit(&mut follow, LIMIT).expect("it ends").code(), Some(0));
}

fn logs_tail(world: &World) {
    let output = world.session().bash("seq 100").expect_code(0);
    let tail = |n: &str| world.agentctl(world.a(), ["logs", "-n", n, &output.name]).expect_code(0).text();
    assert_eq!(tail("2"), "99\n100\n");
    assert_eq!(tail("0"), "");
    assert_eq!(tail("1000").lines().count(), 100);
}

fn attach_replays_what_is_kept(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("echo ready; echo more >&2; read x; echo \"got $x\"; exit 5");
    let mut attach = world.a().command(world.daemon().agentctl());
    attach.arg("--socket").arg(world.daemon().socket()).args(["attach", session.name()]);
    let second = complete(&mut attach, b"from two\n".to_vec(), String::new()).expect_code(5);
    assert_eq!((second.text().as_str(), second.stderr.trim_end()), ("ready\ngot from two\n", "more"));
    // Both have all of it.
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(5));
    // One that is over is shown once more.
    let after = world.agentctl(world.a(), ["attach", session.name()]).expect_code(5);
    assert_eq!(after.text(), "ready\ngot from two\n");
}

/// `agentctl exec NAME -- COMMAND`.
fn exec_in(world: &World, name: &str, options: &[&str], stdin: &[u8], command: &[&str]) -> RunOutput {
    let mut exec = world.a().command(world.daemon().agentctl());
    exec.arg("--socket").arg(world.daemon().socket()).args(["exec"]).args(options);
    exec.arg(name).arg("--").args(command);
    complete(&mut exec, stdin.to_vec(), name.into())
}

fn exec_carries_streams_and_codes(world: &World) {
    let name = start(world, "echo from-the-first > ~/file; exec sleep 1000");
    let run = |options: &[&str], stdin: &[u8], script: &str| {
        exec_in(world, &name, options, stdin, &["bash", "-c", script])
    };
    let output = run(&[], b"typed", "cat; echo; echo err >&2; exit 7").expect_code(7);
    assert_eq!((output.text().as_str(), output.stderr.trim_end()), ("typed\n", "err"));
    within(LIMIT, || if run(&[], b"", "test -e ~/file").code == Some(0) { Ok(()) } else { Err(()) })
        .expect("the same home");
    assert_eq!(run(&[], b"", "cat ~/file").text(), "from-the-first\n");
    let options = ["--cwd", "/tmp", "--env", "WORD=said"];
    assert_eq!(
        run(&options, b"", "pwd; echo $WORD; echo $USER").text(),
        format!("/tmp\nsaid\n{}\n", world.a().name)
    );
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let echoed = exec_in(world, &name, &[], &bytes, &["cat"]).expect_code(0);
    assert!(echoed.stdout == bytes, "{} bytes of {}", echoed.stdout.len(), bytes.len());
    run(&[], b"", "kill -TERM $$").expect_code(143);
    exec_in(world, &name, &[], b"", &["no-such-command"]).expect_code(127);
    exec_in(world, &name, &[], b"", &["/tmp"]).expect_code(126);
    exec_in(world, &name, &["--cwd", "/nonexistent"], b"", &["true"]).expect_code(125);
    assert_eq!(text_at(&inspected(world, &name), "/session/state"), "running");
    world.agentctl(world.a(), ["kill", &name]).expect_code(0);
}

/// Identity, rights, filter, limits, namespaces, and what is denied.
fn exec_is_confined_as_the_first(world: &World) {
    let script = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Umask|SigBlk|SigIgn):' /proc/self/status
        readlink /proc/self/ns/* | grep -v '^time'; cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj
        ls -l /proc/self/fd | wc -l; id; ulimit -a; env | grep -v -e '^_=' -e PWD -e SHLVL | sort
        (exec 3<>/dev/tcp/192.0.2.1/80) 2>&1 | grep -o refused; (: > /usr/x) 2>&1 | grep -o 'Read-only.*'; cat /proc/mounts | wc -l; echo whole";
    let marked = format!("{{ {script}\n}} > /tmp/first 2>&1; sleep 1000");
    let name = start(world, &marked);
    let first = within(LIMIT, || {
        let output = exec_in(world, &name, &[], b"", &["cat", "/tmp/first"]);
        let whole = output.text().ends_with("whole\n");
        if whole { Ok(output.text()) } else { Err(output) }
    });
    let first = first.unwrap_or_else(|output| panic!("{output:?}"));
    let second = exec_in(world, &name, &[], b"", &["bash", "-c", &format!("{{ {script}\n}} 2>&1")]).text();
    let differ: Vec<_> = first.lines().zip(second.lines()).filter(|(a, b)| a != b).collect();
    assert!(differ.is_empty() && first.lines().count() == second.lines().count(), "{differ:#?}\n{second}");
    world.agentctl(world.a(), ["kill", &name]).expect_code(0);
}

fn exec_does_not_wait_for_what_it_leaves_behind(world: &World) {
    let name = start(world, "exec sleep 1000");
    let left = exec_in(world, &name, &[], b"", &["bash", "-c", "sleep 1000 & echo mine; exit 3"]);
    assert_eq!(left.expect_code(3).text(), "mine\n");
}

fn exec_is_told(world: &World) {
    let name = start(world, "sleep 1000");
    exec_in(world, &name, &[], b"", &["/usr/bin/expr", "1", "+", "1"]).expect_code(0);
    world.agentctl(world.a(), ["kill", &name]).expect_code(0);
    await_state(world, &name, "ended");
    let events = world.all_events(world.a(), &name);
    let asked: Vec<_> = events.iter().filter(|event| event["kind"] == "session.exec").collect();
    assert_eq!(asked.len(), 1, "{events:#?}");
    assert_eq!(text_at(asked[0], "/lifecycle/user"), world.a().name);
    let ran = events
        .iter()
        .any(|event| event["kind"] == "process.exec" && event["exec"]["path"] == "/usr/bin/expr");
    assert!(ran, "{events:#?}");
}

fn exec_ends_with_the_session(world: &World) {
    let session = world.session();
    let mut first = session.spawn_ready("echo ready; read x; exit 3");
    let mut exec = world.a().command(world.daemon().agentctl());
    exec.arg("--socket").arg(world.daemon().socket()).args(["exec", session.name(), "--", "bash", "-c"]);
    exec.arg("trap '' TERM HUP; echo up; sleep 1000").stdout(Stdio::piped());
    let mut exec: Child = exec.spawn().expect("agentctl");
    let mut line = String::new();
    BufReader::new(exec.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "up\n");
    assert_eq!(text_at(&inspected(world, session.name()), "/commands"), "1");
    drop(first.stdin.take());
    assert_eq!(wait_for_exit(&mut first, LIMIT).expect("it ends").code(), Some(3));
    let status = wait_for_exit(&mut exec, LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(137));
    // And one whose client goes is ended.
    let name = start(world, "sleep 1000");
    let mut exec = world.a().command(world.daemon().agentctl());
    exec.arg("--socket").arg(world.daemon().socket()).args(["exec", &name, "--", "bash", "-c"]);
    exec.arg("trap '' TERM HUP; echo up; sleep 1000").stdout(Stdio::piped());
    let mut exec: Child = exec.spawn().expect("agentctl");
    let mut line = String::new();
    BufReader::new(exec.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    exec.kill().ok();
    exec.wait().ok();
    let gone = within(LIMIT, || {
        let commands = text_at(&inspected(world, &name), "/commands");
        if ["", "0"].contains(&commands.as_str()) { Ok(()) } else { Err(commands) }
    });
    assert_eq!(gone, Ok(()));
    let left =
        exec_in(world, &name, &[], b"", &["bash", "-c", "cat /proc/[0-9]*/comm | grep -c sleep"]).text();
    assert_eq!(left, "1\n", "the first command's alone");
    world.agentctl(world.a(), ["kill", &name]).expect_code(0);
}

fn exec_without_a_session(world: &World) {
    let over = world.session().run(["true"]).expect_code(0);
    let refused = exec_in(world, &over.name, &[], b"", &["true"]).expect_code(125);
    assert!(
        refused.stderr.contains("refused: ") && refused.stderr.contains("(session."),
        "{}",
        refused.stderr
    );
    exec_in(world, "no-such-session", &[], b"", &["true"]).expect_code(125);
}

fn many_execs_at_once(world: &World) {
    let name = start(world, "sleep 1000");
    std::thread::scope(|scope| {
        for number in 0..12 {
            let name = &name;
            scope.spawn(move || {
                let input = format!("{number}\n").repeat(20_000);
                let script = format!("cat; exit {number}");
                let output = exec_in(world, name, &[], input.as_bytes(), &["bash", "-c", &script]);
                assert!(output.stdout == input.as_bytes(), "{} bytes", output.stdout.len());
                assert_eq!(output.code, Some(number), "{}", output.stderr);
            });
        }
    });
    world.agentctl(world.a(), ["kill", &name]).expect_code(0);
}

fn events_are_followed(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("echo ready; read x; /usr/bin/expr 1; exit 4");
    let mut follow = world.a().command(world.daemon().agentctl());
    follow.arg("--socket").arg(world.daemon().socket());
    follow.args([
        "events",
        session.name(),
        "-f",
        "--json",
        "--kind",
        "process.exec",
        "--kind",
        "session.ended",
    ]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("agentctl");
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    let mut next =
        || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next()["kind"], "process.exec");
    drop(child.stdin.take());
    let mut seen = Vec::new();
    loop {
        let event = next();
        seen.push(text_at(&event, "/exec/path"));
        if event["kind"] == "session.ended" {
            assert_eq!(text_at(&event, "/lifecycle/code"), "4");
            break;
        }
    }
    assert!(seen.iter().any(|path| path == "/usr/bin/expr"), "{seen:?}");
    wait_for_exit(&mut child, LIMIT).expect("it ends");
    follow.kill().ok();
    follow.wait().ok();
}

fn doctor_says_what_there_is(world: &World) {
    let output = world.agentctl(world.a(), ["doctor", "--json"]).expect_code(0);
    let lines = objects(&output.text());
    for name in ["landlock", "cgroup.memory", "cgroup.pids"] {
        let check =
            lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("{name}: {lines:#?}"));
        assert!(["ok", "reduced"].contains(&check["status"].as_str().expect("a status")), "{check}");
        assert!(!text_at(check, "/found").is_empty(), "{check}");
    }
    for line in lines.iter().filter(|line| line["status"] == "reduced" || line["status"] == "missing") {
        assert!(!text_at(line, "/impact").is_empty() && !text_at(line, "/fix").is_empty(), "{line}");
    }
    let text = world.agentctl(world.a(), ["doctor"]).expect_code(0).text();
    assert!(text.contains("landlock"), "{text}");
    // Its session is of nobody's interest afterwards.
    let left = world.agentctl(world.a(), ["ps", "-a", "--json"]).expect_code(0).text();
    assert!(!left.contains("doctor"), "{left}");
}

fn doctor_finds_no_leak(world: &World) {
    world.agentctl(world.a(), ["doctor", "--leaks", "--no-canary"]).expect_code(4);
    let output = world.agentctl(world.admin(), ["doctor", "--leaks", "--no-canary", "--json"]);
    let found: Vec<Value> =
        objects(&output.text()).into_iter().filter(|line| line.get("kind").is_some()).collect();
    assert!(found.is_empty(), "{found:#?}");
}

fn completion_for_each_shell(world: &World) {
    for shell in ["bash", "zsh", "fish"] {
        let script = world.agentctl(world.a(), ["completion", shell]).expect_code(0).text();
        assert!(script.contains("agentctl") && script.contains("inspect"), "{shell}: {script}");
    }
    // bash's own word on it.
    let script = world.agentctl(world.a(), ["completion", "bash"]).text();
    let session = Session::new(world, world.a(), world.workspace(world.a())).stdin(script);
    session.run(["bash", "-n"]).expect_code(0);
}
