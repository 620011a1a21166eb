//! Control groups: the cgroup2 tree, and each controller wherever it is. One group is made for the trial and
//! removed again.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentd_kernel::mountinfo::Mounts;
use agentd_kernel::process::{self, CloneArgs, SingleThreaded};
use agentd_policy::event::ExitStatus;
use agentd_policy::wire::{Check, Status};
use rustix::fs::{Mode, OFlags};

use super::apart::{apart_in, ready};
use super::{Lack, fine, lack, verdict};

/// What the trial's groups are called, before a process id.
const PREFIX: &str = "agentd-doctor-";
/// How long freezing and killing may take.
const GROUP_TIMEOUT: Duration = Duration::from_secs(2);

const TREE: &str = "no session runs: its processes could not be tracked, frozen and ended together";
const MOUNT: &str =
    "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1";

/// Groups that exist for as long as this.
struct Groups(Vec<PathBuf>);

impl Groups {
    /// Makes the trial's group in `base`, and removes those of trials that were killed.
    fn make(&mut self, base: &Path) -> Result<PathBuf, Lack> {
        for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another trial may have done so before.
                let _ = std::fs::remove_dir(entry.path());
            }
        }
        let path = base.join(format!("{PREFIX}{}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => self.0.push(path.clone()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Lack::on(path.display(), error)),
        }
        Ok(path)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for path in &self.0 {
            // A group is busy for a moment after its last process.
            let until = Instant::now() + GROUP_TIMEOUT;
            while std::fs::remove_dir(path).is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy)
                && Instant::now() < until
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// A group where those of sessions are, and what can be tried there.
pub struct Trial {
    mounts: Mounts,
    base: PathBuf,
    group: PathBuf,
    dir: OwnedFd,
    groups: Groups,
}

impl Trial {
    /// Makes the group, in the directory `root` of cgroup2 or at its mount.
    pub fn make(root: Option<&str>) -> Result<Self, Check> {
        let no = |error: Lack| lack("cgroup.v2", Status::Missing, error, TREE, MOUNT);
        let mut groups = Groups(vec![]);
        let mounts = Mounts::own().map_err(|e| no(e.into()))?;
        let base = base(&mounts, root).map_err(no)?;
        let group = groups.make(&base).map_err(no)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&group, flags, Mode::empty()).map_err(|e| no(e.into()))?;
        Ok(Self { mounts, base, group, dir, groups })
    }

    /// Of a process that is to be as one of a session.
    pub fn birth(&self) -> CloneArgs<'_> {
        CloneArgs { cgroup: Some(self.dir.as_fd()), ..CloneArgs::default() }
    }

    /// Whether a process that is born into a group lives there. Newer kernels end one at once whose parent's group was
    /// killed once (`cgroup.kill`), whatever runs there now.
    pub fn takes_in(&self, token: SingleThreaded) -> Check {
        let tried =
            apart_in(token, self.birth(), || Ok("processes are born into groups of their own".into()));
        verdict(
            "cgroup.birth",
            tried.map_err(|error| Lack::on("a process that starts in a group is ended there", error)),
            Status::Missing,
            "no session starts: the builder is killed (build.ended)",
            "start the launcher in a cgroup that was never killed: systemctl stop agentd-launcher, then start it; by \
             hand, from another shell",
        )
    }

    /// The tree, what it can do, and the controllers.
    pub fn checks(&mut self, token: SingleThreaded) -> Vec<Check> {
        let mut checks = vec![fine("cgroup.v2", self.tree())];
        checks.extend(self.freeze_and_kill(token));
        let mut places = Vec::new();
        for (controller, file) in [("memory", "limit_in_bytes"), ("pids", "max"), ("cpu", "cfs_quota_us")] {
            let place = place(&mut self.groups, &self.mounts, &self.base, &self.group, controller, file);
            places.push(place.clone());
            checks.push(verdict(
                format!("cgroup.{controller}"),
                place.map(|(_, found)| found),
                Status::Missing,
                "no session runs: a limit that cannot be set is a refusal",
                &format!(
                    "enable the controller: remove cgroup_disable={controller} from the kernel's command line; \
                     in a container, delegate it"
                ),
            ));
        }
        let all_v2 = places.iter().flatten().all(|(group, _)| *group == self.group);
        checks.push(visible(&self.mounts, all_v2));
        checks.push(swap(places.first().and_then(|place| place.as_ref().ok()).map(|(dir, _)| dir)));
        checks
    }

    /// Where sessions' groups are, and whether that is all there is.
    fn tree(&self) -> String {
        let v1 = self.mounts.iter().filter(|mount| mount.kind() == "cgroup");
        let names: Vec<_> =
            v1.filter_map(|mount| mount.point.file_name()).map(|name| name.to_string_lossy()).collect();
        match names.as_slice() {
            [] => format!("{}; no v1 hierarchy beside it", self.base.display()),
            names => format!("{}; hybrid, beside v1: {}", self.base.display(), names.join(" ")),
        }
    }

    /// Freezes and kills a process that does nothing.
    fn freeze_and_kill(&self, token: SingleThreaded) -> [Check; 2] {
        let group = self.group.as_path();
        let (freeze, kill) = match self.sleeper(token) {
            Err(error) => (Err(error.clone()), Err(error)),
            Ok(child) => {
                let freeze = write(group, "cgroup.freeze", "1").and_then(|()| frozen(group));
                let kill = write(group, "cgroup.kill", "1").and_then(|()| {
                    let ended = ready(rustix::fd::AsFd::as_fd(&child.pidfd), GROUP_TIMEOUT);
                    if ended { Ok(()) } else { Err(Lack::new("a process lived on")) }
                });
                let ended = child.kill().and_then(|()| child.wait());
                let kill = kill.and_then(|()| match ended {
                    Ok(ExitStatus::Signal(_)) => Ok("ends every process of a group".to_owned()),
                    other => Err(Lack::new(format!("the process ended by itself: {other:?}"))),
                });
                // Others are tried here.
                let freeze = freeze.and_then(|()| write(group, "cgroup.freeze", "0"));
                (freeze.map(|()| "stops every process of a group".to_owned()), kill)
            }
        };
        [
            verdict(
                "cgroup.freeze",
                freeze,
                Status::Reduced,
                "sessions cannot be paused",
                "use Linux 5.2 or later",
            ),
            verdict(
                "cgroup.kill",
                kill,
                Status::Missing,
                "no session runs: its processes could not be ended for certain",
                "use Linux 5.14 or later",
            ),
        ]
    }

    /// A process that was born into the group.
    fn sleeper(&self, token: SingleThreaded) -> Result<process::Child, Lack> {
        process::spawn(token, self.birth(), || {
            let signal = Some(rustix::process::Signal::KILL);
            if rustix::process::set_parent_process_death_signal(signal).is_err() {
                return 1;
            }
            nix::unistd::pause();
            0
        })
        .map_err(|e| Lack::on("CLONE_INTO_CGROUP", e))
    }
}

/// The cgroup2 directory below which sessions are.
fn base(mounts: &Mounts, root: Option<&str>) -> Result<PathBuf, Lack> {
    let mut v2 = mounts.iter().filter(|mount| mount.kind() == "cgroup2");
    match root {
        None => v2.next().map(|mount| mount.point.clone()),
        Some(root) => v2.find(|mount| Path::new(root).starts_with(&mount.point)).map(|_| PathBuf::from(root)),
    }
    .ok_or_else(|| Lack::new("there is no cgroup2 mount"))
}

fn frozen(group: &Path) -> Result<(), Lack> {
    let until = Instant::now() + GROUP_TIMEOUT;
    while Instant::now() < until {
        if read(group, "cgroup.events")?.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Lack::new("a process went on"))
}

/// Sets a limit of `controller`, in cgroup2 or else in its v1 hierarchy. The group, and where it is.
fn place(
    groups: &mut Groups,
    mounts: &Mounts,
    base: &Path,
    group: &Path,
    controller: &str,
    v1_file: &str,
) -> Result<(PathBuf, String), Lack> {
    let has = |text: &str| text.split_whitespace().any(|word| word == controller);
    if has(&read(base, "cgroup.controllers")?) {
        let (file, value) = match controller {
            "cpu" => ("cpu.max".to_owned(), "100000 100000"),
            "pids" => ("pids.max".to_owned(), "64"),
            _ => (format!("{controller}.max"), "67108864"),
        };
        set(group, &file, value)?;
        return Ok((group.to_owned(), "in cgroup2".into()));
    }
    let mount = mounts.iter().find(|mount| mount.is_v1_hierarchy_of(controller));
    let mount = mount.ok_or_else(|| Lack::new("in no hierarchy"))?;
    let group = groups.make(&mount.point)?;
    if controller == "memory" && read(&group, "memory.use_hierarchy").is_ok_and(|text| text.trim() == "0") {
        return Err(Lack::new(format!("memory.use_hierarchy is 0 in {}", mount.point.display())));
    }
    let value = match controller {
        "cpu" => "100000",
        "pids" => "64",
        _ => "67108864",
    };
    set(&group, &format!("{controller}.{v1_file}"), value)?;
    Ok((group, format!("in the v1 hierarchy {}", mount.point.display())))
}

/// Where programs in sessions find their limits.
fn visible(mounts: &Mounts, all_v2: bool) -> Check {
    let name = "cgroup.visible";
    if all_v2 {
        return fine(name, "programs read their limits in /sys/fs/cgroup, as version 2");
    }
    let has = |controller: &&str| mounts.iter().any(|mount| mount.is_v1_hierarchy_of(controller));
    match ["cpuacct", "cpuset"].iter().find(|controller| !has(controller)) {
        None => fine(name, "programs read their limits below /sys/fs/cgroup, as version 1"),
        Some(controller) => {
            let impact = "Java takes memory by the host's, not by its session's, and is killed";
            let fix = "boot with systemd.unified_cgroup_hierarchy=1, or mount the hierarchy";
            lack(name, Status::Reduced, format!("there is no hierarchy of {controller}"), impact, fix)
        }
    }
}

/// Whether memory limits count what is swapped out; `memory` is the trial's group of that controller.
fn swap(memory: Option<&PathBuf>) -> Check {
    let name = "cgroup.swap";
    let file = |file: &str| memory.is_some_and(|group| group.join(file).exists());
    let devices =
        std::fs::read_to_string("/proc/swaps").map_or(0, |text| text.lines().count().saturating_sub(1));
    if file("memory.swap.max") || file("memory.memsw.limit_in_bytes") {
        fine(name, "limits hold for swap too")
    } else if devices == 0 {
        fine(name, "not counted; the host has no swap")
    } else {
        let impact = "a session can hold its memory limit once more in swap";
        let fix = "boot with swapaccount=1, or switch swap off";
        lack(name, Status::Reduced, format!("not counted; {devices} swap devices"), impact, fix)
    }
}

fn read(dir: &Path, file: &str) -> Result<String, Lack> {
    std::fs::read_to_string(dir.join(file)).map_err(|e| Lack::on(file, e))
}

fn write(dir: &Path, file: &str, value: &str) -> Result<(), Lack> {
    std::fs::write(dir.join(file), value).map_err(|e| Lack::on(file, e))
}

/// Writes a limit and reads it back.
fn set(dir: &Path, file: &str, value: &str) -> Result<(), Lack> {
    write(dir, file, value)?;
    let held = read(dir, file)?;
    match held.trim() {
        held if held == value => Ok(()),
        held => Err(Lack::new(format!("{file} says {held} after {value}"))),
    }
}
