//! The moments of a session's life, and what is looked at afterwards.

use std::time::Duration;

use agentd_tests::harness::{Part, Parts, Session, Snapshot, World, kill, signal, text_at, within};
use rustix::process::Signal;
use serde_json::Value;

use crate::Victim;
use crate::watch::{Client, Seen};

/// How long what ended may be seen: two seconds, and the grace that a client's end has.
const GONE: Duration = Duration::from_millis(2300);
/// Longer than a build that hangs.
const RESTART_TIMEOUT: Duration = Duration::from_secs(30);
/// What a command that runs to its end ends with.
const CODE: i32 = 7;
/// Programs that a session runs while it prints, and the lines of each.
const PROGRAMS: usize = 1000;
const LINES: usize = 60;
/// Where it is killed.
const MIDDLE: usize = 9000;

/// When somebody is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    During,
    Created,
    After,
    Printing,
    Ending,
}

/// What comes of it, in the words of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub session: String,
    pub client: String,
}

impl Moment {
    pub fn parse(text: &str) -> Self {
        match text {
            "before" => Self::Before,
            "during" => Self::During,
            "created" => Self::Created,
            "after" => Self::After,
            "printing" => Self::Printing,
            "ending" => Self::Ending,
            other => panic!("table.md: no moment is called {other:?}"),
        }
    }

    /// Makes it happen to `victim`.
    pub fn happens(self, world: &World, victim: Victim) -> Outcome {
        match (self, victim) {
            (Self::Before, Victim::Client) => client_before(world),
            (Self::Created, Victim::Client) => client_created(world),
            (Self::Before, _) => before(world, victim),
            (Self::During, _) => during(world, victim),
            (Self::After, _) => after(world, victim),
            (Self::Printing, _) => printing(world, victim),
            (Self::Ending, _) => ending(world, victim),
            (Self::Created, _) => panic!("table.md: only a client can be killed there"),
        }
    }
}

/// Kills, and starts again what a service manager would.
fn strike(world: &World, victim: Victim, parts: &Parts, client: Option<&mut Client>) {
    let daemon = world.daemon();
    match victim {
        Victim::Service => {
            daemon.kill(Part::Service);
            daemon.begin(&[Part::Service]);
        }
        Victim::ServiceByHand => {
            let old = daemon.service_pid().expect("it runs");
            daemon.kill(Part::Service);
            let new = within(RESTART_TIMEOUT, || daemon.service_pid().filter(|pid| *pid != old).ok_or(()));
            new.expect("the launcher starts its service again");
        }
        Victim::Launcher => {
            daemon.kill(Part::Launcher);
            daemon.begin(&[Part::Launcher]);
        }
        Victim::Both => {
            daemon.kill(Part::Launcher);
            daemon.kill(Part::Service);
            daemon.begin(&[Part::Launcher, Part::Service]);
        }
        Victim::Upgrade => {
            daemon.terminate(Part::Service);
            daemon.terminate(Part::Launcher);
            daemon.begin(&[Part::Launcher, Part::Service]);
        }
        Victim::Keeper => kill(parts.keeper.expect("a keeper")),
        Victim::Relay => kill(parts.relay.expect("a relay")),
        Victim::Init => kill(parts.init.expect("an init")),
        // In the order in which there is most to get wrong.
        Victim::Scope => {
            let helpers = [parts.keeper, parts.relay, parts.init].into_iter().flatten();
            helpers.chain(parts.agents.iter().copied()).for_each(|pid| signal(pid, Signal::TERM, false));
        }
        Victim::Client => client.expect("a client").kill(),
    }
}

/// The host as it is without a session; the first one makes what stays.
fn settled(world: &World) -> Snapshot {
    world.session().option("--rm").run(["true"]).expect_code(0);
    Snapshot::settled(world.daemon())
}

/// A session that waits for a line and repeats it.
fn waiting(session: &Session<'_>) -> Client {
    let script = "echo ready; read line; echo \"$line\"; /usr/bin/true; exit 7";
    Client::start(session, &["bash", "-c", script, session.name()])
}

fn before(world: &World, victim: Victim) -> Outcome {
    if !victim.is_of_a_session() {
        let clean = settled(world);
        strike(world, victim, &Parts::default(), None);
        return to_its_end(world, Some(&clean));
    }
    // The first session of a user makes others be prepared for the next.
    world.session().option("--rm").run(["true"]).expect_code(0);
    let prepared = within(RESTART_TIMEOUT, || {
        let waiting = world.daemon().parts(world.a());
        let ready = waiting.iter().filter(|parts| parts.whole() && parts.agents.is_empty()).count();
        if ready == waiting.len() && ready > 0 { Ok(waiting) } else { Err(waiting) }
    });
    let prepared = prepared.unwrap_or_else(|found| panic!("nothing is prepared: {found:#?}"));
    for parts in &prepared {
        strike(world, victim, parts, None);
    }
    // What has lost a part of it is given up.
    let gone = within(GONE, || {
        let now = world.daemon().parts(world.a());
        let left: Vec<_> =
            now.into_iter().filter(|now| prepared.iter().any(|p| p.keeper == now.keeper)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(gone, Ok(()), "prepared, and broken");
    to_its_end(world, None)
}

/// A session as if nothing had happened.
fn to_its_end(world: &World, clean: Option<&Snapshot>) -> Outcome {
    let session = world.session();
    let mut client = waiting(&session);
    client.await_lines(1);
    client.write("on we go\n");
    let seen = client.end();
    assert_eq!(seen.output, "ready\non we go\n", "{}", seen.errors);
    lived(world, &session, &seen, clean, &[("/true", 1)])
}

/// A request that is not made in the end.
fn client_before(world: &World) -> Outcome {
    let clean = settled(world);
    let api = world.api(world.a());
    let cwd = world.workspace(world.a());
    let spec = world.spec(world.a(), &cwd, &["sleep", "1000"]);
    let prepared = api.prepared(spec);
    drop((prepared, api));
    clean.assert_same_within(world.daemon(), GONE);
    assert_eq!(world.agentctl(world.a(), ["ps", "-a", "--json"]).expect_code(0).text().lines().count(), 0);
    Outcome { session: "not built".into(), client: "-".into() }
}

fn client_created(world: &World) -> Outcome {
    let clean = settled(world);
    let api = world.api(world.a());
    let cwd = world.workspace(world.a());
    let mut spec = world.spec(world.a(), &cwd, &["sleep", "1000"]);
    spec.detach = false;
    let name = spec.name.clone();
    api.create(spec).expect("a session");
    drop(api);
    ended(world, &name, &clean, None)
}

fn during(world: &World, victim: Victim) -> Outcome {
    let clean = settled(world);
    let session = world.session().options(["--env", "AGENTD_FAULT=confine:hang"]);
    let mut client = Client::start(&session, &["true"]);
    let mut last = Parts::default();
    let there = within(RESTART_TIMEOUT, || {
        last = world.daemon().parts(world.a()).into_iter().next().unwrap_or_default();
        if last.whole() { Ok(()) } else { Err(()) }
    });
    assert_eq!(there, Ok(()), "the build does not begin: {last:#?}");
    strike(world, victim, &last, Some(&mut client));
    let seen = client.end();
    assert_eq!(seen.output, "");
    let gone = within(RESTART_TIMEOUT, || {
        let left = world.daemon().parts(world.a());
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(gone, Ok(()), "the builder outlives its session");
    // Some remember that it was asked for.
    world.agentctl(world.a(), ["rm", session.name()]);
    clean.assert_same_within(world.daemon(), GONE);
    let events = world.agentctl(world.a(), ["events", "--json"]).expect_code(0).text();
    assert!(!events.contains("session.started"), "{events}");
    Outcome { session: "not built".into(), client: said(&seen) }
}

fn after(world: &World, victim: Victim) -> Outcome {
    let clean = settled(world);
    let session = world.session();
    let mut client = waiting(&session);
    client.await_lines(1);
    let parts = world.daemon().await_session(world.a(), session.name());
    strike(world, victim, &parts, Some(&mut client));
    if !ends_with(victim) {
        client.write("on we go\n");
        let seen = client.end();
        assert_eq!(seen.output, "ready\non we go\n", "{}", seen.errors);
        return lived(world, &session, &seen, Some(&clean), &[("/true", 1)]);
    }
    let seen = client.end();
    assert_eq!(seen.output, "ready\n");
    ended(world, session.name(), &clean, Some(&seen))
}

fn printing(world: &World, victim: Victim) -> Outcome {
    let clean = settled(world);
    let session = world.session();
    let script = format!(
        "for ((i = 0; i < {PROGRAMS}; i++)); do seq $((i * {LINES})) $((i * {LINES} + {LINES} - 1)); done; exit {CODE}"
    );
    let mut client = Client::start(&session, &["bash", "-c", &script, session.name()]);
    client.await_lines(MIDDLE);
    let parts = world.daemon().await_session(world.a(), session.name());
    strike(world, victim, &parts, Some(&mut client));
    let seen = client.end();
    let all: String = (0..PROGRAMS * LINES).map(|number| format!("{number}\n")).collect();
    if ends_with(victim) {
        assert!(all.starts_with(&seen.output), "what is shown is not what was printed");
        assert!(seen.output.len() < all.len(), "it was killed too late");
        return ended(world, session.name(), &clean, Some(&seen));
    }
    if let Some(at) = seen.output.lines().zip(all.lines()).position(|(shown, printed)| shown != printed) {
        let shown: Vec<&str> = seen.output.lines().skip(at.saturating_sub(2)).take(5).collect();
        panic!("line {at} is not what was printed, but {shown:?}: {}", seen.errors);
    }
    assert_eq!(seen.output.len(), all.len(), "bytes that are shown: {}", seen.errors);
    lived(world, &session, &seen, Some(&clean), &[("/seq", PROGRAMS)])
}

/// The command ends while nobody is there to receive it.
fn ending(world: &World, victim: Victim) -> Outcome {
    let clean = settled(world);
    let session = world.session();
    let script = "trap 'echo bye; exit 7' USR1; echo ready; sleep 1000 & wait; wait";
    let mut client = Client::start(&session, &["bash", "-c", script, session.name()]);
    client.await_lines(1);
    let parts = world.daemon().await_session(world.a(), session.name());
    let down: &[Part] = match victim {
        Victim::Service => &[Part::Service],
        Victim::Launcher => &[Part::Launcher],
        _ => &[Part::Launcher, Part::Service],
    };
    down.iter().for_each(|part| world.daemon().kill(*part));
    for pid in &parts.agents {
        signal(*pid, Signal::USR1, false);
    }
    // init goes with the last of them.
    let gone = within(RESTART_TIMEOUT, || {
        let now = world.daemon().parts(world.a());
        if now.iter().all(|parts| parts.init.is_none() && parts.agents.is_empty()) {
            Ok(())
        } else {
            Err(now)
        }
    });
    assert_eq!(gone, Ok(()), "the command does not end");
    world.daemon().begin(down);
    let seen = client.end();
    assert_eq!(seen.output, "ready\nbye\n", "{}", seen.errors);
    lived(world, &session, &seen, Some(&clean), &[("/bash", 1)])
}

/// Whether a session ends when this one is killed.
fn ends_with(victim: Victim) -> bool {
    victim.is_of_a_session() || victim == Victim::Client
}

fn said(seen: &Seen) -> String {
    seen.code.map_or("-".into(), |code| code.to_string())
}

/// A session that ran to its end: all that it did is recorded, once, in order; then nothing is left.
fn lived(
    world: &World,
    session: &Session<'_>,
    seen: &Seen,
    clean: Option<&Snapshot>,
    did: &[(&str, usize)],
) -> Outcome {
    let events = world.all_events(world.a(), session.name());
    let count = |so: &dyn Fn(&Value) -> bool| events.iter().filter(|event| so(event)).count();
    for kind in ["session.created", "session.started", "session.ended"] {
        assert_eq!(count(&|event| event["kind"] == kind), 1, "{kind}");
    }
    assert_eq!(count(&|event| event["kind"] == "audit.dropped"), 0, "events were dropped");
    for (path, times) in did {
        let ran =
            count(&|event| event["kind"] == "process.exec" && text_at(event, "/exec/path").ends_with(path));
        assert_eq!(ran, *times, "how often {path} was run");
    }
    // In the order in which it was done.
    let numbers = events.iter().filter(|event| event["exec"]["argv"][0] == "seq");
    let numbers: Vec<usize> = numbers.filter_map(|e| text_at(e, "/exec/argv/1").parse().ok()).collect();
    assert!(numbers.is_sorted(), "programs are recorded out of order");
    let end = events.last().expect("an end");
    assert_eq!(text_at(end, "/lifecycle/reason"), "exited", "{end}: {}", seen.errors);
    assert_eq!(text_at(end, "/lifecycle/code"), CODE.to_string(), "{end}");
    if let Some(clean) = clean {
        world.agentctl(world.a(), ["rm", session.name()]).expect_code(0);
        clean.assert_same_within(world.daemon(), GONE);
    }
    Outcome { session: "runs".into(), client: said(seen) }
}

/// A session that ended with the one that was killed.
fn ended(world: &World, name: &str, clean: &Snapshot, seen: Option<&Seen>) -> Outcome {
    let gone = within(GONE, || {
        let left = world.daemon().parts(world.a());
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(gone, Ok(()), "left of the session");
    let over = within(GONE, || {
        let events = world.events(world.a(), name);
        let end = events.last().filter(|event| event["kind"] == "session.ended").cloned();
        end.ok_or(events)
    });
    let end = over.unwrap_or_else(|events| panic!("the session does not end: {events:#?}"));
    world.all_events(world.a(), name);
    world.agentctl(world.a(), ["rm", name]).expect_code(0);
    clean.assert_same_within(world.daemon(), GONE);
    let reason = text_at(&end, "/lifecycle/reason");
    Outcome { session: format!("ended: {reason}"), client: seen.map_or("-".into(), said) }
}
