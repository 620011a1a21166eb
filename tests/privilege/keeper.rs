//! A compromised keeper: what it is, and what it can do to the host and to others. The attempts are
//! [`ATTEMPTS`]; each is first shown to work as root, so that it can fail.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentd_tests::harness::{Session, User, World, wait_for_exit, within};
use agentd_tests::tests;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::Member;
use crate::as_keeper::try_as;
use crate::asking::{as_user, seqpacket};
use crate::attempts::{ATTEMPTS, Expect};

/// The tests of this file.
pub const TESTS: &[Member] = tests![
    has_no_right_on_the_host,
    holds_no_descriptor_of_others,
    cannot_harm_the_host_or_others,
    is_spoken_to_by_the_service_and_root_alone,
];

const SOON: Duration = Duration::from_secs(10);

/// A session that runs until this goes.
struct Running {
    client: Child,
    workspace: PathBuf,
    agent: u32,
    init: u32,
    keeper: u32,
    relay: u32,
}

impl Running {
    fn start(world: &World, user: &User) -> Self {
        let workspace = world.workspace(user);
        user.write(workspace.join("file"), "the caller's\n");
        let name = world.unique("kept");
        let session = Session::new(world, user, &workspace).option("--workspace").option(".:direct");
        let script = format!("echo ready; exec -a {name} sleep 1000");
        let mut command: Command = session.command(["bash", "-c", &script]);
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("agentctl");
        let mut line = String::new();
        let output = client.stdout.as_mut().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        let agent = named(world, &name);
        let init = parent(agent);
        let keeper = parent(init);
        let relay = children(keeper).into_iter().find(|pid| *pid != init).expect("the keeper's other child");
        Self { client, workspace, agent, init, keeper, relay }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.client.id().cast_signed()).expect("a pid");
        kill_process(pid, Signal::TERM).ok();
        let ended = wait_for_exit(&mut self.client, SOON);
        let gone = within(SOON, || {
            let left = [self.agent, self.init, self.keeper, self.relay]
                .map(|p| Path::new(&format!("/proc/{p}")).exists());
            if left == [false; 4] { Ok(()) } else { Err(left) }
        });
        if !std::thread::panicking() {
            assert!(ended.is_some(), "agentctl did not end");
            assert_eq!(gone, Ok(()), "agent, init, keeper, relay");
        }
    }
}

fn field(pid: u32, key: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim().to_owned()
}

fn parent(pid: u32) -> u32 {
    field(pid, "PPid:").parse().expect("a process that lives")
}

fn all() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn children(pid: u32) -> Vec<u32> {
    all().into_iter().filter(|child| field(*child, "PPid:") == pid.to_string()).collect()
}

fn uid(pid: u32) -> u32 {
    field(pid, "Uid:").split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The process of a session that calls itself `name`.
fn named(world: &World, name: &str) -> u32 {
    let mut found = None;
    within(SOON, || {
        {
            found = all().into_iter().find(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.starts_with(format!("{name}\0").as_bytes()) && world.daemon().leases(uid(*pid))
            });
            found.ok_or(())
        }
        .map(drop)
    })
    .expect("the session's command");
    found.expect("the session's command")
}

fn has_no_right_on_the_host(world: &'static World) {
    let session = Running::start(world, world.a());
    let keeper = session.keeper;
    let own = uid(keeper);
    assert_eq!(own % 3, world.daemon().first_uid % 3, "the first id of a lease");
    for key in ["Uid:", "Gid:"] {
        assert_eq!(field(keeper, key), [own.to_string().as_str(); 4].join("\t"), "{key}");
    }
    for key in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(keeper, key), "0000000000000000", "{key}");
    }
    let rest = ["Groups:", "NoNewPrivs:", "Seccomp:", "Threads:"].map(|key| field(keeper, key));
    assert_eq!(rest, ["", "1", "2", "1"]);
    // Its root is an empty directory that nothing can be written to.
    let root = PathBuf::from(format!("/proc/{keeper}/root"));
    assert_eq!(std::fs::read_dir(&root).expect("root may look").count(), 0);
    assert_ne!(namespace(keeper, "mnt"), namespace(session.agent, "mnt"));
    assert_ne!(namespace(keeper, "mnt"), namespace(world.daemon().pid(), "mnt"));
    assert_ne!(namespace(keeper, "user"), namespace(session.agent, "user"));
}

fn namespace(pid: u32, kind: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("root may look")
}

fn holds_no_descriptor_of_others(world: &'static World) {
    let session = Running::start(world, world.a());
    let entries = std::fs::read_dir(format!("/proc/{}/fd", session.keeper)).expect("root may look");
    let mut named = Vec::new();
    for entry in entries.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        let info = std::fs::read_to_string(format!(
            "/proc/{}/fdinfo/{}",
            session.keeper,
            entry.file_name().display()
        ));
        let kind = ["socket:", "pipe:", "anon_inode:"].iter().any(|kind| target.starts_with(kind));
        if !kind {
            named.push((target, info.unwrap_or_default().lines().nth(1).unwrap_or_default().to_owned()));
        }
    }
    // The host's /proc, the lock of the lease, its session's mounts, mount namespace and groups, the launcher's
    // standard streams, and by O_PATH the session's file systems in memory, whose free room it looks at: nothing else
    // has a name.
    let log = world.daemon().dir.join("log");
    let mounts = PathBuf::from(format!("/proc/{}/mountinfo", session.keeper));
    let inside = namespace(session.agent, "mnt");
    let flags_of = |info: &str| {
        info.split_ascii_whitespace()
            .nth(1)
            .and_then(|flags| u32::from_str_radix(flags, 8).ok())
            .expect("flags")
    };
    let scratch = |target: &str, info: &str| {
        let home = world.a().home.to_str() == Some(target);
        (home || ["/dev/shm", "/tmp"].contains(&target)) && flags_of(info) & libc::O_PATH as u32 != 0
    };
    let own = |target: &str| {
        ["/proc", "/", "/dev/null"].contains(&target)
            || [&log, &mounts, &inside].into_iter().any(|path| Path::new(target) == path)
            || target.contains("/leases/")
            || ["cgroup.kill", "pids.events", "memory.events", "memory.oom_control", "cgroup.procs"]
                .iter()
                .any(|f| target.ends_with(f))
    };
    // To see whose a socket is; nobody is moved by it.
    let members =
        named.iter().find(|(target, _)| target.ends_with("cgroup.procs")).expect("the session's processes");
    assert_eq!(flags_of(&members.1) & libc::O_ACCMODE as u32, libc::O_RDONLY as u32, "{members:?}");
    let foreign: Vec<_> =
        named.iter().filter(|(target, info)| !own(target) && !scratch(target, info)).collect();
    assert!(foreign.is_empty(), "{foreign:#?} among {named:#?}");
    assert!(named.len() <= 15, "{named:#?}");
}

/// Where a program is mapped in a process, and a descriptor that it has.
fn address(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("root may look");
    let first = maps.lines().next().and_then(|line| line.split('-').next()).expect("a mapping");
    u64::from_str_radix(first, 16).expect("an address")
}

fn any_descriptor(pid: u32) -> i64 {
    let mut entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("root may look").flatten();
    entries.find_map(|entry| entry.file_name().to_str()?.parse().ok()).expect("a descriptor")
}

fn group(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).expect("cgroup2");
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    let mount = mountinfo.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup2");
    format!("{}{path}", mount.split(' ').nth(4).expect("a mount point"))
}

fn target(world: &World, own: &Running, other: &Running) -> Value {
    let launcher = world.daemon().pid();
    let service = children(launcher)
        .into_iter()
        .find(|pid| field(*pid, "Name:") == "agentd")
        .expect("the service is the launcher's child");
    let caller = own.client.id();
    let victim = world.daemon().dir.join(world.unique("program"));
    std::fs::write(&victim, "#!/bin/true\n").expect("a new file");
    json!({
        "agent": own.agent, "keeper": own.keeper, "keeper_uid": uid(own.keeper),
        "other_agent": other.agent, "other_keeper": other.keeper, "other_relay": other.relay,
        "relay": own.relay, "launcher": launcher, "service": service, "caller": caller,
        "workspace": own.workspace, "victim": victim,
        "runtime": world.daemon().runtime(), "state": world.daemon().state(),
        "cgroup": group(own.agent), "other_cgroup": group(other.agent),
        "addresses": {
            "agent": address(own.agent), "other_agent": address(other.agent), "launcher": address(launcher),
            "caller": address(caller), "other_keeper": address(other.keeper),
        },
        "descriptors": {
            "launcher": any_descriptor(launcher), "other_keeper": any_descriptor(other.keeper),
        },
    })
}

fn cannot_harm_the_host_or_others(world: &'static World) {
    let (own, other) = (Running::start(world, world.a()), Running::start(world, world.a()));
    let target = target(world, &own, &other);
    let mut wrong = Vec::new();
    for attempt in ATTEMPTS {
        for (who, expected) in [
            ("root", attempt.root),
            ("keeper", attempt.keeper),
            ("owner", attempt.owner),
            ("filtered", attempt.filtered),
        ] {
            let right = match (expected, attempt.keeper) {
                (Expect::Untried, _) => continue,
                (Expect::Works, _) => vec![0],
                // What the filter lets through, the kernel refuses as it does without.
                (Expect::Refused(errors), Expect::Refused(more)) if who == "filtered" => {
                    [errors, more].concat()
                }
                (Expect::Refused(errors), _) => errors.to_vec(),
            };
            let got = try_as(who, attempt, &target);
            if !right.contains(&got) {
                wrong.push(format!("{} as {who}: {got}, not {right:?}", attempt.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Whatever was tried, both sessions live, and the file is as it was.
    for pid in [own.agent, other.agent, other.keeper] {
        assert!(Path::new(&format!("/proc/{pid}")).exists());
    }
    let file = own.workspace.join("file");
    use std::os::unix::fs::MetadataExt;
    let after = std::fs::metadata(&file).expect("it is there");
    assert_eq!((after.uid(), after.mode() & 0o7777), (world.a().uid, 0o644));
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "the caller's\n");
    std::fs::remove_file(target["victim"].as_str().expect("a path")).ok();
}

/// Whoever is neither is kept out by the directory and the socket's mode; and, were they opened, by the keeper.
fn is_spoken_to_by_the_service_and_root_alone(world: &'static World) {
    let session = Running::start(world, world.a());
    let text = std::fs::read_to_string(format!("/proc/{}/cmdline", session.agent)).expect("it lives");
    let events = world.agentctl(world.a(), ["ps", "--json"]).expect_code(0).text();
    let name = text.split('\0').next().expect("its name");
    let line = events.lines().find(|line| line.contains(name)).expect("it is listed");
    let listed: Value = serde_json::from_str(line).expect("JSON");
    let path = world.daemon().runtime().join("keepers").join(listed["id"].as_str().expect("an id"));
    let leased = (uid(session.keeper), uid(session.relay), uid(session.agent));
    let callers = [world.a().uid, world.b().uid, world.outsider().uid, leased.0, leased.1, leased.2];
    for caller in callers {
        let refused = as_user(caller, caller, &[], || seqpacket(&path)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "uid {caller}");
    }
    let meta = std::fs::metadata(path.parent().expect("a directory")).expect("root may look");
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o711));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("root may");
    for caller in callers {
        let socket = as_user(caller, caller, &[], || seqpacket(&path)).expect("the mode lets it");
        let cut = crate::packets::ends_within(agentd_kernel::packets::Packets::from_fd(socket), SOON);
        assert!(cut, "the keeper speaks with uid {caller}");
    }
    // The session is none the worse for it.
    assert!(Path::new(&format!("/proc/{}", session.agent)).exists());
    world.agentctl(world.a(), ["kill", listed["id"].as_str().expect("an id"), "-s", "CONT"]).expect_code(0);
}
