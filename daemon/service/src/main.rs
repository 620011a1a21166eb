//! `agentd`: gRPC for clients, decisions, the event store. Runs as an ordinary account without privileges:
//! connections come from the launcher, which attested them, and what was decided goes to the launcher,
//! which checks it again.
//!
//! Directories by layer; each imports only what stands after it: `api` (gRPC), `lifecycle` (build, recovery, end),
//! `host` (what a request may need), `session`, `audit` (events) and `stream` (a command's bytes), `store`
//! (files); `quota`, `metrics`, `site` and `launcher` are beside them.

mod api;
mod audit;
mod clock;
mod error;
mod host;
mod launcher;
mod lifecycle;
mod log;
mod manager;
mod metrics;
mod quota;
mod reload;
mod scope;
mod session;
mod site;
mod store;
mod stream;
mod sync;
mod text;
mod uplink;
mod users;
mod watchdog;

#[cfg(test)]
mod loopback;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use clap::Parser;
use nix::unistd::{User, setgid, setgroups, setuid};
use tokio::sync::mpsc;

use crate::api::connection::{self, Incoming};
use crate::api::serve::serve;
use crate::host::Host;
use crate::lifecycle::recover;
use crate::reload::SighupStream;
use crate::site::Site;
use crate::watchdog::Heartbeat;

/// The service of agentd. Started as root it starts agentd-launcher instead, which starts the service as
/// the account that the configuration names.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/agentd/agentd.toml")]
    config: PathBuf,
    /// Say what is wrong with the configuration, the profiles and the blocklists, and end
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the launcher has done apart from itself.
#[derive(clap::Subcommand)]
enum Part {
    /// Has systemd put the process PID into the scope NAME, unless that is there; says its cgroup
    #[command(hide = true)]
    Scope { name: String, pid: u32 },
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error(transparent)]
    Site(#[from] site::SiteError),
    #[error("service_user: cannot become {name}: {errno}")]
    Account { name: String, errno: nix::errno::Errno },
    #[error("signals: {0}")]
    Signals(std::io::Error),
    #[error("run {}: {source}", path.display())]
    Exec { path: PathBuf, source: std::io::Error },
    #[error("own program: {0}")]
    OwnProgram(std::io::Error),
    #[error(transparent)]
    Link(#[from] uplink::LinkError),
    #[error("event store: {0}")]
    Store(#[from] store::StoreError),
    #[error("gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
    #[error("runtime: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Scope(#[from] scope::ScopeError),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.part {
        Some(Part::Scope { name, pid }) => {
            scope::ensure(name, *pid).map(|group| println!("{group}")).map_err(Fatal::from)
        }
        None if options.check => return check(&options.config),
        None if rustix::process::geteuid().is_root() => become_launcher(&options),
        None => be_service(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            eprintln!("agentd: {fatal}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong, a line each.
fn check(file: &Path) -> ExitCode {
    let mistakes = match become_account(file) {
        Ok(()) => site::check(file),
        Err(error) => Err(vec![error.to_string()]),
    };
    match mistakes {
        Ok(site) => {
            println!("{}: good, with {} profiles of the site", file.display(), site.profiles.len());
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| eprintln!("agentd: {mistake}"));
            ExitCode::FAILURE
        }
    }
}

/// Root looks at no more than the configuration: what others wrote is read under the service's account. Where there is
/// no such account, the look at the configuration says so.
fn become_account(file: &Path) -> Result<(), Fatal> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let site = Site::read(file)?;
    let Ok(Some(user)) = User::from_name(&site.config.service_user) else { return Ok(()) };
    let became = setgroups(&[user.gid]).and_then(|()| setgid(user.gid)).and_then(|()| setuid(user.uid));
    became.map_err(|errno| Fatal::Account { name: user.name, errno })
}

/// By hand, as root: the launcher is the parent of everything.
fn become_launcher(options: &Options) -> Result<(), Fatal> {
    let path = std::env::current_exe().map_err(Fatal::OwnProgram)?.with_file_name("agentd-launcher");
    let arguments: [OsString; 3] =
        ["--config".into(), options.config.clone().into(), "--with-service".into()];
    let source = Command::new(&path).args(arguments).exec();
    Err(Fatal::Exec { path, source })
}

fn be_service(options: &Options) -> Result<(), Fatal> {
    // Before there is a second thread; a signal that comes during the start is handled later.
    let hangups = SighupStream::take().map_err(Fatal::Signals)?;
    let site = Site::read(&options.config)?;
    log::begin(&site.config.log);
    for mistake in site.mistakes() {
        tracing::warn!(error = %mistake, "a profile of the site is malformed");
    }
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_io()
        .enable_time()
        .build()
        .map_err(Fatal::Runtime)?;
    runtime.block_on(run(site, options.config.clone(), hangups))
}

/// A session takes four descriptors of the service; the default of 1024 would be its bound.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }) {
        tracing::warn!(error = %errno, "open files stay limited");
    }
}

async fn run(site: Site, file: PathBuf, hangups: SighupStream) -> Result<(), Fatal> {
    let socket = uplink::connect(&site.config.service_socket()).await?;
    let heartbeat = Arc::new(Heartbeat::new());
    let (host, incoming, link) = assemble(site, socket, heartbeat.clone())?;
    manager::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(socket = %host.site().config.socket, "ready");
    tokio::spawn(watchdog::run(host.clone(), heartbeat));
    tokio::spawn(reload::follow(host.clone(), file, hangups));
    tokio::select! {
        served = serve(host, incoming) => Ok(served?),
        () = link => Ok(()),
    }
}

/// The parts of the service with what an earlier one left, and what drives its link to the launcher.
fn assemble(
    site: Site,
    socket: agentd_kernel::packets::Packets,
    heartbeat: Arc<Heartbeat>,
) -> Result<(Arc<Host>, Incoming, impl Future<Output = ()>), Fatal> {
    let store = store::Store::open(&site.config.state_dir, site.config.audit.retain)?;
    let host = Arc::new(Host::new(site, store));
    recover::take_up(&host)?;
    let (to_server, incoming) = mpsc::channel(connection::BACKLOG);
    let link = uplink::run(host.clone(), to_server, socket, heartbeat);
    Ok((host, Incoming::new(incoming), link))
}
