//! How long a name leads to an address: a connection outlives that, and a program that keeps the address may use it for
//! as long as the name has it.

use std::io::Write;

use agentd_tests::harness::{Named, World, text_at};
use agentd_tests::tests;

use crate::internet;
use crate::rules::{may, rest};

pub const TESTS: &[Named] = tests![
    a_connection_outlives_its_pin,
    one_that_ran_out_is_renewed_when_it_is_needed,
    a_name_that_answers_otherwise_renews_nothing,
];

/// A stream of more than a minute, which is how long a pin of so short a TTL lasts: it goes on, as does a connection on
/// which nothing was asked for meanwhile, and a new one to the same address has the name asked for again.
fn a_connection_outlives_its_pin(world: &World) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("ca.pem"), std::fs::read(internet().authority()).expect("a certificate"));
    let script = "ask() { printf 'GET / HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n' >&4
            while read -r line <&4; do case $line in this*) echo \"$line\"; break; esac; done; }
        exec 4<>/dev/tcp/good.test/80; ask
        curl -sSN --cacert ca.pem https://stream.test/app/events/80/1000 | grep -c '^data:'
        ask
        (exec 3<>/dev/tcp/192.0.2.84/443) 2>/dev/null && echo renewed
        curl -sS --cacert ca.pem https://stream.test/";
    let output = world
        .session_in(&dir)
        .options(["--allow", "stream.test", "--allow", "good.test"])
        .bash(script)
        .expect_code(0);
    assert_eq!(
        output.text(),
        "this is good.test\n80\nthis is good.test\nrenewed\nthis is stream.test\n",
        "{}",
        output.stderr
    );
}

/// Has the kernel forget every pin of a session, as if their time were over.
fn forget_pins(world: &World, word: &str) {
    let parts = world.daemon().await_session(world.a(), word);
    let pid = parts.agents.first().expect("a process").to_string();
    for set in ["pin4", "pin6"] {
        let flush = ["-t", &pid, "-n", "nft", "flush", "set", "inet", "agentd", set];
        let output = std::process::Command::new("nsenter").args(flush).output().expect("nsenter");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// One look-up, and a connection to what it found after the pin ran out: the name is asked for again, once for both.
fn one_that_ran_out_is_renewed_when_it_is_needed(world: &World) {
    let word = world.unique("renewed");
    let script = format!(
        "word={word}; address=$(getent ahostsv4 good.test | head -n 1 | cut -d ' ' -f 1); echo ready; read -r
        for _ in 1 2; do exec 3<>/dev/tcp/$address/80; printf 'GET / HTTP/1.0\\r\\nHost: good.test\\r\\n\\r\\n' >&3
        tail -n 1 <&3; done"
    );
    let session = may(world, &["good.test"]);
    let mut child = session.spawn_ready(&script);
    let asked = || {
        internet().resolver().asked("good.test").iter().filter(|q| q.name.len() == 9 && q.kind == 1).count()
    };
    let before = asked();
    forget_pins(world, &word);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    let output = rest(child);
    assert_eq!(output.text(), "this is good.test\n".repeat(2), "{}", output.stderr);
    assert_eq!(asked(), before + 1);
    let events = world.all_events(world.a(), session.name());
    assert!(!events.iter().any(|event| event["kind"] == "net.denied"), "{events:#?}");
    let queries: Vec<_> = events
        .iter()
        .filter(|event| event["kind"] == "dns.query" && text_at(event, "/dns/type") == "A")
        .collect();
    let by: Vec<_> = queries.iter().map(|query| text_at(query, "/actor/exe")).collect();
    assert!(by.len() == 2 && by[0].ends_with("/getent") && by[1].ends_with("/bash"), "{queries:#?}");
}

/// The name answers with another address by then: what it had before is none of its any more.
fn a_name_that_answers_otherwise_renews_nothing(world: &World) {
    internet().resolver().forget();
    let word = world.unique("expired");
    let script = format!(
        "word={word}; getent ahostsv4 rebind.rogue.test | head -n 1 | cut -d ' ' -f 1 >&2; echo ready; read -r
        for _ in 1 2; do (exec 3<>/dev/tcp/192.0.2.80/80) 2>/dev/null; echo $?; done"
    );
    let session = may(world, &["rebind.rogue.test"]);
    let mut child = session.spawn_ready(&script);
    forget_pins(world, &word);
    child.stdin.take().expect("a pipe").write_all(b"go\n").expect("it reads");
    let output = rest(child);
    assert_eq!((output.text().as_str(), output.stderr.as_str()), ("1\n1\n", "192.0.2.80\n"));
    let events = world.all_events(world.a(), session.name());
    let denied: Vec<_> = events.iter().filter(|event| event["kind"] == "net.denied").collect();
    assert_eq!(
        denied.iter().filter_map(|event| event["net"]["count"].as_u64()).sum::<u64>(),
        2,
        "{denied:#?}"
    );
    for event in denied {
        assert_eq!(text_at(event, "/rule"), "pin.expired", "{event}");
        assert_eq!(text_at(event, "/net/name"), "rebind.rogue.test", "{event}");
        assert!(text_at(event, "/actor/exe").ends_with("/bash"), "{event}");
    }
}
