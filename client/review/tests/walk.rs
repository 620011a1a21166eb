//! What `changes` finds where a session did something particular, in overlays of the kernel's.

#![allow(clippy::unwrap_used)]

mod fixture;

use std::fs::{
    create_dir, create_dir_all, read_dir, remove_dir_all, remove_file, rename, set_permissions, write,
};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use agentd_review::change::{Action, Change, Content, Kind};
use agentd_review::digest::Digest;
use agentd_review::error::ReviewError;
use agentd_review::path::FilePath;
use agentd_review::trees::{Stamp, Trees};
use agentd_review::walk::{Bounds, changes};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;

use fixture::{Mounted, Overlay, UPPERS, Upper};

fn path(text: &str) -> FilePath {
    FilePath::parse(text.as_bytes()).unwrap()
}

fn mode(path: impl AsRef<Path>, mode: u32) {
    set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A workspace from `before`, in which `inside` did something; then `test`, with the upper in each place.
fn each(before: impl Fn(&Path), inside: impl Fn(&Mounted), test: impl Fn(&Overlay)) {
    for upper in UPPERS {
        let Some(overlay) = Overlay::new(upper) else { continue };
        before(&overlay.workspace);
        let session = overlay.session();
        inside(&session);
        test(&overlay);
    }
}

fn found(overlay: &Overlay) -> Vec<Change> {
    found_in(overlay, &[])
}

fn found_in(overlay: &Overlay, only: &[&str]) -> Vec<Change> {
    find(&overlay.trees(), only)
}

fn find(trees: &Trees, only: &[&str]) -> Vec<Change> {
    let only: Vec<_> = only.iter().map(|only| path(only)).collect();
    changes(trees, &only, &Bounds::default()).unwrap().0
}

/// One line each: the action, the path, where it was before.
fn lines(changes: &[Change]) -> Vec<String> {
    let line = |change: &Change| match &change.renamed_from {
        Some(from) => format!("{:?} {} {from}", change.action(), change.path),
        None => format!("{:?} {}", change.action(), change.path),
    };
    changes.iter().map(line).collect()
}

/// On a thread that may do no more than its uid 0 by modes: as a caller who owns all files.
fn as_owner<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let without = || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
        rustix::thread::set_capabilities(None, sets).unwrap();
        run()
    };
    std::thread::scope(|scope| scope.spawn(without).join().unwrap())
}

/// A workspace of four files, each of which holds its name.
fn small(workspace: &Path) {
    create_dir_all(workspace.join("d/deep")).unwrap();
    create_dir(workspace.join("kept")).unwrap();
    for name in ["d/one", "d/two", "d/deep/three", "kept/file"] {
        write(workspace.join(name), name).unwrap();
    }
}

#[test]
fn what_was_only_touched_is_no_change() {
    let touch = |session: &Mounted| {
        write(session.at("d/one"), "d/one").unwrap();
        mode(session.at("d/two"), 0o600);
        mode(session.at("d/two"), 0o644);
        write(session.at("new"), "").unwrap();
        remove_file(session.at("new")).unwrap();
        // The same tree in an opaque directory.
        remove_dir_all(session.at("kept")).unwrap();
        create_dir(session.at("kept")).unwrap();
        write(session.at("kept/file"), "kept/file").unwrap();
    };
    each(small, touch, |overlay| assert_eq!(lines(&found(overlay)), [""; 0]));
}

#[test]
fn a_directory_that_was_moved() {
    let moved = |session: &Mounted| {
        rename(session.at("d"), session.at("kept/e")).unwrap();
        write(session.at("kept/e/two"), "another").unwrap();
    };
    each(small, moved, |overlay| {
        let expected = [
            "Deleted d",
            "Deleted d/deep",
            "Deleted d/deep/three",
            "Deleted d/one",
            "Deleted d/two",
            "Added kept/e",
            "Added kept/e/deep",
            "Renamed kept/e/deep/three d/deep/three",
            "Renamed kept/e/one d/one",
            "Added kept/e/two",
        ];
        assert_eq!(lines(&found(overlay)), expected);
        // The other half is not there.
        assert_eq!(lines(&found_in(overlay, &["kept/e/one"])), ["Added kept/e", "Added kept/e/one"]);
        assert_eq!(lines(&found_in(overlay, &["d/one"])), ["Deleted d/one"]);
        let halves = ["Deleted d/one", "Added kept/e", "Renamed kept/e/one d/one"];
        assert_eq!(lines(&found_in(overlay, &["kept/e/one", "d/one"])), halves);
        assert_eq!(lines(&found_in(overlay, &["nowhere", "kept/file/not"])), [""; 0]);
    });
}

#[test]
fn directories_that_changed_places() {
    let before = |workspace: &Path| {
        for dir in ["a", "b"] {
            create_dir_all(workspace.join(dir).join("below/more")).unwrap();
            write(workspace.join(dir).join("below/file"), dir).unwrap();
            write(workspace.join(dir).join("below/more/same"), "same").unwrap();
        }
    };
    let swap = |session: &Mounted| {
        for (from, to) in [("a", "c"), ("b", "a"), ("c", "b")] {
            rename(session.at(from), session.at(to)).unwrap();
        }
    };
    each(before, swap, |overlay| {
        assert_eq!(lines(&found(overlay)), ["Modified a/below/file", "Modified b/below/file"]);
    });
}

#[test]
fn of_equal_deletions_the_one_of_the_same_name_was_renamed() {
    let before = |workspace: &Path| {
        for name in ["1", "2", "x", "empty"] {
            write(workspace.join(name), if name == "empty" { "" } else { "same" }).unwrap();
        }
    };
    let inside = |session: &Mounted| {
        create_dir(session.at("to")).unwrap();
        for (from, to) in [("1", "to/a"), ("2", "to/b"), ("x", "to/x"), ("empty", "to/empty")] {
            rename(session.at(from), session.at(to)).unwrap();
        }
        write(session.at("to/c"), "same").unwrap();
    };
    each(before, inside, |overlay| {
        let renamed = ["Renamed to/a 1", "Renamed to/b 2", "Added to/c", "Added to/empty", "Renamed to/x x"];
        let lines = lines(&found(overlay));
        assert_eq!(
            lines.iter().filter(|l| l.contains("to/")).collect::<Vec<_>>(),
            renamed.iter().collect::<Vec<_>>()
        );
    });
}

#[test]
fn kinds() {
    let inside = |session: &Mounted| {
        remove_dir_all(session.at("d")).unwrap();
        symlink("kept", session.at("d")).unwrap();
        remove_file(session.at("kept/file")).unwrap();
        create_dir(session.at("kept/file")).unwrap();
        write(session.at("kept/file/below"), "").unwrap();
        mode(session.at("kept"), 0o2755);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            session.at("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
    };
    each(small, inside, |overlay| {
        let found = found(overlay);
        let expected = [
            "Type d",
            "Deleted d/deep",
            "Deleted d/deep/three",
            "Deleted d/one",
            "Deleted d/two",
            "Added fifo",
            "Mode kept",
            "Type kept/file",
            "Added kept/file/below",
        ];
        assert_eq!(lines(&found), expected);
        let of = |name: &str| found.iter().find(|change| change.path == path(name)).unwrap();
        let link = of("d").after.as_ref().unwrap();
        assert_eq!(
            (link.kind, link.size, &link.content),
            (Kind::Symlink, 4, &Content::Target(b"kept".to_vec()))
        );
        let file = of("kept/file").before.as_ref().unwrap();
        assert_eq!((file.size, &file.content), (9, &Content::Bytes(Digest::of_bytes(b"kept/file"))));
        assert_eq!(of("kept").after.as_ref().unwrap().mode, 0o2755);
    });
}

#[test]
fn what_cannot_be_read_is_a_change_that_says_so() {
    let before = |workspace: &Path| {
        small(workspace);
        for name in ["closed", "d/dark", "untouched"] {
            create_dir(workspace.join(name)).unwrap();
            write(workspace.join(name).join("file"), "").unwrap();
            mode(workspace.join(name), 0);
        }
        for name in ["secret", "untouched file"] {
            write(workspace.join(name), "secret").unwrap();
            mode(workspace.join(name), 0);
        }
    };
    let inside = |session: &Mounted| {
        mode(session.at("d"), 0o444);
        mode(session.at("kept"), 0);
        mode(session.at("closed"), 0o700);
        write(session.at("closed/file"), "other").unwrap();
        mode(session.at("closed"), 0);
        write(session.at("secret"), "another").unwrap();
        create_dir_all(session.at("new/below")).unwrap();
        mode(session.at("new"), 0);
        write(session.at("unread"), "").unwrap();
        mode(session.at("unread"), 0);
    };
    each(before, inside, |overlay| {
        let trees = overlay.trees();
        let find = |only: &[&str]| as_owner(|| find(&trees, only));
        let states = |change: &Change| {
            let content = |entry: &Option<_>| {
                entry.as_ref().map(|e: &agentd_review::change::Entry| e.content == Content::Unreadable)
            };
            (change.path.to_string(), change.action(), content(&change.before), content(&change.after))
        };
        let of = |name: &str, action, before, after| (name.to_owned(), action, before, after);
        let expected = [
            of("closed", Action::Modified, Some(true), Some(true)),
            of("d", Action::Modified, Some(false), Some(true)),
            of("kept", Action::Modified, Some(false), Some(true)),
            of("new", Action::Added, None, Some(true)),
            of("secret", Action::Modified, Some(true), Some(true)),
            of("unread", Action::Added, None, Some(true)),
        ];
        assert_eq!(find(&[]).iter().map(states).collect::<Vec<_>>(), expected);
        // Below it, what was asked for is in doubt.
        assert_eq!(lines(&find(&["kept/file"])), ["Modified kept"]);
        assert_eq!(lines(&find(&["d/deep/three"])), ["Modified d"]);
    });
}

#[test]
fn what_agentd_made_is_no_change() {
    let inside = |session: &Mounted| {
        create_dir_all(session.at("made/deep/empty")).unwrap();
        write(session.at("d/.env"), "").unwrap();
        write(session.at("made/deep/agents"), "").unwrap();
    };
    each(small, inside, |overlay| {
        let mut trees = overlay.trees();
        trees.made = ["made", "made/deep", "made/deep/empty", "d/.env"].map(path).into();
        let find = |only: &[FilePath]| lines(&changes(&trees, only, &Bounds::default()).unwrap().0);
        assert_eq!(find(&[]), ["Added made", "Added made/deep", "Added made/deep/agents"]);
        assert_eq!(find(&[path("made/deep")]), ["Added made", "Added made/deep", "Added made/deep/agents"]);
        assert_eq!(find(&[path("made/deep/empty")]), [""; 0]);
        assert_eq!(find(&[path("d/.env")]), [""; 0]);
    });
}

#[test]
fn what_changed_underneath() {
    let inside = |session: &Mounted| {
        write(session.at("d/one"), "session").unwrap();
        remove_dir_all(session.at("kept")).unwrap();
    };
    each(small, inside, |overlay| {
        // The file system's clock goes in ticks.
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(overlay.workspace.join("kept/late"), "").unwrap();
        let stat = rustix::fs::stat(overlay.workspace.join("kept/late")).unwrap();
        let mut trees = overlay.trees();
        trees.began =
            Stamp { seconds: stat.st_ctime, nanoseconds: u32::try_from(stat.st_ctime_nsec).unwrap() };
        let found = changes(&trees, &[], &Bounds::default()).unwrap().0;
        let underneath: Vec<_> = found.iter().map(|c| (c.path.to_string(), c.changed_underneath)).collect();
        let expected = [("d/one", false), ("kept", false), ("kept/file", false), ("kept/late", true)];
        assert_eq!(underneath, expected.map(|(path, late)| (path.to_owned(), late)));
    });
}

#[test]
fn a_renamed_directory_whose_file_was_changed_underneath() {
    each(
        small,
        |session| rename(session.at("d"), session.at("e")).unwrap(),
        |overlay| {
            write(overlay.workspace.join("d/one"), "meanwhile").unwrap();
            let found = found(overlay);
            assert!(lines(&found).contains(&"Renamed e/one d/one".to_owned()), "{found:?}");
        },
    );
}

/// `levels` directories in each other, `d` all of them.
fn chain(top: &Path, levels: usize) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(top, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        dir = rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn depth_is_bounded() {
    // There it takes least to make and to delete.
    let Some(overlay) = Overlay::new(Upper::Apart) else { return };
    chain(&overlay.session().at(""), 10_000);
    let tried = |depth| {
        let bounds = Bounds { depth, ..Bounds::default() };
        changes(&overlay.trees(), &[], &bounds).unwrap_err().to_string()
    };
    assert_eq!(tried(Bounds::default().depth), "more than 1000 levels of directories");
    assert_eq!(tried(usize::MAX), "more than 4095 bytes in a path");
}

#[test]
fn a_deep_workspace_is_deleted_whole() {
    let deleted = |session: &Mounted| remove_dir_all(session.at("d")).unwrap();
    each(
        |workspace| chain(workspace, 300),
        deleted,
        |overlay| {
            let found = found(overlay);
            assert_eq!(found.len(), 300);
            assert!(found.iter().all(|change| change.action() == Action::Deleted));
        },
    );
}

#[test]
fn counts_are_bounded() {
    let many = |session: &Mounted| {
        for number in 0..50 {
            create_dir(session.at(number.to_string())).unwrap();
            write(session.at(format!("{number}/file")), "").unwrap();
        }
    };
    each(
        |_| {},
        many,
        |overlay| {
            let tried = |bounds: Bounds| changes(&overlay.trees(), &[], &bounds);
            // 50 in the view and in the upper, then one each.
            let exact = Bounds { entries: 150, changes: 100, depth: 1, names: 50 };
            assert_eq!(tried(exact).unwrap().0.len(), 100);
            for (bounds, what) in [
                (Bounds { entries: 149, ..exact }, "more than 149 names"),
                (Bounds { changes: 99, ..exact }, "more than 99 changes"),
                (Bounds { depth: 0, ..exact }, "more than 0 levels of directories"),
                (Bounds { names: 49, ..exact }, "more than 49 names in one directory"),
            ] {
                let error = tried(bounds).unwrap_err();
                assert!(matches!(error, ReviewError::TooMuch { .. }));
                assert_eq!(error.to_string(), what);
            }
        },
    );
}

#[test]
fn a_sparse_file_costs_what_is_written_in_it() {
    let sparse = |session: &Mounted| {
        let file = std::fs::File::create(session.at("sparse")).unwrap();
        file.set_len(1 << 40).unwrap();
    };
    each(small, sparse, |overlay| {
        let found = found(overlay);
        assert_eq!(found.first().unwrap().after.as_ref().unwrap().size, 1 << 40);
    });
}

#[test]
fn a_review_copes_with_a_session_that_goes_on() {
    for upper in UPPERS {
        let Some(overlay) = Overlay::new(upper) else { continue };
        small(&overlay.workspace);
        let (session, ended) = (overlay.session(), AtomicBool::new(false));
        let busy = || {
            let mut round = 0_usize;
            while !ended.load(Ordering::Relaxed) {
                round += 1;
                let name = session.at(format!("d/{}", round % 7));
                remove_file(&name).ok();
                std::fs::remove_dir_all(&name).ok();
                let made = match round % 5 {
                    0 => create_dir(&name).and_then(|()| write(name.join("x"), "x")),
                    1 => symlink("one", &name),
                    2 => write(&name, vec![1; round % 100_000]),
                    3 => rename(session.at("d/deep"), session.at("kept/deep")),
                    _ => rename(session.at("kept/deep"), session.at("d/deep")),
                };
                made.ok();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(busy);
            let tried: Vec<_> =
                (0..100).map(|_| changes(&overlay.trees(), &[], &Bounds::default())).collect();
            ended.store(true, Ordering::Relaxed);
            for result in tried {
                let found = result.unwrap().0;
                let untouched = |change: &Change| {
                    ["d/one", "d/two", "kept/file"].iter().any(|name| change.path == path(name))
                };
                assert!(!found.iter().any(untouched), "{:?}", lines(&found));
            }
        });
        assert!(read_dir(overlay.workspace.join("d")).unwrap().count() == 3, "the workspace is as it was");
    }
}
