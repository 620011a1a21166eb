//! The site's ceiling on what sessions may reach, whatever a profile, a flag or a live change says.

use std::io::Write as _;

use agentd_tests::harness::{Named, RunOutput, World, text_at};
use agentd_tests::tests;

use crate::internet;

pub const TESTS: &[Named] = tests![
    nothing_is_allowed_beyond_it,
    what_it_denies_no_rule_reaches,
    what_reaches_far_is_said_in_words,
    a_live_change_stays_below_it,
    a_host_firewall_sees_leased_uids,
];

const BOUNDS: &str = "local = false\npublish = false\nhosts = [\"*.test\", \"198.51.100.0/24\"]\n\
                      hosts_denied = [\"evil.test\", \"*.rogue.test\", \"203.0.113.0/24\", \"2001:db8::7/128\"]\n";

fn world() -> World {
    internet().world_within(BOUNDS)
}

#[track_caller]
fn is_refused(output: &RunOutput, rule: &str) {
    assert_eq!(output.code, Some(125), "{}", output.stderr);
    let first = output.stderr.lines().next().unwrap_or_default();
    assert!(first.starts_with("agentctl: refused: ") && first.contains(&format!("({rule}): ")), "{first}");
}

fn nothing_is_allowed_beyond_it(_: &World) {
    let world = world();
    for (rule, why) in [
        ("*.com", "bounds.hosts"),
        ("example.org", "bounds.hosts"),
        ("0.0.0.0/0:*", "bounds.hosts"),
        ("192.0.2.80/32:80", "bounds.hosts"),
        ("198.51.0.0/16:80", "bounds.hosts"),
        ("[::/0]:443", "bounds.hosts"),
        ("evil.test", "bounds.hosts_denied"),
        ("a.rogue.test:22", "bounds.hosts_denied"),
        ("*.b.rogue.test", "bounds.hosts_denied"),
        ("203.0.113.7/32:7", "bounds.hosts_denied"),
        ("local:8081", "bounds.local"),
    ] {
        is_refused(&world.session().past_the_proxy().options(["--allow", rule]).run(["true"]), why);
        is_refused(
            &world.session().past_the_proxy().options(["--dry-run", "--allow", rule]).run(["true"]),
            why,
        );
    }
    is_refused(
        &world.session().past_the_proxy().options(["--publish", "3000"]).run(["true"]),
        "bounds.publish",
    );
    let dir = world.workspace(world.a());
    let profile = "schema = 1\nname = \"p\"\nextends = [\"default\"]\n[[network.allow]]\ncidr = \"0.0.0.0/0\"\nports = [443]\n";
    world.a().write(dir.join("p.toml"), profile);
    is_refused(
        &world.session_in(&dir).past_the_proxy().options(["--profile", "p.toml"]).run(["true"]),
        "bounds.hosts",
    );
    world
        .session()
        .options(["--allow", "good.test", "--allow", "198.51.100.7/32:80"])
        .run(["true"])
        .expect_code(0);
}

/// Where a site has no ceiling, it is said in words what passes.
fn what_reaches_far_is_said_in_words(_: &World) {
    let world = internet().world();
    for (rule, said) in [
        ("*.com", Some("every name below com")),
        ("0.0.0.0/0:443", Some("every server in 0.0.0.0/0")),
        ("good.test", None),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let output = world
                .session()
                .past_the_proxy()
                .options(["--allow", rule])
                .options(more)
                .run(["true"])
                .expect_code(0);
            let line = output.stderr.lines().find(|line| line.starts_with("agentctl: warning: "));
            assert!(
                said.is_none() == line.is_none()
                    && said.is_none_or(|said| line.is_some_and(|line| line.contains(said))),
                "{rule}: {}",
                output.stderr
            );
        }
    }
}

/// The rules that denied something in a session.
fn denials(world: &World, name: &str) -> Vec<String> {
    let events = world.all_events(world.a(), name);
    let denied = events.iter().filter(|event| event["decision"] == "deny");
    denied.map(|event| format!("{} {}", text_at(event, "/kind"), text_at(event, "/rule"))).collect()
}

/// A wildcard holds a denied name, and a name that is allowed has an address that is denied.
fn what_it_denies_no_rule_reaches(_: &World) {
    let world = world();
    let script = "curl -sS http://good.test/; getent ahosts evil.test; echo $?
        curl -sSf --resolve evil.test:80:192.0.2.80 http://evil.test/ >/dev/null 2>&1; echo $?
        getent ahosts echo.test; echo $?; (exec 3<>/dev/tcp/203.0.113.7/7) 2>/dev/null; echo $?";
    let output =
        world.session().past_the_proxy().options(["--allow", "*.test:*"]).bash(script).expect_code(0);
    let text = output.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "this is good.test", "{}", output.stderr);
    assert_eq!(lines[1], "2", "a denied name is not found");
    assert_ne!(lines[2], "0", "nor reached at an address that is");
    assert_eq!(lines[3..], ["2", "1"], "a name with denied addresses has none");
    let denials = denials(&world, &output.name);
    for wanted in ["dns.query deny evil.test", "dns.query bounds.hosts_denied 203.0.113.0/24"] {
        assert!(denials.iter().any(|denial| denial == wanted), "{wanted} in {denials:#?}");
    }
    // As outside, where the same addresses answer.
    let plain = internet().world();
    let script = "getent ahosts echo.test >/dev/null; echo $?";
    assert_eq!(plain.session().options(["--allow", "echo.test:7"]).bash(script).text(), "0\n");
}

fn a_live_change_stays_below_it(_: &World) {
    let world = world();
    let session = world.session().past_the_proxy().options(["--allow", "good.test"]);
    let mut child = session
        .spawn_ready("echo ready; read; curl -sS http://other.test/; getent ahosts example.org; echo $?");
    for rule in ["example.org", "0.0.0.0/0:443", "203.0.113.7/32:7", "evil.test"] {
        let output = world.agentctl(world.a(), ["allow", session.name(), rule]);
        assert_ne!(output.code, Some(0), "{rule}");
        assert!(output.stderr.starts_with("agentctl: refused: "), "{rule}: {}", output.stderr);
    }
    world.agentctl(world.a(), ["allow", session.name(), "other.test"]).expect_code(0);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    let output = child.wait_with_output().expect("our own child");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("this is other.test\n") && text.ends_with("2\n"), "{text:?}");
    let shown = world.agentctl(world.a(), ["inspect", session.name(), "--json"]).expect_code(0).text();
    let shown: serde_json::Value = serde_json::from_str(shown.trim()).expect("JSON");
    let allow = serde_json::json!(["good.test:80,443", "other.test:80,443"]);
    assert_eq!(shown["network"]["allow"], allow, "{shown}");
}

/// Whose connections a session's are for the host's firewall (`meta skuid`): none of the user's.
fn a_host_firewall_sees_leased_uids(_: &World) {
    let world = internet().world();
    let session = world.session().past_the_proxy().options(["--allow", "echo.test:7"]);
    let mut child = session.spawn_ready("exec 3<>/dev/tcp/echo.test/7; read -r <&3; echo ready; read");
    let output = internet().command(world.a(), "/bin/cat").arg("/proc/net/tcp").output().expect("cat");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // 203.0.113.7, port 7.
    let far = format!("{:08X}:0007", u32::from_le_bytes([203, 0, 113, 7]));
    let owners = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let of_it = owners.filter(|fields| fields.get(2) == Some(&far.as_str()));
    let uids: Vec<u32> = of_it.filter_map(|fields| fields.get(7)?.parse().ok()).collect();
    // Other tests' sessions are seen there as well, by leases of their daemons.
    assert!(uids.iter().any(|uid| world.daemon().leases(*uid)), "{uids:?} in {text}");
    assert!(!uids.contains(&world.a().uid), "{uids:?} in {text}");
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    assert!(child.wait().expect("our own child").success());
}
