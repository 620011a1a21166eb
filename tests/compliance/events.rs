//! What is on record of a session.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use agentd_tests::harness::{Named, World, text_at, wait_for_exit};
use agentd_tests::tests;
use serde_json::Value;

pub const TESTS: &[Named] = tests![
    every_program_with_arguments_and_parent,
    exits_with_their_codes,
    a_script_names_its_interpreter,
    failed_execs_are_attempts,
    denied_connections,
    denials_and_names_name_their_program,
    who_cannot_be_told_from_another_is_not_named,
    a_program_whose_path_is_too_long_is_refused,
    lifecycle,
    filters,
    live,
    kept_as_lines_of_json,
    a_flood_has_no_gaps,
    denials_are_counted_together,
    times_are_in_order,
];

fn of_kind(events: &[Value], kind: &str) -> Vec<Value> {
    events.iter().filter(|event| event["kind"] == kind).cloned().collect()
}

fn every_program_with_arguments_and_parent(world: &World) {
    let output = world.session().bash("/usr/bin/env true; /bin/sleep 0.3 0s; true").expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let execs = of_kind(&events, "process.exec");
    let find = |name: &str| {
        let found = execs.iter().find(|e| text_at(e, "/exec/path").ends_with(&format!("/{name}")));
        found.unwrap_or_else(|| panic!("no exec of {name} in {execs:#?}"))
    };
    let (bash, env, slow) = (find("bash"), find("env"), find("sleep"));
    find("true");
    // Of a program that lives for some time; one that is over in a moment may have none.
    assert_eq!(slow["exec"]["argv"], serde_json::json!(["/bin/sleep", "0.3", "0s"]));
    assert_eq!(slow["exec"]["argv_claimed"], true);
    assert_eq!(slow["decision"], "allow");
    assert_eq!(slow["actor"]["ppid"], bash["actor"]["pid"], "bash is the parent");
    assert_ne!(env["actor"]["pid"], slow["actor"]["pid"]);
}

fn exits_with_their_codes(world: &World) {
    let output = world.session().bash("bash -c 'exit 3'; bash -c 'kill -9 $$'; exit 0").expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let exits = of_kind(&events, "process.exit");
    let execs = of_kind(&events, "process.exec");
    for exec in &execs {
        let pid = &exec["actor"]["pid"];
        assert!(exits.iter().any(|e| e["actor"]["pid"] == *pid), "no exit of {exec}");
    }
    // From 6.15 the kernel reports how; before, of init's own child only.
    if exits.iter().all(|e| e.get("exit").is_some_and(|x| x.get("code").or(x.get("signal")).is_some())) {
        assert!(exits.iter().any(|e| e["exit"]["code"] == 3), "{exits:#?}");
        assert!(exits.iter().any(|e| e["exit"]["signal"] == 9), "{exits:#?}");
    }
}

fn a_script_names_its_interpreter(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("run.sh"), "#!/bin/sh\nexit 0\n");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.join("run.sh"), std::fs::Permissions::from_mode(0o755)).expect("a script");
    let output = world.session_in(&dir).run(["./run.sh"]).expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let execs = of_kind(&events, "process.exec");
    let exec =
        execs.iter().find(|e| text_at(e, "/exec/path").ends_with("/run.sh")).expect("the script's exec");
    let interpreters = text_at(exec, "/exec/interpreters");
    assert!(interpreters.contains("sh"), "{exec}");
}

fn failed_execs_are_attempts(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("data"), "no program\n");
    std::fs::set_permissions(dir.join("data"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a file");
    let output = world.session_in(&dir).run(["./data"]).expect_code(126);
    let events = world.all_events(world.a(), &output.name);
    assert_eq!(events.last().expect("an end")["kind"], "session.ended");
}

fn a_program_whose_path_is_too_long_is_refused(world: &World) {
    let deep = "import os, shutil
for _ in range(20):
    os.mkdir('d' * 250)
    os.chdir('d' * 250)
shutil.copy('/bin/true', 'true')
try:
    os.execv('./true', ['true'])
except OSError as error:
    print(error.errno)
";
    let dir = world.workspace(world.a());
    world.a().write(dir.join("deep.py"), deep);
    let output = world.session_in(&dir).bash("python3 deep.py; /bin/true && echo alive").expect_code(0);
    assert_eq!(output.text(), format!("{}\nalive\n", libc::EPERM), "{}", output.stderr);
    let events = world.all_events(world.a(), &output.name);
    let refused: Vec<_> =
        of_kind(&events, "process.exec").into_iter().filter(|e| e["decision"] == "deny").collect();
    assert_eq!(refused.len(), 1, "{events:#?}");
    assert_eq!(text_at(&refused[0], "/exec/path"), "(unnameable)");
    assert_eq!(refused[0]["rule"], "audit.unnameable");
}

fn denied_connections(world: &World) {
    let output =
        world.session().bash("(exec 3<>/dev/tcp/192.0.2.7/80) 2>/dev/null || echo no").expect_code(0);
    assert_eq!(output.text(), "no\n");
    let events = world.all_events(world.a(), &output.name);
    let denials = of_kind(&events, "net.denied");
    let first = denials.first().expect("a denial");
    assert_eq!(first["net"]["address"], "192.0.2.7");
    assert_eq!((first["net"]["port"].as_u64(), first["decision"].as_str()), (Some(80), Some("deny")));
    assert_eq!((first["net"]["protocol"].as_str(), first["rule"].as_str()), (Some("tcp"), Some("default")));
    // The subshell asked for it, which is bash as its parent is.
    assert!(text_at(first, "/actor/exe").ends_with("/bash"), "{first}");
    assert!(first["actor"]["pid"].as_u64().is_some_and(|pid| pid > 2), "{first}");
}

/// Each denial and each name names the program that met it, by whatever protocol.
fn denials_and_names_name_their_program(world: &World) {
    let script = "import socket, subprocess
print(subprocess.run(['getent', 'ahostsv4', 'secret.example.org']).returncode)
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
for one, to in zip(sockets, [('192.0.2.9', 443), ('8.8.8.8', 123)]):
    try: one.sendto(b'x', to)
    except OSError as error: print(error.errno)
# Denials are looked at in their order: with this one those before it are.
try: socket.create_connection(('2001:db8::9', 443))
except OSError as error: print(error.errno)";
    let output = world.session().run(["python3", "-c", script]).expect_code(0);
    let (perm, refused) = (libc::EPERM, libc::ECONNREFUSED);
    let mut said: Vec<_> = output.text().lines().map(str::to_owned).collect();
    said.sort();
    let mut wanted = ["2".to_owned(), perm.to_string(), perm.to_string(), refused.to_string()];
    wanted.sort();
    assert_eq!(said, wanted, "{}", output.stderr);
    let events = world.all_events(world.a(), &output.name);
    let queries = of_kind(&events, "dns.query");
    let query = queries.iter().find(|query| query["dns"]["name"] == "secret.example.org").expect("the name");
    assert_eq!((query["decision"].as_str(), query["rule"].as_str()), (Some("deny"), Some("network.none")));
    assert!(text_at(query, "/actor/exe").ends_with("/getent"), "{query}");
    let getent = of_kind(&events, "process.exec");
    let getent = getent.iter().find(|exec| text_at(exec, "/exec/path").ends_with("/getent")).expect("it ran");
    assert_eq!(getent["actor"]["pid"], query["actor"]["pid"], "{getent} {query}");
    let denials = of_kind(&events, "net.denied");
    for address in ["192.0.2.9", "8.8.8.8", "2001:db8::9"] {
        let denial = denials.iter().find(|denial| denial["net"]["address"] == address).expect("a denial");
        assert!(text_at(denial, "/actor/exe").contains("/python3"), "{denial}");
    }
}

/// A socket that several processes have is nobody's in particular.
fn who_cannot_be_told_from_another_is_not_named(world: &World) {
    let script = "import os, socket, time
socket_ = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)
    os._exit(0)
try: socket_.sendto(b'x', ('192.0.2.9', 443))
except OSError as error: print(error.errno)
# Its denial is looked at while both live.
try: socket.create_connection(('192.0.2.9', 444))
except OSError as error: print(error.errno)";
    let output = world.session().run(["python3", "-c", script]).expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let denials = of_kind(&events, "net.denied");
    let of_port = |port: u64| denials.iter().find(|denial| denial["net"]["port"] == port).expect("a denial");
    assert!(of_port(443)["actor"].is_null(), "{}", of_port(443));
    assert!(text_at(of_port(444), "/actor/exe").contains("/python3"), "{}", of_port(444));
}

fn lifecycle(world: &World) {
    let output = world.session().bash("exit 6").expect_code(6);
    let events = world.all_events(world.a(), &output.name);
    let created = &events[0];
    assert_eq!(text_at(created, "/lifecycle/user"), world.a().name);
    assert_eq!(text_at(created, "/lifecycle/profile"), "default");
    assert_eq!(created["lifecycle"]["command"], serde_json::json!(["bash", "-c", "exit 6"]));
    let ended = events.last().expect("an end");
    assert_eq!(
        (text_at(ended, "/lifecycle/reason"), text_at(ended, "/lifecycle/code")),
        ("exited".into(), "6".into())
    );
    assert_eq!(of_kind(&events, "session.started").len(), 1);
}

fn filters(world: &World) {
    let output =
        world.session().bash("/bin/true; (exec 3<>/dev/tcp/192.0.2.8/80) 2>/dev/null; exit 0").expect_code(0);
    let name = output.name.as_str();
    let get = |args: &[&str]| {
        let mut all = vec!["events", name, "--json"];
        all.extend(args);
        agentd_tests::harness::objects(&world.agentctl(world.a(), all).expect_code(0).text())
    };
    let all = get(&[]);
    let execs = get(&["--kind", "process.exec"]);
    assert!(!execs.is_empty() && execs.iter().all(|e| e["kind"] == "process.exec"));
    let denials = get(&["--decision", "deny"]);
    assert!(!denials.is_empty() && denials.iter().all(|e| e["decision"] == "deny"));
    let two = get(&["--kind", "session.created", "--kind", "session.ended"]);
    assert_eq!(two.len(), 2);
    assert_eq!(get(&["--since", "1h"]).len(), all.len());
    let last = text_at(all.last().expect("an end"), "/time");
    assert!(!get(&["--since", &last]).is_empty());
}

fn live(world: &World) {
    let session = world.session();
    let mut child = session.spawn(["bash", "-c", "echo up; read line; /bin/true; read line"]);
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    let mut agentctl = world.a().command(world.daemon().agentctl());
    agentctl.arg("--socket").arg(world.daemon().socket()).args(["events", session.name(), "-f", "--json"]);
    let mut follower = agentctl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("setpriv");
    let mut events = BufReader::new(follower.stdout.take().expect("a pipe"));
    let mut input = child.stdin.take().expect("a pipe");
    use std::io::Write;
    let mut asked = None;
    loop {
        let mut line = String::new();
        assert!(events.read_line(&mut line).expect("an event") > 0, "the stream ended early");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        if event["kind"] == "session.started" {
            input.write_all(b"\n").expect("the command reads");
            asked = Some(Instant::now());
        }
        if event["kind"] == "process.exec" && text_at(&event, "/exec/path").ends_with("/true") {
            let took = asked.expect("not before it was asked").elapsed();
            assert!(took < Duration::from_secs(1), "seen only after {took:?}");
            break;
        }
    }
    drop(input);
    wait_for_exit(&mut child, Duration::from_secs(10)).expect("it ends");
    // What follows one session ends with it.
    let ended = wait_for_exit(&mut follower, Duration::from_secs(5));
    if ended.is_none() {
        follower.kill().ok();
        follower.wait().ok();
        panic!("agentctl events -f ID goes on after the session's end");
    }
}

fn kept_as_lines_of_json(world: &World) {
    let output = world.session().run(["true"]).expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let id = text_at(&events[0], "/session");
    let path = world.daemon().state().join(format!("audit/{id}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    // Besides the event, a line has its number at its source, by which doubles are found.
    let mut lines = agentd_tests::harness::objects(&text);
    for line in &mut lines {
        line.as_object_mut().expect("an object").remove("n");
    }
    assert_eq!(lines, events);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else reads it: {mode:o}");
}

fn a_flood_has_no_gaps(world: &World) {
    let output = world.session().bash("for i in $(seq 1000); do /bin/true; done").expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let execs = of_kind(&events, "process.exec");
    let lost: u64 =
        of_kind(&events, "audit.dropped").iter().filter_map(|e| e["dropped"]["count"].as_u64()).sum();
    let trues = execs.iter().filter(|e| text_at(e, "/exec/path").ends_with("/true")).count() as u64;
    assert_eq!((trues, lost), (1000, 0));
    assert_eq!(of_kind(&events, "process.exit").len(), execs.len(), "an exit for each");
}

fn denials_are_counted_together(world: &World) {
    let script = "import socket
for _ in range(200):
    try: socket.create_connection(('192.0.2.9', 81))
    except ConnectionRefusedError: pass";
    let output = world.session().run(["python3", "-c", script]).expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let denials = of_kind(&events, "net.denied");
    let total: u64 =
        denials.iter().filter(|e| e["net"]["port"] == 81).filter_map(|e| e["net"]["count"].as_u64()).sum();
    assert_eq!(total, 200, "{} events", denials.len());
    assert!(denials.len() < 200, "they coalesce");
}

fn times_are_in_order(world: &World) {
    let output = world.session().bash("/bin/true; /bin/true").expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    for event in &events {
        let time = text_at(event, "/time");
        assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }
    let (first, last) = (text_at(&events[0], "/time"), text_at(events.last().expect("an end"), "/time"));
    assert!(first <= last, "{first} {last}");
}
