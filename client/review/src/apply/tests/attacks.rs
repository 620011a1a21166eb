//! Somebody changes the workspace, or the session its files, at the worst moment.

use super::*;
use crate::change::Changes;

/// Applies, and calls `meddle` before the first call of this name.
fn apply_with(scene: &Scene, call: &str, mut meddle: impl FnMut(&Scene)) -> Result<Applied, ApplyError> {
    let steps = scene.steps();
    let mut done = false;
    let mut faults = each(|_, now| {
        if now == call && !std::mem::replace(&mut done, true) {
            meddle(scene);
        }
        Ok(())
    });
    let result = scene.apply(steps, &mut faults);
    assert!(done, "{call} was never called");
    scene.assert_clean();
    result
}

fn in_dir(bytes: &'static [u8]) -> impl Fn(&Path) {
    move |top| write(&top.join("dir/file"), bytes, 0o644)
}

#[test]
fn a_link_in_place_of_a_parent_is_not_followed() {
    for call in ["mkdir", "exchange"] {
        let scene = Scene::new(in_dir(b"old"), in_dir(b"new"));
        let outside = scene.dir.path("outside");
        write(&outside.join("file"), b"old", 0o644);
        let result = apply_with(&scene, call, |scene| {
            std::fs::rename(scene.workspace.join("dir"), scene.workspace.join("away")).unwrap();
            std::os::unix::fs::symlink(&outside, scene.workspace.join("dir")).unwrap();
        });
        // A call whose parent was open already goes where the directory went.
        if let Ok(applied) = &result {
            assert_eq!((call, applied.files.len()), ("exchange", 1));
            assert_eq!(std::fs::read(scene.workspace.join("away/file")).unwrap(), b"new");
        } else {
            assert_eq!(conflicts(result), [("dir/file".into(), Conflict::Parent)]);
        }
        assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"old");
    }
}

#[test]
fn a_link_planted_where_a_directory_comes_is_not_followed() {
    let scene = Scene::new(|_| {}, in_dir(b"new"));
    let outside = scene.dir.path("outside");
    mkdir(&outside, 0o755);
    let result = apply_with(&scene, "syncfs", |scene| {
        std::os::unix::fs::symlink(&outside, scene.workspace.join("dir")).unwrap();
    });
    assert_eq!(conflicts(result), [("dir".into(), Conflict::Added)]);
    assert!(snapshot(&outside).is_empty());
}

#[test]
fn a_file_that_is_edited_at_the_last_moment_is_put_back() {
    let edits: [fn(&Path); 4] = [
        |file| std::fs::write(file, b"edited").unwrap(),
        // Of the same size, and with the time of modification that it had.
        |file| {
            let modified = std::fs::metadata(file).unwrap().modified().unwrap();
            std::fs::write(file, b"odl").unwrap();
            std::fs::File::options().write(true).open(file).unwrap().set_modified(modified).unwrap();
        },
        |file| {
            std::fs::remove_file(file).unwrap();
            mkdir(file, 0o755);
            write(&file.join("inside"), b"", 0o644);
        },
        |file| chmod(file, 0o600),
    ];
    for edit in edits {
        for after in [in_dir(b"new"), in_dir(b"")] {
            let scene = Scene::new(
                |top| {
                    in_dir(b"old")(top);
                    write(&top.join("another"), b"1", 0o644);
                },
                after,
            );
            if snapshot(&scene.dir.path("merged"))["dir/file"].1.is_empty() {
                std::fs::remove_file(scene.dir.path("merged/dir/file")).unwrap();
            }
            let mut before = None;
            let result = apply_with(&scene, "syncfs", |scene| {
                edit(&scene.workspace.join("dir/file"));
                before = Some(scene.now());
            });
            assert_eq!(conflicts(result), [("dir/file".into(), Conflict::ChangedUnderneath)]);
            let staged = |name: &String| name.starts_with(".agentd-apply-");
            let before: Snapshot = before.unwrap().into_iter().filter(|(name, _)| !staged(name)).collect();
            assert_eq!(scene.now(), before);
            scene.recover(&mut NoFaults).unwrap();
        }
    }
}

#[test]
fn what_the_session_swaps_after_the_review_is_not_applied() {
    let swaps: [fn(&Path); 4] = [
        |file| std::fs::write(file, b"evil").unwrap(),
        |file| std::fs::write(file, vec![1; 1 << 20]).unwrap(),
        |file| {
            std::fs::remove_file(file).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", file).unwrap();
        },
        |file| {
            std::fs::remove_file(file).unwrap();
            rustix::fs::mknodat(
                rustix::fs::CWD,
                file,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o644),
                0,
            )
            .unwrap();
        },
    ];
    for swap in swaps {
        let scene = Scene::new(in_dir(b"old"), in_dir(b"good"));
        let before = scene.now();
        let result = apply_with(&scene, "mkdir", |scene| swap(&scene.dir.path("merged/dir/file")));
        assert!(
            matches!(&result, Err(ApplyError::Conflicts(all)) if all[0].1 == Conflict::Moved)
                || matches!(&result, Err(ApplyError::Review(error)) if error.to_string().contains("session's view")),
            "{result:?}"
        );
        assert_eq!(scene.now(), before);
    }
}

#[test]
fn what_is_put_into_a_directory_that_goes_is_kept() {
    let scene = Scene::new(in_dir(b"old"), |_| {});
    let result = apply_with(&scene, "rmdir", |_| {});
    assert!(result.is_ok());
    scene.undo().unwrap();
    let mut number = 0;
    let result = apply_with(&scene, "syncfs", |scene| {
        number += 1;
        write(&scene.workspace.join("dir/new"), b"the user's", 0o644);
    });
    assert_eq!(conflicts(result), [("dir".into(), Conflict::NotEmpty)]);
    assert_eq!(scene.now().into_keys().collect::<Vec<_>>(), ["dir", "dir/file", "dir/new"]);
}

#[test]
fn what_a_user_does_while_it_is_taken_back_is_the_users() {
    // The last act conflicts; meanwhile somebody edits what came, and puts a file into a directory that came.
    let scene = Scene::new(
        |top| {
            write(&top.join("a"), b"old a", 0o644);
            write(&top.join("z"), b"old z", 0o644);
        },
        |top| {
            write(&top.join("a"), b"new a", 0o644);
            write(&top.join("dir/new"), b"1", 0o644);
            write(&top.join("z"), b"new z", 0o644);
        },
    );
    let steps = scene.steps();
    let mut exchanges = 0;
    let mut faults = each(|_, call| {
        exchanges += u32::from(call == "exchange");
        if call == "exchange" && exchanges == 2 {
            write(&scene.workspace.join("z"), b"edited z", 0o644);
            write(&scene.workspace.join("a"), b"edited a", 0o644);
            write(&scene.workspace.join("dir/users"), b"2", 0o644);
        }
        Ok(())
    });
    let Err(ApplyError::Partly { why, stands }) = scene.apply(steps, &mut faults) else {
        panic!("not taken back")
    };
    assert_eq!(conflicts::<()>(Err(*why)), [("z".into(), Conflict::ChangedUnderneath)]);
    scene.assert_clean();
    let now: Vec<_> = scene.now().into_iter().map(|(name, (_, bytes))| (name, bytes)).collect();
    let expected: [(&str, &[u8]); 4] =
        [("a", b"edited a"), ("dir", b""), ("dir/users", b"2"), ("z", b"edited z")];
    assert_eq!(now, expected.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())));
    // What "a" was is not lost: it is on record, and kept.
    let record = scene.applies().pop().unwrap();
    assert_eq!(record, stands);
    assert_eq!(record.files.iter().map(|file| file.path.to_string()).collect::<Vec<_>>(), ["a", "dir"]);
    let slot = record.files[0].before.as_ref().unwrap().slot.unwrap();
    assert_eq!(std::fs::read(scene.dir.find(&slot.to_string())).unwrap(), b"old a");
}

#[test]
fn a_staging_directory_of_anothers_is_left_alone() {
    let scene = mixed();
    let theirs = scene.workspace.join(".agentd-apply-0123456789abcdef");
    mkdir(&theirs, 0o777);
    let result = scene.apply(scene.steps(), &mut NoFaults);
    // The session's view has it not: as a change it is refused, and before that because it is there.
    assert!(matches!(result, Err(ApplyError::Foreign(_))), "{result:?}");
    assert!(scene.recover(&mut NoFaults).unwrap().is_none());
    assert!(theirs.is_dir());
}

#[test]
fn a_session_makes_no_staging_directory_and_no_state() {
    let scene = Scene::new(
        |_| {},
        |top| {
            write(&top.join(".Agentd-Apply-0123456789abcdef/1"), b"", 0o644);
            write(&top.join("state/agentd/journals/x"), b"", 0o644);
        },
    );
    let state = State::at(&scene.workspace.join("state/agentd")).unwrap();
    let steps: Vec<_> = scene.steps().into_iter().filter(|step| step.change.before.is_none()).collect();
    let result = apply(&state, &scene.trees(), &session(), steps, &mut NoFaults);
    let reserved = [
        ".Agentd-Apply-0123456789abcdef",
        ".Agentd-Apply-0123456789abcdef/1",
        "state/agentd/journals",
        "state/agentd/journals/x",
    ];
    let all: Vec<_> = conflicts(result).into_iter().filter(|(_, is)| *is == Conflict::Reserved).collect();
    assert_eq!(all, reserved.map(|name| (name.to_owned(), Conflict::Reserved)));
}

#[test]
fn a_state_directory_that_others_write_to_is_refused() {
    let dir = Dir::new();
    mkdir(&dir.path("real"), 0o700);
    std::os::unix::fs::symlink("real", dir.path("link")).unwrap();
    mkdir(&dir.path("open"), 0o770);
    dir.write("file", b"");
    for name in ["link", "open", "file"] {
        assert!(State::at(&dir.path(name)).is_err(), "{name}");
    }
    let state = State::at(&dir.path("real")).unwrap();
    mkdir(&dir.path("elsewhere"), 0o755);
    std::os::unix::fs::symlink(dir.path("elsewhere"), dir.path("real/reviews")).unwrap();
    assert!(state.review(&session(), &workspace()).is_err());
    assert!(snapshot(&dir.path("elsewhere")).is_empty());
}

#[test]
fn another_name_of_a_replaced_file_keeps_its_content() {
    let scene = Scene::new(in_dir(b"old"), |top| write(&top.join("dir/file"), b"new", 0o755));
    let other = scene.dir.path("other name");
    std::fs::hard_link(scene.workspace.join("dir/file"), &other).unwrap();
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
    assert_eq!(std::fs::read(&other).unwrap(), b"old");
    assert_eq!(std::fs::metadata(&other).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn hard_links_of_the_session_become_files_of_their_own() {
    let scene = Scene::new(
        |_| {},
        |top| {
            write(&top.join("a"), b"1", 0o644);
            std::fs::hard_link(top.join("a"), top.join("b")).unwrap();
        },
    );
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
    assert_eq!(std::fs::metadata(scene.workspace.join("a")).unwrap().nlink(), 1);
}

#[test]
fn devices_fifos_and_sockets_are_neither_made_nor_removed() {
    let fifo = |name: &'static str| {
        move |top: &Path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(rustix::fs::CWD, top.join(name), rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
            drop(std::os::unix::net::UnixListener::bind(top.join(format!("{name} socket"))).unwrap());
        }
    };
    let scene = Scene::new(fifo("old"), fifo("new"));
    let steps = || {
        let trees = scene.trees();
        let names = ["old", "old socket", "new", "new socket"].map(str::to_owned).into_iter();
        let all = Changes(changes(&trees.workspace, &trees.merged, names));
        all.0.into_iter().map(|change| Step { change, content: From::FromSession }).collect()
    };
    let all = scene.conflicts(steps());
    assert_eq!(all.iter().map(|(_, is)| *is).collect::<Vec<_>>(), [Conflict::Special; 4]);
}

#[test]
fn a_name_twice_is_refused() {
    let scene = Scene::new(in_dir(b"old"), in_dir(b"new"));
    let steps = [scene.steps(), scene.steps()].concat();
    assert_eq!(scene.conflicts(steps), [("dir/file".into(), Conflict::Repeated)]);
}

#[test]
fn an_undo_does_not_make_a_directory_that_the_user_removed() {
    let scene = Scene::new(in_dir(b"old"), |top| mkdir(&top.join("dir"), 0o755));
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
    std::fs::remove_dir(scene.workspace.join("dir")).unwrap();
    assert_eq!(conflicts(scene.undo()), [("dir/file".into(), Conflict::Parent)]);
    scene.assert_clean();
}

#[test]
fn a_staging_directory_that_the_user_removed_ends_the_apply() {
    let scene = mixed();
    let mut failing = false;
    let mut faults = each(|_, call| {
        failing |= call == "exchange";
        if failing { Err(rustix::io::Errno::IO) } else { Ok(()) }
    });
    let result = scene.apply(scene.steps(), &mut faults);
    assert!(matches!(result, Err(ApplyError::Stuck { .. })), "{result:?}");
    std::fs::remove_dir_all(scene.workspace.join(staging(&scene))).unwrap();
    let recovered = scene.recover(&mut NoFaults).unwrap().unwrap();
    assert!(matches!(recovered.outcome, super::super::Outcome::Abandoned), "{recovered:?}");
    scene.assert_clean();
}

fn staging(scene: &Scene) -> String {
    let staging = |name: &String| name.starts_with(".agentd-apply-") && !name.contains('/');
    scene.now().into_keys().find(staging).unwrap()
}
