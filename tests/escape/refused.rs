//! Calls that are refused are on record, and nothing that an agent does changes the answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use agentd_tests::harness::{Named, World, signal, text_at, wait_for_exit, within};
use agentd_tests::tests;
use rustix::process::Signal;
use serde_json::Value;

pub const TESTS: &[Named] = tests![
    the_program_that_asked_is_named,
    a_flood_is_counted,
    calls_that_signals_interrupt_are_counted_and_hold_nothing_up,
    no_user_namespace_could_be_made_without_the_filter,
    a_keeper_that_stands_still_lets_nothing_through,
];

/// `mount(2)` of nothing to nowhere: it is refused before anybody looks at that.
const MOUNT: &str = "syscall(165, 0, 0, 0, 0, 0)";

fn refused(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["kind"] == "confine.denied").collect()
}

/// A program under another name, a child of it that execs nothing, and a thread.
fn the_program_that_asked_is_named(world: &World) {
    let dir = world.workspace(world.a());
    let copy = dir.join("renamed");
    std::fs::copy("/usr/bin/perl", &copy).expect("a copy");
    world.a().own(&copy);
    let script = format!(
        "die if {MOUNT} != -1; my $e = $!; if (fork() == 0) {{ syscall(272, 0x10000000); exit 0 }} wait; print $e"
    );
    let output = world.session_in(&dir).run(["./renamed", "-e", &script]).expect_code(0);
    assert_eq!(output.text(), "Operation not permitted");
    let events = world.all_events(world.a(), &output.name);
    let seen: Vec<_> = refused(&events)
        .into_iter()
        .map(|e| (text_at(e, "/confine/call"), text_at(e, "/confine/argument"), text_at(e, "/rule")))
        .collect();
    let of = |call: &str, argument: &str| (call.to_owned(), argument.to_owned(), "confine.call".to_owned());
    assert_eq!(seen, [of("mount", ""), of("unshare", "CLONE_NEWUSER")], "{events:#?}");
    for event in refused(&events) {
        assert_eq!(text_at(event, "/actor/exe"), copy.display().to_string(), "{event}");
    }
    let pids: Vec<_> = refused(&events).into_iter().map(|event| event["actor"]["pid"].clone()).collect();
    assert_ne!(pids[0], pids[1], "the child is another process");
}

/// Whoever asks without end costs few events, and each call is in a count.
fn a_flood_is_counted(world: &World) {
    let script = format!("for (1..20000) {{ die if {MOUNT} != -1 }} exit 7");
    let output = world.session().run(["perl", "-e", &script]).expect_code(7);
    let events = world.all_events(world.a(), &output.name);
    let reported = refused(&events);
    let count: u64 = reported.iter().filter_map(|event| event["confine"]["count"].as_u64()).sum();
    assert_eq!(count, 20_000, "{reported:#?}");
    assert!(reported.len() < 100, "{} events", reported.len());
}

/// A process whose calls are interrupted all the time cannot keep its keeper from its work: what it runs next is on
/// record, and its time is over when it is.
fn calls_that_signals_interrupt_are_counted_and_hold_nothing_up(world: &World) {
    let script = r"import ctypes, os, signal, subprocess, time
call = ctypes.CDLL(None).syscall
signal.signal(signal.SIGUSR1, lambda *_: None)
child = os.fork()
if child == 0:
    while os.getppid() != 1:
        os.kill(os.getppid(), signal.SIGUSR1)
end = time.monotonic() + 2
while time.monotonic() < end:
    call(165, 0, 0, 0, 0, 0)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
subprocess.run(['/usr/bin/true'])
time.sleep(60)";
    let output = world.session().options(["--timeout", "5s"]).run(["python3", "-c", script]).expect_code(124);
    let events = world.all_events(world.a(), &output.name);
    let reported: u64 = refused(&events).iter().filter_map(|event| event["confine"]["count"].as_u64()).sum();
    assert!(reported > 0, "{events:#?}");
    assert!(events.iter().any(|event| text_at(event, "/exec/path") == "/usr/bin/true"), "{events:#?}");
}

/// What a compromised keeper could let through would still find none (`user_namespaces(7)`).
fn no_user_namespace_could_be_made_without_the_filter(world: &World) {
    let outside = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").expect("a number");
    assert_ne!(outside, "0\n", "this host has none for anybody");
    let inside = world.session().run(["cat", "/proc/sys/user/max_user_namespaces"]).expect_code(0);
    assert_eq!(inside.text(), "0\n");
}

/// The call waits for its keeper, and fails then as ever. Its caller can be killed meanwhile.
fn a_keeper_that_stands_still_lets_nothing_through(world: &World) {
    let session = world.session();
    let script = format!("$| = 1; print \"ready\\n\"; <STDIN>; {MOUNT}; print $!");
    let mut client = session.spawn(["perl", "-e", &script, session.name()]);
    let mut output = BufReader::new(client.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let of_session = world.daemon().await_session(world.a(), session.name());
    let keeper = of_session.keeper.expect("a keeper");
    signal(keeper, Signal::STOP, false);
    client.stdin.as_mut().expect("a pipe").write_all(b"go\n").expect("it reads");
    let asks = |pid: &u32| {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
        call.starts_with("165 ")
    };
    let waits = within(Duration::from_secs(10), || {
        if of_session.agents.iter().any(asks) { Ok(()) } else { Err(of_session.agents.clone()) }
    });
    signal(keeper, Signal::CONT, false);
    assert_eq!(waits, Ok(()), "nothing waits in mount(2)");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "Operation not permitted");
    let status = wait_for_exit(&mut client, Duration::from_secs(10)).expect("it ends");
    assert_eq!(status.code(), Some(0));
}
