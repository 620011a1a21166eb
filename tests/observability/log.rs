//! What the daemon says about itself while it runs.

use std::time::Duration;

use agentd_proto::v1::{AskedLimits, RunSpec};
use agentd_tests::harness::{Part, World, objects, text_at, within};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

/// The lines that are whole, as objects.
fn lines(world: &World) -> Vec<Value> {
    let log = world.daemon().log();
    objects(log.rsplit_once('\n').map_or("", |(whole, _)| whole))
}

/// Those that say `message`, once one is there that is also `so`.
fn saying(world: &World, message: &str, so: impl Fn(&Value) -> bool) -> Vec<Value> {
    let said = || -> Vec<Value> {
        lines(world).into_iter().filter(|line| text_at(line, "/message") == message).collect()
    };
    within(LIMIT, || Some(said()).filter(|all| all.iter().any(&so)).ok_or(()))
        .unwrap_or_else(|()| panic!("nobody said {message}\n{}", world.daemon().log()))
}

pub fn sessions(world: &World) {
    let (mut ids, user) = (Vec::new(), world.a().uid.to_string());
    for code in [0, 7] {
        let session = world.session();
        let name = session.name().to_owned();
        session.bash(&format!("exit {code}")).expect_code(code);
        ids.push(text_at(&world.events(world.a(), &name)[0], "/session"));
    }
    // As a client that asks without having looked: agentctl would refuse it by itself.
    let cwd = world.workspace(world.a());
    let spec = world.spec(world.a(), &cwd, &["true"]);
    let api = world.api(world.a());
    let limits = AskedLimits { memory: Some(1000 << 30), ..AskedLimits::default() };
    api.create(RunSpec { limits: Some(limits), ..spec }).expect_err("more than the bounds");
    drop(api);
    for (id, code) in ids.iter().zip(["0", "7"]) {
        let own = |line: &Value| text_at(line, "/session") == *id;
        let started: Vec<_> = saying(world, "session started", own).into_iter().filter(own).collect();
        assert_eq!((started.len(), text_at(&started[0], "/user")), (1, user.clone()), "{started:?}");
        let ended: Vec<_> = saying(world, "session ended", own).into_iter().filter(own).collect();
        assert_eq!(ended.len(), 1, "{ended:?}");
        let [reason, with] = ["/reason", "/code"].map(|key| text_at(&ended[0], key));
        assert_eq!((reason.as_str(), with.as_str()), ("exited", code), "{ended:?}");
        assert!(!text_at(&ended[0], "/lasted").is_empty(), "{ended:?}");
        // The launcher names it too, and so does its keeper.
        for message in ["session built", "confined", "nothing is left of a session"] {
            assert!(saying(world, message, own).iter().any(own), "{message}");
        }
    }
    let refused = saying(world, "session refused", |_| true);
    assert_eq!(text_at(&refused[0], "/rule"), "bounds.memory", "{refused:?}");
    for line in lines(world) {
        assert!(["ERROR", "WARN", "INFO", "DEBUG"].contains(&text_at(&line, "/level").as_str()), "{line}");
        // A line that is about a session names it where it can be looked for.
        let elsewhere = line.to_string().replace(&text_at(&line, "/session"), "");
        let forgotten =
            ids.iter().find(|id| elsewhere.contains(id.as_str()) && text_at(&line, "/session").is_empty());
        assert!(forgotten.is_none(), "{line}");
    }
}

pub fn hostile(world: &World) {
    // The command's name is in the session's message, and in its end.
    let program = "no\nERROR forged\x1b[2J\u{202e}";
    world.session().run([program]).expect_code(127);
    let log =
        within(LIMIT, || Some(world.daemon().log()).filter(|log| log.contains("session ended")).ok_or(()));
    let log = log.expect("its end is logged");
    assert!(log.contains("forged") && !log.lines().any(|line| line.starts_with("ERROR")), "{log}");
    let steering = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!log.contains(steering), "{log:?}");
}

pub fn level(world: &World) {
    world.session().run(["true"]).expect_code(0);
    saying(world, "session ended", |_| true);
    assert!(lines(world).iter().all(|line| text_at(line, "/level") != "DEBUG"), "{}", world.daemon().log());
    world.daemon().configure("[log]\nformat = \"json\"\nlevel = \"debug\"");
    for part in [Part::Launcher, Part::Service] {
        let said = world.daemon().reload(part);
        assert!(said.ends_with(" was read again"), "{part:?}: {said}\n{}", world.daemon().log());
    }
    world.session().run(["true"]).expect_code(0);
    // Of the launcher, and of the service.
    saying(world, "session built", |_| true);
    saying(world, "session created", |_| true);
}
