//! What a session will be. The service makes a [`Plan`], the launcher checks it again and builds it.
//!
//! A plan holds no path that root would open: mounts name an offered descriptor by its index, and path
//! texts say only where things appear inside the session.

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::config::Bounds;
use crate::consent::Digest;
use crate::egress::Egress;
use crate::git::Part;
use crate::names::{AbsPath, RelPath, SessionId, UserName};
use crate::overlap;
use crate::pattern::NamePattern;
use crate::size::{format_size, readable_duration};
use crate::workspaces;

/// How a workspace is given to the agent, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Read-only.
    Ro,
    /// Copy-on-write; the real directory stays as it is.
    Overlay,
    /// The real directory.
    Direct,
}

impl Mode {
    /// The word that profiles and flags use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ro => "ro",
            Self::Overlay => "overlay",
            Self::Direct => "direct",
        }
    }
}

/// What an offered descriptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A directory that the agent works in.
    Workspace,
    /// A file or directory that it may read.
    Input,
}

impl Role {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Input => "input",
        }
    }
}

/// The whole session, decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Its identity.
    pub session: SessionId,
    /// Of the profile that it follows.
    pub profile: Digest,
    /// The caller's login name, for the session's passwd entry.
    pub user: UserName,
    /// The caller's home, where the scratch home appears.
    pub home: AbsPath,
    /// The caller's login shell, for the passwd entry.
    pub shell: AbsPath,
    /// argv; the first names the program, looked up in the session's PATH.
    pub command: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the command starts.
    pub cwd: AbsPath,
    /// A terminal of this size, or pipes.
    pub terminal: Option<WindowSize>,
    /// Directories to work in.
    pub workspaces: Vec<Workspace>,
    /// What may be read besides.
    pub inputs: Vec<Input>,
    /// Scratch directories; the home is one more.
    pub scratch: Vec<Scratch>,
    /// Bytes that the home may hold.
    pub home_size: u64,
    /// What it may use up.
    pub limits: Limits,
    /// The least Landlock ABI that the profile accepts.
    pub landlock_abi: u32,
    /// Whether what it wrote to overlays goes when it ends (`--rm`).
    pub remove: bool,
    /// What files of its are made without (`umask(2)`).
    pub umask: u32,
    /// Its egress; none at all if there is none.
    pub egress: Option<Egress>,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines of text.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// A directory that the agent works in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Where it appears: its own path.
    pub path: AbsPath,
    /// Which of the offered descriptors it is.
    pub descriptor: u16,
    /// How it is given.
    pub mode: Mode,
    /// Names below it that appear empty and read-only.
    pub mask: Vec<RelPath>,
    /// Files that are masked wherever they are below it.
    pub mask_anywhere: Vec<NamePattern>,
    /// Names below it that are read-only.
    pub protect: Vec<RelPath>,
    /// Unix sockets below it that the profile accepts by name (mode `direct`).
    pub sockets: Vec<RelPath>,
    /// What it is to git, if the session has it because another workspace leads there.
    pub git: Option<Part>,
}

/// A file or directory that the agent may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where it appears: its own path.
    pub path: AbsPath,
    /// The name that it was asked for by, if that leads through symbolic links: it is a link to the path.
    pub link: Option<AbsPath>,
    /// Which of the offered descriptors it is.
    pub descriptor: u16,
}

/// A directory in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// Where it appears.
    pub path: AbsPath,
    /// Bytes that it may hold.
    pub size: u64,
    /// Whether programs in it may run.
    pub exec: bool,
}

/// What enforces the limit of a session's overlays on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskForm {
    /// A project of its own in a file system with quotas: what is too much is refused.
    Quota,
    /// A file system of its own in an image of the limit's size: what is too much is refused.
    Image,
    /// A process that looks: who has too much is ended.
    Watch,
}

impl DiskForm {
    /// The word that `disk_limits` uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Image => "image",
            Self::Watch => "watch",
        }
    }
}

/// What a session may use up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, page cache and scratch included; swap is off.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// CPUs' worth of time.
    pub cpus: f64,
    /// Bytes of overlay, in files with and without a name.
    pub disk: u64,
    /// Files, directories and links of overlay.
    pub inodes: u64,
    /// Milliseconds from the start to the end.
    pub timeout_ms: u64,
    /// Milliseconds without a byte on any of its streams and without a new program; 0 for no such limit.
    pub idle_ms: u64,
    /// Open files a process.
    pub open_files: u64,
}

/// Bytes of argv and environment together: a quarter of what `execve(2)` takes by default, and room for the
/// plan in one message.
pub const MAX_ARGS: usize = 128 << 10;
/// The most arguments and variables.
pub const MAX_ARGC: usize = 4096;
/// The most mounts of each kind that a plan may ask for.
pub const MAX_MOUNTS: usize = 64;
/// The most mask and protect names of one workspace.
pub const MAX_NAMES: usize = 256;
/// The most mount points of masked and protected names, of all workspaces together.
pub const MAX_POINTS: usize = 1024;
/// The most that one session's scratch may hold, besides the memory limit, which it counts towards.
pub const MAX_SCRATCH: u64 = 1 << 40;
/// The fewest files that an overlay may hold: those that it is made of are among them.
pub const MIN_INODES: u64 = 64;
/// Open files that a process may ask for.
pub const MAX_OPEN_FILES: u64 = 1 << 20;
/// The least share of a CPU.
const MIN_CPUS: f64 = 0.01;

impl Plan {
    /// Checks the plan against the site's bounds and against what any plan may hold, whoever made it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, bounds: &Bounds) -> Result<(), Refusal> {
        self.check_command()?;
        self.check_limits(bounds)?;
        self.egress.as_ref().map_or(Ok(()), |egress| check_network(egress, bounds))?;
        self.check_mounts(bounds)?;
        self.check_places()
    }

    fn check_command(&self) -> Result<(), Refusal> {
        let words = self.command.len() + self.env.len();
        let size = self.command.iter().map(|a| a.len() + 1).sum::<usize>()
            + self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>();
        if self.command.is_empty() || self.command[0].is_empty() {
            return Err(Refusal::new("an empty command", "command.empty", "name a program to run"));
        }
        if words > MAX_ARGC || size > MAX_ARGS {
            return Err(Refusal::new(
                format!("a command line of {words} words and {size} bytes"),
                "command.size",
                format!("stay below {MAX_ARGC} words and {MAX_ARGS} bytes; pass long input through stdin"),
            ));
        }
        if self.command.iter().chain(self.env.iter().map(|(_, v)| v)).any(|a| a.contains(&0)) {
            return Err(Refusal::new("an argument with a NUL byte", "command.nul", "leave it out"));
        }
        match self.env.iter().find(|(k, _)| k.is_empty() || k.contains(&b'=') || k.contains(&0)) {
            Some((key, _)) => Err(Refusal::new(
                format!("environment variable {:?}", String::from_utf8_lossy(key)),
                "environment.name",
                "a name is not empty and holds neither `=` nor NUL",
            )),
            None => Ok(()),
        }
    }

    fn check_limits(&self, bounds: &Bounds) -> Result<(), Refusal> {
        let limits = &self.limits;
        let (size, time, count): (Unit, Unit, Unit) = (format_size, readable_duration, |n| n.to_string());
        within("memory", size, limits.memory, 1 << 20, bounds.memory)?;
        within("pids", count, limits.pids, 1, bounds.pids)?;
        within("disk", size, limits.disk, 0, bounds.disk)?;
        within("inodes", count, limits.inodes, MIN_INODES, bounds.inodes)?;
        within("timeout", time, limits.timeout_ms, 1, bounds.timeout)?;
        within("idle", time, limits.idle_ms, 0, bounds.timeout)?;
        within("open_files", count, limits.open_files, 16, MAX_OPEN_FILES)?;
        within("home size", size, self.home_size, 1 << 12, MAX_SCRATCH)?;
        for scratch in &self.scratch {
            within("scratch size", size, scratch.size, 1 << 12, MAX_SCRATCH)?;
        }
        if !(limits.cpus >= MIN_CPUS && limits.cpus <= bounds.cpus) {
            let [value, least, most] = [limits.cpus, MIN_CPUS, bounds.cpus].map(|cpus| cpus.to_string());
            return Err(out_of_bounds("cpus", &value, limits.cpus > bounds.cpus, &least, &most));
        }
        Ok(())
    }

    fn check_mounts(&self, bounds: &Bounds) -> Result<(), Refusal> {
        for (what, count) in [
            ("workspaces", self.workspaces.len()),
            ("inputs", self.inputs.len()),
            ("scratch directories", self.scratch.len()),
        ] {
            if count > MAX_MOUNTS {
                return Err(Refusal::new(
                    format!("{count} {what}"),
                    "plan.mounts",
                    format!("ask for at most {MAX_MOUNTS}"),
                ));
            }
        }
        for workspace in &self.workspaces {
            workspace.check(bounds)?;
        }
        let names = self.workspaces.iter().flat_map(|w| w.mask.iter().chain(&w.protect));
        let points: usize = names.map(|name| name.components().count()).sum();
        if points > MAX_POINTS {
            return Err(Refusal::new(
                format!("masked and protected names with {points} directories on the way"),
                "plan.names",
                format!("stay below {MAX_POINTS}: each becomes a mount"),
            ));
        }
        let places = self
            .workspaces
            .iter()
            .map(|w| &w.path)
            .chain(self.scratch.iter().map(|s| &s.path))
            .chain([&self.home]);
        for path in places {
            check_place(path)?;
        }
        for path in self.inputs.iter().flat_map(|input| [Some(&input.path), input.link.as_ref()]).flatten() {
            check_input(path)?;
        }
        if self.home.as_str().contains(':') || self.shell.as_str().contains(':') {
            return Err(Refusal::new(
                format!("home {}", self.home),
                "user.home",
                "passwd(5) cannot hold a home with a colon",
            ));
        }
        Ok(())
    }
}

impl Plan {
    /// Checks what [`decide`](crate::decide::decide) makes so: that no workspace holds the home, that none in mode `direct`
    /// is of what runs by itself, that no two mounts meet at one place, and that none uncovers what another masks or protects.
    fn check_places(&self) -> Result<(), Refusal> {
        for workspace in &self.workspaces {
            overlap::not_the_home(&workspace.path, &self.home)?;
            workspaces::not_run_by_itself(workspace, &self.home)?;
        }
        let mut settled = self.workspaces.clone();
        overlap::check(&mut settled, &self.inputs, &self.scratch, &self.home)?;
        match settled == self.workspaces {
            true => Ok(()),
            false => Err(Refusal::new(
                "a workspace without the names that one around it masks or protects",
                "mask.uncovered",
                "give each workspace the names of those around it",
            )),
        }
    }
}

fn check_network(egress: &Egress, bounds: &Bounds) -> Result<(), Refusal> {
    egress.check()?;
    bounds.ceiling().check(egress)
}

impl Workspace {
    fn check(&self, bounds: &Bounds) -> Result<(), Refusal> {
        if bounds.modes_forbidden.contains(&self.mode) {
            return Err(Refusal::new(
                format!("workspace {} in mode {}", self.path, self.mode.as_str()),
                "bounds.modes_forbidden",
                "the administrator forbids this mode; choose another",
            ));
        }
        let fits = match self.git {
            Some(Part::Common) => self.mode == Mode::Overlay,
            Some(Part::Data) => self.mode == Mode::Direct,
            Some(Part::Repository) | None => true,
        };
        if !fits {
            return Err(Refusal::new(
                format!("a part of a repository in mode {}", self.mode.as_str()),
                "plan.git",
                "objects and references are given as they are, what working trees share as a copy",
            ));
        }
        let names = self.mask.len() + self.mask_anywhere.len() + self.protect.len() + self.sockets.len();
        if names > MAX_NAMES {
            return Err(Refusal::new(
                format!("{names} mask and protect names for {}", self.path),
                "plan.names",
                format!("give at most {MAX_NAMES}"),
            ));
        }
        Ok(())
    }
}

/// Directories that are the session's own or the system's: nothing of a caller's is mounted over them.
const RESERVED: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/run/agentd",
    "/sbin",
    "/sys",
    "/usr",
];

/// Files of /etc that are made for each session.
const GENERATED: &[&str] =
    &["group", "hostname", "hosts", "machine-id", "mtab", "nsswitch.conf", "passwd", "resolv.conf"];

/// What is read besides may be in /etc, where sessions have but a part of the host's.
fn check_input(path: &AbsPath) -> Result<(), Refusal> {
    let below = path.as_str().strip_prefix("/etc/");
    let own = |below: &str| GENERATED.iter().any(|name| below.split('/').next() == Some(name));
    match below {
        Some(below) if !own(below) => Ok(()),
        _ => check_place(path),
    }
}

fn check_place(path: &AbsPath) -> Result<(), Refusal> {
    let reserved = RESERVED.iter().any(|r| {
        path.as_str() == *r
            || (*r != "/" && path.as_str().strip_prefix(r).is_some_and(|rest| rest.starts_with('/')))
    });
    if reserved {
        return Err(Refusal::new(
            format!("a mount at {path}"),
            "plan.reserved",
            "system directories are the session's own; choose a path outside them",
        ));
    }
    Ok(())
}

/// How a number is written for people.
type Unit = fn(u64) -> String;

fn within(what: &str, unit: Unit, value: u64, least: u64, most: u64) -> Result<(), Refusal> {
    match value < least || value > most {
        false => Ok(()),
        true => Err(out_of_bounds(what, &unit(value), value > most, &unit(least), &unit(most))),
    }
}

/// A value that is too large, or too small, with what sets it.
fn out_of_bounds(what: &str, value: &str, large: bool, least: &str, most: &str) -> Refusal {
    let compared = match large {
        true => format!("more than this host allows ({most})"),
        false => format!("less than a session can do with ({least})"),
    };
    let set_by = match what {
        "memory" | "cpus" | "pids" | "disk" | "timeout" | "idle" => {
            format!(": --{what}, or `{what}` in the profile's [limits]")
        }
        "inodes" => ": `inodes` in the profile's [limits]".to_owned(),
        _ => String::new(),
    };
    Refusal::new(
        format!("{what} {value} is {compared}"),
        format!("bounds.{}", what.replace(' ', "_")),
        format!("ask for {least} to {most}{set_by}"),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan() -> Plan {
        Plan {
            session: SessionId::parse("0123456789ab").unwrap(),
            profile: Digest::default(),
            user: UserName::parse("alice").unwrap(),
            home: AbsPath::parse("/home/alice").unwrap(),
            shell: AbsPath::parse("/bin/bash").unwrap(),
            command: vec![b"true".to_vec()],
            env: vec![(b"LANG".to_vec(), b"C".to_vec())],
            cwd: AbsPath::parse("/home/alice/p").unwrap(),
            terminal: None,
            workspaces: vec![Workspace {
                path: AbsPath::parse("/home/alice/p").unwrap(),
                descriptor: 0,
                mode: Mode::Overlay,
                mask: vec![],
                mask_anywhere: vec![],
                protect: vec![],
                sockets: vec![],
                git: None,
            }],
            inputs: vec![],
            scratch: vec![],
            home_size: 1 << 20,
            limits: Limits {
                memory: 1 << 30,
                pids: 100,
                cpus: 1.0,
                disk: 1 << 30,
                inodes: 1 << 16,
                timeout_ms: 1000,
                idle_ms: 0,
                open_files: 1024,
            },
            landlock_abi: 2,
            remove: false,
            umask: 0o022,
            egress: None,
        }
    }

    #[test]
    fn a_plain_plan_passes() {
        assert_eq!(plan().check(&Bounds::default()), Ok(()));
    }

    #[test]
    fn each_bound_holds() {
        type Change = fn(&mut Plan);
        let breaks: &[(&str, Change)] = &[
            ("command.empty", |p| p.command.clear()),
            ("command.size", |p| p.command = vec![vec![b'x'; 5]; 5000]),
            ("command.size", |p| p.command = vec![vec![b'x'; MAX_ARGS]]),
            ("command.nul", |p| p.command[0] = b"a\0b".to_vec()),
            ("environment.name", |p| p.env[0].0 = b"A=B".to_vec()),
            ("bounds.memory", |p| p.limits.memory = 1 << 40),
            ("bounds.pids", |p| p.limits.pids = 0),
            ("bounds.inodes", |p| p.limits.inodes = 1),
            ("bounds.inodes", |p| p.limits.inodes = u64::MAX),
            ("bounds.cpus", |p| p.limits.cpus = f64::NAN),
            ("bounds.timeout", |p| p.limits.timeout_ms = u64::MAX),
            ("plan.mounts", |p| p.workspaces = vec![p.workspaces[0].clone(); 10_000]),
            ("plan.names", |p| p.workspaces[0].mask = vec![RelPath::parse("a").unwrap(); 257]),
            ("plan.reserved", |p| p.workspaces[0].path = AbsPath::parse("/etc").unwrap()),
            ("plan.reserved", |p| p.home = AbsPath::parse("/").unwrap()),
            ("plan.reserved", |p| p.workspaces[0].path = AbsPath::parse("/usr/share/x").unwrap()),
            ("user.home", |p| p.home = AbsPath::parse("/home/a:b").unwrap()),
        ];
        for (rule, change) in breaks {
            let mut plan = plan();
            change(&mut plan);
            assert_eq!(plan.check(&Bounds::default()).unwrap_err().rule, *rule);
        }
        let mut large = plan();
        large.limits.memory = 100 << 30;
        let refusal = large.check(&Bounds { memory: 8 << 30, ..Bounds::default() }).unwrap_err();
        assert_eq!(refusal.what, "memory 100G is more than this host allows (8G)");
        assert!(refusal.hint.starts_with("ask for 1M to 8G: --memory"), "{}", refusal.hint);
        let bounds = Bounds { modes_forbidden: vec![Mode::Overlay], ..Bounds::default() };
        assert_eq!(plan().check(&bounds).unwrap_err().rule, "bounds.modes_forbidden");
    }
}
