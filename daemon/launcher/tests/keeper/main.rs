//! What a keeper, its init and its relay do for a service, and for the next one. As root alone.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)] // a helper that fails here fails the test

mod egress;
mod peer;
#[path = "../restart/rig.rs"]
mod rig;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_policy::event::{End, EventBody, ExitStatus};
use agentd_policy::limit_kind::LimitKind;
use agentd_policy::mode::Mode;
use agentd_policy::plan::WindowSize;
use agentd_policy::step::CommandStep;
use agentd_policy::wire::{FromKeeper, FromLauncher, ToKeeper, frame};
use peer::{Peer, command};
use rig::Rig;

/// One after the other: they look for groups of the same user.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> Option<MutexGuard<'static, ()>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: this needs root");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

#[test]
fn another_service_takes_up_where_the_one_before_left() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(31);
    let service = rig.start();
    let script = "echo one; read line; echo two; read line; exit 7";
    let (peer, out) = Peer::start(&service, 1, &["sh", "-c", script], |_| {});
    peer.until(|event| *event == EventBody::Started);
    let acknowledged = peer.last.get();
    peer.say(&ToKeeper::Ack(acknowledged));
    assert_eq!(out.until("one\n"), "one\n");
    // Without a service it goes on.
    out.send(frame::STDIN, b"go\n");
    std::thread::sleep(Duration::from_millis(300));
    drop(peer);
    let (got, session) = (out.got.get(), service.session(1));
    drop(out);
    std::thread::sleep(Duration::from_millis(300));
    let peer = Peer::connect(&rig, &session);
    let FromKeeper::Hello { session: which, uid, acknowledged: to, started, commands } = peer.next().0 else {
        panic!("not the first word")
    };
    assert_eq!(
        (which, uid, to, started, commands.len()),
        (session.clone(), rig::CALLER, acknowledged, true, 0)
    );
    peer.last.set(acknowledged);
    peer.say(&ToKeeper::Connect { command: 0 });
    let out = peer.stream(0);
    out.got.set(got);
    assert_eq!(out.resume(), 3);
    assert_eq!(out.until("two\n"), "two\n");
    out.send(frame::STDIN, b"end\n");
    // Its end waits while nobody looks.
    std::thread::sleep(Duration::from_millis(300));
    drop((peer, out));
    std::thread::sleep(Duration::from_millis(300));
    let peer = Peer::connect(&rig, &session);
    assert!(matches!(peer.next().0, FromKeeper::Hello { .. }));
    peer.last.set(acknowledged);
    peer.say(&ToKeeper::Connect { command: 0 });
    let out = peer.stream(0);
    out.got.set(4 + 4);
    assert_eq!(out.resume(), 7);
    assert_eq!(out.rest(), "");
    peer.until(|event| *event == EventBody::Ended(End::Command(ExitStatus::Code(7))));
    peer.say(&ToKeeper::Ack(peer.last.get()));
    service.gone(&session);
}

#[test]
fn only_the_service_is_let_in() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(32);
    let service = rig.start();
    let (peer, _out) = Peer::start(&service, 1, &["sleep", "600"], |_| {});
    let session = service.session(1);
    // As if the name were open to all.
    let path = rig.base.join("run/keepers").join(session.as_str());
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let stranger = Peer::connect_as(&rig, &session, rig::CALLER);
    assert!(stranger.is_closed());
    peer.say(&ToKeeper::Kill);
    peer.until(|event| *event == EventBody::Ended(End::Killed));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}

#[test]
fn further_commands_run_as_the_first() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(33);
    let service = rig.start();
    let (peer, _out) = Peer::start(&service, 1, &["sleep", "600"], |_| {});
    peer.until(|event| *event == EventBody::Started);
    let script = "id -u; grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status; echo $A; cat; exit 3";
    peer.run(1, command(&["sh", "-c", script], None));
    let out = peer.stream(1);
    out.send(frame::STDIN, b"input");
    out.send(frame::STDIN_EOF, b"");
    let text = out.rest();
    let expected =
        format!("{}\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nyes\ninput", rig::CALLER);
    assert_eq!(text, expected);
    assert_eq!(peer.exited(1), ExitStatus::Code(3));
    // A terminal of its own.
    peer.run(2, command(&["sh", "-c", "stty size; tty; ps"], Some(WindowSize { rows: 33, cols: 77 })));
    let text = peer.stream(2).rest();
    assert!(text.starts_with("33 77\r\n/dev/pts/"), "{text:?}");
    assert_eq!(peer.exited(2), ExitStatus::Code(0));
    // What cannot be run.
    peer.run(3, command(&["no-such-program"], None));
    assert_eq!(peer.not_run(3), (CommandStep::Exec, 2));
    peer.run(2, command(&["true"], None));
    assert_eq!(peer.not_run(2), (CommandStep::Bounds, 17));
    // Ended with all that it started.
    peer.run(4, command(&["sh", "-c", "(trap '' HUP; sleep 777) & setsid sleep 778 & sleep 779"], None));
    let out = peer.stream(4);
    std::thread::sleep(Duration::from_millis(200));
    peer.say(&ToKeeper::End { command: 4 });
    assert_eq!(peer.exited(4), ExitStatus::Signal(9));
    assert!(out.is_lost());
    peer.run(5, command(&["sh", "-c", "ps -e -o args | grep -c '^sleep 77[79]'"], None));
    assert_eq!(peer.stream(5).rest(), "0\n");
    // A signal reaches the one that is meant; what still runs ends with the session.
    peer.run(6, command(&["sleep", "600"], None));
    let _out = peer.stream(6);
    peer.say(&ToKeeper::Signal { command: 6, signal: 15 });
    assert_eq!(peer.exited(6), ExitStatus::Signal(15));
    peer.run(7, command(&["sleep", "600"], None));
    let _last = peer.stream(7);
    peer.say(&ToKeeper::Signal { command: 0, signal: 15 });
    assert_eq!(peer.exited(7), ExitStatus::Signal(9));
    peer.until(|event| *event == EventBody::Ended(End::Command(ExitStatus::Signal(15))));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}

#[test]
fn an_idle_session_ends_and_one_that_says_something_does_not() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(34);
    let service = rig.start();
    let script = "for i in 1 2 3 4 5; do read -t 0.7 line < /dev/zero; sleep 0.6; echo $i; done; sleep 600";
    let begun = std::time::Instant::now();
    let (peer, out) = Peer::start(&service, 1, &["bash", "-c", script], |plan| plan.limits.idle_ms = 1000);
    assert_eq!(out.until("5\n"), "1\n2\n3\n4\n5\n");
    peer.until(|event| *event == EventBody::Limit { kind: LimitKind::Idle, limit: 1000 });
    assert!(begun.elapsed() > Duration::from_millis(3500));
    peer.until(|event| *event == EventBody::Ended(End::Idle));
    peer.say(&ToKeeper::Ack(peer.last.get()));
}

/// Only in debug builds can a fault be injected.
#[cfg(debug_assertions)]
#[test]
fn a_step_that_fails_is_named_and_leaves_nothing() {
    use agentd_policy::step::Step;

    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(35);
    let service = rig.start();
    // A name is held only where one is covered, and after the last step the session is built.
    let steps = Step::COMPLETE.iter().filter(|step| !matches!(step, Step::Placeholder | Step::Answer));
    for (number, step) in (1..).zip(steps) {
        for (id, kind) in [(number, "fail"), (number + 100, "kill")] {
            let (_, _side) = service.ask(id, Mode::Direct, &["true"], &format!("{step}:{kind}"));
            match service.next().0 {
                FromLauncher::Refused { refusal, .. } if kind == "fail" => {
                    assert_eq!(refusal.rule.name(), format!("build.{step}"));
                }
                FromLauncher::Refused { .. } => {}
                other => panic!("{step}:{kind}: {other:?}"),
            }
        }
    }
    assert!(rig.end(rustix::process::Signal::TERM).success());
    rig.await_clean();
}
