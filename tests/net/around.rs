//! The internet itself: it is as the other tests take it to be.

use agentd_tests::harness::{Named, RunOutput, World, complete};
use agentd_tests::tests;

use crate::internet;

pub const TESTS: &[Named] = tests![
    nothing_leaves_the_machine,
    nothing_is_tracked,
    every_address_is_answered_for,
    the_hosts_loopback_is_its_own,
    the_resolver_keeps_what_it_is_asked,
    hostile_answers_are_given,
    udp_comes_back_from_where_it_was_sent,
];

/// Runs a script on the internet's `host`.
fn bash(world: &World, script: &str) -> RunOutput {
    let mut command = internet().command(world.a(), "/bin/bash");
    complete(command.args(["-c", script]), vec![], "outside".into())
}

fn nothing_leaves_the_machine(_: &World) {
    for (namespace, wanted) in [(internet().host(), "net0"), (internet().internet(), "host0")] {
        let devices =
            namespace.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("/proc");
        let names: Vec<_> = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
        // The kernel may give every namespace its own tunnels, which lead nowhere and are down.
        let up = names
            .iter()
            .filter(|name| !["tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0"].contains(name));
        let mut up: Vec<_> = up.copied().collect();
        up.sort_unstable();
        let mut all = ["lo", wanted];
        all.sort_unstable();
        assert_eq!(up, all);
    }
}

fn nothing_is_tracked(world: &World) {
    bash(world, "curl -sS http://good.test/").expect_code(0);
    assert_eq!((internet().host().tracked(), internet().internet().tracked()), (0, 0));
}

/// Also those that no session may reach: what is denied to one could be reached.
fn every_address_is_answered_for(world: &World) {
    let addresses =
        ["192.0.2.1", "[2001:db8::1]", "169.254.169.254", "10.0.0.1", "100.64.0.1", "[fd00:ec2::254]"];
    for address in addresses {
        let output = bash(world, &format!("curl -sS http://{address}/")).expect_code(0);
        assert_eq!(output.text(), format!("this is {}\n", address), "{}", output.stderr);
    }
    assert!(internet().requests().contains(&"169.254.169.254 GET /".to_owned()));
}

fn the_hosts_loopback_is_its_own(world: &World) {
    for address in ["127.0.0.1", "::1"] {
        let read = format!("exec 3<>/dev/tcp/{address}/{}; head -n 1 <&3", internet().loopback_port());
        assert_eq!(bash(world, &read).expect_code(0).text(), "hello\n", "{address}");
    }
}

fn the_resolver_keeps_what_it_is_asked(world: &World) {
    bash(world, "getent ahostsv4 Kept.Wild.TEST").expect_code(0);
    let asked = internet().resolver().asked("kept.wild.test");
    assert!(asked.iter().any(|q| q.name == "Kept.Wild.TEST" && q.kind == 1 && !q.tcp), "{asked:?}");
    assert!(asked.iter().all(|q| q.from.ip().to_string() == "10.66.0.1"), "{asked:?}");
}

fn hostile_answers_are_given(world: &World) {
    let found = |name: &str| bash(world, &format!("getent ahostsv4 {name} | awk '{{print $1}}' | sort -u"));
    assert_eq!(found("metadata.rogue.test").text(), "169.254.169.254\n");
    assert_eq!(found("alias.rogue.test").text(), "192.0.2.80\n");
    assert_eq!(found("fails.rogue.test").text(), "");
    assert_eq!(found("short.rogue.test").text(), "");
    assert_eq!(found("unheard-of.test").text(), "");
    assert_eq!(found("rebind.rogue.test").text(), "192.0.2.80\n");
    assert_eq!(found("rebind.rogue.test").text(), "10.0.0.1\n");
    assert_eq!(found("many.rogue.test").text().lines().count(), 1000);
    assert!(internet().resolver().asked("many.rogue.test").iter().any(|q| q.tcp), "it did not come over TCP");
}

fn udp_comes_back_from_where_it_was_sent(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    for address in ["203.0.113.7", "2001:db8::7", "echo.test"] {
        let act = format!("cd {} && python3 client.py datagrams {address} 7 50", dir.display());
        assert_eq!(bash(world, &act).expect_code(0).text(), "50 back\n", "{address}");
    }
}
