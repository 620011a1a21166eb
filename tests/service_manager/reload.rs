//! SIGHUP to both parts: what is taken, what is refused, and what a check says beforehand.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use agentd_tests::harness::{Part, RunOutput, World, complete, signal, within};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(20);

/// Has both parts read the file again, which both take.
pub fn taken(world: &World, config: &str) {
    world.daemon().configure(config);
    for part in [Part::Launcher, Part::Service] {
        let said = world.daemon().reload(part);
        assert!(said.ends_with(" was read again"), "{part:?}: {said}\n{}", world.daemon().log());
    }
}

/// The same, which both refuse. What the launcher and the service say of it.
pub fn refused(world: &World) -> [String; 2] {
    [Part::Launcher, Part::Service].map(|part| {
        let said = world.daemon().reload(part);
        assert!(said.contains(" was refused, what held before goes on: "), "{part:?}: {said}");
        said
    })
}

/// `agentd --check`, as somebody without any right.
pub fn check(world: &World) -> RunOutput {
    let dir = &world.daemon().dir;
    // A child of ours that calls itself as a daemon's process would be taken for an orphan of one.
    let mut shell = world.outsider().command("/bin/sh");
    shell.args(["-c", "\"$@\"; exit $?", "sh"]).arg(dir.join("bin/agentd"));
    shell.args(["--check", "--config"]).arg(dir.join("agentd.toml"));
    complete(&mut shell, vec![], "agentd --check".into())
}

fn one_more(world: &World) -> RunOutput {
    world.session().run(["true"])
}

/// Fails unless a second session at a time is one too many.
fn one_too_many(world: &World) {
    let more = one_more(world).expect_code(125);
    assert!(more.stderr.contains("(bounds.max_sessions_per_user)"), "{}", more.stderr);
}

pub fn bounds(world: &World) {
    let mut first = world.session().spawn_ready("echo ready; read x; exit 0");
    one_too_many(world);
    taken(world, "[bounds]\nmax_sessions_per_user = 2\nmemory = \"1G\"");
    let much = world.session().options(["--memory", "2G"]).run(["true"]).expect_code(125);
    assert!(much.stderr.contains("(bounds.memory)"), "{}", much.stderr);
    one_more(world).expect_code(0);
    // Lowered below what there is: that goes on, and nothing is added to it.
    taken(world, "[bounds]\nmax_sessions_per_user = 0");
    one_too_many(world);
    drop(first.stdin.take());
    assert_eq!(first.wait().expect("our own child").code(), Some(0));
}

pub fn bad(world: &World) {
    check(world).expect_code(0);
    let mut first = world.session().spawn_ready("echo ready; read x; exit 0");
    world.daemon().configure("[bounds]\nmax_sessions_per_user = 5\nmax_sesions = 7");
    let reported = check(world).expect_code(1).stderr;
    assert!(
        reported.lines().count() == 1
            && reported.contains("agentd.toml: line ")
            && reported.contains("max_sesions")
    );
    let [_, service] = refused(world);
    assert!(service.contains("agentd.toml: line ") && service.contains("max_sesions"), "{service}");
    // What the launcher refuses is in its log, from the program that looked.
    assert!(world.daemon().log().contains(reported.trim()), "{}", world.daemon().log());
    one_too_many(world);
    world.daemon().configure("service_user = \"root\"\n");
    let reported = check(world).expect_code(1).stderr;
    assert!(reported.contains("agentd.toml: line "), "a key that is there twice: {reported}");
    refused(world);
    std::fs::remove_file(world.daemon().dir.join("agentd.toml")).expect("it is there");
    refused(world);
    one_too_many(world);
    taken(world, "[bounds]\nmax_sessions_per_user = 2");
    one_more(world).expect_code(0);
    drop(first.stdin.take());
    assert_eq!(first.wait().expect("our own child").code(), Some(0));
}

pub fn restart(world: &World) {
    let file = world.daemon().dir.join("agentd.toml");
    let whole = std::fs::read_to_string(&file).expect("its file");
    let last = world.daemon().first_uid + 0xffff;
    for (key, from, to) in [
        ("socket", "agentd.sock".to_owned(), "other.sock".to_owned()),
        ("state_dir", "/state\"".into(), "/elsewhere\"".into()),
        ("pool.uids", format!("-{last}\""), format!("-{}\"", last - 3)),
    ] {
        let changed = whole.replace(&from, &to).replace("[pool]", "[bounds]\nmax_sessions = 0\n[pool]");
        assert!(changed.contains(&to), "{whole}");
        std::fs::write(&file, changed).expect("its file");
        check(world).expect_code(0);
        for said in refused(world) {
            let named = format!("goes on: {key} changed, which needs a restart: ");
            assert!(said.contains(&named), "{said}");
        }
    }
    // Nothing of it is taken, not even what could be.
    assert!(!world.daemon().dir.join("elsewhere").exists());
    one_more(world).expect_code(0);
}

/// A client reads them itself, each time. What is wrong with any of them keeps a daemon from taking its file.
pub fn profiles(world: &World) {
    let dir = world.daemon().dir.join("profiles");
    let shown = || world.agentctl(world.a(), ["profile", "show", "site"]);
    let pids = |number: u32| {
        let text = format!("schema = 1\nextends = [\"default\"]\n[limits]\npids = {number}\n");
        std::fs::write(dir.join("site.toml"), text).expect("a file");
    };
    assert!(shown().stderr.contains("(profile.unknown)"));
    pids(51);
    assert!(shown().expect_code(0).text().contains("pids = 51"));
    pids(52);
    std::fs::write(dir.join("broken.toml"), "schema = 1\n[filesystem]\nreed = []\n").expect("a file");
    assert!(shown().expect_code(0).text().contains("pids = 52"));
    let reported = check(world).expect_code(1).stderr;
    assert!(reported.contains("broken.toml, line 3") && reported.lines().count() == 1, "{reported}");
    refused(world);
    let broken = world.agentctl(world.a(), ["profile", "show", "broken"]).expect_code(1).stderr;
    assert!(broken.contains("broken.toml, line 3"), "{broken}");
    std::fs::write(dir.join("broken.toml"), "schema = 1\nextends = [\"nobody\"]\n").expect("a file");
    let reported = check(world).expect_code(1).stderr;
    assert!(reported.contains("(profile.unknown)"), "{reported}");
    std::fs::remove_file(dir.join("broken.toml")).expect("it is there");
    taken(world, "");
    world.session().options(["--profile", "site"]).run(["true"]).expect_code(0);
}

/// A site's profile that somebody else than root could have written gives nothing of a caller's away.
pub fn owners(world: &World) {
    let dir = world.daemon().dir.join("profiles");
    let file = dir.join("site.toml");
    std::fs::write(&file, "schema = 1\nextends = [\"default\"]\n").expect("a file");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    let run = || world.session().options(["--profile", "site"]).run(["true"]);
    run().expect_code(0);
    for (path, bad, good) in [(&file, 0o664, 0o644), (&file, 0o646, 0o644), (&dir, 0o1777, 0o755)] {
        mode(path, bad);
        let said = run().expect_code(125).stderr;
        assert!(said.contains("(profile.owner)"), "{said}");
        mode(path, good);
    }
    let user = world.a();
    std::os::unix::fs::chown(&file, Some(user.uid), None).expect("root may");
    assert!(run().expect_code(125).stderr.contains("(profile.owner)"));
    // By a link of root's, into a directory of the user's.
    std::fs::remove_file(&file).expect("it is there");
    let theirs = world.workspace(user).join("theirs.toml");
    std::fs::write(&theirs, "schema = 1\nextends = [\"default\"]\n").expect("a file");
    std::os::unix::fs::symlink(&theirs, &file).expect("a link");
    assert!(run().expect_code(125).stderr.contains("(profile.owner)"));
    std::fs::remove_file(&file).expect("it is there");
}

pub fn prewarmed(world: &World) {
    one_more(world).expect_code(0);
    let waiting = || world.daemon().parts(world.a()).len();
    let there = within(LIMIT, || if waiting() > 0 { Ok(()) } else { Err(()) });
    assert_eq!(there, Ok(()), "nothing is prepared");
    taken(world, "prewarmed_sessions = 0");
    let gone = within(LIMIT, || if waiting() == 0 { Ok(()) } else { Err(waiting()) });
    assert_eq!(gone, Ok(()), "what was prepared stays");
}

/// One signal is for both.
pub fn by_hand(world: &World) {
    let daemon = world.daemon();
    let text = "schema = 1\nextends = [\"default\"]\n[limits]\npids = 51\n";
    std::fs::write(daemon.dir.join("profiles/site.toml"), text).expect("a file");
    daemon.configure("[bounds]\nmax_sessions_per_user = 0");
    signal(daemon.pid(), Signal::HUP, false);
    let said = || one_more(world).stderr;
    let known = within(LIMIT, || match said() {
        text if text.contains("(bounds.max_sessions_per_user)") => Ok(()),
        text => Err(text),
    });
    assert_eq!(known, Ok(()), "the daemon does not know of it\n{}", daemon.log());
    // A profile with a mistake: neither of the two takes the file.
    std::fs::write(daemon.dir.join("profiles/site.toml"), "schema = 2").expect("a file");
    daemon.configure("[bounds]\nmax_sessions_per_user = 1");
    signal(daemon.pid(), Signal::HUP, false);
    let reported =
        within(LIMIT, || if daemon.log().contains("site.toml, line 1") { Ok(()) } else { Err(()) });
    assert_eq!(reported, Ok(()), "nobody says so\n{}", daemon.log());
    assert!(one_more(world).expect_code(125).stderr.contains("(bounds.max_sessions_per_user)"));
}
