//! The control groups of the trial: made, given to who tries them, and removed again.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentd_kernel::mountinfo::{Mount, Mounts};
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use rustix::fs::{Mode, OFlags};

use super::apart::{Lack, Tried, apart_in};

/// What the trial's groups are called, before a process id.
const PREFIX: &str = "agentd-doctor-";
/// How long freezing and killing may take.
pub const GROUP_TIMEOUT: Duration = Duration::from_secs(2);
/// What limits sessions.
pub const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Groups that exist for as long as this.
#[derive(Default)]
pub struct Groups(Vec<PathBuf>);

/// A group where those of sessions are, with a process that does nothing. What limits it is in files of the id that
/// tries it.
pub struct Trial {
    pub mounts: Mounts,
    /// Where sessions' groups are.
    pub base: PathBuf,
    /// The name of the trial's group, there and in each v1 hierarchy of a controller.
    pub name: String,
    dir: OwnedFd,
    /// Whether a process that is born into the group lives there.
    pub birth: Tried<()>,
    pub sleeper: Tried<Child>,
}

impl Trial {
    /// Of a process that is to be as one of a session.
    pub fn born(&self) -> CloneArgs<'_> {
        CloneArgs { cgroup: Some(self.dir.as_fd()), ..CloneArgs::default() }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Ok(child) = &self.sleeper {
            // It has ended if that can be tried.
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}

impl Groups {
    /// Makes the groups, below the directory `root` of cgroup2 or its mount, for `id`.
    pub fn trial(&mut self, token: SingleThreaded, root: Option<&str>, id: u32) -> Tried<Trial> {
        let name = format!("{PREFIX}{}", std::process::id());
        let mounts = Mounts::own()?;
        let base = base(&mounts, root)?;
        let group = self.make(&base, &name, id)?;
        for mount in CONTROLLERS.iter().filter_map(|controller| v1(&mounts, controller)) {
            self.make(&mount.point, &name, id)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&group, flags, Mode::empty())?;
        let sleeper = Err(Lack::new(""));
        let mut trial = Trial { mounts, base, name, dir, birth: Ok(()), sleeper };
        trial.birth = apart_in(token, trial.born(), || Ok(()));
        trial.sleeper = sleeper_in(token, trial.born());
        Ok(trial)
    }

    /// Makes a group in `base`, and removes those of trials that were killed.
    fn make(&mut self, base: &Path, name: &str, id: u32) -> Tried<PathBuf> {
        for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another trial may have done so before.
                std::fs::remove_dir(entry.path()).ok();
            }
        }
        let path = base.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => self.0.push(path.clone()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(path),
            Err(error) => return Err(Lack::on(path.display(), error)),
        }
        for file in std::fs::read_dir(&path)?.flatten() {
            chown(file.path(), Some(id), None)?;
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

fn sleeper_in(token: SingleThreaded, birth: CloneArgs<'_>) -> Tried<Child> {
    let child = process::spawn(token, CloneArgs { with_parent: true, ..birth }, || {
        nix::unistd::pause();
        0
    });
    child.map_err(|e| Lack::on("CLONE_INTO_CGROUP", e))
}

/// The cgroup2 directory below which sessions are.
fn base(mounts: &Mounts, root: Option<&str>) -> Tried<PathBuf> {
    let mut v2 = mounts.iter().filter(|mount| mount.kind() == "cgroup2");
    match root {
        None => v2.next().map(|mount| mount.point.clone()),
        Some(root) => v2.find(|mount| Path::new(root).starts_with(&mount.point)).map(|_| PathBuf::from(root)),
    }
    .ok_or_else(|| Lack::new("there is no cgroup2 mount"))
}

/// The hierarchy of version 1 that a controller is in.
pub fn v1<'a>(mounts: &'a Mounts, controller: &str) -> Option<&'a Mount> {
    mounts.iter().find(|mount| mount.is_v1_hierarchy_of(controller))
}
