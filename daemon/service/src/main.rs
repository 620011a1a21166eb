//! `agentd`: gRPC for clients, decisions, the event store. Runs as an ordinary account without privileges:
//! connections come from the launcher, which attested them, and what was decided goes to the launcher,
//! which checks it again.

mod api;
mod attach;
mod build;
mod connection;
mod convert;
mod error;
mod events;
mod exec;
mod host;
mod hub;
mod launcher;
mod link;
mod logs;
mod output_log;
mod profiles;
mod rate;
mod record;
mod recover;
mod registry;
mod replay;
mod request;
mod serve;
mod session;
mod slots;
mod state;
mod store;
mod streams;
mod supervisor;
mod tail;
mod uplink;
mod users;

#[cfg(test)]
mod loopback;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use agentd_policy::config::Config;
use clap::Parser;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::host::Host;

/// The service of agentd. Started as root it starts agentd-launcher instead, which starts the service as
/// the account that the configuration names.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/agentd/agentd.toml")]
    config: PathBuf,
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("{}: {source}", path.display())]
    ConfigRead { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    ConfigForm { path: PathBuf, source: agentd_policy::config::ConfigError },
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
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result =
        if rustix::process::geteuid().is_root() { become_launcher(&options) } else { be_service(&options) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            eprintln!("agentd: {fatal}");
            ExitCode::FAILURE
        }
    }
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
    let path = &options.config;
    let text =
        std::fs::read_to_string(path).map_err(|source| Fatal::ConfigRead { path: path.clone(), source })?;
    let config = Config::parse(&text).map_err(|source| Fatal::ConfigForm { path: path.clone(), source })?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("AGENTD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_io()
        .enable_time()
        .build()
        .map_err(Fatal::Runtime)?;
    runtime.block_on(run(config))
}

/// A session takes four descriptors of the service; the default of 1024 would be its bound.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }) {
        tracing::warn!("open files stay limited: {errno}");
    }
}

async fn run(config: Config) -> Result<(), Fatal> {
    let socket = uplink::connect(&config.service_socket()).await?;
    let (host, incoming, link) = assemble(config, socket)?;
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("sd_notify: {error}");
    }
    tracing::info!("ready on {}", host.config.socket);
    tokio::select! {
        served = serve::serve(host, incoming) => Ok(served?),
        () = link => Ok(()),
    }
}

/// Connections that clients made, as the launcher hands them over.
type Incoming = ReceiverStream<std::io::Result<connection::Connection>>;

/// The parts of the service with what an earlier one left, and what drives its link to the launcher.
fn assemble(
    config: Config,
    socket: agentd_kernel::packets::Packets,
) -> Result<(Arc<Host>, Incoming, impl Future<Output = ()>), Fatal> {
    let store = store::Store::open(&config.state_dir, config.audit.retain)?;
    let host = Arc::new(Host::new(config, launcher::Launcher::new(), store));
    recover::take_up(&host)?;
    let (to_server, incoming) = mpsc::channel(connection::BACKLOG);
    let link = uplink::run(host.clone(), to_server, socket);
    Ok((host, ReceiverStream::new(incoming), link))
}
