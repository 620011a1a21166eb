//! What a launcher leaves to the next one, and what that does with it. As root alone.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a helper that fails here fails the test

#[cfg(debug_assertions)]
mod faults;
mod rig;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_policy::mode::Mode;
use agentd_policy::wire::{FromLauncher, FromService, RequestNumber, Status};
use rig::{CALLER, Rig};
use rustix::process::Signal;

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
fn sessions_outlive_a_launcher_that_is_killed() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(1);
    let service = rig.start();
    assert!(service.live.is_empty());
    let (overlay, direct) = (service.run(1, Mode::Overlay), service.run(2, Mode::Direct));
    let placeholder = rig.base.join("work/.env");
    assert!(placeholder.exists());
    rig.end(Signal::KILL);
    let service = rig.start();
    assert_eq!(service.live, [overlay.id.clone(), direct.id.clone()]);
    // They can be ended, and what was theirs goes or stays as if nothing had happened.
    service.finish(&direct.id);
    service.finish(&overlay.id);
    let (request, caller) = (RequestNumber(9), service.caller);
    service.say(&FromService::Remove { request, caller, owner: CALLER, session: overlay.id });
    assert!(matches!(service.next().0, FromLauncher::Removed { refusal: None, .. }));
    assert!(rig.end(Signal::TERM).success());
    rig.await_clean();
}

#[test]
fn a_signal_leaves_sessions_alone() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(2);
    let service = rig.start();
    let session = service.run(1, Mode::Overlay);
    rig.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(100));
    assert!(rig.is_running());
    assert!(rig.end(Signal::TERM).success());
    let service = rig.start();
    assert_eq!(service.live, std::slice::from_ref(&session.id));
    service.finish(&session.id);
}

#[test]
fn a_build_ends_with_the_service_that_asked_for_it() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(3);
    let service = rig.start();
    let (_, _side) = service.ask(1, Mode::Overlay, &["sleep", "600"], "rights:hang");
    std::thread::sleep(Duration::from_millis(500));
    drop(service);
    let service = rig.connect();
    assert!(service.live.is_empty());
    rig.await_clean();
    drop(service);
}

#[test]
fn a_launcher_that_dies_while_it_builds_leaves_nothing_to_the_next() {
    let Some(_turn) = turn() else { return };
    for (step, number) in [("rights:hang", 4), ("answer:hang", 5)] {
        let mut rig = Rig::new(number);
        let service = rig.start();
        let (_, _side) = service.ask(1, Mode::Direct, &["sleep", "600"], step);
        std::thread::sleep(Duration::from_millis(500));
        rig.end(Signal::KILL);
        let service = rig.start();
        if step == "rights:hang" {
            assert!(service.live.is_empty());
        } else {
            // It was built, and the launcher had said so.
            let id = service.live.first().cloned().expect("a session");
            service.finish(&id);
        }
        rig.await_clean();
    }
}

#[test]
fn what_no_record_explains_is_ended() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(6);
    let service = rig.start();
    let session = service.run(1, Mode::Overlay);
    rig.end(Signal::KILL);
    // Torn in the middle.
    let leases = std::fs::read_dir(rig.base.join("run/leases")).unwrap();
    for lease in leases.map(|entry| entry.unwrap().path()) {
        let bytes = std::fs::read(&lease).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&lease).unwrap();
        file.set_len(bytes.len() as u64 / 2).unwrap();
    }
    std::fs::write(rig.base.join("run/keepers/nobodys"), "").unwrap();
    let service = rig.start();
    assert!(service.live.is_empty());
    let (request, caller) = (RequestNumber(9), service.caller);
    service.say(&FromService::Remove { request, caller, owner: CALLER, session: session.id });
    assert!(matches!(service.next().0, FromLauncher::Removed { refusal: None, .. }));
    rig.await_clean();
}

#[test]
fn limits_of_the_user_and_of_the_host_are_in_force() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(7);
    let service = rig.start();
    let session = service.run(1, Mode::Overlay);
    let limit = |file: &str, of: fn(&std::path::Path) -> &std::path::Path| {
        let users =
            rig.groups().into_iter().filter_map(|path| path.parent().map(std::path::Path::to_path_buf));
        let agents = users.filter(|path| path.parent().unwrap().ends_with("agents"));
        let mut values = agents.filter_map(|path| std::fs::read_to_string(of(&path).join(file)).ok());
        values.next().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(limit("pids.max", |path| path), "300");
    assert_eq!(limit("pids.max", |path| path.parent().unwrap()), "1000");
    let memory = [limit("memory.max", |path| path), limit("memory.limit_in_bytes", |path| path)];
    assert!(memory.contains(&(3_u64 << 30).to_string()), "{memory:?}");
    service.finish(&session.id);
}

#[test]
fn everybody_is_told_what_the_host_offers_and_nobody_else_what_was_left() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(8);
    let mut service = rig.start();
    let live = service.run(1, Mode::Overlay);
    let kept = "bbbbbbbbbbbb";
    for overlay in ["aaaaaaaaaaaa/0/work", kept] {
        std::fs::create_dir_all(rig.state.join(format!("overlays/u{CALLER}")).join(overlay)).unwrap();
    }
    std::fs::write(rig.state.join(format!("audit/{kept}.json")), "{}").unwrap();
    std::fs::write(rig.base.join("run/keepers/nobodys"), "").unwrap();
    std::fs::write(rig.base.join("run/leases/700"), "half a record").unwrap();
    for root in rig.roots() {
        std::fs::create_dir_all(root.join("agents/u777/800")).unwrap();
    }
    let (request, caller) = (RequestNumber(9), service.caller);
    service.say(&FromService::Examine { request, caller, leaks: true, clean: true });
    let (FromLauncher::Examined { checks, leaks, .. }, _) = service.next() else { panic!("no answer") };
    assert!(checks.iter().any(|check| check.name.contains("oom") && check.status != Status::Missing));
    assert!(leaks.is_empty());
    assert!(rig.base.join("run/keepers/nobodys").exists());
    let caller = service.client(0);
    for clean in [false, true] {
        service.say(&FromService::Examine { request, caller, leaks: true, clean });
        let (FromLauncher::Examined { leaks, .. }, _) = service.next() else { panic!("no answer") };
        let mut found: Vec<_> = leaks.iter().map(|l| format!("{} {}", l.kind, l.what)).collect();
        found.sort();
        let overlay = format!("overlay u{CALLER}/aaaaaaaaaaaa");
        assert_eq!(found, ["cgroup u777/800", "lease 700", &overlay, "socket nobodys"]);
        assert!(leaks.iter().all(|leak| leak.cleaned == clean));
    }
    service.say(&FromService::Examine { request, caller, leaks: true, clean: false });
    let (FromLauncher::Examined { leaks, .. }, _) = service.next() else { panic!("no answer") };
    assert!(leaks.is_empty(), "{leaks:?}");
    assert!(rig.roots().iter().all(|root| !root.join("agents/u777/800").exists()));
    assert!(rig.state.join(format!("overlays/u{CALLER}/{kept}")).exists());
    service.finish(&live.id);
}

#[test]
fn by_hand_a_service_that_ends_is_started_again_and_one_that_always_does_is_not() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(9);
    std::os::unix::fs::chown(rig.base.join("work"), Some(65_534), None).unwrap();
    rig.start_by_hand("echo x >> $(dirname $0)/../work/starts; exec sleep 600");
    let starts =
        |rig: &Rig| std::fs::read_to_string(rig.base.join("work/starts")).unwrap_or_default().lines().count();
    let mut last = 0;
    for round in 1..=5 {
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while starts(&rig) < round || rig.children().first().is_none_or(|pid| *pid == last) {
            assert!(std::time::Instant::now() < until, "not started for the {round}th time");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(rig.is_running());
        last = *rig.children().first().unwrap();
        let pid = rustix::process::Pid::from_raw(last).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
    assert!(!rig.wait().success());
    rig.await_clean();
}

#[test]
fn by_hand_a_service_does_not_outlive_its_launcher() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(10);
    rig.start_by_hand("exec sleep 600");
    let until = std::time::Instant::now() + Duration::from_secs(5);
    let child = loop {
        let first = rig.children().first().copied();
        let named =
            |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with(b"sleep"));
        if let Some(child) = first.filter(named) {
            break child;
        }
        assert!(std::time::Instant::now() < until, "no service");
        std::thread::sleep(Duration::from_millis(5));
    };
    rig.end(Signal::KILL);
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while std::fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|c| !c.is_empty()) {
        assert!(std::time::Instant::now() < until, "the service goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_session_waits_until_another_ones_placeholders_are_gone() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(11);
    let service = rig.start();
    let mut before = service.run(1, Mode::Direct).id;
    for id in 2..12 {
        // Asked for while the one before is taken apart, in the same directory.
        service.say(&FromService::End { session: before.clone() });
        let (session, _side) = service.ask(id, Mode::Direct, &["sleep", "600"], "");
        let (mut gone, mut built) = (false, Vec::new());
        while !gone || built.is_empty() {
            match service.next() {
                (FromLauncher::Gone { session, errors }, _) => {
                    assert!(session == before && errors.is_empty(), "{errors:?}");
                    gone = true;
                }
                (FromLauncher::Built { .. }, descriptors) => built.push(descriptors),
                other => panic!("{other:?}"),
            }
        }
        // What covers the name goes with the name: it must not have been removed in between.
        std::thread::sleep(Duration::from_millis(50));
        assert!(rig.base.join("work/.env").exists(), "round {id}");
        before = session;
    }
    service.finish(&before);
    assert!(rig.end(Signal::TERM).success());
    rig.await_clean();
}
