//! What the rules of a session let through and what they do not, at its start and while it runs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Child;
use std::time::Duration;

use agentd_tests::harness::{Named, RunOutput, Session, World, patience, text_at, wait_for_exit, within};
use agentd_tests::tests;
use serde_json::Value;

use crate::internet;

pub const TESTS: &[Named] = tests![
    without_a_port_it_is_http_and_https,
    a_port_is_that_port,
    a_wildcard_is_what_is_below,
    a_deny_wins,
    a_network_needs_no_name,
    a_name_leads_near_the_host_if_a_rule_names_that,
    a_local_port_is_the_hosts,
    datagrams_go_both_ways,
    what_is_no_rule_is_refused,
    names_are_looked_for_in_the_domains_of_the_site,
    a_server_on_either_loopback_is_reached_by_a_local_rule,
    a_session_without_a_network_is_given_one_by_its_user,
    a_network_that_is_none_is_never_given,
    an_allow_counts_at_once,
    a_deny_closes_what_is_open,
    a_deny_closes_what_nobody_has_looked_at,
    a_refusal_of_http_says_why,
    the_proxy_does_the_same,
    programs_are_told_of_the_proxy_and_by_it,
    a_thousand_connections_are_not_the_end,
    the_case_of_a_question_stays_here,
    a_name_that_nobody_answers_for_fails_in_time,
    types_that_are_listed_are_answered_with_their_data,
    one_session_is_out_of_anothers_reach,
    nothing_is_tracked,
    bytes_and_names_are_told_at_the_end,
    each_name_of_a_connection_is_told,
];

/// A session with these rules.
pub fn may<'a>(world: &'a World, rules: &[&str]) -> Session<'a> {
    world.session().past_the_proxy().options(rules.iter().flat_map(|rule| ["--allow", rule]))
}

/// The code of `curl` for each of `urls`, in a session with these rules.
fn codes(world: &World, rules: &[&str], urls: &[&str]) -> String {
    let script = format!(
        "for url in {}; do curl -gsS -m 20 -o /dev/null $url 2>/dev/null; echo -n \"$? \"; done",
        urls.join(" ")
    );
    may(world, rules).bash(&script).expect_code(0).text().trim().to_owned()
}

/// curl's code for a name that is not found.
const NO_NAME: &str = "6";
/// For a connection that was refused.
const NO_WAY: &str = "7";

fn without_a_port_it_is_http_and_https(world: &World) {
    let urls = ["http://good.test/", "-k https://good.test/", "http://good.test:8080/"];
    assert_eq!(codes(world, &["good.test"], &urls[..1]), "0");
    assert_eq!(codes(world, &["good.test"], &urls[2..]), NO_WAY);
}

fn a_port_is_that_port(world: &World) {
    let urls = ["http://good.test:8080/", "http://good.test/"];
    assert_eq!(codes(world, &["good.test:8080"], &urls), format!("0 {NO_WAY}"));
}

fn a_wildcard_is_what_is_below(world: &World) {
    let urls = ["http://a.wild.test/", "http://b.a.wild.test/", "http://wild.test/", "http://awild.test/"];
    assert_eq!(codes(world, &["*.wild.test"], &urls), format!("0 0 {NO_NAME} {NO_NAME}"));
}

fn a_deny_wins(world: &World) {
    let output = may(world, &["*.test"]).options(["--deny", "evil.test"]);
    let output = output.bash("curl -sS http://good.test/; curl -sS http://evil.test/");
    assert_eq!((output.code, output.text().as_str()), (Some(6), "this is good.test\n"), "{}", output.stderr);
    let events = world.all_events(world.a(), &output.name);
    let denied =
        events.iter().find(|event| text_at(event, "/dns/name") == "evil.test").expect("the question");
    assert_eq!(
        (text_at(denied, "/decision"), text_at(denied, "/rule")),
        ("deny".into(), "deny evil.test".into())
    );
}

fn a_network_needs_no_name(world: &World) {
    let rules = ["203.0.113.0/25:7", "2001:db8::/64:80"];
    let script = "exec 3<>/dev/tcp/203.0.113.7/7; head -n 1 <&3; curl -gsS http://[2001:db8::99]/";
    let output = may(world, &rules).bash(script).expect_code(0);
    assert_eq!(output.text(), "hello\nthis is [2001:db8::99]\n", "{}", output.stderr);
}

fn a_name_leads_near_the_host_if_a_rule_names_that(world: &World) {
    let urls = ["http://private10.rogue.test/", "https://private10.rogue.test/"];
    assert_eq!(codes(world, &["*.rogue.test"], &urls[..1]), NO_NAME);
    // The port is that of the rule for addresses as well: by a name one gets no further.
    assert_eq!(codes(world, &["*.rogue.test", "10.0.0.0/8:80"], &urls), "0 35");
}

fn a_local_port_is_the_hosts(world: &World) {
    let port = internet().loopback_port();
    let script = format!("for a in 127.0.0.1 ::1; do exec 3<>/dev/tcp/$a/{port}; head -n 1 <&3; done");
    let output = may(world, &[&format!("local:{port}")]).bash(&script).expect_code(0);
    assert_eq!(output.text(), "hello\nhello\n", "{}", output.stderr);
}

fn datagrams_go_both_ways(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    let profile = "schema = 1\nname = \"udp\"\nextends = [\"default\"]\n[[network.allow]]\nhost = \"echo.test\"\nports = [7]\nprotocol = \"udp\"\n";
    world.a().write(dir.join("udp.toml"), profile);
    let session = world.session_in(&dir).past_the_proxy().options(["--profile", "./udp.toml"]);
    let script = "python3 client.py datagrams echo.test 7 50 && getent ahosts echo.test >/dev/null && \
        python3 client.py datagrams 2001:db8::7 7 50";
    let output = session.bash(script).expect_code(0);
    assert_eq!(output.text(), "50 back\n50 back\n", "{}", output.stderr);
}

fn what_is_no_rule_is_refused(world: &World) {
    let rules = [
        "http://good.test/",
        "good.test:0",
        "good.test:99999",
        "good..test",
        "*.*.test",
        "a*.test",
        "gööd.test",
    ];
    for rule in rules {
        let output = may(world, &[rule]).run(["true"]);
        assert!(matches!(output.code, Some(125 | 2)), "{rule}: {:?} {}", output.code, output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{rule}: {}", output.stderr);
    }
}

/// What `child` still says, and its code.
pub fn rest(mut child: Child) -> RunOutput {
    let status = wait_for_exit(&mut child, Duration::from_secs(30)).expect("it ends");
    let (mut stdout, mut stderr) = (Vec::new(), String::new());
    child.stdout.take().expect("a pipe").read_to_end(&mut stdout).expect("its output");
    child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("its errors");
    RunOutput { name: String::new(), code: status.code(), stdout, stderr }
}

fn an_allow_counts_at_once(world: &World) {
    let session = may(world, &["good.test"]);
    let script = "curl -s http://other.test/; echo ready; read -r; curl -sS http://other.test/";
    let mut child = session.spawn_ready(script);
    world.agentctl(world.a(), ["allow", session.name(), "other.test"]).expect_code(0);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    let output = rest(child);
    assert_eq!(output.text(), "this is other.test\n", "{}", output.stderr);
    let events = world.all_events(world.a(), session.name());
    let changed = events.iter().find(|event| event["kind"] == "policy.changed").expect("the change");
    assert!(text_at(changed, "/policy/change").contains("other.test"), "{changed}");
}

/// What the manual says: a session that began without a network is given one by its user.
fn a_session_without_a_network_is_given_one_by_its_user(world: &World) {
    let session = world.session().past_the_proxy().options(["--detach"]);
    let name = session.name().to_owned();
    let script = "until curl -sS http://other.test/ 2>/dev/null; do :; done; sleep 600";
    session.bash(script).expect_code(0);
    let refused = world.agentctl(world.b(), ["allow", &name, "other.test"]);
    assert!(refused.code != Some(0) && refused.stderr.contains("(session.unknown)"), "{}", refused.stderr);
    world.agentctl(world.a(), ["allow", &name, "other.test"]).expect_code(0);
    let printed = within(patience(Duration::from_secs(20)), || {
        let logs = world.agentctl(world.a(), ["logs", &name]).text();
        if logs.contains("this is other.test") { Ok(()) } else { Err(logs) }
    });
    assert_eq!(printed, Ok(()));
    let events = world.events(world.a(), &name);
    let changed = events.iter().find(|event| event["kind"] == "policy.changed").expect("the change");
    assert_eq!(text_at(changed, "/policy/user"), world.a().name, "{changed}");
    let asked = events.iter().filter(|event| event["kind"] == "dns.query").collect::<Vec<_>>();
    let denied = |event: &&&Value| text_at(event, "/rule") == "network.none";
    assert!(
        asked.iter().any(|event| denied(&event)) && asked.iter().any(|event| event["decision"] == "allow")
    );
    assert!(asked.iter().all(|event| text_at(event, "/actor/exe").ends_with("/curl")), "{asked:#?}");
    world.agentctl(world.a(), ["kill", &name]).expect_code(0);
}

/// `default = "none"` is for good.
fn a_network_that_is_none_is_never_given(world: &World) {
    let dir = world.workspace(world.a());
    let profile = "schema = 1\nname = \"none\"\nextends = [\"default\"]\n[network]\ndefault = \"none\"\n";
    world.a().write(dir.join("none.toml"), profile);
    let session = world.session_in(&dir).past_the_proxy().options(["--profile", "./none.toml"]);
    let mut child = session.spawn_ready("echo ready; read -r; getent ahosts good.test; echo $?");
    let allowed = world.agentctl(world.a(), ["allow", session.name(), "good.test"]);
    assert!(allowed.code != Some(0) && allowed.stderr.contains("(network.none)"), "{}", allowed.stderr);
    let denied = world.agentctl(world.a(), ["deny", session.name(), "good.test"]);
    assert!(denied.code != Some(0) && denied.stderr.contains("(network.none)"), "{}", denied.stderr);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    assert_eq!(rest(child).text(), "2\n");
    let refused = world
        .session_in(&dir)
        .past_the_proxy()
        .options(["--profile", "./none.toml", "--allow", "good.test"])
        .run(["true"]);
    assert!(refused.code == Some(125) && refused.stderr.contains("(network.none)"), "{}", refused.stderr);
}

/// A name without a dot is looked for in the site's domain, and judged as what is asked for by that.
fn names_are_looked_for_in_the_domains_of_the_site(_: &World) {
    let world = internet().world_searching("test");
    let script = "grep ^search /etc/resolv.conf; for name in good evil; do getent ahostsv4 $name | head -n 1 | cut -d ' ' -f 1; done";
    let output = may(&world, &["good.test"]).bash(script);
    assert_eq!(output.text(), "search test\n192.0.2.80\n", "{}", output.stderr);
    let events = world.all_events(world.a(), &output.name);
    let denied: Vec<_> = events.iter().filter(|event| event["decision"] == "deny").collect();
    assert!(denied.iter().any(|event| text_at(event, "/dns/name") == "evil.test"), "{denied:#?}");
}

/// A server on ::1 alone, as node makes them, and one on 127.0.0.1 alone.
fn a_server_on_either_loopback_is_reached_by_a_local_rule(world: &World) {
    for address in ["::1", "127.0.0.1"] {
        let server = internet().host().enter(|| TcpListener::bind((address, 0))).expect("a free port");
        let port = server.local_addr().expect("its address").port();
        let answering = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut client, _) = server.accept().expect("a connection");
                client.write_all(b"hello\n").expect("it reads");
            }
        });
        let script = format!("for to in 127.0.0.1 ::1; do exec 3<>/dev/tcp/$to/{port}; head -n 1 <&3; done");
        let output = may(world, &[&format!("local:{port}")]).bash(&script).expect_code(0);
        assert_eq!(output.text(), "hello\nhello\n", "{address}: {}", output.stderr);
        answering.join().expect("both came");
    }
}

fn a_deny_closes_what_is_open(world: &World) {
    let session = may(world, &["*.test:7", "good.test"]);
    let script = "exec 3<>/dev/tcp/echo.test/7; read -r <&3; echo ready; cat <&3; echo closed
        exec 3<>/dev/tcp/203.0.113.7/7 || echo 'no pin'; getent ahosts echo.test || echo 'no name'; curl -sS http://good.test/";
    let child = session.spawn_ready(script);
    world.agentctl(world.a(), ["deny", session.name(), "echo.test"]).expect_code(0);
    let output = rest(child);
    assert_eq!(output.text(), "closed\nno pin\nno name\nthis is good.test\n", "{}", output.stderr);
    let events = world.all_events(world.a(), session.name());
    let closed = events
        .iter()
        .find(|event| event["kind"] == "net.closed" && text_at(event, "/net/name") == "echo.test");
    assert_eq!(text_at(closed.expect("its end"), "/net/reason"), "policy", "{events:#?}");
}

/// By an address alone, and with nothing denied: whom it is used for is not known, so that it could be the denied one.
fn a_deny_closes_what_nobody_has_looked_at(world: &World) {
    let session = may(world, &["203.0.113.0/25:7"]);
    let script = "exec 3<>/dev/tcp/203.0.113.7/7; read -r <&3; echo ready; cat <&3; echo closed
        exec 3<>/dev/tcp/203.0.113.7/7; head -n 1 <&3";
    let child = session.spawn_ready(script);
    world.agentctl(world.a(), ["deny", session.name(), "evil.test"]).expect_code(0);
    let output = rest(child);
    assert_eq!(output.text(), "closed\nhello\n", "{}", output.stderr);
    let events = world.all_events(world.a(), session.name());
    let closed = events.iter().find(|event| event["kind"] == "net.closed").expect("its end");
    assert_eq!(text_at(closed, "/net/reason"), "policy", "{events:#?}");
}

fn a_refusal_of_http_says_why(world: &World) {
    let script = "curl -sS -D - -o /dev/null -H 'Host: evil.test' http://good.test/";
    let text = may(world, &["good.test"]).bash(script).expect_code(0).text().to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 403 ") && text.contains("\nx-agentd-reason: "), "{text}");
}

fn the_proxy_does_the_same(world: &World) {
    let script = "for x in http://127.0.0.1:3128 socks5h://127.0.0.1:3128; do curl -sS -x $x http://good.test/; curl -sS -p -x $x http://good.test/; done";
    let output = may(world, &["good.test"]).bash(script).expect_code(0);
    assert_eq!(output.text(), "this is good.test\n".repeat(4), "{}", output.stderr);
}

/// What is refused is said at once, in a session that has a network and in one that has none, and a profile can leave
/// it out.
fn programs_are_told_of_the_proxy_and_by_it(world: &World) {
    let script = "curl -sS -w ' %{http_code}' http://evil.test/; curl -sS https://evil.test/; echo $?";
    for rules in [&["--allow", "good.test"][..], &[]] {
        let output = world.session().options(rules.iter().copied()).bash(script).expect_code(0);
        assert!(output.text().contains("agentd: evil.test:80 is not allowed\n 403"), "{}", output.text());
        assert!(output.stderr.contains("CONNECT") && output.stderr.contains("403"), "{}", output.stderr);
    }
    let output = world.session().options(["--allow", "good.test"]).bash("curl -sS http://good.test/; env");
    assert!(output.text().starts_with("this is good.test\n"), "{}", output.stderr);
    assert!(output.text().contains("\nhttps_proxy=http://localhost:3128\n"), "{}", output.text());
    for entry in ["proxy_env = false", "default = \"none\""] {
        let dir = world.workspace(world.a());
        let profile = format!("schema = 1\nname = \"p\"\nextends = [\"default\"]\n[network]\n{entry}\n");
        world.a().write(dir.join("p.toml"), profile);
        let session = world.session_in(&dir).options(["--profile", "p.toml"]);
        let output = session.bash("env; curl -sS http://evil.test/; echo $?");
        assert!(!output.text().contains("3128") && output.text().ends_with("6\n"), "{}", output.text());
    }
}

/// More than a session may have: the rest is refused, and what was open goes on.
fn a_thousand_connections_are_not_the_end(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    let session = world.session_in(&dir).past_the_proxy().options(["--allow", "echo.test:7"]);
    let output = session.bash("ulimit -n 4096; python3 client.py many echo.test 7 1500").expect_code(0);
    let mut reported = std::collections::BTreeMap::<String, u32>::new();
    for event in world.events(world.a(), &output.name) {
        let words = ["/kind", "/rule", "/net/reason"].map(|pointer| text_at(&event, pointer));
        *reported.entry(words.join(" ")).or_default() +=
            u32::try_from(event["net"]["count"].as_u64().unwrap_or(1)).unwrap();
    }
    assert_eq!(output.text(), "1024 at a time, and one more later\n", "{} {reported:#?}", output.stderr);
}

/// A name's case carries a bit a letter: what goes upstream is not what was asked with.
fn the_case_of_a_question_stays_here(world: &World) {
    let name = "sEcReTbItSiNtHeCaSeOfAnAmEtHaTiSaLlOwEd.wild.test";
    let output = may(world, &["*.wild.test"]).bash(&format!("getent ahosts {name} | head -n 1 | wc -l"));
    assert_eq!(output.text(), "1\n", "{}", output.stderr);
    let asked = internet().resolver().asked(&name.to_ascii_lowercase());
    assert!(!asked.is_empty() && asked.iter().all(|question| question.name != name), "{asked:?}");
}

/// Five seconds are less than the C library waits for.
fn a_name_that_nobody_answers_for_fails_in_time(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    let limit = patience(Duration::from_millis(5500)).as_secs_f32();
    let script = format!(
        "python3 client.py late dead.rogue.test {limit} && python3 client.py why evil.test && curl -sS http://good.test/"
    );
    let session =
        world.session_in(&dir).past_the_proxy().options(["--allow", "good.test", "--allow", "*.rogue.test"]);
    let output = session.bash(&script).expect_code(0);
    let wanted = "code 2\ncode 3 because 15 agentd: not allowed (default)\nthis is good.test\n";
    assert_eq!(output.text(), wanted, "{}", output.stderr);
}

/// Written anew: the server compresses a name in it, which ours does not.
fn types_that_are_listed_are_answered_with_their_data(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    let profile = |types: &str| {
        format!("schema = 1\nname = \"types\"\nextends = [\"default\"]\n[network]\ndns_types = [{types}]\n")
    };
    world.a().write(dir.join("types.toml"), profile("\"TXT\", \"srv\", \"MX\""));
    let session = world.session_in(&dir).past_the_proxy().options([
        "--profile",
        "./types.toml",
        "--allow",
        "kinds.wild.test",
    ]);
    let script = "python3 client.py ask kinds.wild.test 16 33 15 6; python3 client.py ask no.wild.test 16 33";
    let output = session.bash(script).expect_code(0);
    let wanted = r"16 0 b'\x0ca text of it'
33 0 b'\x00\x01\x00\x02\x1f\x90\x04evil\x04test\x00'
15 0 b'\x00\x05\x05kinds\x04wild\x04test\x00'
6 5
16 3
33 3
";
    assert_eq!(output.text(), wanted, "{}", output.stderr);
    let mut asked: Vec<_> = internet().resolver().asked("kinds.wild.test").iter().map(|q| q.kind).collect();
    asked.sort_unstable();
    assert_eq!(asked, [15, 16, 33]);
    assert_eq!(internet().resolver().asked("no.wild.test"), []);
    let events = world.all_events(world.a(), &output.name);
    let recorded = |name: &str, kind: &str, decision: &str| {
        events.iter().any(|event| {
            let words = ["/dns/name", "/dns/type", "/decision"].map(|pointer| text_at(event, pointer));
            words == [name, kind, decision]
        })
    };
    assert!(
        recorded("kinds.wild.test", "TXT", "allow") && recorded("kinds.wild.test", "SOA", "deny"),
        "{events:#?}"
    );
    assert!(recorded("no.wild.test", "TXT", "deny"), "{events:#?}");
    world.a().write(dir.join("types.toml"), profile("\"ANY\""));
    let output = world.session_in(&dir).past_the_proxy().options(["--profile", "./types.toml"]).run(["true"]);
    assert_eq!((output.code, output.stderr.lines().count()), (Some(125), 1), "{}", output.stderr);
    assert!(output.stderr.contains("network.dns_types"), "{}", output.stderr);
}

fn one_session_is_out_of_anothers_reach(world: &World) {
    let first = may(world, &["good.test"]);
    let server =
        "import socket; s = socket.create_server(('', 4567)); print('ready', flush=True); s.accept()";
    let mut child = first.spawn_ready(&format!("exec python3 -c \"{server}\""));
    let output = may(world, &["good.test"]).bash("ip -o addr 2>/dev/null; for a in 127.0.0.1 ::1; do (exec 3<>/dev/tcp/$a/4567) 2>/dev/null; echo $?; done");
    assert!(output.text().ends_with("1\n1\n"), "{}", output.text());
    world.agentctl(world.a(), ["kill", first.name()]).expect_code(0);
    wait_for_exit(&mut child, Duration::from_secs(10)).expect("a killed session ends");
}

fn nothing_is_tracked(world: &World) {
    let script =
        "curl -sS http://good.test/; cat /proc/sys/net/netfilter/nf_conntrack_count 2>/dev/null || echo 0";
    let output = may(world, &["good.test"]).bash(script).expect_code(0);
    assert_eq!(output.text(), "this is good.test\n0\n", "{}", output.stderr);
    assert_eq!((internet().host().tracked(), internet().internet().tracked()), (0, 0));
}

fn bytes_and_names_are_told_at_the_end(world: &World) {
    let output = may(world, &["good.test"]).bash("curl -sS http://good.test/bulk | wc -c").expect_code(0);
    let events = world.all_events(world.a(), &output.name);
    let of = |kind: &str| -> Vec<&Value> { events.iter().filter(|event| event["kind"] == kind).collect() };
    let (connects, ends) = (of("net.connect"), of("net.closed"));
    assert_eq!((connects.len(), ends.len()), (1, 1), "{events:#?}");
    let net = &ends[0]["net"];
    assert_eq!((text_at(net, "/protocol"), text_at(net, "/name")), ("tcp".into(), "good.test".into()));
    assert!(net["received"].as_u64() >= Some(16_777_216) && net["sent"].as_u64() > Some(0), "{net}");
    assert_eq!(text_at(net, "/reason"), "closed");
    let allowed = of("dns.query").into_iter().filter(|event| event["decision"] == "allow");
    for event in connects.iter().chain(&ends).copied().chain(allowed) {
        assert_eq!(text_at(event, "/rule"), "allow good.test", "{event}");
    }
}

fn each_name_of_a_connection_is_told(world: &World) {
    let twice = "exec 3<>/dev/tcp/a.wild.test/80; getent ahosts b.wild.test >/dev/null; for n in a b; do \
        printf 'GET / HTTP/1.1\\r\\nHost: %s.wild.test\\r\\n\\r\\n' $n >&3; done; grep -am 2 'this is' <&3";
    let output = may(world, &["*.wild.test"]).bash(twice).expect_code(0);
    assert_eq!(output.text(), "this is a.wild.test\nthis is b.wild.test\n", "{}", output.stderr);
    let events = world.all_events(world.a(), &output.name);
    let end = events.iter().find(|event| event["kind"] == "net.closed").expect("its end");
    assert_eq!(end["net"]["names"], serde_json::json!(["a.wild.test", "b.wild.test"]), "{end}");
    assert_eq!(text_at(end, "/rule"), "allow *.wild.test", "{end}");
}
