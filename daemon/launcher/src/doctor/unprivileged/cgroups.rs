//! Control groups: the cgroup2 tree, and each controller wherever it is, tried in groups that belong to this process.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentd_kernel::creds::NoHostRights;
use agentd_kernel::mountinfo::Mounts;
use agentd_policy::wire::{Check, Status};

use super::{fine, lack, verdict};
use crate::doctor::apart::{Lack, Tried, ready};
use crate::doctor::cgroups::{CONTROLLERS, GROUP_TIMEOUT, Trial, v1};

const TREE: &str = "no session runs: its processes could not be tracked, frozen and ended together";
const MOUNT: &str =
    "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1";

/// Where there is no group to try anything in.
pub fn lacking(error: &Lack) -> Check {
    lack("cgroup.v2", Status::Missing, error, TREE, MOUNT)
}

impl Trial {
    /// Whether a process that is born into a group lives there. Newer kernels end one at once whose parent's group was
    /// killed once (`cgroup.kill`), whatever runs there now.
    pub fn birth(&self) -> Check {
        let tried = self.birth.as_ref().map(|()| "processes are born into groups of their own");
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
    pub fn checks(&self, _: &NoHostRights) -> Vec<Check> {
        let group = self.base.join(&self.name);
        let mut checks = vec![fine("cgroup.v2", self.tree())];
        checks.extend(self.freeze_and_kill(&group));
        let mut places = Vec::new();
        for controller in CONTROLLERS {
            let place = self.place(&group, controller);
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
        let all_v2 = places.iter().flatten().all(|(place, _)| *place == group);
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
    fn freeze_and_kill(&self, group: &Path) -> [Check; 2] {
        let (freeze, kill) = match &self.sleeper {
            Err(error) => (Err(error.clone()), Err(error.clone())),
            Ok(child) => {
                let ends_within = |time| ready(child.pidfd.as_fd(), time);
                let freeze = write(group, "cgroup.freeze", "1").and_then(|()| frozen(group));
                let kill = match ends_within(Duration::ZERO) {
                    true => Err(Lack::new("the process ended by itself")),
                    false => write(group, "cgroup.kill", "1").and_then(|()| {
                        let ended = ends_within(GROUP_TIMEOUT);
                        if ended {
                            Ok("ends every process of a group")
                        } else {
                            Err(Lack::new("a process lived on"))
                        }
                    }),
                };
                // Others are tried here.
                let freeze = freeze.and_then(|()| write(group, "cgroup.freeze", "0"));
                (freeze.map(|()| "stops every process of a group"), kill)
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

    /// Sets a limit of `controller`, in cgroup2 or else in its v1 hierarchy. The group, and where it is.
    fn place(&self, group: &Path, controller: &str) -> Tried<(PathBuf, String)> {
        let has = |text: &str| text.split_whitespace().any(|word| word == controller);
        let (v2_file, v2_value, v1_file, v1_value) = match controller {
            "cpu" => ("cpu.max", "100000 100000", "cpu.cfs_quota_us", "100000"),
            "pids" => ("pids.max", "64", "pids.max", "64"),
            _ => ("memory.max", "67108864", "memory.limit_in_bytes", "67108864"),
        };
        if has(&read(&self.base, "cgroup.controllers")?) {
            set(group, v2_file, v2_value)?;
            return Ok((group.to_owned(), "in cgroup2".into()));
        }
        let mount = v1(&self.mounts, controller).ok_or_else(|| Lack::new("in no hierarchy"))?;
        let group = mount.point.join(&self.name);
        if controller == "memory" && read(&group, "memory.use_hierarchy").is_ok_and(|text| text.trim() == "0")
        {
            return Err(Lack::new(format!("memory.use_hierarchy is 0 in {}", mount.point.display())));
        }
        set(&group, v1_file, v1_value)?;
        Ok((group, format!("in the v1 hierarchy {}", mount.point.display())))
    }
}

fn frozen(group: &Path) -> Tried<()> {
    let until = Instant::now() + GROUP_TIMEOUT;
    while Instant::now() < until {
        if read(group, "cgroup.events")?.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Lack::new("a process went on"))
}

/// Where programs in sessions find their limits.
fn visible(mounts: &Mounts, all_v2: bool) -> Check {
    let name = "cgroup.visible";
    if all_v2 {
        return fine(name, "programs read their limits in /sys/fs/cgroup, as version 2");
    }
    match ["cpuacct", "cpuset"].iter().find(|controller| v1(mounts, controller).is_none()) {
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

fn read(dir: &Path, file: &str) -> Tried<String> {
    std::fs::read_to_string(dir.join(file)).map_err(|e| Lack::on(file, e))
}

fn write(dir: &Path, file: &str, value: &str) -> Tried<()> {
    std::fs::write(dir.join(file), value).map_err(|e| Lack::on(file, e))
}

/// Writes a limit and reads it back.
fn set(dir: &Path, file: &str, value: &str) -> Tried<()> {
    write(dir, file, value)?;
    let held = read(dir, file)?;
    match held.trim() {
        held if held == value => Ok(()),
        held => Err(Lack::new(format!("{file} says {held} after {value}"))),
    }
}
