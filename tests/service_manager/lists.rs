//! The site's blocklists: read at start and on reload, all or nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use agentd_tests::harness::{Part, World, text_at};

use crate::reload::{check, refused, taken};

fn list(world: &World, name: &str, lines: &str) -> PathBuf {
    let path = world.daemon().dir.join(name);
    std::fs::write(&path, lines).expect("a file");
    path
}

fn config(paths: &[&PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
    // Nobody is asked for a name: what is not denied fails at once.
    format!("[egress]\nresolvers = [\"127.0.0.1:9\"]\nblocklists = [{}]\n", paths.join(", "))
}

/// The rule that denies `name` in a session that begins now; empty if none does.
fn rule(world: &World, name: &str) -> String {
    let script = format!("getent ahosts {name} >/dev/null");
    let output = world.session().options(["--allow", "*.test"]).bash(&script);
    assert_ne!(output.code, Some(125), "{}", output.stderr);
    rule_in(world, &output.name, name)
}

fn rule_in(world: &World, session: &str, name: &str) -> String {
    let events = world.all_events(world.a(), session);
    let asked = events.iter().find(|event| text_at(event, "/dns/name") == name).expect("the question");
    text_at(asked, "/rule")
}

pub fn reloaded(world: &World) {
    let (ads, more) = (list(world, "ads.hosts", "0.0.0.0 a.test\n"), list(world, "more.txt", "b.test\n"));
    taken(world, &config(&[&ads]));
    assert_eq!(rule(world, "a.test"), "blocklist ads");
    assert_ne!(rule(world, "b.test"), "blocklist more");
    let session = world.session().options(["--allow", "*.test"]);
    let script = "echo ready; read -r; getent ahosts x.b.test; getent ahosts a.test; true";
    let mut child = session.spawn_ready(script);
    taken(world, &config(&[&ads, &more]));
    assert_eq!(rule(world, "x.b.test"), "blocklist more");
    std::fs::write(&ads, "0.0.0.0 c.test\n").expect("its file");
    // A file that is changed is read when somebody asks for that.
    assert_eq!(rule(world, "a.test"), "blocklist ads");
    taken(world, &config(&[&ads]));
    assert_ne!(rule(world, "a.test"), "blocklist ads");
    assert_eq!(rule(world, "c.test"), "blocklist ads");
    taken(world, "");
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("our own child").code(), Some(0));
    // What it began with holds to its end.
    assert_ne!(rule_in(world, session.name(), "x.b.test"), "blocklist more");
    assert_eq!(rule_in(world, session.name(), "a.test"), "blocklist ads");
}

pub fn bad(world: &World) {
    let ads = list(world, "ads.hosts", "0.0.0.0 a.test\n");
    let set = config(&[&ads]);
    taken(world, &set);
    let wrong = |said: &str| {
        let reported = check(world).expect_code(1).stderr;
        assert!(reported.lines().count() == 1 && reported.contains(said), "{said}: {reported}");
        let [_, service] = refused(world);
        assert!(service.contains(said), "{service}");
        assert!(world.daemon().log().contains(reported.trim()), "{}", world.daemon().log());
    };
    for (lines, said) in [
        ("0.0.0.0 b.test\n0.0.0.0 b!.test\n", "ads.hosts: line 2: the name holds '!'"),
        ("# nothing\n", "ads.hosts: names nothing"),
        ("b.test\n@@||c.b.test^\n", "ads.hosts: line 2: an exception"),
        ("<!DOCTYPE html>\n", "ads.hosts: line 1: "),
    ] {
        std::fs::write(&ads, lines).expect("its file");
        wrong(said);
    }
    std::fs::write(&ads, "0.0.0.0 b.test\n").expect("its file");
    let mode = |mode| std::fs::set_permissions(&ads, PermissionsExt::from_mode(mode)).expect("its file");
    mode(0o666);
    wrong("ads.hosts: must belong to root");
    mode(0o600);
    wrong("ads.hosts: ");
    mode(0o644);
    world.daemon().configure(&config(&[&world.daemon().dir.join("none.txt")]));
    wrong("none.txt: No such file");
    world.daemon().configure(&config(&[&"relative.txt".into()]));
    wrong("agentd.toml: line ");
    world.daemon().configure(&set);
    // Nothing of all that was taken; of the rest of a file neither.
    assert_eq!(rule(world, "a.test"), "blocklist ads");
    assert_ne!(rule(world, "b.test"), "blocklist ads");
    taken(world, &set);
    assert_eq!(rule(world, "b.test"), "blocklist ads");
}

pub fn start(world: &World) {
    let daemon = world.daemon();
    let ads = list(world, "ads.hosts", "0.0.0.0 a.test\n0.0.0.0 a!.test\n");
    daemon.configure(&config(&[&ads]));
    daemon.terminate(Part::Service);
    daemon.terminate(Part::Launcher);
    let mut launcher = Command::new(daemon.dir.join("bin/agentd-launcher"));
    let output = launcher.arg("--config").arg(daemon.dir.join("agentd.toml")).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let wanted = format!("agentd-launcher: {}: line 2: the name holds '!'", ads.display());
    assert!(said.trim().lines().last().is_some_and(|line| line.starts_with(&wanted)), "{said}");
    // One odd line among many is skipped, and logged.
    let many: String = (0..200).map(|n| format!("0.0.0.0 n{n}.test\n")).collect();
    std::fs::write(&ads, many + "0.0.0.0 a!.test\n").expect("its file");
    // The service goes by the same file.
    daemon.begin(&[Part::Launcher, Part::Service]);
    assert!(daemon.log().contains("line 201: the name holds '!'"), "{}", daemon.log());
    assert_eq!(rule(world, "n7.test"), "blocklist ads");
}
