//! Exit codes of `agentctl run` and of the other commands.

use agentd_tests::harness::{Named, World, complete};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    the_commands_own,
    signal_is_128_and_its_number,
    not_found_is_127,
    not_executable_is_126,
    timeout_is_124,
    refused_is_125,
    no_daemon_is_125_and_5,
    wrong_usage_is_2,
    habits_from_docker_and_ssh,
    unknown_session_is_3,
    version_tells_three,
    profile_show_and_check,
    dry_run_runs_nothing,
    ps_shows_the_running_and_the_ended,
    rm_at_the_end_forgets,
    socket_by_environment,
];

fn the_commands_own(world: &World) {
    for code in [0, 1, 2, 77, 124, 125, 255] {
        world.session().bash(&format!("exit {code}")).expect_code(code);
    }
}

fn signal_is_128_and_its_number(world: &World) {
    for (name, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("USR1", 10)] {
        world.session().bash(&format!("kill -{name} $$")).expect_code(128 + number);
    }
}

fn not_found_is_127(world: &World) {
    for command in ["no-such-command-anywhere", "/nonexistent/program", "./no-such-file"] {
        let output = world.session().run([command]).expect_code(127);
        assert!(!output.stderr.is_empty(), "a reason is said");
    }
}

fn not_executable_is_126(world: &World) {
    let workspace = world.workspace(world.a());
    world.a().write(workspace.join("text"), "no program\n");
    for command in ["./text", "/etc/passwd", "/usr"] {
        let output = world.session_in(&workspace).run([command]).expect_code(126);
        assert!(!output.stderr.is_empty(), "a reason is said");
    }
}

fn timeout_is_124(world: &World) {
    let output = world.session().options(["--timeout", "300ms"]).run(["sleep", "60"]).expect_code(124);
    let events = world.all_events(world.a(), &output.name);
    let limit = events.iter().find(|e| e["kind"] == "limit.hit").expect("the limit's event");
    assert_eq!(limit["limit"]["name"], "timeout", "{limit}");
    assert_eq!(events.last().expect("an end")["lifecycle"]["reason"], "timeout");
}

fn refused_is_125(world: &World) {
    world.session().options(["--memory", "9T"]).run(["true"]).expect_code(125);
}

fn no_daemon_is_125_and_5(world: &World) {
    let user = world.a();
    let run = |args: &[&str]| {
        let mut agentctl = user.command(world.daemon().agentctl());
        agentctl.args(["--socket", "/nonexistent/agentd.sock"]).args(args);
        agentctl.output().expect("setpriv")
    };
    assert_eq!(run(&["run", "true"]).status.code(), Some(125));
    assert_eq!(run(&["ps"]).status.code(), Some(5));
}

fn wrong_usage_is_2(world: &World) {
    world.agentctl(world.a(), ["run", "--no-such-flag", "true"]).expect_code(125);
    world.agentctl(world.a(), ["ps", "--no-such-flag"]).expect_code(2);
    world.agentctl(world.a(), ["no-such-command"]).expect_code(2);
}

/// What people type who come from there runs as they mean it, or says what to write.
fn habits_from_docker_and_ssh(world: &World) {
    let run = |options: &[&str], command: &[&str]| {
        let mut run = world.a().command(world.daemon().agentctl());
        run.current_dir(world.workspace(world.a())).arg("--socket").arg(world.daemon().socket());
        run.arg("run").args(options).args(command);
        complete(&mut run, Vec::new(), String::new())
    };
    let output =
        run(&["-i", "--rm", "-e", "WORD=said", "-m", "256m"], &["bash", "-c", "echo $WORD $0", "-x"]);
    assert_eq!(output.expect_code(0).text(), "said -x\n");
    // No terminal here, and still one inside.
    let output = run(&["-it", "--rm"], &["bash", "-c", "test -t 0 -a -t 1 && echo terminal"]).expect_code(0);
    assert!(output.text().contains("terminal"), "{output:?}");
    for (options, command, code, said) in [
        (&["--"][..], &["-x"][..], 125, "(command.option): options of agentctl stand before `--`"),
        (&["-v", "/a:/b"], &["true"], 125, "agentctl: paths have their own names in a session: --workspace"),
        (&["--network", "host"], &["true"], 125, "agentctl: a session reaches nothing but what --allow"),
        (&[], &["cd /tmp && ls"], 127, "agentctl run -- sh -c 'LINE'"),
    ] {
        let output = run(options, command).expect_code(code);
        assert!(output.stderr.contains(said), "{}", output.stderr);
    }
}

fn unknown_session_is_3(world: &World) {
    world.agentctl(world.a(), ["kill", "0123456789ab"]).expect_code(3);
    world.agentctl(world.a(), ["events", "no-such-name"]).expect_code(3);
    world.agentctl(world.a(), ["rm", "no-such-name"]).expect_code(3);
}

fn version_tells_three(world: &World) {
    let text = world.agentctl(world.a(), ["version", "--json"]).expect_code(0).text();
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(value.is_object(), "{value}");
    assert!(text.contains("agentd.v1"), "{text}");
}

fn profile_show_and_check(world: &World) {
    let text = world.agentctl(world.a(), ["profile", "show", "default"]).expect_code(0).text();
    assert!(text.contains("[filesystem]") && text.contains("overlay"), "{text}");
    world.agentctl(world.a(), ["profile", "check", "default"]).expect_code(0);
    let workspace = world.workspace(world.a());
    world.a().write(workspace.join("bad.toml"), "schema = 1\nno_such_key = true\n");
    let path = workspace.join("bad.toml").display().to_string();
    let output = world.agentctl(world.a(), ["profile", "check", &path]);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("no_such_key"), "{}", output.stderr);
}

fn dry_run_runs_nothing(world: &World) {
    let session = world.session();
    let name = session.name().to_owned();
    let output = session.options(["--dry-run", "--json"]).run(["touch", "/tmp/x"]).expect_code(0);
    let plan: serde_json::Value = serde_json::from_str(&output.text()).expect("the plan as JSON");
    assert!(plan.is_object(), "{plan}");
    world.agentctl(world.a(), ["events", &name]).expect_code(3);
}

fn ps_shows_the_running_and_the_ended(world: &World) {
    let output = world.session().bash("exit 4").expect_code(4);
    let running = world.agentctl(world.a(), ["ps", "--json"]).expect_code(0).text();
    assert!(!running.contains(&output.name), "{running}");
    let all = world.agentctl(world.a(), ["ps", "-a", "--json"]).expect_code(0).text();
    let line = all.lines().find(|line| line.contains(&output.name)).expect("the ended session");
    let session: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(
        (session["state"].as_str(), session["user"].as_str()),
        (Some("ended"), Some(world.a().name.as_str()))
    );
    let shown = world.agentctl(world.a(), ["ps", "-a"]).expect_code(0).text();
    assert!(shown.contains(&output.name) && shown.contains("bash -c exit 4"), "{shown}");
}

fn rm_at_the_end_forgets(world: &World) {
    let (name, dir) = (world.unique("again"), world.workspace(world.a()));
    for _ in 0..10 {
        let mut agentctl = world.a().command(world.daemon().agentctl());
        agentctl.arg("--socket").arg(world.daemon().socket()).args(["run", "--rm", "--name", &name, "true"]);
        let output = agentctl.current_dir(&dir).output().expect("setpriv");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    world.agentctl(world.a(), ["kill", &name]).expect_code(3);
    let all = world.agentctl(world.a(), ["ps", "-a"]).expect_code(0).text();
    assert!(!all.contains(&name), "{all}");
}

fn socket_by_environment(world: &World) {
    let mut agentctl = world.a().command(world.daemon().agentctl());
    let output =
        agentctl.env("AGENTD_SOCKET", world.daemon().socket()).arg("version").output().expect("setpriv");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
