//! Where groups live: the mounts of cgroup2 and of the v1 controllers that it lacks.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::files::{enable, make_dir, number_at, open_dir, open_dir_path, read_at, write_at};
use super::group::V1Group;
use super::{CONTROLLERS, CgroupError, Controller, Group, failed, visible};
use crate::mountinfo::Mounts;

/// How long processes that were killed may take to be gone.
const CLEARING: Duration = Duration::from_secs(5);

/// A v1 hierarchy.
#[derive(Debug)]
struct V1 {
    controllers: Vec<Controller>,
    names: Vec<&'static str>,
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
    /// Where cpuset is a v1 hierarchy: one group for all sessions.
    cpuset: Option<OwnedFd>,
}

impl Hierarchies {
    /// Finds the mounts and makes the directory `name` in each. With `path` the cgroup2 directory is that
    /// one, which must exist.
    ///
    /// # Errors
    /// If there is no cgroup2, or a controller is nowhere: a limit that cannot be set is a refusal.
    pub fn open(name: &str, path: Option<&str>) -> Result<Self, CgroupError> {
        let mounts = Mounts::own().map_err(failed("/proc/self/mountinfo"))?;
        let v2_mount = mounts
            .iter()
            .find(|m| m.kind() == "cgroup2" && path.is_none_or(|p| Path::new(p).starts_with(&m.point)))
            .ok_or_else(|| CgroupError::Host("no cgroup2 mount; mount one".into()))?;
        let base = open_dir_path(path.map_or(v2_mount.point.as_path(), Path::new))?;
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
            let mount = mounts.iter().find(|mount| mount.is_v1_hierarchy_of(controller.name()));
            let mount = mount.ok_or_else(|| {
                CgroupError::Host(format!("no controller {} in any hierarchy", controller.name()))
            })?;
            let base = open_dir_path(&mount.point)?;
            let root = make_dir(base.as_fd(), name)?;
            bases.push(base);
            if controller == Controller::Memory {
                check_use_hierarchy(root.as_fd())?;
            }
            v1.push(V1 { controllers: vec![controller], names: visible::names(mount.options()), root });
        }
        let mut cpuset = None;
        if !v1.is_empty() {
            let has = |v1: &[V1], name| v1.iter().any(|hierarchy| hierarchy.names.contains(&name));
            if !has(&v1, "cpuacct")
                && let Some((base, root)) = visible::accounting(&mounts, name)
            {
                bases.push(base);
                v1.push(V1 { controllers: vec![], names: vec!["cpuacct"], root });
            }
            if !has(&v1, "cpuset")
                && let Some((base, root)) = visible::cpuset(&mounts, name)
            {
                bases.push(base);
                cpuset = Some(root);
            }
        }
        Ok(Self { name: name.to_owned(), bases, v2, v2_controllers, v1, cpuset })
    }

    /// Kills everything in every group and removes the groups: the end of every session.
    ///
    /// # Errors
    /// If something is still there after five seconds.
    pub fn clear(&self) -> Result<(), CgroupError> {
        self.clear_below(".")
    }

    /// The same for the groups below `path` alone.
    ///
    /// # Errors
    /// As [`Hierarchies::clear`].
    pub fn clear_below(&self, path: &str) -> Result<(), CgroupError> {
        let until = Instant::now() + CLEARING;
        let is_there = |opened: Result<OwnedFd, CgroupError>| match opened {
            Ok(dir) => Ok(Some(dir)),
            Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        };
        if let Some(dir) = is_there(open_dir(self.v2.as_fd(), path))?
            // What somebody else removed can still be open.
            && self.is_there()
        {
            write_at(dir.as_fd(), "cgroup.kill", "1")?;
        }
        for root in self.roots() {
            let Some(dir) = is_there(open_dir(root.as_fd(), path))? else { continue };
            loop {
                match remove_below(dir.as_fd()) {
                    Err(rustix::io::Errno::BUSY) if Instant::now() < until => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(errno) => return Err(failed(format!("clear {path}"))(errno.into())),
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

    /// Whether the daemon's directory is still there. Nobody else should remove it; a service manager that has to
    /// end all sessions does.
    pub fn is_there(&self) -> bool {
        rustix::fs::accessat(&self.v2, "cgroup.procs", rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
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
        self.group(path, true)
    }

    /// The same, whether there is such a group or not: for what several share, or an earlier daemon left.
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub fn ensure(&self, path: &str) -> Result<Group, CgroupError> {
        self.group(path, false)
    }

    fn group(&self, path: &str, new: bool) -> Result<Group, CgroupError> {
        let (parents, last) = path.rsplit_once('/').unwrap_or(("", path));
        let descend = |root: &OwnedFd, controllers: &[Controller]| -> Result<OwnedFd, CgroupError> {
            let mut dir = root.try_clone().map_err(failed("root"))?;
            for component in parents.split('/').filter(|c| !c.is_empty()) {
                dir = make_dir(dir.as_fd(), component)?;
                enable(dir.as_fd(), controllers)?;
            }
            if !new {
                return make_dir(dir.as_fd(), last);
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
            cpuset: self.cpuset.as_ref().map(OwnedFd::try_clone).transpose().map_err(failed("cpuset"))?,
        };
        for hierarchy in &self.v1 {
            let (controllers, names) = (hierarchy.controllers.clone(), hierarchy.names.clone());
            match descend(&hierarchy.root, &[]) {
                Ok(dir) => group.v1.push(V1Group { controllers, names, dir }),
                Err(error) => {
                    if new {
                        let cleaned = self.remove(path);
                        drop(cleaned);
                    }
                    return Err(error);
                }
            }
        }
        Ok(group)
    }

    /// The names of the groups at `path` (the daemon's own directory if that is empty), in any hierarchy.
    ///
    /// # Errors
    /// If a directory cannot be read. One that is not there has no groups.
    pub fn names(&self, path: &str) -> Result<BTreeSet<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for root in self.roots() {
            let path = if path.is_empty() { "." } else { path };
            let dir = match open_dir(root.as_fd(), path) {
                Ok(dir) => dir,
                Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let found = below(dir.as_fd()).map_err(|e| failed(format!("list {path}"))(e.into()))?;
            names.extend(found.into_iter().map(|name| name.to_string_lossy().into_owned()));
        }
        Ok(names)
    }

    /// Whether the cgroup2 group at `path` of the host is one of this daemon's.
    pub fn owns(&self, path: &str) -> bool {
        path.split('/').any(|component| component == self.name)
    }

    /// Every descriptor of it.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.roots().chain(&self.bases).map(AsFd::as_fd).collect()
    }

    /// Where the controllers of limits are, for people: `memory: v1`.
    pub fn controllers(&self) -> Vec<(&'static str, &'static str)> {
        let place = |c: Controller| if self.v2_controllers.contains(&c) { "cgroup2" } else { "v1" };
        CONTROLLERS.into_iter().map(|c| (c.name(), place(c))).collect()
    }

    fn roots(&self) -> impl Iterator<Item = &OwnedFd> {
        std::iter::once(&self.v2).chain(self.v1.iter().map(|h| &h.root)).chain(&self.cpuset)
    }

    /// The bytes that are charged to the group at `path` and to what is or was below it; `None` if there is no such
    /// group.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn charge(&self, path: &str) -> Result<Option<u64>, CgroupError> {
        let v1 = self.v1.iter().find(|h| h.controllers.contains(&Controller::Memory));
        let (root, name) = match v1 {
            Some(hierarchy) => (&hierarchy.root, "memory.usage_in_bytes"),
            None => (&self.v2, "memory.current"),
        };
        match open_dir(root.as_fd(), path) {
            Ok(dir) => number_at(dir.as_fd(), name).map(Some),
            Err(CgroupError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the group at `path` from every hierarchy; what is not there is no error.
    ///
    /// # Errors
    /// `EBUSY` while a process is left in it. Every hierarchy is tried.
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for root in self.roots() {
            match rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => result = Err(failed(format!("rmdir {path}"))(errno.into())),
            }
        }
        result
    }
}

/// Removes every group below `dir`.
fn remove_below(dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
    for name in below(dir)? {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        remove_below(rustix::fs::openat(dir, &name, flags, Mode::empty())?.as_fd())?;
        rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// The names of the groups in `dir`. cgroup file systems list directories only by their type.
fn below(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let is_dir = entry.file_type() == rustix::fs::FileType::Directory;
        if is_dir && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
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

/// Where cgroup2 is mounted.
///
/// # Errors
/// If it is not.
pub fn mount_point() -> Result<String, CgroupError> {
    let mounts = Mounts::own().map_err(failed("/proc/self/mountinfo"))?;
    let mount = mounts.iter().find(|mount| mount.kind() == "cgroup2");
    mount
        .and_then(|mount| mount.point.to_str())
        .map(str::to_owned)
        .ok_or_else(|| CgroupError::Host("no cgroup2 mount; mount one".into()))
}
