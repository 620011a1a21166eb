//! Memory, processes, time, descriptors, signals.

use std::time::{Duration, Instant};

use agentd_tests::harness::{Named, World, patience, text_at, wait_for_exit};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    out_of_memory_ends_with_137,
    a_child_killed_for_memory_is_said_at_the_end,
    a_further_command_killed_for_memory_says_so,
    values_come_with_their_flags_and_units,
    processes_are_limited_and_told,
    a_short_burst_over_the_limit_is_told,
    disk_is_limited_and_told,
    a_full_tmp_is_told,
    timeout_beats_an_ignored_signal,
    cpu_is_limited,
    descriptors_are_limited,
    signals_reach_the_command,
    terminating_agentctl_ends_the_session,
    a_killed_agentctl_ends_the_session,
    kill_ends_the_whole_session,
    a_signal_can_be_sent,
    kill_by_prefix_and_name,
];

fn limit_event(world: &World, session: &str, name: &str) -> Option<String> {
    let events = world.all_events(world.a(), session);
    let hit = events.iter().find(|e| e["kind"] == "limit.hit" && e["limit"]["name"] == name)?;
    Some(text_at(hit, "/limit/limit"))
}

fn out_of_memory_ends_with_137(world: &World) {
    let script = "a=x; while :; do a=$a$a; done";
    let output = world.session().options(["--memory", "64M"]).run(["bash", "-c", script]).expect_code(137);
    assert_eq!(output.stderr, "agentctl: killed: over 64 MiB (--memory)\n");
    assert_eq!(limit_event(world, &output.name, "memory").as_deref(), Some("67108864"));
}

/// The command lives on, and what it says of its child explains nothing.
fn a_child_killed_for_memory_is_said_at_the_end(world: &World) {
    let script = "bash -c 'a=x; while :; do a=$a$a; done' 2>/dev/null; echo \"ended with $?\" >&2; exit 3";
    let output = world.session().options(["--memory", "64M"]).bash(script).expect_code(3);
    assert!(output.stderr.contains("ended with 137\n"), "{}", output.stderr);
    let last = output.stderr.lines().last();
    assert_eq!(last, Some("agentctl: a process was killed: over 64 MiB (--memory)"), "{}", output.stderr);
}

/// The same of a further command.
fn a_further_command_killed_for_memory_says_so(world: &World) {
    let name =
        world.session().options(["--memory", "64M", "--detach"]).run(["sleep", "1000"]).expect_code(0).name;
    let bomb = ["exec", &name, "--", "bash", "-c", "a=x; while :; do a=$a$a; done"];
    let output = world.agentctl(world.a(), bomb).expect_code(137);
    assert_eq!(output.stderr, "agentctl: a process was killed: over 64 MiB (--memory)\n");
    world.agentctl(world.a(), ["kill", &name]).expect_code(0);
}

fn values_come_with_their_flags_and_units(world: &World) {
    let stderr = |options: [&str; 2]| {
        let output = world.session().options(options).run(["sleep", "60"]);
        (output.code, output.stderr)
    };
    let (code, idle) = stderr(["--idle", "1s"]);
    assert_eq!((code, idle.as_str()), (Some(124), "agentctl: timed out: idle for 1s (--idle)\n"));
    let (code, much) = stderr(["--memory", "100T"]);
    let said = much.starts_with("agentctl: refused: memory 100T is more than this host allows (");
    assert!(code == Some(125) && said && much.contains("G) (bounds.memory): ask for 1M to "), "{much}");
}

/// Also if what filled it is gone again at once; and once, not with each write that is refused.
fn a_full_tmp_is_told(world: &World) {
    let dir = world.workspace(world.a());
    let profile = "schema = 1\nextends = ['default']\n[[filesystem.scratch]]\npath = '/tmp'\nsize = '1M'\n";
    world.a().write(dir.join("p.toml"), profile);
    let fill = "head -c 2M /dev/zero > /tmp/x 2>/dev/null || echo full; head -c 4k /dev/zero > /tmp/y || echo full; rm /tmp/x /tmp/y";
    let script = format!("{fill}; exit 3");
    let output = world.session().option("--profile").option(dir.join("p.toml")).bash(&script).expect_code(3);
    assert_eq!(output.text(), "full\nfull\n", "{}", output.stderr);
    assert_eq!(limit_event(world, &output.name, "/tmp").as_deref(), Some("1048576"));
    let reported =
        world.all_events(world.a(), &output.name).iter().filter(|e| e["kind"] == "limit.hit").count();
    assert_eq!(reported, 1);
    let last = output.stderr.lines().last();
    assert_eq!(last, Some("agentctl: /tmp was full: 1 MiB (filesystem.scratch)"), "{}", output.stderr);
    // The shared memory of a session in which no program is started any more.
    let python = "import os, time\nfd = os.open('/dev/shm/x', os.O_CREAT | os.O_WRONLY)\ntry:\n    while True: os.write(fd, b'x' * 65536)\n\
                  except OSError as e: print(e.errno, flush=True)\ntime.sleep(2)";
    let output = world.session().options(["--memory", "128M"]).run(["python3", "-c", python]);
    assert_eq!((output.code, output.text()), (Some(0), "28\n".to_owned()), "{}", output.stderr);
    assert_eq!(limit_event(world, &output.name, "/dev/shm").as_deref(), Some("67108864"));
}

fn processes_are_limited_and_told(world: &World) {
    let script = "for i in $(seq 100); do sleep 5 & done 2>/dev/null; sleep 1; echo alive";
    let output = world.session().options(["--pids", "20"]).bash(script);
    assert_eq!(limit_event(world, &output.name, "pids").as_deref(), Some("20"), "{}", output.stderr);
    assert!(output.stderr.contains("new processes were refused: over 20 (--pids)"), "{}", output.stderr);
}

fn a_short_burst_over_the_limit_is_told(world: &World) {
    let output =
        world.session().options(["--pids", "8"]).bash("for i in $(seq 20); do sleep 9 & done 2>/dev/null");
    assert_eq!(limit_event(world, &output.name, "pids").as_deref(), Some("8"), "{}", output.stderr);
}

fn disk_is_limited_and_told(world: &World) {
    // At most some 50 MiB a second: what is written between two looks goes beyond the limit.
    let script = "for i in {1..2000}; do dd if=/dev/zero of=f$i bs=1M count=1 status=none; sleep 0.02; done";
    let output = world.session().options(["--disk", "8M"]).bash(script).expect_code(125);
    assert!(output.stderr.contains("more than 8 MiB to its workspace (--disk)"), "{}", output.stderr);
    assert_eq!(limit_event(world, &output.name, "disk").as_deref(), Some("8388608"));
    let id = text_at(&world.events(world.a(), &output.name)[0], "/session");
    let upper = world.daemon().state().join(format!("overlays/u{}/{id}/0/upper", world.a().uid));
    let files = std::fs::read_dir(&upper).expect("the overlay is kept").flatten();
    let written: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
    assert!((8 << 20..256 << 20).contains(&written), "{written} bytes of 2000 MiB");
}

fn timeout_beats_an_ignored_signal(world: &World) {
    let start = Instant::now();
    let script = "trap '' TERM INT HUP; echo up; while :; do sleep 1; done";
    // Long enough for bash to begin.
    let limit = format!("{}ms", patience(Duration::from_millis(500)).as_millis());
    let output = world.session().options(["--timeout", &limit]).bash(script).expect_code(124);
    assert_eq!(output.text(), "up\n", "what was written before stays");
    assert!(
        output.stderr.contains("timed out after ") && output.stderr.contains("s (--timeout)"),
        "{}",
        output.stderr
    );
    assert!(start.elapsed() < patience(Duration::from_secs(5)), "took {:?}", start.elapsed());
}

fn cpu_is_limited(world: &World) {
    let script = "timeout 2 bash -c 'while :; do :; done'; cat /proc/self/cgroup >/dev/null; times | tail -1";
    let output = world.session().options(["--cpus", "0.2"]).bash(script).expect_code(0);
    // Lines such as `0m0.412s 0m0.010s`: the loop's share of two seconds.
    let text = output.text();
    let user: f64 =
        text.split(['m', 's']).nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    assert!(user < 1.0, "used {user} s of 2 s with a fifth of a CPU");
}

fn descriptors_are_limited(world: &World) {
    let output = world.session().bash("ulimit -n; ulimit -Hn; ulimit -n 100000 && echo raised").run_code_of();
    assert!(!output.contains("raised"), "{output}");
}

/// The output whatever the code.
trait Text {
    fn run_code_of(self) -> String;
}

impl Text for agentd_tests::harness::RunOutput {
    fn run_code_of(self) -> String {
        self.text()
    }
}

fn end_of(child: &mut std::process::Child) -> Option<i32> {
    wait_for_exit(child, Duration::from_secs(10)).expect("it ends").code()
}

fn signals_reach_the_command(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("trap 'exit 42' INT; echo ready; while :; do sleep 0.05; done");
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("our own child");
    assert_eq!(end_of(&mut child), Some(42));
}

fn terminating_agentctl_ends_the_session(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("echo ready; sleep 60");
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
    assert_eq!(end_of(&mut child), Some(143));
    ended(world, session.name());
}

fn a_killed_agentctl_ends_the_session(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("trap '' HUP TERM PIPE; echo ready; sleep 60");
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    ended(world, session.name());
}

/// Waits for the end of a session through its events.
fn ended(world: &World, name: &str) {
    let result = agentd_tests::harness::within(Duration::from_secs(5), || {
        let events = world.events(world.a(), name);
        match events.last() {
            Some(last) if last["kind"] == "session.ended" => Ok(()),
            last => Err(last.cloned()),
        }
    });
    assert_eq!(result, Ok(()));
}

fn kill_ends_the_whole_session(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("trap '' TERM; sleep 60 & echo ready; wait; sleep 60");
    world.agentctl(world.a(), ["kill", session.name()]).expect_code(0);
    assert_eq!(end_of(&mut child), Some(137));
    let events = world.all_events(world.a(), session.name());
    assert_eq!(text_at(events.last().expect("an end"), "/lifecycle/reason"), "killed");
}

fn a_signal_can_be_sent(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done");
    world.agentctl(world.a(), ["kill", session.name(), "-s", "USR1"]).expect_code(0);
    assert_eq!(end_of(&mut child), Some(7));
}

fn kill_by_prefix_and_name(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("echo ready; sleep 60");
    let listed = world.agentctl(world.a(), ["ps", "--json"]).expect_code(0).text();
    let line = listed.lines().find(|line| line.contains(session.name())).expect("a running session");
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    for key in ["id", "name", "user", "state", "profile", "command", "created"] {
        assert!(value.get(key).is_some(), "{key} in {value}");
    }
    let id = value["id"].as_str().expect("an id");
    world.agentctl(world.a(), ["kill", &id[..10]]).expect_code(0);
    assert_eq!(end_of(&mut child), Some(137));
}
