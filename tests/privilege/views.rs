//! What a user's paths are in a session: what the host's mount of them refuses, what lies below them, what is closed to
//! the user.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentd_tests::harness::{Mounted, World, complete, within};
use agentd_tests::tests;
use rustix::mount::MountFlags;

use crate::Member;

/// The tests of this file.
pub const TESTS: &[Member] = tests![
    what_is_closed_to_the_user_is_told_nothing_of,
    a_mount_without_programs_stays_so_in_every_mode,
    a_single_file_runs_if_it_is_a_program,
    the_top_of_a_view_is_the_sources,
    what_a_mount_hides_stays_hidden,
    a_link_has_its_own_name_and_its_targets,
    inspect_says_when_opt_has_changed,
    access_that_a_group_denies_stays_denied,
    more_groups_than_there_are_gids_for_are_refused,
];

fn text(path: &Path) -> &str {
    path.to_str().expect("our own name")
}

/// Scratch directories in a directory that the user cannot look into: whatever is there, the answer is the same.
fn what_is_closed_to_the_user_is_told_nothing_of(world: &'static World) {
    let (user, dir) = (world.a(), world.workspace(world.a()));
    let closed = dir.join("closed");
    std::fs::create_dir_all(closed.join("directory")).expect("root's own");
    std::fs::write(closed.join("file"), "x").expect("root's own");
    symlink("/etc/shadow", closed.join("link")).expect("a new link");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("root's own");
    let names = ["directory", "file", "link", "nothing", "directory/x", "file/x", "link/x", "nothing/x"];
    // What the user sees without agentd.
    for name in names {
        let path = text(&closed.join(name)).to_owned();
        let reported = world.on_host(user, &user.home, &["stat".into(), path]);
        assert!(reported.stderr.contains("Permission denied"), "{}", reported.stderr);
    }
    let profiles = world.workspace(user);
    let ways = [["--read", text(&dir)], ["--workspace", &format!("{}:ro", text(&dir))]]
        .map(|way| way.map(str::to_owned));
    let modes =
        ["overlay", "direct"].map(|mode| ["--workspace".to_owned(), format!("{}:{mode}", text(&dir))]);
    for way in ways.into_iter().chain(modes) {
        let mut reported = Vec::new();
        for name in names {
            let path = text(&closed.join(name)).to_owned();
            let profile = profiles.join("oracle.toml");
            let scratch = format!("[[filesystem.scratch]]\npath = \"{path}\"\nsize = \"64K\"\n");
            user.write(&profile, format!("schema = 1\nname = \"oracle\"\n{scratch}"));
            let session = world.session_in(&dir).options(["--profile", text(&profile)]).options(&way);
            let output = session.run(["true"]);
            reported.push((output.code, output.stderr.replace(&path, "PATH")));
        }
        assert_eq!(reported[0].0, Some(125), "{way:?}: a mount in a directory that is closed: {reported:?}");
        assert!(reported.iter().all(|one| *one == reported[0]), "{way:?}: they differ: {reported:#?}");
    }
}

/// Programs on a file system that its administrator mounted `noexec`.
fn a_mount_without_programs_stays_so_in_every_mode(world: &'static World) {
    let (user, home) = (world.a(), world.workspace(world.a()));
    for (name, flags, code) in [("runs", MountFlags::empty(), 0), ("refuses", MountFlags::NOEXEC, 126)] {
        let dir = home.join(name);
        user.make_dir(&dir);
        let mounted = Mounted::again(&dir, flags);
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

fn a_single_file_runs_if_it_is_a_program(world: &'static World) {
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

fn the_top_of_a_view_is_the_sources(world: &'static World) {
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
fn what_a_mount_hides_stays_hidden(world: &'static World) {
    let (user, home) = (world.a(), world.workspace(world.a()));
    let dir: PathBuf = home.join("input");
    user.write(dir.join("below/hidden"), "what is covered");
    user.write(dir.join("file"), "what is covered");
    user.write(home.join("other"), "what covers it");
    user.make_dir(home.join("empty"));
    let mounts = [
        Mounted::bind(&home.join("empty"), &dir.join("below")),
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

/// Files that everybody but a group of the user's may read, and one that the group alone may.
fn access_that_a_group_denies_stays_denied(world: &'static World) {
    let (user, home) = (world.a(), world.workspace(world.a()));
    let group = *user.groups().first().expect("the group that may connect");
    let dir = home.join("project");
    user.write(dir.join("file"), "x");
    std::fs::create_dir(dir.join("closed")).expect("root's own");
    std::fs::write(dir.join("closed/file"), "denied").expect("root's own");
    for (name, mode) in [("denied", 0o604), ("granted", 0o640), ("closed", 0o705)] {
        let path = dir.join(name);
        if name != "closed" {
            std::fs::write(&path, format!("{name}\n")).expect("root's own");
        }
        std::os::unix::fs::chown(&path, Some(0), Some(group)).expect("root may");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("root's own");
    }
    let at = text(&dir);
    let script = format!("cat {at}/denied {at}/closed/file {at}/granted; true");
    let wanted = world.on_host(user, &user.home, &["bash".into(), "-c".into(), script.clone()]);
    assert_eq!(
        (wanted.text().as_str(), wanted.stderr.lines().count()),
        ("granted\n", 2),
        "{}",
        wanted.stderr
    );
    let elsewhere = world.workspace(user);
    for way in [
        ["--workspace", &format!("{at}:ro")],
        ["--workspace", &format!("{at}:overlay")],
        ["--read", at],
        ["--workspace", &format!("{at}:direct")],
    ] {
        // Refused in direct, where it cannot be searched for sockets.
        let direct = way[1].ends_with(":direct");
        if direct {
            std::fs::remove_dir_all(dir.join("closed")).expect("root's own");
        }
        let cwd = if way[0] == "--read" { &elsewhere } else { &dir };
        let output = world.session_in(cwd).options(way).bash(&script).expect_code(0);
        assert_eq!(output.text(), "granted\n", "{way:?}: {}", output.stderr);
        assert_eq!(
            output.stderr.matches("Permission denied").count(),
            if direct { 1 } else { 2 },
            "{way:?}: {}",
            output.stderr
        );
    }
}

fn more_groups_than_there_are_gids_for_are_refused(world: &'static World) {
    let (user, cwd) = (world.a(), world.workspace(world.a()));
    let groups = user.groups();
    for (count, code) in [(32, 0), (33, 125)] {
        let more = (0..).map(|n| 1_700_000_000 + n).take(count - groups.len());
        let listed: Vec<String> = groups.iter().copied().chain(more).map(|group| group.to_string()).collect();
        let mut agentctl = std::process::Command::new("/usr/bin/setpriv");
        agentctl.args(["--reuid", &user.uid.to_string(), "--regid", &user.gid.to_string()]);
        agentctl.args(["--groups", &listed.join(","), "--"]).arg(world.daemon().agentctl());
        agentctl.arg("--socket").arg(world.daemon().socket()).args(["run", "--rm", "--", "id", "-G"]);
        agentctl.env_clear().env("HOME", &user.home).env("PATH", "/usr/bin:/bin").current_dir(&cwd);
        let output = complete(&mut agentctl, vec![], world.unique("groups")).expect_code(code);
        match code {
            0 => assert_eq!(output.text().split_whitespace().count(), 33, "{}", output.text()),
            _ => assert!(output.stderr.contains("(caller.groups): "), "{}", output.stderr),
        }
    }
}

fn inspect_says_when_opt_has_changed(world: &'static World) {
    let user = world.a();
    let session = world.session().option("--detach").run(["sleep", "1000"]).expect_code(0);
    let source = || {
        let output = world.agentctl(user, ["inspect", "--json", &session.name]).expect_code(0);
        let is: serde_json::Value = serde_json::from_str(output.text().trim()).expect("a line of JSON");
        let mounts = is["mounts"].as_array().expect("mounts").clone();
        let opt = mounts.iter().find(|mount| mount["path"] == "/opt").expect("/opt").clone();
        opt["source"].as_str().expect("a word").to_owned()
    };
    let dir = PathBuf::from(format!("/opt/{}", world.unique("agentd-test-changes")));
    std::fs::create_dir(&dir).expect("root may");
    let changed = within(Duration::from_secs(10), || match source().as_str() {
        "changed" => Ok(()),
        other => Err(other.to_owned()),
    });
    std::fs::remove_dir(&dir).expect("ours");
    assert_eq!(changed, Ok(()));
    let shown = world.agentctl(user, ["inspect", &session.name]).expect_code(0).text();
    assert!(shown.contains("/opt (has changed since the session began"), "{shown}");
    world.agentctl(user, ["stop", "--time", "0s", &session.name]).expect_code(0);
    // One that begins now sees it as it is.
    let output = world.session().bash(&format!("ls {}; true", dir.display())).expect_code(0);
    assert!(output.stderr.contains("No such file"), "{}", output.stderr);
}

fn a_link_has_its_own_name_and_its_targets(world: &'static World) {
    let (user, home) = (world.a(), world.workspace(world.a()));
    user.write(home.join("real/notes"), "notes\n");
    symlink(home.join("real"), home.join("link")).expect("a new link");
    symlink("real/notes", home.join("single")).expect("a new link");
    let cwd = world.workspace(user);
    for (given, names) in [
        ("link", ["link/notes", "real/notes"]),
        ("single", ["single", "real/notes"]),
        ("link/notes", ["link/notes", "real/notes"]),
        ("real/../single", ["single", "real/notes"]),
    ] {
        let [one, other] = names.map(|name| text(&home.join(name)).to_owned());
        let given = home.join(given);
        // Named twice, it is one.
        let reads = ["--read", text(&given), "--read", text(&given)];
        let output = world.session_in(&cwd).options(reads).run(["cat", &one, &other]).expect_code(0);
        assert_eq!(output.text(), "notes\nnotes\n", "{}", given.display());
    }
    // Nothing is made in a directory of the caller's.
    let (workspace, single) = (format!("{}:ro", text(&home)), home.join("single"));
    let given = ["--workspace", &workspace, "--read", text(&single)];
    world.session_in(&home).options(given).run(["true"]).expect_code(0);
    assert!(home.join("single").is_symlink() && std::fs::read_dir(&home).expect("ours").count() == 3);
}
