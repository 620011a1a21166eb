//! Resolvers over TLS: one with the right certificate is used, any other is not.

use agentd_tests::harness::{Named, Question, RejectWith, Session, World};
use agentd_tests::tests;

use crate::internet;

pub const TESTS: &[Named] = tests![
    names_are_asked_for_over_tls_and_in_no_other_way,
    answers_may_come_in_any_order,
    a_connection_that_ends_is_made_again,
    another_name_is_not_believed,
    another_authority_is_not_believed,
    nobody_is_asked_in_plain_text_instead,
    who_says_nothing_costs_an_error_and_not_the_session,
    half_an_answer_is_none,
    the_next_resolver_is_asked,
    without_authorities_there_is_no_session,
];

/// The servers' name.
const NAME: &str = "dns.test";

fn resolver(manner: RejectWith, name: &str) -> String {
    format!("\"tls://{}#{name}\"", manner.address())
}

fn asking(resolvers: &str) -> World {
    internet().world_asking(resolvers, &internet().authority())
}

fn over_tls(manner: RejectWith) -> World {
    asking(&resolver(manner, NAME))
}

/// A session that may look up names below wild.test, and has the client at hand.
fn session(world: &World) -> Session<'_> {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("client.py"), include_str!("client.py"));
    world.session_in(&dir).past_the_proxy().options(["--allow", "*.wild.test"])
}

/// What comes of asking for the address of `name`.
fn ask(world: &World, name: &str) -> String {
    session(world).bash(&format!("python3 client.py ask {name} 1")).expect_code(0).text()
}

/// What was asked for `name`, all of it over TLS.
fn only_over_tls(name: &str) -> Vec<Question> {
    let asked = internet().resolver().asked(name);
    assert!(asked.iter().all(|question| question.tls), "{asked:?}");
    asked
}

const FAILED: &str = "1 2\n";
const FOUND: &str = "1 0 b'\\xc63d\\n'\n";

fn names_are_asked_for_over_tls_and_in_no_other_way(_: &World) {
    let world = over_tls(RejectWith::Honest);
    let script = "getent ahosts one.tls.wild.test | head -n 1; getent ahosts two.tls.wild.test | head -n 1";
    let output = session(&world).bash(script).expect_code(0);
    assert_eq!(output.text().lines().count(), 2, "{} {}", output.text(), output.stderr);
    let asked = only_over_tls("tls.wild.test");
    let mut kinds: Vec<_> = asked.iter().map(|question| (question.name.as_str(), question.kind)).collect();
    kinds.sort_unstable();
    let (one, two) = ("one.tls.wild.test", "two.tls.wild.test");
    assert_eq!(kinds, [(one, 1), (one, 28), (two, 1), (two, 28)]);
    assert!(asked.iter().all(|question| question.from == asked[0].from), "not on one connection: {asked:?}");
    world.end();
}

fn answers_may_come_in_any_order(_: &World) {
    let world = over_tls(RejectWith::Reversed);
    let output = session(&world).bash("getent ahosts reversed.wild.test | cut -d ' ' -f 1 | sort -u");
    assert_eq!(output.text(), "198.51.100.10\n2001:db8:a::10\n", "{}", output.stderr);
    world.end();
}

fn a_connection_that_ends_is_made_again(_: &World) {
    let world = over_tls(RejectWith::Once);
    let script = "for n in 1 2 3; do python3 client.py ask once$n.wild.test 1; done";
    assert_eq!(session(&world).bash(script).expect_code(0).text(), FOUND.repeat(3));
    world.end();
}

fn another_name_is_not_believed(_: &World) {
    let world = asking(&resolver(RejectWith::Honest, "other.dns.test"));
    assert_eq!(ask(&world, "othername.wild.test"), FAILED);
    assert_eq!(internet().resolver().asked("othername.wild.test"), []);
    world.end();
}

fn another_authority_is_not_believed(_: &World) {
    let world = over_tls(RejectWith::Unknown);
    assert_eq!(ask(&world, "authority.wild.test"), FAILED);
    assert_eq!(internet().resolver().asked("authority.wild.test"), []);
    world.end();
}

/// Where the same server would answer at once.
fn nobody_is_asked_in_plain_text_instead(_: &World) {
    let world = asking(&format!("\"tls://192.0.2.53:53#{NAME}\""));
    assert_eq!(ask(&world, "plain.wild.test"), FAILED);
    assert_eq!(internet().resolver().asked("plain.wild.test"), []);
    world.end();
}

fn who_says_nothing_costs_an_error_and_not_the_session(_: &World) {
    for (manner, name) in [(RejectWith::Mute, "mute.wild.test"), (RejectWith::Silent, "silent.wild.test")] {
        let world = over_tls(manner);
        assert_eq!(ask(&world, name), FAILED);
        assert_eq!(only_over_tls(name), []);
        world.end();
    }
}

fn half_an_answer_is_none(_: &World) {
    let ways = [
        (RejectWith::Half, "half.wild.test"),
        (RejectWith::Broken, "broken.wild.test"),
        (RejectWith::Cut, "cut.wild.test"),
    ];
    for (manner, name) in ways {
        let world = over_tls(manner);
        assert_eq!(ask(&world, name), FAILED, "{manner:?}");
        assert!(!only_over_tls(name).is_empty(), "{manner:?}");
        world.end();
    }
}

fn the_next_resolver_is_asked(_: &World) {
    let both = [resolver(RejectWith::Unknown, NAME), resolver(RejectWith::Honest, NAME)].join(", ");
    let world = asking(&both);
    assert_eq!(ask(&world, "next.wild.test"), FOUND);
    assert_eq!(only_over_tls("next.wild.test").len(), 1);
    world.end();
}

fn without_authorities_there_is_no_session(world: &World) {
    let file = world.workspace(world.a()).join("anchors.pem");
    std::fs::copy(internet().authority(), &file).expect("a copy");
    let world = internet().world_asking(&resolver(RejectWith::Honest, NAME), &file);
    session(&world).run(["true"]).expect_code(0);
    std::fs::remove_file(&file).expect("it is there");
    let output = session(&world).run(["true"]);
    assert_eq!(output.code, Some(125));
    assert!(
        output.stderr.contains("egress.trust") && output.stderr.lines().count() == 1,
        "{}",
        output.stderr
    );
    // One that holds none: the session is there, and no name.
    std::fs::write(&file, "").expect("a new file");
    assert_eq!(ask(&world, "nobody.wild.test"), FAILED);
    assert_eq!(internet().resolver().asked("nobody.wild.test"), []);
    world.end();
}
