//! The table, line by line.

use std::collections::BTreeMap;

use agentd_proto::v1::{InspectRequest, VersionRequest};
use agentd_tests::harness::{Alone, Api, Setup, User, World, alone, within};
use tonic::{Code, Status};

use crate::calls::{self, Target};

/// A line about sessions.
struct Row {
    call: &'static str,
    state: &'static str,
    /// By whose it is.
    expected: [&'static str; 4],
}

/// A line about none.
struct Global {
    call: &'static str,
    expected: [&'static str; 3],
}

fn lines() -> impl Iterator<Item = Vec<&'static str>> {
    let lines = include_str!("table.md").lines().filter(|line| line.starts_with('|'));
    let cells = lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter(|cells| cells[0] != "call" && !cells[0].starts_with('-'))
}

fn rows() -> BTreeMap<&'static str, Vec<Row>> {
    let mut rows = BTreeMap::<_, Vec<Row>>::new();
    for cells in lines() {
        if let [call, state, own, foreign, admin, root] = cells[..] {
            let row = Row { call, state, expected: [own, foreign, admin, root] };
            rows.entry(call).or_default().push(row);
        }
    }
    rows
}

fn globals() -> Vec<Global> {
    let of = |cells: Vec<&'static str>| match cells[..] {
        [call, user, admin, root] => Some(Global { call, expected: [user, admin, root] }),
        _ => None,
    };
    lines().filter_map(of).collect()
}

/// A test for each call.
pub(crate) fn tests() -> Vec<Alone> {
    let rows = rows();
    assert_eq!(rows.len(), 12, "the table is not read");
    let of_sessions = rows.into_iter().map(|(call, rows)| {
        assert_eq!(rows.len(), 3, "{call}: running, ended, never");
        alone(&format!("api::table::{call}"), Setup::with("prewarmed_sessions = 0"), move |world| {
            sessions(world, &rows)
        })
    });
    let mut tests: Vec<Alone> = of_sessions.collect();
    tests.push(alone("api::table::of_no_session", Setup::default(), no_session));
    tests
}

fn code(name: &str) -> Code {
    match name {
        "OK" => Code::Ok,
        "NotFound" => Code::NotFound,
        "PermissionDenied" => Code::PermissionDenied,
        "FailedPrecondition" => Code::FailedPrecondition,
        other => panic!("table.md: no status is called {other:?}"),
    }
}

/// Whoever asks, with a connection.
struct Caller {
    user: User,
    api: Api,
    /// Its column, on the session of `owner`.
    admin: bool,
}

impl Caller {
    fn column(&self, owner: &User) -> usize {
        match () {
            () if self.user.uid == owner.uid => 0,
            () if self.user.uid == 0 => 3,
            () if self.admin => 2,
            () => 1,
        }
    }
}

fn callers(world: &World) -> Vec<Caller> {
    // A connection that asks nothing for long is cut off.
    let connected = |user: &User| {
        let api = world.api(user);
        api.ask(api.client().version(VersionRequest {})).expect("an answer");
        api
    };
    let caller = |user: &User, admin| Caller { user: user.clone(), api: connected(user), admin };
    vec![
        caller(world.a(), false),
        caller(world.b(), false),
        caller(world.admin(), true),
        caller(&User::root(), false),
    ]
}

fn sessions(world: &World, rows: &[Row]) {
    let callers = callers(world);
    let owners = [world.a(), world.b(), world.admin()];
    for row in rows {
        for owner in owners {
            let mut target = None;
            for caller in &callers {
                let used = target.take().unwrap_or_else(|| make(world, owner, row.state));
                let expected = code(row.expected[caller.column(owner)]);
                let got = calls::on_session(&caller.api, row.call, &used);
                let what = format!(
                    "{} of a session of {} ({}) by {}",
                    row.call, owner.name, row.state, caller.user.name
                );
                assert_eq!(
                    got.as_ref().map_or_else(Status::code, |()| Code::Ok),
                    expected,
                    "{what}: {got:?}"
                );
                if let Err(status) = got {
                    calls::check_form(&status, &what);
                    if caller.column(owner) == 1 {
                        calls::check_says_nothing(&caller.api, row.call, &used, &status, &what);
                    }
                }
                if is_still(world, owner, row.state, &used) {
                    target = Some(used);
                }
            }
        }
    }
}

/// A session of `owner` in a state.
fn make(world: &World, owner: &User, state: &str) -> Target {
    if state == "never" {
        return Target { id: "0fedcba98765".into(), name: world.unique("never") };
    }
    let api = world.api(owner);
    let script = if state == "running" { "echo up; sleep 1000" } else { "echo up" };
    let spec = world.spec(owner, &world.workspace(owner), &["bash", "-c", script]);
    let name = spec.name.clone();
    let id = api.create(spec).unwrap_or_else(|status| panic!("a session of {}: {status:?}", owner.name));
    let target = Target { id, name };
    let so = within(std::time::Duration::from_secs(10), || {
        if is_still(world, owner, state, &target) { Ok(()) } else { Err(()) }
    });
    assert_eq!(so, Ok(()), "a session that is {state}");
    target
}

fn is_still(world: &World, owner: &User, state: &str, target: &Target) -> bool {
    if state == "never" {
        return true;
    }
    let api = world.api(owner);
    match api.ask(api.client().inspect(InspectRequest { id: target.id.clone() })) {
        Ok(reply) => reply.session.is_some_and(|session| session.state == state),
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{status:?}");
            false
        }
    }
}

fn no_session(world: &World) {
    let globals = globals();
    assert_eq!(globals.len(), 7, "the table is not read");
    for caller in callers(world) {
        let column = if caller.user.uid == 0 { 2 } else { usize::from(caller.admin) };
        for global in &globals {
            let got = calls::on_none(world, &caller.user, &caller.api, global.call);
            let what = format!("{} by {}", global.call, caller.user.name);
            let is = got.as_ref().map_or_else(Status::code, |()| Code::Ok);
            assert_eq!(is, code(global.expected[column]), "{what}: {got:?}");
            if let Err(status) = got {
                calls::check_form(&status, &what);
            }
        }
    }
}
