//! What programs find of their limits: the session's own control group and the CPUs, below /sys.

use std::collections::BTreeSet;
use std::path::Path;

use agentd_tests::harness::{Named, World, text_at};
use agentd_tests::tests;

pub const TESTS: &[Named] = tests![
    the_own_group_is_where_programs_look,
    nothing_else_of_sys_is_there,
    nothing_of_it_can_be_changed,
    cpus_are_as_many_as_asked_for,
    sessions_are_spread_over_the_cpus,
    java_takes_its_heap_from_the_limit,
    node_takes_its_heap_from_the_limit,
    lscpu_and_lsblk_work,
    inspect_and_ulimit_agree,
];

/// Lists the limit of memory, of processes and of CPUs, in either version of control groups.
const LIMITS: &str = "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null; \
     cat pids.max pids/pids.max 2>/dev/null; cat cpu.max cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us 2>/dev/null | xargs";

fn the_own_group_is_where_programs_look(world: &World) {
    let session = world.session().options(["--memory", "96M", "--pids", "77", "--cpus", "0.5"]);
    let output = session.bash(&format!("{LIMITS}; cut -d: -f3 /proc/self/cgroup | sort -u")).expect_code(0);
    let lines: Vec<_> = output.text().lines().map(str::to_owned).collect();
    assert_eq!(lines, ["100663296", "77", "50000 100000", "/"], "{}", output.stderr);
    // Of processes it lists those of the session alone, by the numbers that they have there: another one has
    // none, which is 0.
    let script = "for f in $(find /sys/fs/cgroup -name cgroup.procs); do cat $f; done | sort -nu | head -1
        grep ' /sys/fs/cgroup' /proc/self/mountinfo | cut -d' ' -f4 | sort -u";
    let beside = world.session();
    let mut running = beside.spawn_ready("echo ready; exec sleep 20");
    let output = world.session().bash(script).expect_code(0);
    assert_eq!(output.text(), "1\n/\n", "{}", output.stderr);
    world.agentctl(world.a(), ["kill", beside.name()]).expect_code(0);
    running.wait().expect("our own child");
}

fn nothing_else_of_sys_is_there(world: &World) {
    let script = "cd /sys; echo *; echo devices/* devices/system/*; echo block/* class/* dev/*/*
        find fs/cgroup -mindepth 1 -type d | sort; ls devices/system/cpu/cpu0 | grep -c topology; cat fs/cgroup/../../kernel/x";
    let output = world.session().bash(script);
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    let fixed =
        ["block class dev devices fs", "devices/system devices/system/cpu", "block/* class/* dev/*/*"];
    assert_eq!(lines[..3], fixed, "{text}");
    let hierarchies = [
        "fs/cgroup/cpu",
        "fs/cgroup/cpuacct",
        "fs/cgroup/cpuset",
        "fs/cgroup/memory",
        "fs/cgroup/pids",
        "fs/cgroup/unified",
    ];
    let groups = &lines[3..lines.len() - 1];
    assert!(
        groups.is_empty()
            || groups.iter().all(|line| hierarchies.contains(&line.replace("cpu,cpuacct", "cpu").as_str())),
        "{text}"
    );
    assert_eq!(lines.last(), Some(&"1"), "{text}");
}

fn nothing_of_it_can_be_changed(world: &World) {
    let script = "for f in $(find /sys -type f); do (: >> $f) 2>/dev/null && echo \"wrote $f\"; done
        for d in $(find /sys -type d); do mkdir $d/x 2>/dev/null && echo \"made $d/x\"; done; find /sys -type f | wc -l";
    let output = world.session().bash(script).expect_code(0);
    let text = output.text();
    assert!(text.trim_end().parse::<u32>().is_ok_and(|files| files > 50), "{text}");
}

/// CPUs of the host that this may run on.
fn host_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

fn cpus_are_as_many_as_asked_for(world: &World) {
    let host = host_cpus();
    for (asked, wanted) in [("0.2", 1), ("1", 1), ("1.5", 2), ("2", 2)] {
        let output = world.session().options(["--cpus", asked]).bash("nproc").expect_code(0);
        assert_eq!(output.text().trim_end(), wanted.min(host).to_string(), "--cpus {asked}");
    }
}

fn sessions_are_spread_over_the_cpus(world: &World) {
    let script = "grep Cpus_allowed_list /proc/self/status; sleep 1000";
    let names: Vec<_> = (0..6)
        .map(|_| {
            let session = world.session().options(["--cpus", "1", "--detach"]);
            session.run(["bash", "-c", script]).expect_code(0).name
        })
        .collect();
    let mut seen = BTreeSet::new();
    for name in &names {
        let exec =
            world.agentctl(world.a(), ["exec", name, "--", "grep", "Cpus_allowed_list", "/proc/self/status"]);
        seen.insert(exec.expect_code(0).text());
    }
    for name in &names {
        world.agentctl(world.a(), ["kill", name]).expect_code(0);
    }
    assert!(seen.len() > usize::from(host_cpus() > 1), "{seen:?}");
}

/// Whether the host has this program; what it lacks is not tried, and said.
fn has(program: &str) -> bool {
    let there = Path::new("/usr/bin").join(program).exists();
    if !there {
        eprintln!("NOT TRIED: this host has no /usr/bin/{program}");
    }
    there
}

fn java_takes_its_heap_from_the_limit(world: &World) {
    if !has("java") {
        return;
    }
    let script = "/usr/bin/java -XX:+PrintFlagsFinal -version 2>/dev/null | grep ' MaxHeapSize' | tr -s ' ' | cut -d' ' -f5";
    let output = world.session().options(["--memory", "512M"]).bash(script).expect_code(0);
    let heap: u64 = output.text().trim_end().parse().unwrap_or_else(|_| panic!("{}", output.text()));
    assert!(heap <= 256 << 20, "a heap of {heap} bytes in a session of 512 MiB");
}

fn node_takes_its_heap_from_the_limit(world: &World) {
    if !has("node") {
        return;
    }
    let script = "console.log(v8.getHeapStatistics().heap_size_limit < 512 * 2 ** 20, require('os').availableParallelism())";
    let session = world.session().options(["--memory", "512M", "--cpus", "1"]);
    let output = session.run(["/usr/bin/node", "-e", script]).expect_code(0);
    assert_eq!(output.text(), "true 1\n", "{}", output.stderr);
}

fn lscpu_and_lsblk_work(world: &World) {
    let output = world.session().bash("lscpu >/dev/null && lsblk && echo both").expect_code(0);
    assert_eq!(output.text(), "both\n", "{}", output.stderr);
}

fn inspect_and_ulimit_agree(world: &World) {
    let session = world.session();
    let script = "ulimit -Sn; ulimit -Hn";
    let output = session.run(["bash", "-c", script]).expect_code(0);
    let inspected = world.agentctl(world.a(), ["inspect", &output.name, "--json"]).expect_code(0).text();
    let inspected: serde_json::Value = serde_json::from_str(inspected.trim_end()).expect("JSON");
    let files = text_at(&inspected, "/limits/open_files");
    assert_eq!(output.text(), format!("{files}\n{files}\n"));
}
