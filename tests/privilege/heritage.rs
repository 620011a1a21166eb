//! What root had in the shell that started the daemon is of no process of a session's, nor of the service's: not its
//! environment, its directory, its terminal, its priority.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use agentd_tests::harness::{Setup, World, wait_for_exit, within};
use agentd_tests::tests;

use crate::Member;

/// The tests of this file.
pub const TESTS: &[Member] = tests![no_process_has_what_root_started_it_with,];

/// What root has in a variable, and is called so nowhere else.
const SECRET: &str = "AKIA-of-root-4711";

fn read(pid: u32, name: &str) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Session, terminal and nice value: fields 6, 7 and 19 of proc_pid_stat(5).
fn stat(pid: u32) -> [i64; 3] {
    let stat = String::from_utf8_lossy(&read(pid, "stat")).into_owned();
    let fields: Vec<i64> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(-1))
        .collect();
    [6, 7, 19].map(|number| fields[number - 3])
}

/// Whether the writable memory of `pid` has `word` in it, as far as it can be read.
fn remembers(pid: u32, word: &str) -> bool {
    use std::os::unix::fs::FileExt as _;
    let maps = String::from_utf8_lossy(&read(pid, "maps")).into_owned();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("root may");
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (first, last) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (first, last) = (number(first), number(last));
        let mut bytes = vec![0; usize::try_from((last - first).min(64 << 20)).expect("a size")];
        memory.read_at(&mut bytes, first).is_ok_and(|count| contains(&bytes[..count], word))
    })
}

fn no_process_has_what_root_started_it_with(_: &'static World) {
    let closed = Path::new("/root").join(format!("agentd-test-{}", std::process::id()));
    std::fs::create_dir_all(&closed).expect("root's own");
    let setup = Setup::with("prewarmed_sessions = 0").env("AWS_SECRET_ACCESS_KEY", SECRET).cwd(&closed);
    let world = World::of(setup.through(&["/usr/bin/nice", "-n", "-5"]));
    let daemon = world.daemon();
    let session = world.session();
    let mut running = session.spawn_ready("echo ready; read line; exit 0");
    let parts = within(Duration::from_secs(10), || {
        daemon.parts(world.a()).into_iter().find(agentd_tests::harness::Parts::whole).ok_or(())
    });
    let parts = parts.expect("a session that runs");
    let (launcher, service) = (daemon.pid(), daemon.service_pid().expect("it runs"));
    let helpers = [parts.keeper, parts.relay, parts.init].map(|pid| pid.expect("whole"));
    let inode = |path: &Path| path.metadata().map(|data| (data.dev(), data.ino())).ok();
    for pid in helpers.iter().chain(&parts.agents).chain(&[launcher, service]).copied() {
        let name = String::from_utf8_lossy(&read(pid, "comm")).trim().to_owned();
        for file in ["environ", "cmdline"] {
            assert!(!contains(&read(pid, file), SECRET), "{name} has root's {file}");
        }
        assert!(!remembers(pid, SECRET), "{name} has root's environment in its memory");
        let cwd = inode(Path::new(&format!("/proc/{pid}/cwd")));
        assert!(cwd.is_some() && cwd != inode(&closed), "{name} is in root's directory");
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("root may").flatten() {
            assert_ne!(inode(&entry.path()), inode(&closed), "{name} has root's directory open");
        }
    }
    for pid in [parts.keeper, parts.init].map(|pid| pid.expect("whole")) {
        assert!(read(pid, "environ").iter().all(|byte| *byte == 0), "{pid} has an environment");
        assert!(!contains(&read(pid, "cmdline"), "agentd.toml"), "{pid} has the launcher's command line");
    }
    let [session_of_launcher, ..] = stat(launcher);
    for pid in helpers.iter().chain(&parts.agents).copied() {
        let [session, terminal, nice] = stat(pid);
        assert_ne!(session, session_of_launcher, "{pid} is in root's session");
        assert_eq!((terminal, nice), (0, 0), "{pid}: terminal, priority");
    }
    assert_ne!(stat(service)[0], session_of_launcher, "the service is in root's session");
    world.agentctl(world.a(), ["kill", session.name()]).expect_code(0);
    wait_for_exit(&mut running, Duration::from_secs(20)).expect("it ends");
    world.end();
    std::fs::remove_dir_all(&closed).ok();
}
