//! A hundred sessions at once, all of which work.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;
use std::time::{Duration, Instant};

use agentd_tests::harness::{Daemon, Session, World, wait_for_exit, within};

const COUNT: usize = 100;
const LIMIT: Duration = Duration::from_secs(60);
/// What each does once all are there: files, programs, and a connection that is denied.
const WORK: &str = "echo ready; read word
    mkdir -p d/e && echo \"$word\" > d/e/f && cat d/e/f && rm -r d
    /usr/bin/expr 6 '*' 7; ls | wc -l
    (exec 3<>/dev/tcp/192.0.2.1/80) 2>/dev/null && echo connected || echo denied; exit 5";

/// Starts them, lets them all work, and says what they cost while idle.
pub(crate) fn at_once(world: &World) {
    // The first makes what later ones share.
    for user in [world.a(), world.b()] {
        Session::new(world, user, world.workspace(user)).run(["true"]).expect_code(0);
    }
    let before = memory(world.daemon());
    let start = Instant::now();
    let mut running: Vec<(Session<'_>, Child)> = Vec::new();
    std::thread::scope(|scope| {
        let starters: Vec<_> = (0..4)
            .map(|starter| {
                scope.spawn(move || {
                    let one = |_| {
                        // One user has at most 64 connections.
                        let user = if starter % 2 == 0 { world.a() } else { world.b() };
                        let session = Session::new(world, user, world.workspace(user));
                        let child = session.spawn_ready(WORK);
                        (session, child)
                    };
                    (0..COUNT / 4).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        for starter in starters {
            running.extend(starter.join().expect("all of them start"));
        }
    });
    let started = start.elapsed();
    assert_eq!(world.agentctl(world.admin(), ["ps", "--json"]).expect_code(0).text().lines().count(), COUNT);
    let each = memory(world.daemon()).saturating_sub(before) / COUNT as u64;
    eprintln!("{COUNT} sessions in {started:?}; each, idle: {} KiB of agentd", each >> 10);
    let start = Instant::now();
    for (session, child) in &mut running {
        let line = format!("word of {}\n", session.name());
        child.stdin.as_mut().expect("a pipe").write_all(line.as_bytes()).expect("agentctl reads");
    }
    for (session, child) in &mut running {
        let status = wait_for_exit(child, LIMIT).unwrap_or_else(|| panic!("{} does not end", session.name()));
        let mut text = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_to_string(&mut text).expect("a pipe");
        assert_eq!(text, format!("word of {}\n42\n0\ndenied\n", session.name()));
        assert_eq!(status.code(), Some(5));
    }
    eprintln!("all of them worked in {:?}", start.elapsed());
    for (session, _) in running.iter().step_by(10) {
        let events = world.all_events(world.admin(), session.name());
        for kind in ["process.exec", "net.denied"] {
            assert!(events.iter().any(|event| event["kind"] == kind), "{kind} of {}", session.name());
        }
    }
    let gone = within(Duration::from_secs(2), || {
        let left = [world.a(), world.b()].map(|user| world.daemon().parts(user)).concat();
        if left.iter().all(|parts| parts.agents.is_empty()) { Ok(()) } else { Err(left.len()) }
    });
    assert_eq!(gone, Ok(()));
}

/// Bytes that launcher, service, keepers, relays and inits have, shared ones by share.
fn memory(daemon: &Daemon) -> u64 {
    let mut pids: Vec<u32> = [daemon.pid()].into_iter().chain(daemon.service_pid()).collect();
    for half in ["helpers", "agents"] {
        for pid in daemon.members(half) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with("agentd-") {
                pids.push(pid);
            }
        }
    }
    pids.iter().map(|pid| pss(*pid)).sum()
}

fn pss(pid: u32) -> u64 {
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/smaps_rollup")) else { return 0 };
    let mut lines = BufReader::new(file).lines().map_while(Result::ok);
    let line = lines.find(|line| line.starts_with("Pss:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) << 10
}
