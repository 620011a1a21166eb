//! What a user's paths are in a session: what the host's mount of them refuses, what lies below them, what is closed to
//! the user.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use agentd_tests::harness::{Mounted, World};
use rustix::mount::MountFlags;

use crate::Member;

/// The tests of this file.
pub const TESTS: &[Member] = &[
    ("what_is_closed_to_the_user_is_told_nothing_of", oracle),
    ("a_mount_without_programs_stays_so_in_every_mode", noexec),
    ("a_single_file_runs_if_it_is_a_program", single_program),
    ("the_top_of_a_view_is_the_sources", top),
    ("what_a_mount_hides_stays_hidden", submounts),
];

fn text(path: &Path) -> &str {
    path.to_str().expect("our own name")
}

/// Scratch directories in a directory that the user cannot look into: whatever is there, the answer is the same.
fn oracle(world: &'static World) {
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let closed = dir.join("closed");
    std::fs::create_dir_all(closed.join("directory")).expect("root's own");
    std::fs::write(closed.join("file"), "x").expect("root's own");
    symlink("/etc/shadow", closed.join("link")).expect("a new link");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("root's own");
    let names = ["directory", "file", "link", "nothing", "directory/x", "file/x", "link/x", "nothing/x"];
    // What the user is told without agentd.
    for name in names {
        let path = text(&closed.join(name)).to_owned();
        let told = world.on_host(user, &user.home, &["stat".into(), path]);
        assert!(told.stderr.contains("Permission denied"), "{}", told.stderr);
    }
    let profiles = world.workspace(user);
    let ways = [["--read", text(&dir)], ["--workspace", &format!("{}:ro", text(&dir))]]
        .map(|way| way.map(str::to_owned));
    let modes =
        ["overlay", "direct"].map(|mode| ["--workspace".to_owned(), format!("{}:{mode}", text(&dir))]);
    for way in ways.into_iter().chain(modes) {
        let mut told = Vec::new();
        for name in names {
            let path = text(&closed.join(name)).to_owned();
            let profile = profiles.join("oracle.toml");
            let scratch = format!("[[filesystem.scratch]]\npath = \"{path}\"\nsize = \"64K\"\n");
            user.write(&profile, format!("schema = 1\nname = \"oracle\"\n{scratch}"));
            let session = world.session_in(&dir).options(["--profile", text(&profile)]).options(&way);
            let output = session.run(["true"]);
            told.push((output.code, output.stderr.replace(&path, "PATH")));
        }
        assert_eq!(told[0].0, Some(125), "{way:?}: a mount in a directory that is closed: {told:?}");
        assert!(told.iter().all(|one| *one == told[0]), "{way:?}: they can be told apart: {told:#?}");
    }
}

/// Programs on a file system that its administrator mounted `noexec`.
fn noexec(world: &'static World) {
    let (user, home) = (world.a(), world.workspace(world.a()));
    for (name, flags, code) in [("runs", MountFlags::empty(), 0), ("refuses", MountFlags::NOEXEC, 126)] {
        let dir = home.join(name);
        user.make_dir(&dir);
        let mounted = Mounted::tmpfs(&dir, flags);
        let project = dir.join("project");
        user.make_dir(&project);
        let program = project.join("program");
        std::fs::copy("/bin/true", &program).expect("a copy");
        user.own(&program);
        // As it is without agentd.
        let script = format!("exec {}", text(&program));
        let outside = world.on_host(user, &user.home, &["bash".into(), "-c".into(), script.clone()]);
        assert_eq!(outside.code, Some(code), "{name}: {}", outside.stderr);
        let at = text(&project);
        let elsewhere = world.workspace(user);
        for way in [
            ["--workspace", &format!("{at}:ro")],
            ["--workspace", &format!("{at}:overlay")],
            ["--workspace", &format!("{at}:direct")],
            ["--read", at],
            ["--read", text(&program)],
        ] {
            let cwd = if way[0] == "--read" { &elsewhere } else { &project };
            let output = world.session_in(cwd).options(way).bash(&script);
            assert_eq!(output.code, Some(code), "{name} {way:?}: {}", output.stderr);
        }
        drop(mounted);
    }
}

fn single_program(world: &'static World) {
    let (user, home) = (world.a(), world.workspace(world.a()));
    let (program, plain) = (home.join("program"), home.join("plain"));
    for path in [&program, &plain] {
        std::fs::copy("/bin/true", path).expect("a copy");
        user.own(path);
    }
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let cwd = world.workspace(user);
    let run = |path: &Path| world.session_in(&cwd).options(["--read", text(path)]).run([text(path)]);
    let output = run(&program).expect_code(0);
    let events = world.all_events(user, &output.name);
    let ran = |event: &serde_json::Value| event["exec"]["path"] == text(&program);
    assert!(events.iter().any(ran), "its own start is on record: {events:#?}");
    run(&plain).expect_code(126);
    // What is beside it is not there.
    let script = format!("ls {}", text(&home));
    let output = world.session_in(&cwd).options(["--read", text(&program)]).bash(&script).expect_code(0);
    assert_eq!(output.text(), "program\n");
}

fn top(world: &'static World) {
    let (user, home) = (world.a(), world.workspace(world.a()));
    let dir = home.join("input");
    user.make_dir(&dir);
    user.write(dir.join("file"), "x");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o751)).expect("ours");
    let roots = home.join("roots");
    std::fs::create_dir(&roots).expect("root's own");
    for path in [&dir, &roots] {
        let time = rustix::fs::Timespec { tv_sec: 978_307_200, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).expect("ours");
    }
    let format = "%a %u %Y %i";
    let cwd = world.workspace(user);
    let script = format!("stat -c '{format}' {} {} {0}/file", text(&dir), text(&roots));
    let reads = ["--read", text(&dir), "--read", text(&roots)];
    let output = world.session_in(&cwd).options(reads).bash(&script).expect_code(0);
    let lines: Vec<String> = output.text().lines().map(str::to_owned).collect();
    let uid = |path: &Path| std::fs::metadata(path).expect("ours").uid();
    for (line, (path, mode)) in lines.iter().zip([(&dir, "751"), (&roots, "755")]) {
        let wanted = format!("{mode} {} 978307200 ", uid(path));
        assert!(line.starts_with(&wanted), "{line} is not {wanted}");
    }
}

/// A view shows what lies under a mount: such a directory, and such a file, is refused.
fn submounts(world: &'static World) {
    let (user, home) = (world.a(), world.workspace(world.a()));
    let dir: PathBuf = home.join("input");
    user.write(dir.join("below/hidden"), "what is covered");
    user.write(dir.join("file"), "what is covered");
    user.write(home.join("other"), "what covers it");
    let mounts = [
        Mounted::tmpfs(&dir.join("below"), MountFlags::empty()),
        Mounted::bind(&home.join("other"), &dir.join("file")),
    ];
    let cwd = world.workspace(user);
    for path in [dir.clone(), dir.join("file")] {
        let output = world.session_in(&cwd).options(["--read", text(&path)]).run(["true"]).expect_code(125);
        assert!(output.stderr.contains("(path.submount)"), "{}", output.stderr);
    }
    // In mode direct the mounts come along.
    let way = ["--workspace", &format!("{}:direct", text(&dir))];
    let output = world.session_in(&dir).options(way).bash("cat below/hidden file; true").expect_code(0);
    assert_eq!(output.text(), "what covers it");
    drop(mounts);
}
