//! What of a daemon is on the host: taken before and after, to find what was left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::parts::comm;
use super::wait::patience;

/// One look at the host. Two of the same are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Processes with a uid of the pool, or below the daemon, or in its groups.
    pub processes: BTreeSet<String>,
    /// Mounts, here and in the launcher's namespace.
    pub mounts: BTreeSet<String>,
    /// Groups below the daemon's in every hierarchy that are of a session.
    pub cgroups: BTreeSet<String>,
    /// How many namespaces of each kind a process or a descriptor of the daemon holds.
    pub namespaces: BTreeSet<String>,
    /// Uids of the pool that a process has.
    pub uids: BTreeSet<String>,
    /// Unix sockets with a name in the daemon's directory.
    pub sockets: BTreeSet<String>,
    /// Files in the runtime directory, and in the state directory but for events.
    pub files: BTreeSet<String>,
    /// Leases that somebody holds.
    pub leases: BTreeSet<String>,
    /// Open descriptors of the launcher, by kind.
    pub launcher_descriptors: Vec<String>,
    /// Open descriptors of the service, by kind.
    pub service_descriptors: Vec<String>,
}

impl Snapshot {
    /// The host as it is now.
    pub fn take(daemon: &Daemon) -> Self {
        let (pids, processes) = processes(daemon);
        Self {
            processes,
            mounts: mounts(daemon),
            cgroups: cgroups(daemon),
            namespaces: namespaces(&pids),
            uids: uids(daemon),
            sockets: sockets(daemon),
            files: files(daemon),
            leases: leases(daemon),
            launcher_descriptors: descriptors(daemon.pid()),
            service_descriptors: daemon.service_pid().map(descriptors).unwrap_or_default(),
        }
    }

    /// Waits until nothing changes any more and no session has anything.
    ///
    /// # Panics
    /// If that does not come.
    #[track_caller]
    pub fn settled(daemon: &Daemon) -> Self {
        let mut last = Self::take(daemon);
        let settled = within(patience(Duration::from_secs(30)), || {
            std::thread::sleep(Duration::from_millis(100));
            let now = Self::take(daemon);
            let clean = now.cgroups.is_empty() && now.leases.is_empty() && now.uids.is_empty();
            let alone =
                now.processes.iter().all(|name| ["launcher", "service", "hold"].contains(&name.as_str()));
            let same = now == last && clean && alone && now.processes.len() >= 2;
            last = now;
            if same { Ok(()) } else { Err(()) }
        });
        assert_eq!(settled, Ok(()), "no clean host to begin with: {last:#?}\n{}", about(daemon));
        last
    }

    /// What is left of a daemon that has ended: nothing should be.
    pub fn of_nothing(daemon: &Daemon) -> Vec<String> {
        let (_, mut left) = processes(daemon);
        left.retain(|process| process != "launcher");
        left.extend(mounts(daemon));
        left.extend(cgroup_roots(daemon));
        left.extend(sockets(daemon));
        left.extend(leases(daemon));
        left.into_iter().collect()
    }

    /// Fails unless the host is as in `self` again within `limit`, or [`patience`] for it.
    ///
    /// # Panics
    /// Then, with what differs.
    #[track_caller]
    pub fn assert_same_within(&self, daemon: &Daemon, limit: Duration) {
        let limit = patience(limit);
        let result = within(limit, || {
            let now = Self::take(daemon);
            if *self == now { Ok(()) } else { Err(self.difference(&now)) }
        });
        if let Err(difference) = result {
            panic!("left behind after {limit:?}:\n{difference}");
        }
    }

    fn difference(&self, now: &Self) -> String {
        let sets = [
            ("processes", &self.processes, &now.processes),
            ("mounts", &self.mounts, &now.mounts),
            ("cgroups", &self.cgroups, &now.cgroups),
            ("namespaces", &self.namespaces, &now.namespaces),
            ("uids", &self.uids, &now.uids),
            ("sockets", &self.sockets, &now.sockets),
            ("files", &self.files, &now.files),
            ("leases", &self.leases, &now.leases),
        ];
        let mut text = String::new();
        for (what, before, after) in sets {
            for new in after.difference(before) {
                text += &format!("  {what}: + {new}\n");
            }
            for gone in before.difference(after) {
                text += &format!("  {what}: - {gone}\n");
            }
        }
        for (what, before, after) in [
            ("launcher", &self.launcher_descriptors, &now.launcher_descriptors),
            ("service", &self.service_descriptors, &now.service_descriptors),
        ] {
            if before != after {
                text += &format!(
                    "  {what}'s descriptors: {} before, {} now: {after:?}\n",
                    before.len(),
                    after.len()
                );
            }
        }
        text
    }
}

/// Tries until it is so: waits for a condition of the kernel's that no descriptor reports.
///
/// # Errors
/// The last try's, after `limit`.
pub fn within<T, E>(limit: Duration, mut so: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let (start, limit) = (Instant::now(), patience(limit));
    loop {
        match so() {
            Err(_) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

fn processes(daemon: &Daemon) -> (Vec<u32>, BTreeSet<String>) {
    let (group, scope) = (format!("/{}/", daemon.cgroup()), format!("/{}.scope/", daemon.cgroup()));
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next().and_then(|word| word.parse::<u32>().ok())
        };
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let ours = field("Uid:").is_some_and(|uid| daemon.leases(uid));
        let ours = ours || groups.contains(&group) || groups.contains(&scope);
        all.push((pid, field("PPid:").unwrap_or(0), ours));
    }
    let (launcher, service) = (daemon.pid(), daemon.service_pid());
    let mut pids: Vec<u32> = [launcher].into_iter().chain(service).collect();
    pids.dedup();
    let mut at = 0;
    while at < pids.len() {
        let this = pids[at];
        let children = all.iter().filter(|(_, parent, _)| *parent == this).map(|(pid, ..)| *pid);
        let new: Vec<u32> = children.filter(|pid| !pids.contains(pid)).collect();
        pids.extend(new);
        at += 1;
    }
    for (pid, _, ours) in all {
        if ours && !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    // Launcher and service may be others than before: they are still the same.
    let name = |pid: &u32| match *pid {
        pid if pid == launcher => "launcher".to_owned(),
        pid if Some(pid) == service => "service".to_owned(),
        // Keeps the scope under systemd, for as long as the launcher or a session is there.
        pid if comm(pid) == "agentd-hold" => "hold".to_owned(),
        pid => format!("{pid} {}", comm(pid)),
    };
    let names = pids.iter().map(name).collect();
    (pids, names)
}

/// What its processes wait for, and the last lines of its log: for the reader of a failure.
fn about(daemon: &Daemon) -> String {
    let mut text = String::new();
    for pid in processes(daemon).0 {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let state =
            read("status").lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned();
        text += &format!("{pid} {} {state} syscall {}{}", comm(pid), read("syscall"), read("stack"));
    }
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().collect();
    text + &lines[lines.len().saturating_sub(30)..].join("\n")
}

fn mounts(daemon: &Daemon) -> BTreeSet<String> {
    let mut mounts = BTreeSet::new();
    for pid in ["self".to_owned(), daemon.pid().to_string()] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let ours = |line: &&str| {
            let point = line.split(' ').nth(4).unwrap_or_default();
            line.contains(&daemon.cgroup())
                || Path::new(point).starts_with(&daemon.dir)
                || line.contains(" - nsfs ")
        };
        mounts.extend(text.lines().filter(ours).map(str::to_owned));
    }
    mounts
}

/// The daemon's own directory in every hierarchy that has one.
fn cgroup_roots(daemon: &Daemon) -> Vec<String> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc/self/mountinfo");
    let lines = mountinfo.lines().filter(|line| line.contains(" - cgroup"));
    let mounts = lines.filter_map(|line| line.split(' ').nth(4));
    let roots = mounts.flat_map(|mount| daemon.cgroups_in(Path::new(mount)));
    roots.filter(|root| root.is_dir()).map(|root| root.display().to_string()).collect()
}

fn cgroups(daemon: &Daemon) -> BTreeSet<String> {
    let roots = cgroup_roots(daemon);
    assert!(
        !roots.is_empty(),
        "no cgroup {} in any hierarchy: the harness looks in the wrong place",
        daemon.cgroup()
    );
    let mut found = BTreeSet::new();
    for root in roots {
        walk(Path::new(&root), &mut |path, is_dir| {
            // `agents/u<UID>` and `helpers/u<UID>` stay; what is below them belongs to a session.
            let half = path.parent().and_then(Path::parent).and_then(Path::file_name).unwrap_or_default();
            if is_dir && (half == "agents" || half == "helpers") {
                found.insert(path.display().to_string());
            }
        });
    }
    found
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path, bool)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        visit(&entry.path(), is_dir);
        if is_dir {
            walk(&entry.path(), visit);
        }
    }
}

/// How many of each kind: a launcher that was started again holds others than before, and as many.
fn namespaces(pids: &[u32]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for pid in pids {
        for dir in ["ns", "fd"] {
            for entry in std::fs::read_dir(format!("/proc/{pid}/{dir}")).into_iter().flatten().flatten() {
                if let Ok(target) = std::fs::read_link(entry.path())
                    && let Some(text) = target.to_str()
                    && text.contains(":[")
                    && !["socket:", "pipe:", "anon_inode:"].iter().any(|kind| text.starts_with(kind))
                {
                    found.insert(text.to_owned());
                }
            }
        }
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    for name in &found {
        *counts.entry(name.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    counts.into_iter().map(|(kind, count)| format!("{count} of {kind}")).collect()
}

fn uids(daemon: &Daemon) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        let uids = line.split_whitespace().filter_map(|word| word.parse().ok());
        found.extend(uids.filter(|uid| daemon.leases(*uid)).map(|uid| uid.to_string()));
    }
    found
}

fn sockets(daemon: &Daemon) -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
    let dir = format!("{}/", daemon.dir.display());
    // Only listening ones: a client's connection is its own.
    let listening = |line: &&str| line.split_whitespace().nth(3) == Some("00010000");
    text.lines()
        .filter(listening)
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|path| path.starts_with(&dir))
        .map(str::to_owned)
        .collect()
}

fn files(daemon: &Daemon) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for dir in [daemon.runtime(), daemon.state()] {
        walk(&dir, &mut |path, _| {
            let lock = path.parent().is_some_and(|p| p.ends_with("leases"));
            let event = path.starts_with(daemon.state().join("audit"));
            let user = path.parent().is_some_and(|p| p.ends_with("overlays"));
            if !lock && !event && !user {
                found.insert(path.display().to_string());
            }
        });
    }
    found
}

fn leases(daemon: &Daemon) -> BTreeSet<String> {
    let locks = std::fs::read_to_string("/proc/locks").expect("/proc/locks");
    let held = |inode: u64| locks.lines().any(|line| line.contains(&format!(":{inode} ")));
    let dir = daemon.runtime().join("leases");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.metadata().is_ok_and(|m| held(m.ino())))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// What a process has open, without the numbers that differ from time to time.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut kinds: Vec<String> = entries
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().split(":[").next().unwrap_or_default().to_owned())
        .collect();
    kinds.sort();
    kinds
}
