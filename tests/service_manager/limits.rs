//! Limits of cgroups that sessions live in, lowered and raised.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use agentd_tests::harness::{World, wait_for_exit, within};

use super::reload::taken;

const LIMIT: Duration = Duration::from_secs(20);

/// What the limit of a group is, in whichever hierarchy has the controller.
fn setting(world: &World, group: &str, v1: &str, v2: &str) -> String {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    let mounts = mountinfo.lines().filter(|line| line.contains(" - cgroup"));
    let roots = mounts.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let dirs = roots.flat_map(|root| world.daemon().cgroups_in(&root)).map(|root| root.join(group));
    let mut texts = dirs
        .flat_map(|dir| [dir.join(v1), dir.join(v2)])
        .filter_map(|file| std::fs::read_to_string(file).ok());
    texts.next().unwrap_or_else(|| panic!("{group} has neither {v1} nor {v2}")).trim().to_owned()
}

fn memory_of(world: &World, group: &str) -> String {
    setting(world, group, "memory.limit_in_bytes", "memory.max")
}

/// A lower limit is set while the daemon goes on.
fn becomes(world: &World, group: &str, limit: u64) {
    let set = within(LIMIT, || match memory_of(world, group) {
        text if text == limit.to_string() => Ok(()),
        text => Err(text),
    });
    assert_eq!(set, Ok(()), "{group}: {limit}");
}

fn pids_of(world: &World, group: &str) -> String {
    setting(world, group, "pids.max", "pids.max")
}

/// In hundredths of a processor: v2 says the period as well.
fn cpus_of(world: &World, group: &str) -> u64 {
    let text = setting(world, group, "cpu.cfs_quota_us", "cpu.max");
    let quota: u64 = text.split(' ').next().and_then(|quota| quota.parse().ok()).expect("a quota");
    quota / 1000
}

pub fn rewritten(world: &World) {
    let session = world.session().options(["--cpus", "1.25", "--pids", "90", "--memory", "300M"]);
    let mut child = session.spawn_ready("echo ready; read x; exit 0");
    let user = format!("agents/u{}", world.a().uid);
    let own = format!("{user}/{}", world.daemon().await_session(world.a(), "read x").lease);
    assert_eq!((cpus_of(world, &user), cpus_of(world, &own)), (150, 125));
    assert_eq!(pids_of(world, &user), "500");
    let lower = "[bounds]\nuser_cpus = 0.5\nuser_pids = 60\nuser_memory = \"1G\"\nhost_pids = 700\nhost_memory = \"2G\"";
    taken(world, lower);
    assert_eq!(cpus_of(world, &user), 50);
    assert_eq!((pids_of(world, &user), pids_of(world, "agents")), ("60".into(), "700".into()));
    becomes(world, &user, 1 << 30);
    becomes(world, "agents", 2 << 30);
    // Its own, which nobody took back.
    assert_eq!(pids_of(world, &own), "90");
    assert_eq!(memory_of(world, &own), (300_u64 << 20).to_string());
    taken(world, "[bounds]\nuser_cpus = 2.0\nuser_pids = 900\nuser_memory = \"3G\"");
    assert_eq!((cpus_of(world, &user), cpus_of(world, &own)), (200, 125));
    assert_eq!(pids_of(world, &user), "900");
    becomes(world, &user, 3 << 30);
    assert!(child.try_wait().expect("our own child").is_none(), "nothing ends it");
    drop(child.stdin.take());
    assert_eq!(wait_for_exit(&mut child, LIMIT).and_then(|status| status.code()), Some(0));
}

fn line(child: &mut Child) -> String {
    let mut line = String::new();
    // One at a time: nothing of the next is taken along.
    BufReader::with_capacity(1, child.stdout.as_mut().expect("a pipe")).read_line(&mut line).ok();
    line
}

pub fn memory(world: &World) {
    let script = "x = b'x' * (160 << 20)\nprint('held', flush=True)\ninput()\nwhole = x.count(b'x')\ndel x\n\
                  print(whole == 160 << 20, flush=True)\ninput()";
    let mut child = world.session().spawn(["/usr/bin/python3", "-c", script]);
    assert_eq!(line(&mut child), "held\n");
    let user = format!("agents/u{}", world.a().uid);
    let before = memory_of(world, &user);
    taken(world, "prewarmed_sessions = 0\n[bounds]\nuser_memory = \"96M\"");
    // It holds more, which nobody takes from it; another session would hold more still.
    let more = within(LIMIT, || match world.session().run(["true"]) {
        refused if refused.stderr.contains("(bounds.user_memory)") => Ok(()),
        other => Err(other.stderr),
    });
    assert_eq!(more, Ok(()));
    assert_eq!(memory_of(world, &user), before);
    child.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
    assert_eq!(line(&mut child), "True\n");
    becomes(world, &user, 96 << 20);
    // The rule is taken back a moment after the limit is set.
    let more = within(LIMIT, || match world.session().run(["true"]) {
        done if done.code == Some(0) => Ok(()),
        refused => Err(refused.stderr),
    });
    assert_eq!(more, Ok(()));
    child.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("it reads");
    assert_eq!(wait_for_exit(&mut child, LIMIT).and_then(|status| status.code()), Some(0));
}
