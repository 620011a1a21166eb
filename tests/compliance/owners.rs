//! Who sees and steers what.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

use agentd_tests::harness::{Named, Session, User, World, objects, text_at, wait_for_exit, within};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    another_user_sees_and_steers_nothing,
    an_admin_sees_and_steers_all,
    names_of_two_users_do_not_meet,
    what_a_user_removes_stays_on_record,
];

fn running<'a>(world: &'a World, user: &'a User) -> (Session<'a>, Child) {
    let session = Session::new(world, user, world.workspace(user));
    let mut child = session.spawn(["bash", "-c", "echo up; sleep 60"]);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "up\n");
    (session, child)
}

fn another_user_sees_and_steers_nothing(world: &World) {
    let (session, mut child) = running(world, world.a());
    let name = session.name();
    let listed = world.agentctl(world.b(), ["ps", "-a", "--json"]).expect_code(0).text();
    assert!(!listed.contains(name), "{listed}");
    let own = world.agentctl(world.a(), ["ps", "--json"]).expect_code(0).text();
    let line = own.lines().find(|line| line.contains(name)).expect("one's own session");
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let id = value["id"].as_str().expect("an id");
    for target in [name, id, &id[..6]] {
        let foreign = world.agentctl(world.b(), ["kill", target]).expect_code(3).stderr;
        let unknown = world.agentctl(world.b(), ["kill", "ffffffffffff"]).expect_code(3).stderr;
        assert_eq!(
            foreign.replace(target, "X"),
            unknown.replace("ffffffffffff", "X"),
            "the same answer as for none"
        );
        world.agentctl(world.b(), ["events", target]).expect_code(3);
        world.agentctl(world.b(), ["rm", "-f", target]).expect_code(3);
    }
    let events = world.agentctl(world.b(), ["events", "--json"]).expect_code(0).text();
    assert!(!events.contains(id), "{events}");
    assert!(child.try_wait().expect("our own child").is_none(), "it still runs");
    world.agentctl(world.a(), ["kill", name]).expect_code(0);
    assert_eq!(wait_for_exit(&mut child, Duration::from_secs(10)).expect("it ends").code(), Some(137));
}

fn an_admin_sees_and_steers_all(world: &World) {
    let (session, mut child) = running(world, world.a());
    let listed = world.agentctl(world.admin(), ["ps", "--json"]).expect_code(0).text();
    let line = listed.lines().find(|line| line.contains(session.name())).expect("everyone's sessions");
    assert!(line.contains(&world.a().name), "{line}");
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    world.agentctl(world.admin(), ["kill", value["id"].as_str().expect("an id")]).expect_code(0);
    assert_eq!(wait_for_exit(&mut child, Duration::from_secs(10)).expect("it ends").code(), Some(137));
}

fn names_of_two_users_do_not_meet(world: &World) {
    let name = world.unique("same");
    for user in [world.a(), world.b()] {
        let dir = world.workspace(user);
        let mut agentctl = user.command(world.daemon().agentctl());
        agentctl
            .arg("--socket")
            .arg(world.daemon().socket())
            .args(["run", "--name", &name, "true"])
            .current_dir(dir);
        let output = agentctl.output().expect("setpriv");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// By `rm` and by `--rm`: gone for its user, and on record for admins.
fn what_a_user_removes_stays_on_record(world: &World) {
    let script = "/usr/bin/env true; exec /bin/sleep 0.2";
    let kept = Session::new(world, world.a(), world.workspace(world.a())).bash(script).expect_code(0);
    let id = text_at(&world.all_events(world.a(), &kept.name)[0], "/session");
    world.agentctl(world.a(), ["rm", &kept.name]).expect_code(0);
    let flag =
        Session::new(world, world.a(), world.workspace(world.a())).option("--rm").bash(script).expect_code(0);
    let find = |user: &User, key: &str, value: &str| {
        let listed = world.agentctl(user, ["ps", "-a", "--json"]).expect_code(0).text();
        objects(&listed).into_iter().find(|session| session[key] == value)
    };
    let flag = text_at(&find(world.admin(), "name", &flag.name).expect("it is on record"), "/id");
    for id in [id.as_str(), &flag] {
        let listed = |user| find(user, "id", id);
        let soon = within(Duration::from_secs(10), || match listed(world.a()) {
            None => Ok(()),
            Some(session) => Err(format!("{session}")),
        });
        assert_eq!(soon, Ok(()), "it is gone for its user");
        world.agentctl(world.a(), ["events", id]).expect_code(3);
        world.agentctl(world.a(), ["inspect", id]).expect_code(3);
        assert!(!world.agentctl(world.a(), ["events", "--json"]).expect_code(0).text().contains(id));
        assert_eq!(text_at(&listed(world.admin()).expect("it is on record"), "/state"), "removed");
        for args in [&["events", "--json", id][..], &["events", "--json"]] {
            let events = objects(&world.agentctl(world.admin(), args).expect_code(0).text());
            let of_it: Vec<_> = events.iter().filter(|event| event["session"] == id).collect();
            let has = |kind: &str| of_it.iter().any(|event| event["kind"] == kind);
            assert!(has("session.created") && has("process.exec") && has("session.ended"), "{of_it:#?}");
        }
        // Nobody steers it, or removes it a second time.
        world.agentctl(world.admin(), ["rm", id]).expect_code(3);
        world.agentctl(world.admin(), ["logs", id]).expect_code(3);
    }
}
