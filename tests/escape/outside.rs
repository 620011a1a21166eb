//! The same acts where nothing confines them: a case that does not work there proves nothing inside.

use std::process::Command;

use agentd_tests::harness::{User, World};
use agentd_tests::probe::{Case, Outside};
use serde_json::Value;

use crate::fixture::Place;

/// Runs `case` on the host: it must work.
pub fn check(world: &World, case: &Case) {
    let place = Place::new(world, case);
    let probe = world.daemon().probe();
    let mut args = vec![case.name.to_owned()];
    args.extend(place.fill_all(case.outside_args.unwrap_or(case.args)));
    let mut command = match case.outside {
        Outside::User => {
            let user: &User = world.a();
            let mut command = user.command(probe);
            let socket = place.fill("{host_socket}");
            command.env("SSH_AUTH_SOCK", &socket).env("DBUS_SESSION_BUS_ADDRESS", socket);
            command
        }
        Outside::Root => Command::new(probe),
        Outside::Apart => {
            let mut command = Command::new(probe);
            command.arg("--apart");
            command
        }
        Outside::Nowhere(why) => unreachable!("not tried outside: {why}"),
    };
    let output = command.args(args).current_dir(&place.workspace).output().expect("the probe");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "the probe broke: {text}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(text.trim()).expect("a line of JSON");
    if report["ok"] != true && case.host_may_lack {
        eprintln!("{}: this host lacks it: {}", case.name, report["detail"]);
        return;
    }
    assert_eq!(report["ok"], true, "{} does not even work outside: {report}", case.name);
}
