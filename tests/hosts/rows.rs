//! Rows of doctor's that can be held against what the kernel says by other ways.

use std::collections::BTreeMap;

use agentd_kernel::landlock;
use agentd_tests::harness::{Named, World, objects, text_at};
use serde_json::Value;

pub(crate) const TESTS: [Named; 5] = [
    ("landlock", landlock_abi),
    ("cgroups", cgroups),
    ("security_modules", security_modules),
    ("user_namespaces", user_namespaces),
    ("network_and_temporary_files", network_and_tmp),
];

/// What doctor says, by name.
pub(crate) fn doctor(world: &World) -> BTreeMap<String, Value> {
    let output = world.agentctl(world.a(), ["doctor", "--json", "--no-canary"]);
    let rows = objects(&output.text()).into_iter();
    let rows: BTreeMap<_, _> = rows.map(|row| (text_at(&row, "/name"), row)).collect();
    assert!(rows.len() > 20, "{}{rows:#?}", output.stderr);
    rows
}

#[track_caller]
fn found(world: &World, name: &str) -> String {
    let mut rows = doctor(world);
    let row = rows.remove(name).unwrap_or_else(|| panic!("no row {name}: {rows:#?}"));
    assert!(["ok", "reduced"].contains(&text_at(&row, "/status").as_str()), "{row}");
    text_at(&row, "/found")
}

fn landlock_abi(world: &World) {
    let said = found(world, "landlock");
    assert!(said.starts_with(&format!("ABI {},", landlock::host_abi())), "{said}");
}

fn cgroups(world: &World) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    let of = |kind: &str| -> Vec<(String, String)> {
        let lines = mounts.lines().filter_map(|line| line.split_once(" - "));
        let lines = lines.filter(|(_, right)| right.split(' ').next() == Some(kind));
        let field = |text: &str, at: usize| text.split(' ').nth(at).unwrap_or_default().to_owned();
        lines.map(|(left, right)| (field(left, 4), field(right, 2))).collect()
    };
    let rows = doctor(world);
    let said = |name: &str| text_at(&rows[name], "/found");
    let (unified, _) = of("cgroup2").into_iter().next().expect("a mount of cgroup2");
    assert!(said("cgroup.v2").starts_with(&unified), "{}", said("cgroup.v2"));
    let v1 = of("cgroup");
    assert_eq!(said("cgroup.v2").contains("hybrid"), !v1.is_empty(), "{}", said("cgroup.v2"));
    let own = std::fs::read_to_string(format!("{unified}/cgroup.controllers")).expect("its controllers");
    for controller in ["memory", "pids", "cpu"] {
        let said = said(&format!("cgroup.{controller}"));
        if own.split_whitespace().any(|word| word == controller) {
            assert_eq!(said, "in cgroup2");
        } else {
            let has = |(_, options): &&(String, String)| options.split(',').any(|word| word == controller);
            let (point, _) = v1.iter().find(has).expect("it is somewhere: the daemon runs");
            assert_eq!(said, format!("in the v1 hierarchy {point}"));
        }
    }
}

fn security_modules(world: &World) {
    let listed = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let said = found(world, "lsm");
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if listed.contains("apparmor") || enabled.trim() == "Y" {
        assert!(said.starts_with("AppArmor"), "{said}");
    } else if !listed.contains("selinux") {
        assert!(said.starts_with("neither"), "{said}");
    }
}

fn user_namespaces(world: &World) {
    let said = found(world, "namespaces.unprivileged");
    let mut restricted = false;
    for name in ["unprivileged_userns_clone", "apparmor_restrict_unprivileged_userns"] {
        if let Ok(value) = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")) {
            restricted = true;
            assert!(said.contains(&format!("kernel.{name} = {}", value.trim())), "{said}");
        }
    }
    assert_eq!(said.starts_with("not restricted"), !restricted, "{said}");
}

fn network_and_tmp(world: &World) {
    let rows = doctor(world);
    for name in ["loopback", "nf_tables", "nflog", "tproxy"] {
        assert_eq!(text_at(&rows[name], "/status"), "ok", "{:#?}", rows[name]);
    }
    let places: Vec<_> = rows.iter().filter(|(name, _)| name.starts_with("idmap.")).collect();
    for path in
        ["/tmp", world.a().home.to_str().expect("a name"), world.daemon().state().to_str().expect("ours")]
    {
        let reported =
            |(_, row): &&(&String, &Value)| text_at(row, "/found").split(' ').any(|word| word == path);
        assert!(places.iter().any(|place| reported(&place)), "nothing of {path}: {places:#?}");
    }
}
