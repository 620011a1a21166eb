//! `agentd-launcher`: the root half of agentd. One thread, no async, no network; it attests callers, checks
//! plans by its own rules, and forks a builder for each session.

mod accounts;
mod activation;
mod blocklists;
mod callers;
mod context;
mod directories;
mod disk;
mod doctor;
mod examine;
mod inheritance;
mod link;
mod offers;
mod open_files;
mod review;
mod scope;
mod server;
mod service;
mod sessions;
mod settings;
mod shares;
mod workers;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use agentd_kernel::cgroup::Hierarchies;
use agentd_kernel::process::SingleThreaded;
use agentd_kernel::rlimits;
use agentd_policy::config::{CgroupRoot, Config};
use agentd_session::{Host, log};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::context::{Cgroups, Context};
use crate::scope::Scope;
use agentd_session::error::{HostError, On as _};

/// Connections, offered descriptors and sessions at their bounds; and what each process of a session has at least.
const OPEN_FILES: u64 = 65_536;

/// Before what users run: all of them wait for it.
const NICE: i32 = -10;

const USAGE: &str = "usage: agentd-launcher --config FILE [--with-service]";

/// Why the launcher did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{USAGE}")]
    Usage,
    #[error("unknown argument {0}; {USAGE}")]
    Argument(String),
    #[error("must run as root: it makes namespaces, mounts and cgroups for others")]
    NotRoot,
    #[error("{0}; fix that, or name a delegated directory as cgroup_root in agentd.toml")]
    NoScope(#[source] HostError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Server(#[from] server::Ended),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agentd-launcher: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), StartError> {
    let mut args = std::env::args_os().skip(1);
    let (mut file, mut with_service) = (None, false);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--config") => file = args.next().map(PathBuf::from),
            Some("--with-service") => with_service = true,
            _ => {
                let arg = arg.to_string_lossy();
                return Err(StartError::Argument(arg.escape_debug().to_string()));
            }
        }
    }
    let file = std::path::absolute(file.ok_or(StartError::Usage)?).on("--config")?;
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    inheritance::shed()?;
    let token = SingleThreaded::verify().map_err(HostError::from)?;
    // What is forked from here must not be able to read what is typed to root.
    let null = std::fs::File::open("/dev/null").on("/dev/null")?;
    agentd_kernel::process::place(null.as_fd(), 0).on("/dev/null")?;
    // Sessions' groups are none of ours, and files are for everyone to read unless a mode says otherwise.
    nix::unistd::setgroups(&[]).on("setgroups")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let raised = rlimits::raise_open_files(OPEN_FILES);
    let open_files = rlimits::Limits::of_files(OPEN_FILES).apply().map_err(HostError::from)?.open_files;
    let settings = settings::Settings::read(&file)?;
    log::begin(&settings.config.log);
    inheritance::prefer(NICE);
    if let Err(error) = raised {
        tracing::warn!(%error, open_files, "sessions have fewer open files than others");
    }
    if let Err(error) = open_files::lift() {
        tracing::warn!(%error, "sessions can use up the open files of this host");
    }
    // Before anything is started that would inherit them.
    let sockets = activation::Sockets::take(&settings)?;
    let mut directories = directories::Directories::prepare(&settings)?;
    let (cgroups, hierarchies) = cgroups(token, &settings.config)?;
    let signals = signals().on("signals")?;
    let disk = disk::Disk::prepare(token, &settings.config, &mut directories)?;
    let host = Host::prepare(token, &settings.config.pool.uids, disk.form, directories.overlays.as_fd())?;
    let blocklist = blocklists::read(token, &settings)?;
    let mut accounts = accounts::Accounts::default();
    accounts.refresh(std::time::Instant::now());
    let context =
        Context { token, settings, accounts, directories, disk, open_files, cgroups, host, blocklist };
    Ok(server::Server::new(context, hierarchies, signals, sockets)?.run(with_service)?)
}

/// The cgroups of this daemon, which are the same for as long as its directories are: under systemd in a scope of
/// their own, else in a directory at the top of the tree.
fn cgroups(token: SingleThreaded, config: &Config) -> Result<(Cgroups, Hierarchies), StartError> {
    let mut hasher = DefaultHasher::new();
    config.runtime_dir.as_str().hash(&mut hasher);
    let name = format!("agentd-{:08x}", hasher.finish() & 0xffff_ffff);
    let scope = match &config.cgroup_root {
        CgroupRoot::Auto if Scope::is_wanted() => {
            let installed = config.runtime_dir == Config::default().runtime_dir;
            let unit = if installed { "agentd-sessions".into() } else { name.clone() };
            Some(Scope::ensure(token, &format!("{unit}.scope")).map_err(StartError::NoScope)?)
        }
        _ => None,
    };
    let root = match (&scope, &config.cgroup_root) {
        (Some(scope), _) => Some(scope.directory().to_owned()),
        (None, CgroupRoot::Path(path)) => Some(path.as_str().to_owned()),
        (None, CgroupRoot::Auto) => None,
    };
    let hierarchies = Hierarchies::open(&name, root.as_deref()).map_err(HostError::from)?;
    Ok((Cgroups { scope, root }, hierarchies))
}

fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
