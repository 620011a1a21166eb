//! Stopped before every call: killed, or with a call that fails. Then recovered, which is stopped too.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use rustix::io::Errno;

use super::*;

/// The end of a process, as far as it can be had without one.
struct Died;

/// Ends before call number `at`; whether it was reached.
pub(super) fn die_at<T>(at: u32, run: impl FnOnce(&mut dyn Faults) -> T) -> Option<T> {
    let mut faults = each(|number, _| match number == at {
        // Without the message of a panic.
        true => std::panic::resume_unwind(Box::new(Died)),
        false => Ok(()),
    });
    match catch_unwind(AssertUnwindSafe(|| run(&mut faults))) {
        Ok(result) => Some(result),
        Err(cause) if cause.is::<Died>() => None,
        Err(cause) => std::panic::resume_unwind(cause),
    }
}

/// The workspace is as before or as after; an undo, or an apply and an undo, works.
pub(super) fn assert_whole(scene: &Scene, before: &Snapshot, after: &Snapshot, when: &str) {
    while scene.recover(&mut NoFaults).unwrap().is_some() {}
    scene.assert_clean();
    let now = scene.now();
    assert!(now == *before || now == *after, "{when}: {:#?}", now.keys());
    if now == *before {
        scene.apply(scene.steps(), &mut NoFaults).unwrap();
        assert_eq!(scene.now(), *after, "{when}");
    }
    scene.undo().unwrap();
    assert_eq!(scene.now(), *before, "{when}");
    scene.assert_clean();
}

#[test]
fn a_process_killed_before_any_call_leaves_all_or_nothing() {
    let mut killed = 0;
    loop {
        let scene = mixed();
        let (before, after) = (scene.now(), snapshot(&scene.dir.path("merged")));
        let status = Command::new("/proc/self/exe")
            .args(["--exact", "apply::tests::killed::apply_in_a_process_of_its_own", "--ignored", "--quiet"])
            .env("AGENTD_REVIEW_SCENE", scene.dir.path(""))
            .env("AGENTD_REVIEW_DIE_AT", killed.to_string())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        if status.success() {
            assert_eq!(scene.now(), after);
            break;
        }
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
        assert_whole(&scene, &before, &after, &format!("killed before call {killed}"));
        killed += 1;
    }
    assert!(killed > 60, "{killed} calls only");
}

#[test]
#[ignore = "run by the test that kills it"]
fn apply_in_a_process_of_its_own() {
    let Some(dir) = std::env::var_os("AGENTD_REVIEW_SCENE") else { return };
    let at: u32 = std::env::var("AGENTD_REVIEW_DIE_AT").unwrap().parse().unwrap();
    let scene = Scene::at(Dir::existing(dir.into()));
    let mut faults = each(|number, _| {
        if number == at {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        Ok(())
    });
    scene.apply(scene.steps(), &mut faults).unwrap();
    std::mem::forget(scene);
}

#[test]
fn a_recovery_may_be_killed_itself() {
    for first in 0.. {
        let mut reached = false;
        // Of the second calls every seventh, each time others: the whole square takes minutes.
        for second in (first % 7..).step_by(7) {
            let scene = mixed();
            let (before, after) = (scene.now(), snapshot(&scene.dir.path("merged")));
            reached = die_at(first, |faults| scene.apply(scene.steps(), faults).unwrap()).is_none();
            if !reached || die_at(second, |faults| scene.recover(faults).unwrap()).is_some() {
                break;
            }
            assert_whole(&scene, &before, &after, &format!("{first}, then {second}"));
        }
        if !reached {
            break;
        }
    }
}

#[test]
fn an_undo_may_be_killed() {
    for at in 0.. {
        let scene = mixed();
        let before = scene.now();
        scene.apply(scene.steps(), &mut NoFaults).unwrap();
        let after = scene.now();
        if die_at(at, |faults| scene.undo_with(&Undo::default(), faults).unwrap()).is_some() {
            break;
        }
        while scene.recover(&mut NoFaults).unwrap().is_some() {}
        scene.assert_clean();
        let now = scene.now();
        assert!(now == before || now == after, "{at}");
        scene.undo().unwrap();
        assert_eq!(scene.now(), if now == before { after } else { before }, "{at}");
    }
}

#[test]
fn a_call_that_fails_leaves_all_or_nothing() {
    for errno in [Errno::IO, Errno::DQUOT, Errno::NOSPC] {
        for at in 0.. {
            let scene = mixed();
            let (before, after) = (scene.now(), snapshot(&scene.dir.path("merged")));
            let mut failed = false;
            let mut faults = each(|number, _| {
                failed |= number == at;
                if number == at { Err(errno) } else { Ok(()) }
            });
            let result = scene.apply(scene.steps(), &mut faults);
            if !failed {
                break;
            }
            match &result {
                // What failed was the removal of the staging directory, or of the journal.
                Ok(_) => assert_eq!(scene.now().len() - staged(&scene), after.len(), "{at}"),
                Err(error) => assert!(error.to_string().contains(&errno.to_string()), "{at}: {error}"),
            }
            if result.is_err() {
                let now: Snapshot = scene.now().into_iter().filter(|(name, _)| !is_staged(name)).collect();
                assert_eq!(now, before, "{at}: {result:?}");
            }
            assert_whole(&scene, &before, &after, &format!("{errno} in call {at}"));
        }
    }
}

fn is_staged(name: &str) -> bool {
    name.starts_with(".agentd-apply-")
}

fn staged(scene: &Scene) -> usize {
    scene.now().keys().filter(|name| is_staged(name)).count()
}

#[test]
fn a_disk_that_fails_from_some_call_on_leaves_it_to_the_recovery() {
    for at in 0.. {
        let scene = mixed();
        let (before, after) = (scene.now(), snapshot(&scene.dir.path("merged")));
        let mut failed = false;
        let mut faults = each(|number, _| {
            failed |= number >= at;
            if number >= at { Err(Errno::IO) } else { Ok(()) }
        });
        let result = scene.apply(scene.steps(), &mut faults);
        if !failed {
            break;
        }
        let unfinished = scene.apply(scene.steps(), &mut NoFaults);
        if matches!(result, Err(ApplyError::Stuck { .. })) {
            assert!(matches!(unfinished, Err(ApplyError::Unfinished)), "{unfinished:?}");
        }
        assert_whole(&scene, &before, &after, &format!("EIO from call {at} on"));
    }
}

#[test]
fn an_ordinary_user_gets_the_same() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Root may write to directories that are read-only.
    let status = std::os::unix::process::CommandExt::uid(&mut Command::new("/proc/self/exe"), 65534)
        .args(["apply::tests::", "--skip", "a_recovery_may", "--skip", "_torn_", "--quiet"])
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_journal_torn_at_any_byte_is_recovered() {
    // Killed before the workspace is touched, with the journal whole: every shorter one is as if killed earlier.
    let scene = mixed();
    let first = first_of_the_workspace();
    assert!(die_at(first, |faults| scene.apply(scene.steps(), faults).unwrap()).is_none());
    let journal =
        std::fs::read_dir(scene.dir.path("state/journals")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&journal).unwrap();
    drop(scene);
    for cut in (0..whole.len()).step_by(37) {
        let scene = mixed();
        let (before, after) = (scene.now(), snapshot(&scene.dir.path("merged")));
        assert!(die_at(first, |faults| scene.apply(scene.steps(), faults).unwrap()).is_none());
        let journals = scene.dir.path("state/journals");
        let journal = std::fs::read_dir(journals).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(&journal).unwrap();
        std::fs::write(&journal, &bytes[..cut.min(bytes.len())]).unwrap();
        while scene.recover(&mut NoFaults).unwrap().is_some() {}
        let left = staged(&scene);
        let now: Snapshot = scene.now().into_iter().filter(|(name, _)| !is_staged(name)).collect();
        assert!(now == before || now == after, "cut at {cut}");
        if left > 0 {
            // Without a whole first record nobody knows whose the staging directory is: nothing is applied beside it.
            assert!(matches!(scene.apply(scene.steps(), &mut NoFaults), Err(ApplyError::Foreign(_))));
        } else {
            assert_whole(&scene, &before, &after, &format!("cut at {cut}"));
        }
    }
}

/// The number of the call that first changes the workspace itself: a mode that opens a directory.
fn first_of_the_workspace() -> u32 {
    let scene = mixed();
    let (mut syncfs, mut first) = (false, None);
    let mut faults = each(|number, call| {
        syncfs |= call == "syncfs";
        if syncfs && first.is_none() && !matches!(call, "syncfs" | "write" | "fsync") {
            first = Some(number);
        }
        Ok(())
    });
    scene.apply(scene.steps(), &mut faults).unwrap();
    first.unwrap()
}
