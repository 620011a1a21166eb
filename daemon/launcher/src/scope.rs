//! Where sessions live under systemd: a transient scope in `agentd.slice`, which outlives both services. It is asked
//! for by another program (`agentd scope`), since nothing here speaks D-Bus, and kept by a process that does nothing:
//! a scope ends with its last process.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use agentd_kernel::creds;
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use rustix::fs::{Mode, OFlags};

use agentd_session::error::{HostError, On as _};

/// Where the process that keeps the scope is: a cgroup that has limits for its children has no processes of its own
/// (`cgroups(7)`, "no internal processes").
const HOLD: &str = "hold";
/// The longest path of a cgroup.
const MAX_PATH: usize = 4096;

/// The scope that sessions live in.
#[derive(Debug)]
pub struct Scope {
    directory: String,
    hold: OwnedFd,
}

impl Scope {
    /// Whether systemd is this host's pid 1 (`sd_booted(3)`).
    pub fn is_wanted() -> bool {
        Path::new("/run/systemd/system").is_dir()
    }

    /// The scope `name`, made if it is not there.
    ///
    /// # Errors
    /// What systemd said.
    pub fn ensure(token: SingleThreaded, name: &str) -> Result<Self, HostError> {
        let (holder, begin) = hold(token).on(name)?;
        let made = ask(name, &holder).and_then(|group| Self::open(&group)).and_then(|scope| {
            // Whoever was there before goes on.
            if scope.is_held()? {
                end(&holder)?;
            } else {
                scope.write("cgroup.procs", &holder.pid.as_raw_nonzero().to_string())?;
                rustix::io::write(&begin, b"!").on("agentd-hold")?;
            }
            Ok(scope)
        });
        made.map_err(|error| error.then(end(&holder))).on(name)
    }

    fn open(group: &str) -> Result<Self, HostError> {
        let directory = format!("{}{group}", mount()?);
        let hold = format!("{directory}/{HOLD}");
        match std::fs::create_dir(&hold) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).on(hold);
            }
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let hold = rustix::fs::open(&hold, flags, Mode::empty()).on(&hold)?;
        Ok(Self { directory, hold })
    }

    /// The scope's cgroup, below which those of sessions are made.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// Nobody has a session any more: the scope ends once it is empty. One that was stopped already is no error.
    ///
    /// # Errors
    /// If the process that keeps it cannot be ended.
    pub fn leave(&self) -> Result<(), HostError> {
        match Path::new(&self.directory).is_dir() {
            true => self.write("cgroup.kill", "1"),
            false => Ok(()),
        }
    }

    fn is_held(&self) -> Result<bool, HostError> {
        let file = self.file("cgroup.procs", OFlags::RDONLY)?;
        let count = rustix::io::read(&file, &mut [0; 16]).on(format_args!("{HOLD}/cgroup.procs"))?;
        Ok(count > 0)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), HostError> {
        let file = self.file(name, OFlags::WRONLY)?;
        rustix::io::write(&file, text.as_bytes()).map(drop).on(format_args!("{HOLD}/{name}"))
    }

    fn file(&self, name: &str, access: OFlags) -> Result<OwnedFd, HostError> {
        rustix::fs::openat(&self.hold, name, access | OFlags::CLOEXEC, Mode::empty())
            .on(format_args!("{HOLD}/{name}"))
    }
}

/// A process that does nothing, has no right and no descriptor, and ends when it is asked to. Until it was asked to
/// begin it ends with this one.
fn hold(token: SingleThreaded) -> std::io::Result<(Child, OwnedFd)> {
    let (begun, begin) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = process::spawn(token, CloneArgs::default(), || {
        let idle = || -> Result<(), HostError> {
            process::set_title(c"agentd-hold")?;
            std::env::set_current_dir("/")?;
            creds::drop_all_capabilities()?;
            creds::no_new_privs()?;
            process::close_all_but(&[begun.as_fd()])?;
            match rustix::io::read(&begun, &mut [0]) {
                Ok(1) => Ok(process::close_from(0)?),
                _ => Err(HostError::unfit("not wanted")),
            }
        };
        if idle().is_err() {
            return 1;
        }
        loop {
            nix::unistd::pause();
        }
    })?;
    Ok((child, begin))
}

fn end(holder: &Child) -> Result<(), HostError> {
    holder.kill().and_then(|()| holder.wait()).map(drop).on("agentd-hold")
}

/// Has `holder` put into the scope; returns the scope's cgroup.
fn ask(name: &str, holder: &Child) -> Result<String, HostError> {
    let own = std::env::current_exe().on("/proc/self/exe")?;
    let program = own.with_file_name("agentd");
    // It has a deadline of its own.
    let asked = Command::new(&program)
        .arg("scope")
        .arg(name)
        .arg(holder.pid.as_raw_nonzero().to_string())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .on(program.display())?;
    if !asked.status.success() {
        let said = String::from_utf8_lossy(&asked.stderr);
        return Err(HostError::unfit(said.trim().trim_start_matches("agentd: ").to_owned()));
    }
    let group = String::from_utf8(asked.stdout).map_err(|_| HostError::unfit("its cgroup has no name"))?;
    let group = group.trim_end_matches('\n');
    let plain =
        group.starts_with('/') && group.len() <= MAX_PATH && !group.split('/').any(|part| part == "..");
    if plain { Ok(group.to_owned()) } else { Err(HostError::unfit(format!("{group:?} is no cgroup"))) }
}

/// Where cgroup2 is mounted.
fn mount() -> Result<String, HostError> {
    Ok(agentd_kernel::cgroup::mount_point()?)
}
