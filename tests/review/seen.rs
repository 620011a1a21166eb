//! What a review shows is what the session saw.

use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use agentd_policy::rule::Rule;
use agentd_tests::harness::{Session, Snapshot, User, World, wait_for_exit};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::Member;
use crate::asking::{Views, ask, discard, id, names, read, views};

pub const TESTS: &[Member] = &[
    ("the_view_is_what_the_session_saw", the_view_is_what_the_session_saw),
    ("a_mask_is_no_change", a_mask_is_no_change),
    ("what_is_discarded_is_gone", what_is_discarded_is_gone),
    ("every_workspace_has_its_views", every_workspace_has_its_views),
];

/// What the default profile masks, and agentd therefore makes, in every workspace without it.
const MASKED: &str = ".env";
const LIMIT: Duration = Duration::from_secs(30);

/// Changes, deletes, renames a directory, and replaces one by another of the same name (which is opaque).
const CHANGES: &str = "echo new > file && rm gone && mv moved elsewhere && rm -r replaced && mkdir replaced \
    && echo inner > replaced/inner && mkdir made && echo deep > made/deep";

/// A workspace of `user`'s with something to change.
fn filled(world: &World, user: &User) -> std::path::PathBuf {
    let workspace = world.workspace(user);
    for dir in ["moved", "replaced"] {
        user.make_dir(workspace.join(dir));
    }
    for (name, text) in
        [("file", "old"), ("gone", "x"), ("same", "same"), ("moved/a", "a"), ("replaced/old", "o")]
    {
        user.write(workspace.join(name), text);
    }
    workspace
}

#[track_caller]
fn assert_changed(world: &World, views: &Views) {
    let user = world.a();
    let is = |path, text: &str| assert_eq!(read(user, &views.merged, path).as_deref(), Ok(text), "{path}");
    is("file", "new\n");
    is("same", "same");
    is("elsewhere/a", "a");
    is("replaced/inner", "inner\n");
    is("made/deep", "deep\n");
    for gone in ["gone", "moved", "replaced/old", "made/old"] {
        assert_eq!(read(user, &views.merged, gone), Err(Errno::NOENT), "{gone}");
    }
    assert_eq!(names(user, &views.merged, "replaced").expect("a directory"), ["inner"]);
    let changed = names(user, &views.upper, ".").expect("a directory");
    assert_eq!(changed, [MASKED, "elsewhere", "file", "gone", "made", "moved", "replaced"]);
}

/// Otherwise a reviewer approves of something else than what the session had: a file that is deleted, in a
/// directory that is opaque or renamed, would come back or stay out of sight.
fn the_view_is_what_the_session_saw(world: &World) {
    let workspace = filled(world, world.a());
    let began = std::time::SystemTime::now();
    let session = world.session_in(&workspace);
    let mut child = session.spawn_ready(&format!("{CHANGES} && echo ready; read line"));
    let id = id(world, world.a(), &session);
    let settled_with_it = views(world, world.a(), &id);
    assert_changed(world, &settled_with_it);
    // A file that nobody touched is the workspace's own, by its number.
    let stat =
        rustix::fs::statat(&settled_with_it.merged, "same", AtFlags::SYMLINK_NOFOLLOW).expect("it is there");
    let own = std::fs::metadata(workspace.join("same")).expect("it is there").ino();
    assert_eq!(stat.st_ino & u64::from(u32::MAX), own & u64::from(u32::MAX));
    drop(settled_with_it);
    drop(child.stdin.take());
    wait_for_exit(&mut child, LIMIT).expect("it ends");
    let before = Snapshot::settled(world.daemon());
    // The view outlives its worker, and is the same for as long as somebody has it.
    let ended = ask(world, world.a(), &id).expect("a review");
    let (kept, made) = ended.workspaces.first().expect("a workspace");
    assert_eq!(kept.path.as_str(), workspace.to_str().expect("text"));
    assert!(made.iter().all(|name| name.as_str() == MASKED), "{made:?}");
    let since = began.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(kept.began.0.unsigned_abs() + 1 >= since, "{kept:?} {since}");
    let two = [(); 2].map(|()| views(world, world.a(), &id));
    two.iter().for_each(|views| assert_changed(world, views));
    drop((two, ended));
    // Nothing outside was changed.
    assert_eq!(std::fs::read_to_string(workspace.join("file")).expect("it is there"), "old");
    before.assert_same_within(world.daemon(), LIMIT);
}

/// Otherwise a review shows files that nobody made, and an apply makes them: what masks the user's keys would replace
/// them.
fn a_mask_is_no_change(world: &World) {
    let workspace = world.workspace(world.a());
    let profile = workspace.with_extension("toml");
    world.a().write(
        &profile,
        "schema = 1\nname = \"masks\"\n[[filesystem.workspace]]\npath = \".\"\nmask = [\"top.key\", \"deep/down.key\"]\n",
    );
    let session = world.session_in(&workspace).option("--profile").option(&profile);
    let mut child = session.spawn(["bash", "-c", "echo x > made"]);
    wait_for_exit(&mut child, LIMIT).expect("it ends");
    let id = id(world, world.a(), &session);
    let named = ask(world, world.a(), &id).expect("a review");
    let (_, made) = named.workspaces.first().cloned().expect("a workspace");
    let placeholder = named.placeholder;
    drop(named);
    let views = views(world, world.a(), &id);
    let device = rustix::fs::fstat(views.upper.as_fd()).expect("fstat").st_dev;
    let mut own = made.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
    for name in names(world.a(), &views.upper, ".").expect("a directory") {
        let stat = rustix::fs::statat(&views.upper, &name, AtFlags::SYMLINK_NOFOLLOW).expect("it is there");
        if (device, stat.st_ino) == (placeholder.device, placeholder.inode) {
            own.push(name.into_string().expect("text"));
        }
    }
    own.sort();
    assert!(own.contains(&"top.key".to_owned()) && own.contains(&"deep/down.key".to_owned()), "{own:?}");
    assert!(!own.contains(&"made".to_owned()), "{own:?}");
    std::fs::remove_file(profile).expect("our own file");
}

/// Otherwise what a user wants gone stays on disk, or a session that runs loses what it works on. The record stays.
fn what_is_discarded_is_gone(world: &World) {
    let session = world.session();
    let mut child = session.spawn_ready("echo work > result; echo ready; read line");
    let id = id(world, world.a(), &session);
    assert_eq!(discard(world, world.a(), &id).map_err(|r| r.rule), Err(Rule::SessionRunning));
    let unknown = |refusal: agentd_policy::Refusal| (refusal.rule, refusal.what);
    let not_there = Err((Rule::SessionUnknown, format!("session \"{id}\"")));
    assert_eq!(discard(world, world.b(), &id).map_err(unknown), not_there);
    drop(child.stdin.take());
    wait_for_exit(&mut child, LIMIT).expect("it ends");
    Snapshot::settled(world.daemon());
    assert_eq!(discard(world, world.b(), &id).map_err(unknown), not_there);
    // Who looks at it meanwhile holds nothing up.
    let seen = views(world, world.a(), &id);
    assert_eq!(discard(world, world.a(), &id), Ok(()));
    assert_eq!(ask(world, world.a(), &id).map(drop).map_err(unknown), not_there);
    assert_eq!(discard(world, world.a(), &id).map_err(unknown), not_there);
    drop(seen);
    let uppers = world.daemon().state().join("overlays").join(format!("u{}", world.a().uid));
    let gone = agentd_tests::harness::within(LIMIT, || {
        let left: Vec<_> = std::fs::read_dir(&uppers).expect("a directory").flatten().collect();
        let left = left.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(id.as_str()));
        if left.count() == 0 { Ok(()) } else { Err(()) }
    });
    assert_eq!(gone, Ok(()));
    world.agentctl(world.a(), ["inspect", session.name()]).expect_code(0);
    world.agentctl(world.a(), ["rm", session.name()]).expect_code(0);
}

/// Otherwise changes in one of several directories stay out of sight.
fn every_workspace_has_its_views(world: &World) {
    let (one, ro, two) = (world.workspace(world.a()), world.workspace(world.a()), world.workspace(world.a()));
    let session = Session::new(world, world.a(), &one)
        .options(["--workspace".into(), format!("{}:ro", ro.display())])
        .options(["--workspace".into(), format!("{}:overlay", one.display())])
        .options(["--workspace".into(), format!("{}:overlay", two.display())]);
    let script = format!("echo 1 > {}/f && echo 2 > {}/f", one.display(), two.display());
    let mut child = session.spawn(["bash", "-c", &script]);
    assert_eq!(wait_for_exit(&mut child, LIMIT).expect("it ends").code(), Some(0));
    let named = ask(world, world.a(), &id(world, world.a(), &session)).expect("a review");
    let paths: Vec<_> = named.workspaces.iter().map(|(kept, _)| kept.path.as_str().to_owned()).collect();
    let tops: Vec<_> = paths.iter().map(|path| crate::asking::directory(world.a(), path.as_ref())).collect();
    let all = named.offer(&tops).expect("views");
    assert_eq!(all.len(), 2);
    for (path, views) in paths.iter().zip(&all) {
        let text = if *path == one.display().to_string() { "1\n" } else { "2\n" };
        assert_eq!(read(world.a(), &views.merged, "f").as_deref(), Ok(text), "{path}");
        assert_eq!(names(world.a(), &views.upper, ".").expect("a directory"), [MASKED, "f"]);
    }
}
