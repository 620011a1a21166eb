//! What an apply and its undo do when nobody is in their way.

use super::*;
use crate::apply::own::Own;

fn file(bytes: &'static [u8]) -> impl Fn(&Path) {
    move |top| write(&top.join("file"), bytes, 0o644)
}

#[test]
fn everything_is_applied_and_taken_back_and_applied_again() {
    let scene = mixed();
    let (before, after) = (scene.now(), snapshot(&scene.dir.path("merged")));
    let old = std::fs::metadata(scene.workspace.join("deleted")).unwrap().modified().unwrap();
    let applied = scene.apply(scene.steps(), &mut NoFaults).unwrap();
    assert_eq!(scene.now(), after);
    scene.assert_clean();
    assert_eq!(applied.undoes, None);
    let undone = scene.undo().unwrap();
    assert_eq!(scene.now(), before);
    assert_eq!(std::fs::metadata(scene.workspace.join("deleted")).unwrap().modified().unwrap(), old);
    assert_eq!(undone.undoes.as_ref(), Some(&applied.id));
    scene.undo().unwrap();
    assert_eq!(scene.now(), after);
    scene.assert_clean();
    let all = scene.applies();
    let undoes: Vec<_> = all.iter().map(|applied| applied.undoes.clone()).collect();
    assert_eq!(undoes, [None, Some(applied.id), Some(undone.id)]);
    assert!(scene.steps().is_empty());
}

#[test]
fn an_earlier_apply_is_taken_back_by_its_id() {
    let scene = Scene::new(
        |_| {},
        |top| {
            write(&top.join("a"), b"1", 0o644);
            write(&top.join("b"), b"2", 0o644);
        },
    );
    let steps = scene.steps();
    let first = scene.apply(vec![steps[0].clone()], &mut NoFaults).unwrap();
    scene.apply(vec![steps[1].clone()], &mut NoFaults).unwrap();
    scene.undo_with(&Undo { id: Some(first.id), force: false }, &mut NoFaults).unwrap();
    assert_eq!(scene.now().into_keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn with_no_apply_there_is_nothing_to_take_back() {
    assert!(matches!(mixed().undo(), Err(ApplyError::NothingApplied)));
}

#[test]
fn parents_come_along_with_a_file() {
    let scene = Scene::new(
        |_| {},
        |top| {
            write(&top.join("a/b/c"), b"1", 0o644);
            chmod(&top.join("a/b"), 0o750);
        },
    );
    let steps = scene.steps().into_iter().filter(|step| step.change.path == path("a/b/c")).collect();
    scene.apply(steps, &mut NoFaults).unwrap();
    assert_eq!(scene.now(), snapshot(&scene.dir.path("merged")));
    scene.undo().unwrap();
    assert!(scene.now().is_empty());
}

#[test]
fn merged_bytes_are_the_callers() {
    let scene = Scene::new(file(b"old"), file(b"session's"));
    let mut steps = scene.steps();
    steps[0].content = From::Bytes(b"merged".to_vec());
    scene.apply(steps, &mut NoFaults).unwrap();
    assert_eq!(scene.now()["file"].1, b"merged");
    scene.undo().unwrap();
    assert_eq!(scene.now()["file"].1, b"old");
}

#[test]
fn what_was_changed_since_is_a_conflict_and_kept_if_forced() {
    let scene = Scene::new(file(b"old"), file(b"new"));
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
    write(&scene.workspace.join("file"), b"the user's", 0o644);
    assert_eq!(conflicts(scene.undo()), [("file".into(), Conflict::ChangedUnderneath)]);
    assert_eq!(scene.now()["file"].1, b"the user's");
    scene.undo_with(&Undo { id: None, force: true }, &mut NoFaults).unwrap();
    assert_eq!(scene.now()["file"].1, b"old");
    scene.undo().unwrap();
    assert_eq!(scene.now()["file"].1, b"the user's");
}

#[test]
fn every_conflict_is_named() {
    let scene = mixed();
    let steps = scene.steps();
    let at = |name: &str| scene.workspace.join(name);
    write(&at("modified"), b"edited", 0o644);
    std::fs::remove_file(at("deleted")).unwrap();
    write(&at("to/moved"), b"there already", 0o644);
    chmod(&at("mode"), 0o600);
    write(&at("old dir/unseen"), b"", 0o644);
    std::fs::remove_file(at("link")).unwrap();
    mkdir(&at("link"), 0o755);
    let before = scene.now();
    let expected = [
        ("deleted", Conflict::Deleted),
        ("link", Conflict::Kind),
        ("mode", Conflict::ChangedUnderneath),
        ("modified", Conflict::ChangedUnderneath),
        ("old dir", Conflict::NotEmpty),
        ("to", Conflict::Added),
    ];
    assert_eq!(scene.conflicts(steps), expected.map(|(name, conflict)| (name.to_owned(), conflict)));
    assert_eq!(scene.now(), before);
    scene.assert_clean();
}

#[test]
fn a_directory_with_what_was_left_out_stays() {
    let scene = Scene::new(|top| write(&top.join("d/f"), b"", 0o644), |_| {});
    let steps = scene.steps().into_iter().filter(|step| step.change.path == path("d")).collect();
    assert_eq!(scene.conflicts(steps), [("d".into(), Conflict::NotEmpty)]);
}

#[test]
fn bits_of_another_user_and_of_the_umask_are_not_applied() {
    let scene = Scene::new(
        |top| write(&top.join("shared"), b"1", 0o664),
        |top| {
            write(&top.join("shared"), b"2", 0o664);
            write(&top.join("setuid"), b"", 0o6777);
            mkdir(&top.join("sticky"), 0o3777);
        },
    );
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
    let modes: Vec<_> = scene.now().values().map(|(mode, _)| mode & 0o7777).collect();
    // The umask of tests is 022.
    assert_eq!(modes, [0o755, 0o664, 0o755]);
}

#[test]
fn what_an_apply_wrote_is_its_own_until_it_is_touched() {
    let scene = Scene::new(file(b"old"), file(b"new"));
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
    let own = Own::new(&scene.applies());
    let stat = || scene.trees().workspace.stat(&path("file")).unwrap().unwrap();
    assert!(own.is_own(&path("file"), &stat()));
    assert!(!own.is_own(&path("other"), &stat()));
    write(&scene.dir.path("merged/file"), b"newer", 0o644);
    let mut changes = crate::change::Changes(scene.steps().into_iter().map(|step| step.change).collect());
    changes.0[0].changed_underneath = true;
    own.acknowledge(&mut changes, &scene.trees().workspace, scene.trees().began).unwrap();
    assert!(!changes.0[0].changed_underneath);
    chmod(&scene.workspace.join("file"), 0o600);
    assert!(!own.is_own(&path("file"), &stat()));
}

#[test]
fn holes_stay_holes() {
    let sparse = |top: &Path| {
        let file = std::fs::File::create(top.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 1 << 33).unwrap();
        file.set_len(1 << 34).unwrap();
    };
    let scene = Scene::new(|_| {}, sparse);
    let trees = scene.trees();
    let changes = changes(&trees.workspace, &trees.merged, ["sparse".to_owned()].into_iter());
    let steps = changes.into_iter().map(|change| Step { change, content: From::FromSession }).collect();
    scene.apply(steps, &mut NoFaults).unwrap();
    let meta = std::fs::metadata(scene.workspace.join("sparse")).unwrap();
    assert_eq!(meta.len(), 1 << 34);
    assert!(meta.blocks() < 1024, "{} blocks", meta.blocks());
}

#[test]
fn only_one_apply_at_a_time() {
    let scene = mixed();
    let lock = scene.state.lock(&scene.trees().workspace).unwrap();
    assert!(lock.is_some());
    assert!(matches!(scene.apply(scene.steps(), &mut NoFaults), Err(ApplyError::Busy)));
    assert!(matches!(scene.recover(&mut NoFaults), Err(ApplyError::Busy)));
    drop(lock);
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
}

#[test]
fn a_forgotten_session_leaves_nothing() {
    let scene = mixed();
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
    scene.state.forget(&session()).unwrap();
    assert!(scene.applies().is_empty());
    scene.state.forget(&session()).unwrap();
}
