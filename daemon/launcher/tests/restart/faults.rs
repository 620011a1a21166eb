//! A fault at every step of a build ends in an error and leaves nothing.

use agentd_policy::mode::Mode;
use agentd_policy::step::Step;
use agentd_policy::wire::FromLauncher;
use rustix::process::Signal;

use super::rig::{Rig, Service};
use super::turn;

/// Asks for a session whose build goes wrong, until that is reported.
fn refused(service: &Service, id: u8, mode: Mode, fault: &str) {
    let (session, _side) = service.ask(id, mode, &["sleep", "600"], fault);
    match service.next() {
        (FromLauncher::Refused { refusal, .. }, _) => {
            assert!(refusal.rule.name().starts_with("build."), "{refusal}")
        }
        // The last step of all: it had been built.
        (FromLauncher::Built { .. }, _) => {
            assert!(fault.starts_with("answer"), "{fault} passed");
            let (FromLauncher::Gone { session: gone, .. }, _) = service.next() else { panic!("{fault}") };
            assert_eq!(gone, session);
        }
        other => panic!("{fault}: {other:?}"),
    }
}

#[test]
fn of_a_request() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(20);
    let service = rig.start();
    let mut id = 0;
    for step in Step::COMPLETE {
        for kind in ["fail", "kill"] {
            // Names are held free in a directory that is given as it is.
            let modes =
                if *step == Step::Placeholder { &[Mode::Direct][..] } else { &[Mode::Overlay, Mode::Direct] };
            for &mode in modes {
                id += 1;
                refused(&service, id, mode, &format!("{step}:{kind}"));
            }
        }
    }
    refused(&service, id + 1, Mode::Overlay, "workspace:hang");
    // What ran for a moment keeps its overlay, as any session does.
    drop(service);
    assert!(rig.end(Signal::TERM).success());
    let left: Vec<_> = rig.traces().into_iter().filter(|trace| !trace.starts_with("overlay")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(rig.traces().len() <= 2, "{:?}", rig.traces());
}

#[test]
fn of_what_is_prepared() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(21);
    for step in Step::PREPARE {
        for kind in ["fail", "kill"] {
            let service = rig.start_with(&format!("{step}:{kind}"));
            refused(&service, 1, Mode::Overlay, "");
            rig.await_clean();
            assert!(rig.end(Signal::TERM).success());
        }
    }
}
