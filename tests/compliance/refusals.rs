//! A "no" is one line, of one form, with the rule's name and what to do.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use agentd_tests::harness::{Named, RunOutput, Session, World};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    bounds,
    paths_that_are_not_the_callers,
    things_that_are_no_directories,
    profiles,
    hosts,
    huge_profile,
    too_many_mounts,
    names,
    root_may_not,
    outsiders_cannot_connect,
    long_command_lines,
    hostile_names_are_escaped,
    a_silent_client_holds_nobody,
    dev_and_proc_are_no_inputs,
];

#[track_caller]
fn refused(output: RunOutput, rule: &str) {
    let output = output.expect_code(125);
    let line = output.stderr.trim_end();
    assert_eq!(line.lines().count(), 1, "one line: {line}");
    let rest =
        line.strip_prefix("agentctl: refused: ").unwrap_or_else(|| panic!("the form of a refusal: {line}"));
    let (what, rest) = rest.split_once(" (").unwrap_or_else(|| panic!("WHAT (RULE): MEND in {line}"));
    assert!(!what.is_empty());
    assert!(rest.contains("): "), "WHAT (RULE): MEND in {line}");
    assert!(line.contains(&format!("({rule}")), "rule {rule} in {line}");
}

fn bounds(world: &World) {
    for (flag, value, rule) in [
        ("--memory", "1T", "bounds.memory)"),
        ("--pids", "1000000", "bounds.pids)"),
        ("--cpus", "100000", "bounds.cpus)"),
        ("--timeout", "9000d", "bounds.timeout)"),
        ("--disk", "900T", "bounds.disk)"),
    ] {
        refused(world.session().options([flag, value]).run(["true"]), rule);
    }
}

fn paths_that_are_not_the_callers(world: &World) {
    let b = world.workspace(world.b());
    world.b().write(b.join("file"), "b's");
    let b = b.display().to_string();
    refused(world.session().options(["--workspace", &b]).run(["true"]), "workspace.");
    refused(world.session().options(["--read", &b]).run(["true"]), "input.");
    refused(world.session().options(["--read", "/etc/shadow"]).run(["true"]), "");
    refused(world.session().options(["--read", "/nonexistent"]).run(["true"]), "input.");
    refused(world.session().options(["--workspace", "/root"]).run(["true"]), "workspace.");
    refused(world.session().options(["--workspace", "/"]).run(["true"]), "");
}

fn things_that_are_no_directories(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("file"), "x");
    let fifo = dir.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    world.a().own(&fifo);
    for name in ["file", "fifo"] {
        let path = dir.join(name).display().to_string();
        refused(world.session().options(["--workspace", &path]).run(["true"]), "workspace.");
    }
    let path = fifo.display().to_string();
    refused(world.session().options(["--read", &path]).run(["true"]), "input.");
    refused(world.session().options(["--workspace", "/dev/null"]).run(["true"]), "");
}

fn with_profile<'a>(world: &'a World, text: &str) -> Session<'a> {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("p.toml"), text);
    world.session().option("--profile").option(dir.join("p.toml"))
}

fn profiles(world: &World) {
    let run = |text: &str| with_profile(world, text).run(["true"]);
    refused(run("schema = 1\nextends = [\"default\"]\nunknown = 1\n"), "profile.");
    refused(run("schema = 99\n"), "profile.");
    refused(run("not toml"), "profile.");
    refused(run("schema = 1\nextends = [\"no-such\"]\n"), "profile.unknown)");
    refused(world.session().options(["--profile", "no-such"]).run(["true"]), "profile.unknown)");
    refused(
        run("schema = 1\nextends = [\"default\"]\n[process]\nexec = [\"/usr/**\"]\n"),
        "profile.unenforced)",
    );
    refused(run("schema = 1\n[[network.allow]]\nhost = \"192.0.2.1\"\n"), "network.host)");
    refused(run("schema = 1\n[[network.allow]]\nports = [443]\n"), "network.form)");
    run("schema = 1\nextends = [\"default\"]\n[limits]\npids = 50\n").expect_code(0);
}

fn hosts(world: &World) {
    for (flag, value, rule) in [
        ("--allow", "*", "network.host)"),
        ("--allow", "192.0.2.1:443", "network.host)"),
        ("--allow", "127.1", "network.host)"),
        ("--allow", "localhost:80", "network.host)"),
        ("--allow", "b\u{fc}cher.example", "network.host)"),
        ("--allow", "https://api.example.org/", "network.form)"),
        ("--allow", "192.0.2.1/24", "network.cidr)"),
        ("--allow", "127.0.0.0/8", "network.loopback)"),
        ("--allow", "api.example.org:0", "network.port)"),
        ("--allow", "local:0", "network.local)"),
        ("--deny", "api.example.org:443", "network.deny)"),
    ] {
        refused(world.session().options([flag, value]).run(["true"]), rule);
    }
    let taken_back = world.session().options(["--allow", "a.b.example:443", "--deny", "*.b.example"]);
    refused(taken_back.run(["true"]), "network.deny)");
    let plan = world
        .session()
        .options(["--allow", "192.0.2.0/24:8080", "--deny", "ads.example", "--dry-run", "--json"])
        .run(["true"])
        .expect_code(0);
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).expect("a plan");
    assert_eq!(plan["network"]["nets"][0]["net"], "192.0.2.0/24");
    assert_eq!(plan["network"]["nets"][0]["ports"][0], 8080);
    assert_eq!(plan["network"]["hosts"]["deny"][0], "ads.example");
    let none = world
        .session()
        .options(["--deny", "ads.example", "--dry-run", "--json"])
        .run(["true"])
        .expect_code(0);
    let none: serde_json::Value = serde_json::from_slice(&none.stdout).expect("a plan");
    assert!(none["network"].is_null(), "nothing is allowed: no network");
}

fn huge_profile(world: &World) {
    let text = format!("schema = 1\n# {}\n", "x".repeat(100 << 20));
    let output = with_profile(world, &text).run(["true"]).expect_code(125);
    assert!(output.stderr.len() < 4096, "{} bytes of stderr", output.stderr.len());
    let nested = format!("schema = 1\nx = {}\n", "[".repeat(100_000));
    let output = with_profile(world, &nested).run(["true"]).expect_code(125);
    assert!(output.stderr.len() < 4096, "{} bytes of stderr", output.stderr.len());
    world.session().run(["true"]).expect_code(0);
}

fn too_many_mounts(world: &World) {
    let dir = world.workspace(world.a());
    let mut session = world.session();
    for number in 0..80 {
        let path = dir.join(number.to_string());
        world.a().make_dir(&path);
        session = session.option("--read").option(path);
    }
    refused(session.run(["true"]), "request.size)");
    let reads: Vec<String> = (0..10_000).map(|n| format!("\"{}/{n}\"", dir.display())).collect();
    let text = format!("schema = 1\nextends = [\"default\"]\n[filesystem]\nread = [{}]\n", reads.join(","));
    with_profile(world, &text).run(["true"]).expect_code(125);
}

fn names(world: &World) {
    for name in ["../x", "UPPER", "-x", "a b", "", "a/b"] {
        let output = world.agentctl(world.a(), ["run", &format!("--name={name}"), "true"]);
        // An empty name is none.
        assert_eq!(
            output.code,
            Some(if name.is_empty() { output.code.unwrap_or(125) } else { 125 }),
            "{name:?}: {}",
            output.stderr
        );
    }
    let (name, dir) = (world.unique("n"), world.workspace(world.a()));
    let run = |cwd: &std::path::Path| {
        let mut agentctl = world.a().command(world.daemon().agentctl());
        agentctl
            .arg("--socket")
            .arg(world.daemon().socket())
            .args(["run", "--name", &name, "true"])
            .current_dir(cwd);
        agentctl.output().expect("setpriv").status.code()
    };
    assert_eq!(run(&dir), Some(0));
}

fn root_may_not(world: &World) {
    let output = Command::new(world.daemon().agentctl())
        .arg("--socket")
        .arg(world.daemon().socket())
        .args(["run", "true"])
        .current_dir("/tmp")
        .output()
        .expect("agentctl");
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(line.contains("(caller.root)"), "{line}");
}

fn outsiders_cannot_connect(world: &World) {
    let output = world.agentctl(world.outsider(), ["ps"]);
    assert!(matches!(output.code, Some(4 | 5)), "{:?} {}", output.code, output.stderr);
}

fn long_command_lines(world: &World) {
    let long = "x".repeat(200 << 10);
    refused(world.session().run(["/bin/echo", &long[..120 << 10], &long[..20 << 10]]), "command.size)");
    let words = vec!["x"; 5000];
    refused(world.session().run(words), "request.size)");
    let just = "y".repeat(100 << 10);
    let output = world.session().run(["/bin/echo", "-n", &just]).expect_code(0);
    assert_eq!(output.stdout.len(), just.len());
}

fn hostile_names_are_escaped(world: &World) {
    let dir = world.workspace(world.a());
    let name = dir.join("evil\u{1b}[2J\nagentctl: all is well");
    world.a().make_dir(&name);
    let output = world.session().option("--workspace").option(&name).run(["true"]);
    assert_eq!(output.code, Some(125), "a name with control characters");
    assert!(
        !output.stderr.contains('\u{1b}') && output.stderr.trim_end().lines().count() == 1,
        "{:?}",
        output.stderr
    );
}

fn a_silent_client_holds_nobody(world: &World) {
    use std::os::unix::net::UnixStream;
    let silent: Vec<_> = (0..64).filter_map(|_| UnixStream::connect(world.daemon().socket()).ok()).collect();
    assert!(!silent.is_empty());
    world.session().run(["true"]).expect_code(0);
    drop(silent);
    world.session().run(["true"]).expect_code(0);
}

fn dev_and_proc_are_no_inputs(world: &World) {
    for path in ["/proc", "/dev", "/sys"] {
        let output = world.session().options(["--read", path]).run(["true"]);
        assert_eq!(output.code, Some(125), "{path}: {}", output.stderr);
    }
    let dir = world.workspace(world.a());
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o300)).expect("a directory");
    let path = dir.display().to_string();
    refused(world.session().options(["--read", &path]).run(["true"]), "input.");
}
