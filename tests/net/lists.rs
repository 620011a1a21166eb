//! A site's blocklists, whatever a session allows.

use agentd_tests::harness::{Named, RunOutput, World, text_at};
use agentd_tests::tests;

use crate::internet;

pub const TESTS: &[Named] = tests![
    a_listed_name_is_never_asked_for,
    a_listed_name_is_not_reached_at_an_address_that_is,
    no_allow_takes_it_back,
];

/// A daemon that lists these.
fn listing() -> World {
    internet().world_with(&[
        ("ads.hosts", "127.0.0.1 localhost\n0.0.0.0 evil.test other.test\n"),
        ("more.txt", "! all below\n||tunnel.test^\nb.wild.test\n"),
    ])
}

/// The rules that denied `name` in a session.
fn denied(world: &World, output: &RunOutput, kind: &str, pointer: &str, name: &str) -> Vec<String> {
    let events = world.all_events(world.a(), &output.name);
    let of_it = events.iter().filter(|event| event["kind"] == kind && text_at(event, pointer) == name);
    of_it.filter(|event| event["decision"] == "deny").map(|event| text_at(event, "/rule")).collect()
}

fn a_listed_name_is_never_asked_for(_: &World) {
    let world = listing();
    let allow = ["--allow", "*.test", "--allow", "alias.rogue.test"];
    let names = [
        ("evil.test", Some("blocklist ads")),
        ("EVIL.test", Some("blocklist ads")),
        ("listed-1.tunnel.test", Some("blocklist more")),
        ("listed-2.b.wild.test", Some("blocklist more")),
        // Its address is evil.test's, by an alias.
        ("alias.rogue.test", Some("blocklist ads")),
        ("good.test", None),
        ("not-b.wild.test", None),
    ];
    let script: String =
        names.iter().map(|(name, _)| format!("getent ahosts {name} >/dev/null; echo -n $?; ")).collect();
    let output = world.session().past_the_proxy().options(allow).bash(&script);
    assert_eq!(output.text(), "2222200", "{}", output.stderr);
    for (name, rule) in names {
        let name = name.to_ascii_lowercase();
        let rules = denied(&world, &output, "dns.query", "/dns/name", &name);
        assert!(rules.iter().all(|said| Some(said.as_str()) == rule), "{name}: {rules:?}");
        assert_eq!(rules.is_empty(), rule.is_none(), "{name}");
    }
    for name in ["listed-1.tunnel.test", "listed-2.b.wild.test"] {
        assert!(internet().resolver().asked(name).is_empty(), "{name} left the host");
    }
}

fn a_listed_name_is_not_reached_at_an_address_that_is(_: &World) {
    let world = listing();
    let there = "--resolve evil.test:80:192.0.2.80 --resolve evil.test:443:192.0.2.80";
    let script = format!(
        "curl -sS http://good.test/
        curl -s -o /dev/null -w '%{{http_code}}\\n' {there} http://evil.test/
        curl -s -o /dev/null -w '%{{http_code}}\\n' -H 'Host: evil.test' http://good.test/
        curl -sk {there} https://evil.test/; echo $?
        curl -s -o /dev/null -w '%{{http_code}}\\n' -x http://127.0.0.1:3128 http://evil.test/
        curl -sk -o /dev/null -x http://127.0.0.1:3128 https://evil.test/; echo $?
        curl -s -o /dev/null -x socks5h://127.0.0.1:3128 http://evil.test/; echo $?"
    );
    let output = world.session().past_the_proxy().options(["--allow", "*.test"]).bash(&script);
    assert_eq!(output.text(), "this is good.test\n403\n403\n35\n403\n56\n97\n", "{}", output.stderr);
    // By a rule for the address as well, which asks for no name.
    let script = format!(
        "curl -s -o /dev/null -w '%{{http_code}}\\n' {there} http://evil.test/; curl -sk {there} https://evil.test/; echo $?; curl -sS --resolve x.test:80:192.0.2.80 http://x.test/"
    );
    let output = world.session().past_the_proxy().options(["--allow", "192.0.2.80/32:80,443"]).bash(&script);
    assert_eq!(output.text(), "403\n35\nthis is x.test\n", "{}", output.stderr);
    let rules = denied(&world, &output, "http.request", "/http/host", "evil.test");
    assert_eq!(rules, ["blocklist ads"]);
    let events = world.all_events(world.a(), &output.name);
    for event in events.iter().filter(|event| event["kind"] == "http.request") {
        assert!(text_at(event, "/actor/exe").ends_with("/curl"), "{event}");
    }
}

fn no_allow_takes_it_back(_: &World) {
    let world = listing();
    let session = world.session().past_the_proxy().options(["--allow", "good.test"]);
    let script = "echo ready; read -r; getent ahosts other.test || echo none; curl -sS http://good.test/";
    let mut child = session.spawn_ready(script);
    world.agentctl(world.a(), ["allow", session.name(), "other.test"]).expect_code(0);
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("our own child");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "none\nthis is good.test\n");
}
