//! Signs of life, which a service manager counts on.

use std::time::Duration;

use agentd_tests::harness::{Part, World, signal, within};
use rustix::process::Signal;

/// Many times what is asked for in the environment of these daemons.
const SOON: Duration = Duration::from_secs(20);
/// More than what is asked for: a process that is stopped sends nothing, however long that is.
const WHILE: Duration = Duration::from_millis(1500);

pub fn notified(world: &World) {
    let daemon = world.daemon();
    for part in [Part::Launcher, Part::Service] {
        for _ in 0..2 {
            daemon.await_sign_of_life(part, SOON).expect("it lives");
        }
        let pid = match part {
            Part::Launcher => daemon.pid(),
            Part::Service => daemon.service_pid().expect("it runs"),
        };
        signal(pid, Signal::STOP, false);
        let stopped = within(SOON, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.contains(") T ") { Ok(()) } else { Err(stat) }
        });
        assert_eq!(stopped, Ok(()));
        let said = daemon.await_sign_of_life(part, WHILE);
        // The other part lives, whatever has become of this one.
        let other = if part == Part::Launcher { Part::Service } else { Part::Launcher };
        let others = daemon.await_sign_of_life(other, SOON);
        signal(pid, Signal::CONT, false);
        assert!(said.is_err(), "{part:?} is stopped and says that it lives");
        others.expect("the other lives");
        daemon.await_sign_of_life(part, SOON).expect("it goes on");
    }
    world.session().run(["true"]).expect_code(0);
}
