//! SIGHUP: the configuration and the profiles are read again. What is bad or cannot be changed is refused as a whole,
//! and what held before goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentd_policy::reload::needs_restart;
use nix::sys::signal::{SigSet, Signal};
use sd_notify::NotifyState;
use tokio::sync::mpsc;

use crate::host::Host;
use crate::log;
use crate::manager;
use crate::site::{Site, check};

/// Requests to read everything again. One that waits stands for all.
pub struct SighupStream(mpsc::Receiver<()>);

impl SighupStream {
    /// Takes SIGHUP from now on. Called before there is any other thread.
    pub fn take() -> std::io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGHUP);
        set.thread_block()?;
        let (requests, pending) = mpsc::channel(1);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            while set.wait().is_ok() {
                // If there is one already, the file is read after this.
                requests.try_send(()).ok();
            }
        })?;
        Ok(Self(pending))
    }
}

/// Reads `file` again at each SIGHUP.
pub async fn follow(host: Arc<Host>, file: PathBuf, mut hangups: SighupStream) {
    while hangups.0.recv().await.is_some() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => manager::notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the service manager cannot be notified"),
        }
        let place = file.display();
        let status = match again(&host, &file).await {
            Ok(profiles) => {
                tracing::info!(file = %place, profiles, "the configuration was read again");
                format!("{place} was read again")
            }
            Err(error) => {
                tracing::error!(file = %place, %error, "the configuration was refused: what held before goes on");
                format!("{place} was refused, what held before goes on: {error}")
            }
        };
        let status = status.replace(char::is_control, " ");
        manager::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }
}

/// Why a configuration is refused: what held before goes on.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error("{}", one_line(.0))]
    Mistakes(Vec<String>),
    #[error("{} changed, which needs a restart: restart agentd, or take it back", .0.join(", "))]
    Restart(Vec<&'static str>),
    #[error(transparent)]
    Panicked(#[from] tokio::task::JoinError),
}

/// How many profiles there are now.
async fn again(host: &Arc<Host>, file: &Path) -> Result<usize, ReloadError> {
    let path = file.to_owned();
    let site = tokio::task::spawn_blocking(move || check(&path)).await?;
    take(host, site.map_err(ReloadError::Mistakes)?)
}

fn take(host: &Host, site: Site) -> Result<usize, ReloadError> {
    let keys = needs_restart(&host.site().config, &site.config);
    if !keys.is_empty() {
        return Err(ReloadError::Restart(keys));
    }
    let profiles = site.profiles.len();
    log::change(&site.config.log);
    host.reload(site);
    Ok(profiles)
}

/// The first of them, and how many more there are.
fn one_line(mistakes: &[String]) -> String {
    match mistakes {
        [] => "it has mistakes".into(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first}; and {} more, which `agentd --check` lists", rest.len()),
    }
}
