//! One case: where nothing confines it, and in a session.

use std::collections::BTreeSet;

use agentd_tests::harness::{RunOutput, World, complete, not_tried, text_at};
use agentd_tests::probe::{Case, Outside, cases, egress_cases};
use serde_json::Value;

use crate::crowds::flood;
use crate::internet;

/// What every session of these cases may reach.
const RULES: &[&str] = &[
    "--allow",
    "good.test",
    "--allow",
    "*.wild.test",
    "--allow",
    "*.rogue.test",
    "--allow",
    "echo.test:7",
    "--deny",
    "evil.test",
];
/// Names with this label are asked for in sessions alone: the resolver may not have them from elsewhere.
const INSIDE: &str = "inside.";

fn fill(texts: &[&str]) -> Vec<String> {
    let (port, flood) = (internet().loopback_port().to_string(), flood().to_string());
    texts.iter().map(|text| text.replace("{loopback}", &port).replace("{flood}", &flood)).collect()
}

/// Options, with the profile that lists types of records, if they name it.
fn options(world: &World, texts: &[&str]) -> Vec<String> {
    const PROFILE: &str =
        "schema = 1\nname = \"types\"\nextends = [\"default\"]\n[network]\ndns_types = [\"TXT\", \"SRV\"]\n";
    let mut options = fill(texts);
    if let Some(option) = options.iter_mut().find(|option| *option == "{types}") {
        let file = world.workspace(world.a()).join("types.toml");
        world.a().write(&file, PROFILE);
        *option = file.display().to_string();
    }
    options
}

fn report(case: &Case, output: &RunOutput) -> Value {
    assert_eq!(output.code, Some(0), "{}: the probe broke: {}{}", case.name, output.text(), output.stderr);
    serde_json::from_str(output.text().trim()).expect("a line of JSON")
}

/// The act on the host of the internet: a case that does not work there proves nothing inside.
pub fn outside(world: &World, case: &Case) {
    let probe = world.daemon().probe();
    let mut command = match case.outside {
        Outside::User => internet().command(world.a(), probe),
        Outside::Root => internet().host().command(probe),
        Outside::Apart => unreachable!("these need the internet"),
        Outside::Nowhere(why) => unreachable!("not tried outside: {why}"),
    };
    command.arg(case.name).args(fill(case.outside_args.unwrap_or(case.args)));
    internet().resolver().forget();
    let output = complete(&mut command, vec![], case.name.into());
    let report = report(case, &output);
    if report["ok"] != true && case.host_may_lack {
        not_tried(&format!("this host lacks it: {}", report["detail"]));
    }
    assert_eq!(report["ok"], true, "{} does not even work outside: {report}", case.name);
}

/// The act in a session that may reach something, but not this.
pub fn inside(world: &World, case: &Case) {
    let mut command = vec![world.daemon().probe().display().to_string(), case.name.to_owned()];
    command.extend(fill(case.args));
    let session = world.session().with_probe().options(RULES).options(options(world, case.options));
    let output = session.run(command);
    let report = report(case, &output);
    assert_eq!(report["ok"], false, "{} got {}: {}", case.name, case.gain, report["detail"]);
    let errno = report["errno"].as_i64().expect("an error number");
    let errno = i32::try_from(errno).expect("an error number");
    assert!(case.refused.contains(&errno), "{}: errno {errno} ({})", case.name, report["detail"]);
    seen(world, case, &output.name);
    for name in case.args.iter().filter(|arg| arg.starts_with(INSIDE)) {
        let asked = internet().resolver().asked(&name.to_ascii_lowercase());
        assert!(asked.is_empty(), "{}: it left the host: {asked:?}", case.name);
    }
    let tracked = (internet().host().tracked(), internet().internet().tracked());
    assert_eq!(tracked, (0, 0), "{}: connections are tracked", case.name);
}

/// The event that the table names is there.
fn seen(world: &World, case: &Case, session: &str) {
    let events = world.all_events(world.a(), session);
    let Some(seen) = &case.seen else { return };
    let of_kind = events.iter().filter(|event| event["kind"] == seen.kind);
    let found = of_kind
        .filter(|event| seen.fields.iter().all(|(pointer, wanted)| text_at(event, pointer) == *wanted));
    assert!(found.count() > 0, "no event {} with {:?} in {events:#?}", seen.kind, seen.fields);
}

/// The table itself: at least as many cases as were promised, each with a name of its own.
pub fn table(_: &World) {
    let names: BTreeSet<_> = cases().chain(egress_cases()).map(|case| case.name).collect();
    assert_eq!(names.len(), cases().chain(egress_cases()).count(), "two cases of one name");
    assert!(egress_cases().count() >= 50, "{} cases", egress_cases().count());
    for case in egress_cases() {
        assert!(!case.gain.is_empty() && !case.refused.is_empty(), "{}", case.name);
    }
}
