//! Control groups: cgroup2 for tracking, freezing and killing, and for limits wherever it has the
//! controller; the v1 hierarchy of the controller otherwise (`cgroups(7)`, kernel docs `cgroup-v2.rst`,
//! `cgroup-v1/`). The same relative path is used in every hierarchy.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Pid;

/// What was refused, with the file or directory.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or directory of a hierarchy.
    #[error("cgroup {what}: {source}")]
    File {
        /// Its name, and what was done.
        what: String,
        #[source]
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The host lacks something.
    #[error("cgroup: {0}")]
    Host(String),
}

fn failed(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> CgroupError {
    let what = what.into();
    move |source| CgroupError::File { what, source }
}

/// What limits a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Pids,
    Cpu,
}

const CONTROLLERS: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// A v1 hierarchy.
#[derive(Debug)]
struct V1 {
    controllers: Vec<Controller>,
    root: OwnedFd,
}

/// The directories of every hierarchy under which all sessions of one daemon live.
#[derive(Debug)]
pub struct Hierarchies {
    name: String,
    /// What holds `name` in each hierarchy, cgroup2 first.
    bases: Vec<OwnedFd>,
    v2: OwnedFd,
    v2_controllers: Vec<Controller>,
    v1: Vec<V1>,
}

/// What a group may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes; swap is off.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// CPUs' worth of time.
    pub cpus: f64,
}

/// One group, as directories of every hierarchy.
#[derive(Debug)]
pub struct Group {
    path: String,
    v2: OwnedFd,
    v1: Vec<(Vec<Controller>, OwnedFd)>,
    v2_controllers: Vec<Controller>,
}

impl Hierarchies {
    /// Finds the mounts and makes the directory `name` in each. With `path` the cgroup2 directory is that
    /// one, which must exist.
    ///
    /// # Errors
    /// If there is no cgroup2, or a controller is nowhere: a limit that cannot be set is a refusal.
    pub fn open(name: &str, path: Option<&str>) -> Result<Self, CgroupError> {
        let mountinfo =
            std::fs::read_to_string("/proc/self/mountinfo").map_err(failed("/proc/self/mountinfo"))?;
        let mounts = parse_mounts(&mountinfo);
        let v2_mount = mounts
            .iter()
            .find(|m| m.kind == "cgroup2" && path.is_none_or(|p| p.starts_with(&m.point)))
            .ok_or_else(|| CgroupError::Host("no cgroup2 mount; mount one".into()))?;
        let base = open_dir_path(path.unwrap_or(&v2_mount.point))?;
        let here = read_at(base.as_fd(), "cgroup.controllers")?;
        let v2_controllers: Vec<_> = CONTROLLERS
            .into_iter()
            .filter(|c| here.split_whitespace().any(|word| word == c.name()))
            .collect();
        enable(base.as_fd(), &v2_controllers)?;
        let v2 = make_dir(base.as_fd(), name)?;
        enable(v2.as_fd(), &v2_controllers)?;
        let mut v1: Vec<V1> = Vec::new();
        let mut bases = vec![base];
        for controller in CONTROLLERS.into_iter().filter(|c| !v2_controllers.contains(c)) {
            let mount = mounts
                .iter()
                .find(|m| m.kind == "cgroup" && m.options.iter().any(|o| o == controller.name()))
                .ok_or_else(|| {
                    CgroupError::Host(format!("no controller {} in any hierarchy", controller.name()))
                })?;
            let base = open_dir_path(&mount.point)?;
            let root = make_dir(base.as_fd(), name)?;
            bases.push(base);
            if controller == Controller::Memory {
                check_use_hierarchy(root.as_fd())?;
            }
            v1.push(V1 { controllers: vec![controller], root });
        }
        Ok(Self { name: name.to_owned(), bases, v2, v2_controllers, v1 })
    }

    /// Kills everything in every group and removes the groups: what an earlier daemon left, or this one.
    ///
    /// # Errors
    /// If something is still there after five seconds.
    pub fn clear(&self) -> Result<(), CgroupError> {
        write_at(self.v2.as_fd(), "cgroup.kill", "1")?;
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        for root in std::iter::once(&self.v2).chain(self.v1.iter().map(|h| &h.root)) {
            loop {
                match remove_below(root.as_fd()) {
                    Err(rustix::io::Errno::BUSY) if std::time::Instant::now() < until => {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    Err(errno) => return Err(failed("clear")(errno.into())),
                    Ok(()) => break,
                }
            }
        }
        Ok(())
    }

    /// Removes the daemon's own directories, which must be empty.
    ///
    /// # Errors
    /// `EBUSY` while a group is left.
    pub fn remove_root(&self) -> Result<(), CgroupError> {
        for base in &self.bases {
            match rustix::fs::unlinkat(base, self.name.as_str(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(failed(format!("rmdir {}", self.name))(errno.into())),
            }
        }
        Ok(())
    }

    /// Whether groups need [`Group::adopt_v1`] because some controller is not in cgroup2.
    pub fn is_hybrid(&self) -> bool {
        !self.v1.is_empty()
    }

    /// The group at `path` (components joined by `/`), made with every parent that is missing.
    ///
    /// # Errors
    /// If a directory cannot be made, or exists already at the last component.
    pub fn create(&self, path: &str) -> Result<Group, CgroupError> {
        let (parents, last) = path.rsplit_once('/').unwrap_or(("", path));
        let descend = |root: &OwnedFd, controllers: &[Controller]| -> Result<OwnedFd, CgroupError> {
            let mut dir = root.try_clone().map_err(failed("root"))?;
            for component in parents.split('/').filter(|c| !c.is_empty()) {
                dir = make_dir(dir.as_fd(), component)?;
                enable(dir.as_fd(), controllers)?;
            }
            rustix::fs::mkdirat(&dir, last, Mode::from_raw_mode(0o755))
                .map_err(|e| failed(format!("mkdir {path}"))(e.into()))?;
            open_dir(dir.as_fd(), last)
        };
        let v2 = descend(&self.v2, &self.v2_controllers)?;
        let mut group = Group {
            path: path.to_owned(),
            v2,
            v1: Vec::with_capacity(self.v1.len()),
            v2_controllers: self.v2_controllers.clone(),
        };
        for hierarchy in &self.v1 {
            match descend(&hierarchy.root, &[]) {
                Ok(dir) => group.v1.push((hierarchy.controllers.clone(), dir)),
                Err(error) => {
                    let cleaned = self.remove(path);
                    drop(cleaned);
                    return Err(error);
                }
            }
        }
        Ok(group)
    }

    /// Removes the group at `path` from every hierarchy; what is not there is no error.
    ///
    /// # Errors
    /// `EBUSY` while a process is left in it. Every hierarchy is tried.
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for root in std::iter::once(&self.v2).chain(self.v1.iter().map(|h| &h.root)) {
            match rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => result = Err(failed(format!("rmdir {path}"))(errno.into())),
            }
        }
        result
    }
}

impl Group {
    /// Its path below the daemon's directory.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(&self.v2).chain(self.v1.iter().map(|(_, dir)| dir)).map(AsFd::as_fd).collect()
    }

    /// The cgroup2 directory, for `CLONE_INTO_CGROUP`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.v2.as_fd()
    }

    /// Sets every limit.
    ///
    /// # Errors
    /// If one of them cannot be set.
    pub fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        let (quota, period) = ((limits.cpus * 100_000.0).round().max(1_000.0) as u64, 100_000);
        if self.v2_controllers.contains(&Controller::Memory) {
            write_at(self.v2.as_fd(), "memory.max", &limits.memory.to_string())?;
            write_optional(self.v2.as_fd(), "memory.swap.max", "0")?;
        }
        if self.v2_controllers.contains(&Controller::Pids) {
            write_at(self.v2.as_fd(), "pids.max", &limits.pids.to_string())?;
        }
        if self.v2_controllers.contains(&Controller::Cpu) {
            write_at(self.v2.as_fd(), "cpu.max", &format!("{quota} {period}"))?;
        }
        for (controllers, dir) in &self.v1 {
            for controller in controllers {
                match controller {
                    Controller::Memory => {
                        let bytes = limits.memory.to_string();
                        // Memory with swap may never be less than memory alone, not even on the way.
                        write_optional(dir.as_fd(), "memory.memsw.limit_in_bytes", "-1")?;
                        write_at(dir.as_fd(), "memory.limit_in_bytes", &bytes)?;
                        write_optional(dir.as_fd(), "memory.memsw.limit_in_bytes", &bytes)?;
                        write_at(dir.as_fd(), "memory.swappiness", "0")?;
                        // Buffers of TCP sockets are charged to a v1 group only where this is set.
                        write_optional(dir.as_fd(), "memory.kmem.tcp.limit_in_bytes", &bytes)?;
                    }
                    Controller::Pids => write_at(dir.as_fd(), "pids.max", &limits.pids.to_string())?,
                    Controller::Cpu => {
                        write_at(dir.as_fd(), "cpu.cfs_period_us", &period.to_string())?;
                        write_at(dir.as_fd(), "cpu.cfs_quota_us", &quota.to_string())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves `pid` into the v1 groups; cgroup2's it is born into. Costs milliseconds after idle time.
    ///
    /// # Errors
    /// If a hierarchy refuses.
    pub fn adopt_v1(&self, pid: Pid) -> Result<(), CgroupError> {
        for (_, dir) in &self.v1 {
            write_at(dir.as_fd(), "cgroup.procs", &pid.as_raw_nonzero().to_string())?;
        }
        Ok(())
    }

    /// What a keeper needs of the group once it has no rights: all of it by descriptors opened now.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn watch(&self) -> Result<Watch, CgroupError> {
        let kill = open_at(self.v2.as_fd(), "cgroup.kill", OFlags::WRONLY)?;
        let dir = |controller: Controller| {
            self.v1
                .iter()
                .find(|(controllers, _)| controllers.contains(&controller))
                .map_or(self.v2.as_fd(), |(_, dir)| dir.as_fd())
        };
        let pids = open_at(dir(Controller::Pids), "pids.events", OFlags::RDONLY)?;
        let memory_dir = dir(Controller::Memory);
        let (memory, memory_ready) = if self.v2_controllers.contains(&Controller::Memory) {
            (open_at(memory_dir, "memory.events", OFlags::RDONLY)?, None)
        } else {
            let control = open_at(memory_dir, "memory.oom_control", OFlags::RDONLY)?;
            let ready = event_fd()?;
            // cgroup-v1/memory.rst, 10: an eventfd that becomes readable when memory is out.
            let request = format!("{} {}", ready.as_raw_fd(), control.as_raw_fd());
            write_at(memory_dir, "cgroup.event_control", &request)?;
            (control, Some(ready))
        };
        let pids_notify = self.v2_controllers.contains(&Controller::Pids);
        Ok(Watch { kill, pids, pids_notify, memory, memory_ready })
    }

    /// The file that tells whether processes are left; it reports priority data when that changes.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn events(&self) -> Result<OwnedFd, CgroupError> {
        open_at(self.v2.as_fd(), "cgroup.events", OFlags::RDONLY)
    }

    /// Kills every process in the group.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn kill(&self) -> Result<(), CgroupError> {
        write_at(self.v2.as_fd(), "cgroup.kill", "1")
    }

    /// Whether any process, zombies aside, is left.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        let events = read_at(self.v2.as_fd(), "cgroup.events")?;
        Ok(!events.lines().any(|line| line == "populated 0"))
    }
}

/// A keeper's hold on its session's group.
#[derive(Debug)]
pub struct Watch {
    kill: OwnedFd,
    pids: OwnedFd,
    pids_notify: bool,
    memory: OwnedFd,
    memory_ready: Option<OwnedFd>,
}

impl Watch {
    /// Kills every process of the session.
    ///
    /// # Errors
    /// As `write(2)`.
    pub fn kill(&self) -> std::io::Result<()> {
        rustix::io::write(&self.kill, b"1")?;
        Ok(())
    }

    /// Whether [`Watch::pids_fd`] says by itself that the limit was hit. The v1 hierarchy's does not (seen on
    /// 6.18): it has to be looked at.
    pub fn pids_notify(&self) -> bool {
        self.pids_notify
    }

    /// Reports priority data when the pids limit was hit.
    pub fn pids_fd(&self) -> BorrowedFd<'_> {
        self.pids.as_fd()
    }

    /// Reports priority data (cgroup2) or is readable (v1) when memory was out.
    pub fn memory_fd(&self) -> BorrowedFd<'_> {
        self.memory_ready.as_ref().unwrap_or(&self.memory).as_fd()
    }

    /// Whether [`Watch::memory_fd`] is an eventfd rather than a file of cgroup2.
    pub fn memory_is_eventfd(&self) -> bool {
        self.memory_ready.is_some()
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let own = [&self.kill, &self.pids, &self.memory];
        own.into_iter().chain(&self.memory_ready).map(AsFd::as_fd).collect()
    }

    /// How often a fork was refused.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn pids_hits(&self) -> std::io::Result<u64> {
        Ok(value_of(&pread_text(&self.pids)?, "max"))
    }

    /// How many processes the kernel killed for memory. Quiets the v1 notification.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn memory_kills(&self) -> std::io::Result<u64> {
        if let Some(ready) = &self.memory_ready {
            match rustix::io::read(ready, &mut [0; 8]) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(value_of(&pread_text(&self.memory)?, "oom_kill"))
    }
}

/// Removes every group below `dir`. cgroup file systems list directories only by their type.
fn remove_below(dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_dir = entry.file_type() == rustix::fs::FileType::Directory;
        if !is_dir || matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        remove_below(rustix::fs::openat(dir, name, flags, Mode::empty())?.as_fd())?;
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn value_of(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn pread_text(fd: &OwnedFd) -> std::io::Result<String> {
    let mut bytes = [0; 1024];
    let count = rustix::io::pread(fd, &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

fn event_fd() -> Result<OwnedFd, CgroupError> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(failed("eventfd")(std::io::Error::last_os_error()));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open_dir_path(path: &str) -> Result<OwnedFd, CgroupError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(format!("open {path}"))(e.into()))
}

fn open_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, CgroupError> {
    open_at(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn make_dir(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, CgroupError> {
    match open_dir(parent, name) {
        Ok(dir) => return Ok(dir),
        Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => open_dir(parent, name),
        Err(errno) => Err(failed(format!("mkdir {name}"))(errno.into())),
    }
}

fn enable(dir: BorrowedFd<'_>, controllers: &[Controller]) -> Result<(), CgroupError> {
    if controllers.is_empty() {
        return Ok(());
    }
    let on = read_at(dir, "cgroup.subtree_control")?;
    for controller in controllers {
        if !on.split_whitespace().any(|word| word == controller.name()) {
            write_at(dir, "cgroup.subtree_control", &format!("+{}", controller.name()))?;
        }
    }
    Ok(())
}

fn check_use_hierarchy(dir: BorrowedFd<'_>) -> Result<(), CgroupError> {
    match read_at(dir, "memory.use_hierarchy") {
        Ok(text) if text.trim() == "1" => Ok(()),
        Ok(_) => Err(CgroupError::Host("memory.use_hierarchy is 0 in the v1 memory hierarchy".into())),
        // Gone from kernels where it can be nothing but 1.
        Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn open_at(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd, CgroupError> {
    rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| failed(format!("open {name}"))(e.into()))
}

fn read_at(dir: BorrowedFd<'_>, name: &str) -> Result<String, CgroupError> {
    let mut text = String::new();
    std::fs::File::from(open_at(dir, name, OFlags::RDONLY)?)
        .take(64 << 10)
        .read_to_string(&mut text)
        .map_err(failed(format!("read {name}")))?;
    Ok(text)
}

fn write_at(dir: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), CgroupError> {
    std::fs::File::from(open_at(dir, name, OFlags::WRONLY)?)
        .write_all(value.as_bytes())
        .map_err(failed(format!("write {value} to {name}")))
}

/// Writes to a file that not every kernel has: without swap accounting there is no swap to forbid.
fn write_optional(dir: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), CgroupError> {
    match write_at(dir, name, value) {
        Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// One line of `mountinfo`, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    options: Vec<String>,
}

fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?.to_owned();
            let mut right = right.split(' ');
            let kind = right.next()?.to_owned();
            let options = right.nth(1)?.split(',').map(str::to_owned).collect();
            Some(Mount { point, kind, options })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found() {
        let text = "31 23 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                    32 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\nnonsense\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].options, ["rw", "memory"]);
        assert_eq!(
            (mounts[1].kind.as_str(), mounts[1].point.as_str()),
            ("cgroup2", "/sys/fs/cgroup/unified")
        );
    }

    #[test]
    fn counters_are_read() {
        assert_eq!(value_of("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(value_of("max 2\n", "max"), 2);
        assert_eq!(value_of("", "max"), 0);
    }
}
