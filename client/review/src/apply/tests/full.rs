//! A file system of a few blocks, in the workspace or below the state directory: full at every point of an apply.

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::*;

/// A tmpfs that is mounted nowhere; `None` where the test may not make one.
fn small(pages: u32) -> Option<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_set_string(&context, "size", (u64::from(pages) * 4096).to_string()).ok()?;
    fsconfig_set_string(&context, "mode", "0700").ok()?;
    fsconfig_create(&context).ok()?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()
}

fn at(fd: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn skipped() {
    eprintln!("SKIPPED: a tmpfs of its own: not root");
}

fn before(top: &Path) {
    write(&top.join("modified"), &[1; 10_000], 0o644);
    write(&top.join("deleted"), &[2; 6000], 0o644);
    write(&top.join("dir/file"), &[3; 4096], 0o644);
}

fn after(top: &Path) {
    write(&top.join("modified"), &[4; 20_000], 0o644);
    write(&top.join("new dir/added"), &[5; 30_000], 0o644);
    write(&top.join("another"), &[6; 4096], 0o644);
}

/// As [`Scene::new`], with the workspace on a file system of its own: what is replaced is copied.
fn on(fd: &OwnedFd) -> Scene {
    let mut scene = Scene::new(|_| {}, after);
    scene.workspace = at(fd);
    before(&scene.workspace);
    scene
}

#[test]
fn a_full_workspace_is_as_before() {
    let mut applied = 0;
    for pages in 12..60 {
        let Some(fd) = small(pages) else { return skipped() };
        let scene = on(&fd);
        let old = scene.now();
        match scene.apply(scene.steps(), &mut NoFaults) {
            Ok(_) => {
                assert_eq!(scene.now(), snapshot(&scene.dir.path("merged")));
                applied += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("staging directory: No space left"), "{pages}: {error}");
                assert_eq!(scene.now(), old, "{pages}");
            }
        }
        scene.assert_clean();
    }
    assert!((1..48).contains(&applied), "{applied}");
}

#[test]
fn a_full_state_directory_leaves_the_workspace_as_before() {
    let (mut applied, mut pages_with_state) = (0, 0);
    for pages in 1..30 {
        let (Some(work), Some(state)) = (small(1000), small(pages)) else { return skipped() };
        let mut scene = on(&work);
        scene.state = State::new(state).unwrap();
        let old = scene.now();
        match scene.apply(scene.steps(), &mut NoFaults) {
            Ok(_) => {
                assert_eq!(scene.now(), snapshot(&scene.dir.path("merged")));
                scene.undo().map_or_else(|_| assert_ne!(scene.now(), old), |_| assert_eq!(scene.now(), old));
                applied += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("state directory: No space left"), "{pages}: {error}");
                assert_eq!(scene.now(), old, "{pages}");
                pages_with_state += 1;
            }
        }
        assert!(!scene.now().keys().any(|name| name.contains(".agentd-apply-")), "{pages}");
    }
    assert!(applied > 0 && pages_with_state > 0, "{applied} {pages_with_state}");
}

#[test]
fn what_is_replaced_on_another_file_system_is_copied_and_comes_back() {
    let Some(fd) = small(1000) else { return skipped() };
    let scene = Scene { workspace: at(&fd), ..mixed() };
    mixed_before(&scene.workspace);
    let old = scene.now();
    scene.apply(scene.steps(), &mut NoFaults).unwrap();
    assert_eq!(scene.now(), snapshot(&scene.dir.path("merged")));
    scene.undo().unwrap();
    assert_eq!(scene.now(), old);
    scene.undo().unwrap();
    assert_eq!(scene.now(), snapshot(&scene.dir.path("merged")));
}

#[test]
fn it_may_be_killed_there_too() {
    for number in 0.. {
        let Some(fd) = small(1000) else { return skipped() };
        let scene = Scene { workspace: at(&fd), ..mixed() };
        mixed_before(&scene.workspace);
        let (before, after) = (scene.now(), snapshot(&scene.dir.path("merged")));
        if killed::die_at(number, |faults| scene.apply(scene.steps(), faults).unwrap()).is_some() {
            break;
        }
        killed::assert_whole(&scene, &before, &after, &format!("{number}"));
    }
}

#[test]
fn a_mount_point_is_neither_replaced_nor_entered() {
    use rustix::mount::{MoveMountFlags, move_mount};
    let scene = Scene::new(
        |top| mkdir(&top.join("mnt"), 0o755),
        |top| {
            write(&top.join("mnt/file"), b"1", 0o644);
            chmod(&top.join("mnt"), 0o700);
        },
    );
    let steps = scene.steps();
    let Some(fd) = small(100) else { return skipped() };
    let mnt = scene.workspace.join("mnt");
    if move_mount(&fd, "", rustix::fs::CWD, &mnt, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).is_err() {
        return skipped();
    }
    let result = scene.apply(steps, &mut NoFaults);
    rustix::mount::unmount(&mnt, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(
        conflicts(result),
        [("mnt".into(), Conflict::MountPoint), ("mnt/file".into(), Conflict::MountPoint)]
    );
}

#[test]
fn names_that_differ_in_case_alone_are_one_where_case_is_ignored() {
    let Some(fd) = folding() else { return eprintln!("SKIPPED: no tmpfs that ignores case") };
    let mut scene = Scene::new(
        |_| {},
        |top| {
            write(&top.join("dir/README"), b"1", 0o644);
            write(&top.join("dir/readme"), b"2", 0o644);
        },
    );
    scene.workspace = at(&fd);
    mkdir(&scene.workspace.join("dir"), 0o755);
    if !fold(&scene.workspace.join("dir")) {
        return eprintln!("SKIPPED: no directory that ignores case");
    }
    let steps = scene.steps();
    assert_eq!(scene.conflicts(steps.clone()), [("dir/readme".into(), Conflict::Added)]);
    assert_eq!(scene.now().len(), 1);
    write(&scene.workspace.join("dir/ReadMe"), b"the user's", 0o644);
    let all: Vec<_> = scene.conflicts(steps).into_iter().map(|(_, is)| is).collect();
    assert_eq!(all, [Conflict::Added; 2]);
    assert_eq!(scene.now()["dir/ReadMe"].1, b"the user's");
}

/// A tmpfs in which a directory may ignore case.
fn folding() -> Option<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    rustix::mount::fsconfig_set_flag(&context, "casefold").ok()?;
    fsconfig_create(&context).ok()?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()
}

fn fold(dir: &Path) -> bool {
    let Ok(dir) = std::fs::File::open(dir) else { return false };
    let flags = rustix::fs::ioctl_getflags(&dir).unwrap_or(rustix::fs::IFlags::empty());
    rustix::fs::ioctl_setflags(&dir, flags | rustix::fs::IFlags::from_bits_retain(0x4000_0000)).is_ok()
}
