//! What a session will be. The service makes a [`Plan`], the launcher checks it again and builds it. One that was
//! checked is [`Permitted`] and changes no more.
//!
//! A plan holds no path that root would open: mounts name an offered descriptor by its index, and path
//! texts say only where things appear inside the session.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::config::{Bounds, within};
use crate::digest::Digest;
use crate::egress::Egress;
use crate::limits::Limits;
use crate::mount::{Input, MAX_MOUNTS, MAX_POINTS, MAX_SCRATCH, Scratch, Workspace};
use crate::names::{AbsPath, SessionId, UserName};
use crate::quantity::Amount;
use crate::rule::Rule;
use crate::{Refusal, overlap, places};

/// The whole session, decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The id, which the service chose.
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

/// A plan that passed [`Plan::check`] in this process, or in the root process that sent it. Its fields can be read and
/// not written.
///
/// It is encoded as the plan itself. Only messages between processes of root, and from them to init, are decoded to it;
/// what the service sends is a [`Plan`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Permitted(Plan);

impl Deref for Permitted {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.0
    }
}

impl From<Permitted> for Plan {
    /// For a process that checks it again.
    fn from(permitted: Permitted) -> Self {
        permitted.0
    }
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines of text.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// Bytes of argv and environment together: a quarter of what `execve(2)` takes by default, and room for the
/// plan in one message.
pub const MAX_ARGS: usize = 128 << 10;
/// The most arguments and variables.
pub const MAX_ARGC: usize = 4096;

impl Plan {
    /// The plan, for a session that is to be built.
    ///
    /// # Errors
    /// As [`Plan::check`].
    pub fn permit(self, bounds: &Bounds) -> Result<Permitted, Refusal> {
        self.check(bounds)?;
        Ok(Permitted(self))
    }

    /// Checks the plan against the site's bounds and against what any plan may hold, by any service.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, bounds: &Bounds) -> Result<(), Refusal> {
        self.check_command()?;
        bounds.check(&self.limits)?;
        self.check_sizes()?;
        self.egress.as_ref().map_or(Ok(()), |egress| check_network(egress, bounds))?;
        self.check_mounts(bounds)?;
        self.check_places()
    }

    fn check_command(&self) -> Result<(), Refusal> {
        let words = self.command.len() + self.env.len();
        let size = self.command.iter().map(|a| a.len() + 1).sum::<usize>()
            + self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>();
        if self.command.is_empty() || self.command[0].is_empty() {
            return Err(Refusal::new("an empty command", Rule::CommandEmpty, "name a program to run"));
        }
        if words > MAX_ARGC || size > MAX_ARGS {
            return Err(Refusal::new(
                format!("a command line of {words} words and {size} bytes"),
                Rule::CommandSize,
                format!("stay below {MAX_ARGC} words and {MAX_ARGS} bytes; pass long input through stdin"),
            ));
        }
        if self.command.iter().chain(self.env.iter().map(|(_, v)| v)).any(|a| a.contains(&0)) {
            return Err(Refusal::new("an argument with a NUL byte", Rule::CommandNul, "leave it out"));
        }
        match self.env.iter().find(|(k, _)| k.is_empty() || k.contains(&b'=') || k.contains(&0)) {
            Some((key, _)) => Err(Refusal::new(
                format!("environment variable {:?}", String::from_utf8_lossy(key)),
                Rule::EnvironmentName,
                "a name is not empty and holds neither `=` nor NUL",
            )),
            None => Ok(()),
        }
    }

    /// Those of directories in memory, which count towards the memory limit.
    fn check_sizes(&self) -> Result<(), Refusal> {
        let check = |rule, what, size| {
            within(rule, what, Amount::Size(size), (Amount::Size(1 << 12), Amount::Size(MAX_SCRATCH)), "")
        };
        check(Rule::BoundsHomeSize, "home size", self.home_size)?;
        self.scratch
            .iter()
            .try_for_each(|scratch| check(Rule::BoundsScratchSize, "scratch size", scratch.size))
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
                    Rule::PlanMounts,
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
                Rule::PlanNames,
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
            places::check(path)?;
        }
        for path in self.inputs.iter().flat_map(|input| [Some(&input.path), input.link.as_ref()]).flatten() {
            places::check_input(path)?;
        }
        if self.home.as_str().contains(':') || self.shell.as_str().contains(':') {
            return Err(Refusal::new(
                format!("home {}", self.home),
                Rule::UserHome,
                "passwd(5) cannot hold a home with a colon",
            ));
        }
        Ok(())
    }
}

impl Plan {
    /// Checks what [`decide`](crate::decide::decide) makes so: that no workspace holds the home, that none in mode
    /// `direct` is of what runs by itself, that no two mounts meet at one place, and that none uncovers what another
    /// masks or protects.
    fn check_places(&self) -> Result<(), Refusal> {
        for workspace in &self.workspaces {
            places::not_the_home(&workspace.path, &self.home)?;
            places::not_run_by_itself(workspace, &self.home)?;
        }
        let mut settled = self.workspaces.clone();
        overlap::check(&mut settled, &self.inputs, &self.scratch, &self.home)?;
        match settled == self.workspaces {
            true => Ok(()),
            false => Err(Refusal::new(
                "a workspace without the names that one around it masks or protects",
                Rule::MaskUncovered,
                "give each workspace the names of those around it",
            )),
        }
    }
}

fn check_network(egress: &Egress, bounds: &Bounds) -> Result<(), Refusal> {
    egress.check()?;
    bounds.ceiling().check(egress)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mode::Mode;
    use crate::names::RelPath;
    use crate::quantity::Size;

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
            assert_eq!(plan.check(&Bounds::default()).unwrap_err().rule.name(), *rule);
        }
        let mut large = plan();
        large.limits.memory = 100 << 30;
        let refusal = large.check(&Bounds { memory: Size(8 << 30), ..Bounds::default() }).unwrap_err();
        assert_eq!(refusal.what, "memory 100G is more than this host allows (8G)");
        assert!(refusal.hint.starts_with("ask for 1M to 8G: --memory"), "{}", refusal.hint);
        let bounds = Bounds { modes_forbidden: vec![Mode::Overlay], ..Bounds::default() };
        assert_eq!(plan().check(&bounds).unwrap_err().rule.name(), "bounds.modes_forbidden");
    }
}
