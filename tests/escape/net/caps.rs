//! Ways to send more than a rule's cap, which is a quarter of what each of them tries: outside all of it arrives, in a
//! session no more than the cap.

use agentd_tests::harness::{Test, World, complete, text_at};

use crate::internet;

const ACTS: [&str; 5] = ["again", "parallel", "names", "pipeline", "datagrams"];
const ALL: u64 = 20_000;
const CAP: u64 = 5_000;
const SCRIPT: &str = include_str!("caps.py");
const PROFILE: &str = r#"
schema = 1
name = "capped"
extends = ["default"]
[[network.allow]]
host = "echo.test"
ports = [7]
max_sent = 5000
[[network.allow]]
host = "echo.test"
ports = [7]
protocol = "udp"
max_sent = 5000
[[network.allow]]
host = "*.wild.test"
ports = [80]
max_sent = 5000
[[network.allow]]
host = "free.wild.test"
ports = [80]
"#;

pub fn tests() -> impl Iterator<Item = Test> {
    let of = |place: &'static str, act: &'static str, run: fn(&World, &str)| -> Test {
        (format!("caps::{place}::{act}"), Box::new(move |world| run(world, act)))
    };
    ACTS.into_iter().flat_map(move |act| [of("outside", act, outside), of("inside", act, inside)])
}

fn arrived(text: &str) -> u64 {
    text.trim().parse().expect("a number of bytes")
}

fn outside(world: &World, act: &str) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("caps.py"), SCRIPT);
    let mut command = internet().command(world.a(), "/usr/bin/python3");
    let output = complete(command.arg(dir.join("caps.py")).arg(act), vec![], act.into()).expect_code(0);
    assert_eq!(arrived(&output.text()), ALL, "{}", output.stderr);
}

fn inside(world: &World, act: &str) {
    let dir = world.workspace(world.a());
    world.a().write(dir.join("caps.py"), SCRIPT);
    world.a().write(dir.join("capped.toml"), PROFILE);
    let session = world.session_in(&dir).options(["--profile", "./capped.toml"]);
    let output = session.bash(&format!("python3 caps.py {act}")).expect_code(0);
    let arrived = arrived(&output.text());
    assert!((1000..=CAP).contains(&arrived), "{arrived} bytes arrived: {}", output.stderr);
    let events = world.all_events(world.a(), &output.name);
    // Of a connection that another rule allows as well not all counts.
    let sent: u64 = events.iter().filter_map(|event| event["net"]["sent"].as_u64()).sum();
    assert!(sent <= CAP || act == "pipeline", "{sent} bytes went: {events:#?}");
    let refused = events.iter().find(|event| text_at(event, "/rule").starts_with("cap.sent "));
    assert!(refused.is_some_and(|event| event["decision"] == "deny"), "{events:#?}");
}
