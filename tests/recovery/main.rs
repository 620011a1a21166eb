//! Nothing is left behind: after sessions that ended in every way, the host is as it was.

mod faults;
mod kills;
mod records;

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use agentd_tests::harness::{
    Alone, Named, Session, Setup, Snapshot, World, alone, has_faults, run_alone, wait_for_exit, within,
};

/// What the sessions may take to be gone without a trace.
pub const LIMIT: Duration = Duration::from_secs(2);
/// Snapshots are of the whole daemon: each test has one of its own, and no session is prepared ahead.
const UNPREPARED: &str = "prewarmed_sessions = 0";

fn main() -> ExitCode {
    let tests: [Named; 9] = [
        ("one_session_leaves_nothing", one),
        ("two_hundred_of_every_end", two_hundred),
        ("twenty_at_once", twenty),
        ("killed_clients", killed_clients),
        ("refused_requests", refused),
        ("clients_that_say_nothing", silent),
        ("a_session_that_fills_everything", full),
        ("overlays_go_with_rm", overlays),
        ("a_daemon_that_ends_takes_its_sessions_along", end_with_sessions),
    ];
    let named =
        |(name, test): Named| -> Alone { alone(&format!("recovery::{name}"), Setup::with(UNPREPARED), test) };
    let mut all: Vec<Alone> = tests.into_iter().map(named).collect();
    all.push(alone("recovery::a_daemon_that_prepares_sessions_ends_too", Setup::default(), prepared));
    all.extend(faults::tests());
    all.extend(kills::tests());
    all.extend(records::tests());
    // Most of the time of most is waiting.
    run_alone("recovery", Some(5), all)
}

/// The first session makes what stays: a user's groups, a lease's lock file.
pub fn settled(world: &World) -> Snapshot {
    world.session().option("--rm").run(["true"]).expect_code(0);
    Snapshot::settled(world.daemon())
}

/// What a session is made to end by.
#[derive(Clone, Copy, Debug)]
enum End {
    Normal,
    Error,
    Signal,
    TimedOut,
    Killed,
    NotFound,
    Stubborn,
    OutOfMemory,
    Denied,
}

const ENDS: [End; 9] = [
    End::Normal,
    End::Error,
    End::Signal,
    End::TimedOut,
    End::Killed,
    End::NotFound,
    End::Stubborn,
    End::OutOfMemory,
    End::Denied,
];

impl End {
    fn of(number: usize) -> Self {
        ENDS[number % ENDS.len()]
    }

    fn start(self, session: &Session<'_>) -> Child {
        match self {
            Self::Normal => session.spawn(["true"]),
            Self::Error => session.spawn(["bash", "-c", "echo x > ~/f; exit 3"]),
            Self::Signal => session.spawn(["bash", "-c", "kill -SEGV $$"]),
            Self::TimedOut => session.spawn(["sleep", "60"]),
            Self::Killed => session.spawn(["bash", "-c", "trap '' TERM; echo up; sleep 60"]),
            Self::NotFound => session.spawn(["no-such-command"]),
            Self::Stubborn => session.spawn([
                "bash",
                "-c",
                "(trap '' TERM HUP INT; setsid sleep 60 & setsid sleep 61 &) ; exit 0",
            ]),
            Self::OutOfMemory => session.spawn(["bash", "-c", "a=x; while :; do a=$a$a; done"]),
            Self::Denied => {
                session.spawn(["bash", "-c", "(exec 3<>/dev/tcp/192.0.2.1/80) 2>/dev/null; exit 0"])
            }
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::TimedOut => &["--timeout", "300ms"],
            Self::OutOfMemory => &["--memory", "48M"],
            _ => &[],
        }
    }

    fn code(self) -> i32 {
        match self {
            Self::Normal | Self::Stubborn | Self::Denied => 0,
            Self::Error => 3,
            Self::Signal => 139,
            Self::TimedOut => 124,
            Self::Killed | Self::OutOfMemory => 137,
            Self::NotFound => 127,
        }
    }
}

fn finish(world: &World, end: End, session: &Session<'_>, mut child: Child) {
    if let End::Killed = end {
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        world.agentctl(world.a(), ["kill", session.name()]).expect_code(0);
    }
    let status =
        wait_for_exit(&mut child, Duration::from_secs(20)).unwrap_or_else(|| panic!("{end:?} does not end"));
    let mut stderr = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        std::io::Read::read_to_string(&mut pipe, &mut stderr).ok();
    }
    assert_eq!(status.code(), Some(end.code()), "{end:?}: {stderr}");
}

fn one(world: &World) {
    let before = settled(world);
    for end in ENDS {
        let session = world.session().option("--rm").options(end.options());
        let child = end.start(&session);
        finish(world, end, &session, child);
        before.assert_same_within(world.daemon(), LIMIT);
    }
}

/// Normal ends, errors, signals, kills, time-outs, memory, and builds that fail half-way.
fn two_hundred(world: &World) {
    const AT_ONCE: usize = 8;
    let before = settled(world);
    let (start, faulty) = (Instant::now(), has_faults());
    std::thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            scope.spawn(move || {
                for number in (worker..200).step_by(AT_ONCE) {
                    if number % 4 == 3 && faulty {
                        faults::one_of_a_request(world, number / 4);
                    } else {
                        let end = End::of(number);
                        let session = world.session().option("--rm").options(end.options());
                        let child = end.start(&session);
                        finish(world, end, &session, child);
                    }
                }
            });
        }
    });
    eprintln!("200 sessions, {AT_ONCE} at a time: {:?}", start.elapsed());
    before.assert_same_within(world.daemon(), LIMIT);
}

fn twenty(world: &World) {
    let before = settled(world);
    let start = Instant::now();
    let sessions: Vec<_> = (0..20)
        .map(|number| {
            let end = End::of(number);
            let session = world.session().option("--rm").options(end.options());
            let child = end.start(&session);
            (end, session, child)
        })
        .collect();
    for (end, session, child) in sessions {
        finish(world, end, &session, child);
    }
    eprintln!("20 sessions at once: {:?}", start.elapsed());
    before.assert_same_within(world.daemon(), LIMIT);
}

/// Clients that are killed at any moment of a session's start and life.
fn killed_clients(world: &World) {
    let before = settled(world);
    for delay in (0..60).step_by(3) {
        let session = world.session().option("--rm");
        let mut child = session.spawn(["bash", "-c", "trap '' HUP TERM PIPE; sleep 60"]);
        // The moment is what is tested: there is nothing to wait for.
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
    before.assert_same_within(world.daemon(), Duration::from_secs(4));
    let left = world.agentctl(world.a(), ["ps", "--json"]).expect_code(0).text();
    assert_eq!(left, "", "no session runs");
}

fn refused(world: &World) {
    let before = settled(world);
    for options in [
        &["--memory", "9T"][..],
        &["--read", "/nonexistent"],
        &["--read", "/etc"],
        &["--workspace", "/root"],
        &["--profile", "no-such"],
        &["--mask", "../x"],
    ] {
        world.session().options(options).run(["true"]).expect_code(125);
    }
    before.assert_same_within(world.daemon(), LIMIT);
}

fn silent(world: &World) {
    use std::os::unix::net::UnixStream;
    let before = settled(world);
    let connections: Vec<_> =
        (0..50).filter_map(|_| UnixStream::connect(world.daemon().socket()).ok()).collect();
    world.session().option("--rm").run(["true"]).expect_code(0);
    drop(connections);
    before.assert_same_within(world.daemon(), LIMIT);
}

fn full(world: &World) {
    let before = settled(world);
    let script = "head -c 100M /dev/zero > big; head -c 50M /dev/zero > ~/big; head -c 50M /dev/zero > /tmp/big
        for i in $(seq 500); do : > f$i; done; mkfifo q; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")' 2>/dev/null; exit 0";
    world.session().options(["--rm", "--memory", "1G"]).bash(script).expect_code(0);
    before.assert_same_within(world.daemon(), LIMIT);
}

fn overlays(world: &World) {
    let before = settled(world);
    let output =
        world.session().bash("mkdir -p a/b; echo x > a/b/c; chmod 000 a/b; chmod 500 a").expect_code(0);
    world.agentctl(world.a(), ["rm", &output.name]).expect_code(0);
    before.assert_same_within(world.daemon(), LIMIT);
}

/// What is prepared before anybody asks is bounded, and goes with the daemon.
fn prepared(world: &World) {
    for number in 0..20 {
        let end = End::of(number);
        let session = world.session().option("--rm").options(end.options());
        let child = end.start(&session);
        finish(world, end, &session, child);
    }
    let few = within(Duration::from_secs(5), || {
        let now = Snapshot::take(world.daemon());
        // Launcher and service; builder, init and relay of two sessions that wait; and of none that has ended.
        if now.leases.len() <= 2 && now.processes.len() <= 9 { Ok(()) } else { Err(format!("{now:#?}")) }
    });
    assert_eq!(few, Ok(()), "more than two prepared sessions are left");
    end_with_sessions(world);
}

/// The daemon itself, once it was asked to end with sessions running.
fn end_with_sessions(world: &World) {
    let sessions: Vec<_> = (0..3)
        .map(|_| {
            let session = world.session();
            let mut child = session.spawn(["bash", "-c", "trap '' TERM HUP; echo up; sleep 60"]);
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
            child
        })
        .collect();
    world.daemon().stop();
    for mut child in sessions {
        let status =
            wait_for_exit(&mut child, Duration::from_secs(10)).expect("agentctl ends with the daemon");
        assert!(!status.success());
    }
    let gone = within(LIMIT, || {
        let now = Snapshot::of_nothing(world.daemon());
        if now.is_empty() { Ok(()) } else { Err(now) }
    });
    assert_eq!(gone, Ok(()), "left behind by the daemon itself");
}
