//! The processes of sessions, found from outside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::daemon::Daemon;
use super::host::within;
use super::users::User;

/// The processes of one session, as far as there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The name of its cgroups.
    pub lease: String,
    /// `agentd-keeper`, or the builder that will be it.
    pub keeper: Option<u32>,
    /// The pid of `agentd-relay`.
    pub relay: Option<u32>,
    /// The pid of `agentd-init`.
    pub init: Option<u32>,
    /// The session's own processes.
    pub agents: Vec<u32>,
}

impl Parts {
    /// Whether keeper, relay and init are there.
    pub fn whole(&self) -> bool {
        self.keeper.is_some() && self.relay.is_some() && self.init.is_some()
    }
}

impl Daemon {
    /// Its directory in the cgroup2 hierarchy.
    ///
    /// # Panics
    /// If the host has none.
    pub fn cgroup2(&self) -> PathBuf {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
        let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 mount");
        let mount = Path::new(line.split(' ').nth(4).expect("a mount point"));
        let [plain, scoped] = self.cgroups_in(mount);
        if scoped.is_dir() { scoped } else { plain }
    }

    /// The sessions of `user` that have processes, prepared ones too.
    pub fn parts(&self, user: &User) -> Vec<Parts> {
        let root = self.cgroup2();
        let user = format!("u{}", user.uid);
        let mut found: Vec<Parts> = Vec::new();
        for half in ["helpers", "agents"] {
            for entry in std::fs::read_dir(root.join(half).join(&user)).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let lease = entry.file_name().to_string_lossy().into_owned();
                let at = found.iter().position(|parts| parts.lease == lease).unwrap_or_else(|| {
                    found.push(Parts { lease, ..Parts::default() });
                    found.len() - 1
                });
                for pid in members(&entry.path()) {
                    match comm(pid).as_str() {
                        "agentd-keeper" => found[at].keeper = found[at].keeper.or(Some(pid)),
                        "agentd-relay" => found[at].relay = Some(pid),
                        "agentd-init" => found[at].init = found[at].init.or(Some(pid)),
                        _ if half == "agents" => found[at].agents.push(pid),
                        _ => {}
                    }
                }
            }
        }
        found.retain(|parts| *parts != Parts { lease: parts.lease.clone(), ..Parts::default() });
        found
    }

    /// The processes below one half of its groups, `"helpers"` or `"agents"`.
    pub fn members(&self, half: &str) -> Vec<u32> {
        members(&self.cgroup2().join(half))
    }

    /// The launcher's children besides the service.
    pub fn children(&self) -> Vec<u32> {
        let service = self.service_pid();
        children_of(self.pid()).into_iter().filter(|pid| Some(*pid) != service).collect()
    }

    /// The session of `user` in which a process has `word` in its command line.
    pub fn session_with(&self, user: &User, word: &str) -> Option<Parts> {
        let says = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        };
        self.parts(user).into_iter().find(|parts| parts.agents.iter().any(says))
    }

    /// The same, once it is there, whole.
    ///
    /// # Panics
    /// If that does not come.
    #[track_caller]
    pub fn await_session(&self, user: &User, word: &str) -> Parts {
        let mut found = None;
        let there = within(Duration::from_secs(10), || {
            found = self.session_with(user, word).filter(Parts::whole);
            if found.is_some() { Ok(()) } else { Err(()) }
        });
        assert_eq!(there, Ok(()), "no session with {word:?}: {:#?}", self.parts(user));
        found.expect("just found")
    }
}

/// The processes of a cgroup and those below it.
fn members(dir: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(members(&entry.path()));
        }
    }
    pids.sort_unstable();
    pids
}

/// What a process calls itself.
pub fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// The children of a process.
pub fn children_of(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let words = lists.map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    words.flatten().filter_map(|word| word.parse().ok()).collect()
}

/// The child of `parent` that calls itself `name`.
pub fn child_of(parent: u32, name: &str) -> Option<u32> {
    children_of(parent).into_iter().find(|pid| comm(*pid) == name)
}

/// Sends SIGKILL and waits until the process is gone.
///
/// # Panics
/// If it is not gone soon.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL, true);
}

/// Sends `signal`; if `wait` is set, waits until the process is gone.
///
/// # Panics
/// If it is not gone soon.
pub fn signal(pid: u32, signal: Signal, wait: bool) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    pidfd_send_signal(&held, signal).ok();
    if wait {
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&held, PollFlags::IN)], Some(&limit)).expect("poll of a pidfd");
        assert!(ready > 0, "{pid:?} outlives {signal:?}");
    }
}

/// The most memory that a process has had, in bytes; 0 if it is gone.
pub fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// How many descriptors a process has open.
pub fn descriptors_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Whose a process is.
pub fn uid_of(pid: u32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}")).ok().map(|data| data.uid())
}
