//! Limits above a session's own: the user's, the host's, the idle one; a hundred sessions at once; and what outlives a
//! session.

mod counters;
mod crowd;
mod hundred;
mod outlives;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use agentd_tests::harness::{
    Alone, Daemon, Parts, Session, Setup, User, World, alone, run_alone, text_at, wait_for_exit, within,
};

const LIMIT: Duration = Duration::from_secs(20);

/// A test's name, what its daemon has in its `agentd.toml`, and what it does.
type Bounded = (&'static str, &'static str, fn(&World));

fn main() -> ExitCode {
    let tests: [Bounded; 9] = [
        ("memory_of_a_user", "[bounds]\nuser_memory = \"192M\"", user_memory),
        ("memory_of_the_host", "[bounds]\nhost_memory = \"192M\"", host_memory),
        ("processes_of_a_user", "[bounds]\nuser_pids = 40", user_pids),
        ("processes_of_the_host", "[bounds]\nhost_pids = 40", host_pids),
        ("cpus_are_set_where_they_are_said", "[bounds]\nuser_cpus = 1.5", cpus),
        (
            "every_limit_is_set",
            "[bounds]\nuser_memory = \"3G\"\nuser_pids = 999\nhost_memory = \"4G\"\nhost_pids = 2000",
            set,
        ),
        ("idle_ends_what_does_nothing", "", idle),
        ("the_oom_killer_spares_helpers", "prewarmed_sessions = 0", spared),
        ("open_files", "", open_files),
    ];
    let named = |(name, config, test): Bounded| -> Alone {
        alone(&format!("limits::{name}"), Setup::with(config), test)
    };
    let mut all: Vec<Alone> = tests.into_iter().map(named).collect();
    let many = "[bounds]\nmax_sessions_per_user = 200\nuser_requests = 20000";
    all.push(alone("limits::a_hundred_sessions_at_once", Setup::with(many), hundred::at_once));
    all.extend(crowd::tests());
    all.push(alone("limits::three_sessions_leave_the_host_enough", Setup::default(), counters::all_kinds));
    let sockets = alone("limits::socket_buffers_of_three_sessions", Setup::default(), counters::sockets);
    all.push(sockets.unless(counters::no_socket_limit()));
    all.push(alone("limits::open_files_of_three_sessions", Setup::default(), counters::files));
    all.push(alone("limits::helpers_spend_what_their_session_has", Setup::default(), counters::helpers));
    let few = Setup::with("prewarmed_sessions = 0").leases(6);
    all.push(alone("limits::a_lease_rests_while_something_is_left", few, outlives::leases));
    let memory = "prewarmed_sessions = 0\n[bounds]\nuser_memory = \"300M\"\nhost_memory = \"1G\"";
    all.push(alone("limits::memory_that_a_descriptor_holds", Setup::with(memory), outlives::memory));
    run_alone("limits", Some(2), all)
}

/// A session that holds so many MiB once a line arrives, prints a line, and ends at the next one.
struct Holder<'a> {
    session: Session<'a>,
    child: Child,
    parts: Parts,
}

impl<'a> Holder<'a> {
    fn start(world: &'a World, user: &'a User, mib: usize) -> Self {
        let session =
            Session::new(world, user, world.workspace(user)).options(["--memory", &format!("{}M", mib + 64)]);
        let script = format!(
            "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\nx = b'x' * ({mib} << 20)\n\
             print('held', flush=True)\nsys.stdin.readline()\nprint('whole', x.count(b'x') == {mib} << 20)"
        );
        let child = session.spawn(["/usr/bin/python3", "-c", &script, session.name()]);
        let mut holder = Self { session, child, parts: Parts::default() };
        assert_eq!(holder.line(), "ready\n");
        holder.parts = world.daemon().await_session(user, holder.session.name());
        holder
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        // One at a time: nothing of the next is taken along.
        BufReader::with_capacity(1, self.child.stdout.as_mut().expect("a pipe")).read_line(&mut line).ok();
        line
    }

    fn proceed(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"on\n").and_then(|()| stdin.flush()).ok();
    }

    fn end(&mut self) -> Option<i32> {
        wait_for_exit(&mut self.child, LIMIT).expect("it ends").code()
    }

    fn helpers_live(&self) -> bool {
        [self.parts.keeper, self.parts.relay]
            .iter()
            .all(|pid| pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()))
    }
}

/// Two that are together above the bound: the kernel takes one's command, nobody's helper.
fn above_it_together(world: &World, first: &User, second: &User) {
    let mut one = Holder::start(world, first, 110);
    let mut two = Holder::start(world, second, 110);
    one.proceed();
    assert_eq!(one.line(), "held\n", "one alone is below the bound");
    two.proceed();
    let ended = within(LIMIT, || {
        let ended = |holder: &mut Holder<'_>| holder.child.try_wait().ok().flatten().is_some();
        if ended(&mut one) || ended(&mut two) { Ok(()) } else { Err(()) }
    });
    assert_eq!(ended, Ok(()), "both hold it all");
    let first_ended = one.child.try_wait().expect("our own child").is_some();
    let (mut gone, mut left, user, other) = match first_ended {
        true => (one, two, first, second),
        false => (two, one, second, first),
    };
    assert_eq!(gone.end(), Some(137));
    let events = world.all_events(user, gone.session.name());
    let hit = events.iter().any(|e| e["kind"] == "limit.hit" && e["limit"]["name"] == "memory");
    assert!(hit, "{events:#?}");
    assert_eq!(text_at(events.last().expect("an end"), "/lifecycle/reason"), "oom");
    // The other one goes on, with its helpers.
    assert!(left.helpers_live(), "a helper was killed");
    if first_ended {
        assert_eq!(left.line(), "held\n");
    }
    left.proceed();
    assert_eq!(left.line(), "whole True\n");
    assert_eq!(left.end(), Some(0));
    let events = world.all_events(other, left.session.name());
    assert_eq!(text_at(events.last().expect("an end"), "/lifecycle/reason"), "exited");
}

fn user_memory(world: &World) {
    above_it_together(world, world.a(), world.a());
}

fn host_memory(world: &World) {
    above_it_together(world, world.a(), world.b());
}

/// Two that want more processes together than there may be.
fn too_many_together(world: &World, first: &User, second: &User, bound: usize) {
    let script = "n=0; for i in {1..30}; do sleep 1000 & done 2>/dev/null; echo $(jobs -p | wc -l); read x";
    let start = |user| {
        let session = Session::new(world, user, world.workspace(user)).options(["--pids", "60"]);
        let mut child = session.spawn(["bash", "-c", script, session.name()]);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a pipe");
        (session, child, line.trim().parse::<usize>().unwrap_or(0))
    };
    let (_one, mut first_child, first_count) = start(first);
    assert_eq!(first_count, 30, "one alone is below the bound");
    let (_two, mut second_child, second_count) = start(second);
    assert!(second_count < bound - 30, "{second_count} besides 30 with a bound of {bound}");
    // Whoever needs no process goes on.
    drop(first_child.stdin.take());
    assert!(wait_for_exit(&mut first_child, LIMIT).is_some());
    drop(second_child.stdin.take());
    assert!(wait_for_exit(&mut second_child, LIMIT).is_some());
}

fn user_pids(world: &World) {
    too_many_together(world, world.a(), world.a(), 40);
    // Another user has a bound of their own.
    Session::new(world, world.b(), world.workspace(world.b())).run(["true"]).expect_code(0);
}

fn host_pids(world: &World) {
    too_many_together(world, world.a(), world.b(), 40);
}

/// What a group's limit is set to, in whichever hierarchy has the controller; `None` if it has none.
fn setting(daemon: &Daemon, group: &str, v1: &str, v2: &str) -> Option<String> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    let lines = mountinfo.lines().filter(|line| line.contains(" - cgroup"));
    let roots = lines.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let dirs = roots.flat_map(|root| daemon.cgroups_in(&root)).map(|root| root.join(group));
    let files = dirs.flat_map(|dir| [dir.join(v1), dir.join(v2)]);
    files.filter_map(|file| std::fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()).next()
}

/// CPUs that a group may use.
fn quota(daemon: &Daemon, group: &str) -> f64 {
    let both = match setting(daemon, group, "cpu.cfs_quota_us", "cpu.max") {
        Some(text) if text.contains(' ') => text,
        Some(quota) => {
            let period = setting(daemon, group, "cpu.cfs_period_us", "-").expect("a period");
            format!("{quota} {period}")
        }
        None => panic!("no CPU controller has {group}"),
    };
    let mut numbers = both.split(' ').map(|word| word.parse::<f64>().expect("a number"));
    numbers.next().expect("a quota") / numbers.next().expect("a period")
}

fn cpus(world: &World) {
    let session = world.session().options(["--cpus", "0.5"]);
    let mut child = session.spawn_ready("echo ready; sleep 1000");
    let lease = world.daemon().parts(world.a()).into_iter().find(|p| !p.agents.is_empty()).expect("it").lease;
    let user = format!("agents/u{}", world.a().uid);
    assert!((quota(world.daemon(), &format!("{user}/{lease}")) - 0.5).abs() < 0.01);
    assert!((quota(world.daemon(), &user) - 1.5).abs() < 0.01);
    child.kill().ok();
    child.wait().ok();
}

/// Each of memory, swap, processes, for session, user and host, and something small for helpers.
fn set(world: &World) {
    let session = world.session().options(["--memory", "100M", "--pids", "50"]);
    let mut child = session.spawn_ready("echo ready; sleep 1000");
    let daemon = world.daemon();
    let lease = daemon.parts(world.a()).into_iter().find(|p| !p.agents.is_empty()).expect("it").lease;
    let user = format!("agents/u{}", world.a().uid);
    let memory = |group: &str| -> u64 {
        let text = setting(daemon, group, "memory.limit_in_bytes", "memory.max");
        text.unwrap_or_else(|| panic!("no memory controller has {group}")).parse().expect("a number")
    };
    let pids = |group: &str| -> u64 {
        let text = setting(daemon, group, "pids.max", "pids.max");
        text.unwrap_or_else(|| panic!("no pids controller has {group}")).parse().expect("a number")
    };
    let own = format!("{user}/{lease}");
    for (group, bytes, processes) in
        [(own.as_str(), 100 << 20, 50), (&user, 3 << 30, 999), ("agents", 4 << 30, 2000)]
    {
        assert_eq!(memory(group), bytes, "{group}");
        // init is one more than the session asked for.
        let is = pids(group);
        assert!((processes..=processes + 4).contains(&is), "{group}: {is}");
    }
    let helpers = format!("helpers/u{}/{lease}", world.a().uid);
    assert!(memory(&helpers) <= 512 << 20, "helpers of one session: {} bytes", memory(&helpers));
    // Swap is off: with v1 what is counted with swap is as much, with v2 there is none of it.
    match setting(daemon, &own, "memory.memsw.limit_in_bytes", "memory.swap.max").as_deref() {
        None | Some("0") => {}
        Some(bytes) => assert_eq!(bytes.parse::<u64>().ok(), Some(100 << 20), "memory and swap together"),
    }
    child.kill().ok();
    child.wait().ok();
}

fn idle(world: &World) {
    let start = Instant::now();
    let output = world.session().options(["--idle", "700ms"]).bash("echo up; sleep 1000").expect_code(124);
    assert_eq!(output.text(), "up\n");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let events = world.all_events(world.a(), &output.name);
    let hit = events.iter().find(|e| e["kind"] == "limit.hit").expect("a limit that was hit");
    assert_eq!((text_at(hit, "/limit/name"), text_at(hit, "/limit/limit")), ("idle".into(), "700".into()));
    assert_eq!(text_at(events.last().expect("an end"), "/lifecycle/reason"), "timeout");
    // What writes, and what runs programs, is not idle.
    let writes =
        "import time\nfor i in range(15): print(i, flush=True); time.sleep(0.2)\nraise SystemExit(3)";
    let session = world.session().options(["--idle", "2s"]);
    session.run(["/usr/bin/python3", "-c", writes]).expect_code(3);
    let runs = "for i in {1..30}; do sleep 0.1; done; exit 4";
    world.session().options(["--idle", "2s"]).bash(runs).expect_code(4);
}

/// What the kernel takes first, system-wide: never launcher, keeper or relay before an agent.
fn spared(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("echo ready; sleep 1000 & wait");
    let parts = world.daemon().parts(world.a()).pop().expect("it runs");
    let adjusted = |pid: u32| -> i32 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs");
        text.trim().parse().expect("a number")
    };
    let agents = parts.agents.iter().chain(&parts.init).map(|pid| adjusted(*pid)).min().expect("agents");
    let own = adjusted(std::process::id());
    assert!(agents >= own.min(0), "agents are spared: {agents}");
    for helper in [parts.keeper, parts.relay].into_iter().flatten() {
        assert!(adjusted(helper) <= agents, "{} for a helper, {agents} for agents", adjusted(helper));
        assert_eq!(agentd_tests::harness::uid_of(helper).map(|uid| world.daemon().leases(uid)), Some(true));
    }
    child.kill().ok();
    child.wait().ok();
}

fn open_files(world: &World) {
    let script = "import resource, os
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
files = []
try:
    while True: files.append(os.open('/dev/null', os.O_RDONLY))
except OSError as error: print(error.errno, len(files) + 3 <= hard <= 1 << 20)
try: resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
except (ValueError, PermissionError): print('no more')";
    let output = world.session().run(["/usr/bin/python3", "-c", script]).expect_code(0);
    assert_eq!(output.text(), "24 True\nno more\n");
}
