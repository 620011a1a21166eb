//! SIGHUP: the configuration is read again. What is bad or cannot be changed is refused as a whole, and what held
//! before goes on. The service's own program looks at the file first, at the profiles and at the blocklists: nothing is
//! parsed here that it does not take.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::memfd::Sealed;
use agentd_policy::event::ExitStatus;
use agentd_policy::reload::needs_restart;

use super::source::Source;
use super::{Server, notify_manager};
use crate::blocklists::{self, Compiling};
use crate::service::Check;
use crate::settings::Settings;
use agentd_session::error::HostError;

/// How long a look at the file, and at what it names, may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a configuration is refused: what held before goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// The service's program refused it, and said itself what is wrong.
    #[error("it has mistakes, or a profile or blocklist has")]
    Mistakes,
    /// That program ended otherwise.
    #[error("agentd --check ended with {0:?}")]
    Check(ExitStatus),
    /// Keys that are read at the start alone are others.
    #[error("{} changed, which needs a restart: restart agentd, or take it back", .0.join(", "))]
    Restart(Vec<&'static str>),
    /// The file, a list, or a child that looks at them.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A look at the file that is under way.
pub(super) struct Reload {
    step: Step,
    until: Instant,
    /// The file may have changed since it began.
    again: bool,
}

/// What is waited for.
enum Step {
    /// The service's program looks at it.
    Check(Check),
    /// It is good, and its blocklists are read.
    Lists(Box<(Compiling, Settings)>),
}

impl AsFd for Step {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Check(check) => check.as_fd(),
            Self::Lists(lists) => lists.0.as_fd(),
        }
    }
}

impl Server {
    /// Begins to read the configuration again.
    pub(super) fn begin_reload(&mut self) {
        if self.closing.is_some() {
            return;
        }
        if let Some(reload) = &mut self.reload {
            reload.again = true;
            return;
        }
        match sd_notify::NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify_if_ready(&[sd_notify::NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the service manager cannot be notified"),
        }
        let began = Check::start(self.context.token, &self.context.settings).and_then(|check| {
            self.watch(check.as_fd(), Source::Reload, EventFlags::IN)?;
            Ok(check)
        });
        match began {
            Ok(check) => {
                let until = Instant::now() + DEADLINE;
                self.reload = Some(Reload { step: Step::Check(check), until, again: false });
            }
            Err(error) => self.end_reload(Err(error.into())),
        }
    }

    /// A step has come to an end, or may have.
    pub(super) fn reload_readable(&mut self) {
        let Some(mut reload) = self.reload.take() else { return };
        let result = match self.go_on(&mut reload) {
            Ok(false) => {
                self.reload = Some(reload);
                return;
            }
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        self.unwatch(reload.step.as_fd());
        self.end_reload(result);
        if reload.again {
            self.begin_reload();
        }
    }

    /// Whether all of it is done.
    fn go_on(&mut self, reload: &mut Reload) -> Result<bool, ReloadError> {
        match &mut reload.step {
            Step::Check(check) => match check.ended()? {
                None => Ok(false),
                Some(ExitStatus::Code(0)) => {
                    let new = self.new_settings()?;
                    let Some(compiling) = Compiling::start(self.context.token, &new)? else {
                        self.take_settings(new, None);
                        return Ok(true);
                    };
                    self.watch(compiling.as_fd(), Source::Reload, EventFlags::IN)?;
                    self.unwatch(check.as_fd());
                    reload.step = Step::Lists(Box::new((compiling, new)));
                    reload.until = Instant::now() + blocklists::DEADLINE;
                    Ok(false)
                }
                // It said itself what is wrong.
                Some(ExitStatus::Code(1)) => Err(ReloadError::Mistakes),
                Some(how) => Err(ReloadError::Check(how)),
            },
            Step::Lists(lists) => match lists.0.ended()? {
                None => Ok(false),
                table => {
                    self.take_settings(lists.1.clone(), table);
                    Ok(true)
                }
            },
        }
    }

    /// A look that takes too long is given up.
    pub(super) fn expire_reload(&mut self, now: Instant) {
        if let Some(reload) = self.reload.as_mut().filter(|reload| reload.until <= now) {
            // Its end is reported as any other.
            reload.until = now + DEADLINE;
            let killed = match &reload.step {
                Step::Check(check) => check.kill(),
                Step::Lists(lists) => lists.0.kill(),
            };
            if let Err(error) = killed {
                tracing::error!(%error, "what looks at the file cannot be ended");
            }
        }
    }

    /// When that is due.
    pub(super) fn next_reload(&self) -> Option<Instant> {
        self.reload.as_ref().map(|reload| reload.until)
    }

    /// What the file says now, if it can be taken.
    fn new_settings(&self) -> Result<Settings, ReloadError> {
        let old = &self.context.settings;
        let new = Settings::read(&old.file)?;
        let mut keys = needs_restart(&old.config, &new.config);
        for (key, before, now) in [
            ("service_user", old.service_uid, new.service_uid),
            ("service_user", old.service_gid, new.service_gid),
            ("socket_group", old.socket_gid, new.socket_gid),
            ("admin_group", old.admin_gid, new.admin_gid),
            ("metrics.group", old.metrics_gid, new.metrics_gid),
        ] {
            if before != now && !keys.contains(&key) {
                keys.push(key);
            }
        }
        if !keys.is_empty() {
            return Err(ReloadError::Restart(keys));
        }
        Ok(new)
    }

    fn take_settings(&mut self, new: Settings, blocklist: Option<Sealed>) {
        self.context.settings = new;
        // Sessions that run keep the table that they have.
        self.context.blocklist = blocklist;
        agentd_session::log::change(&self.context.settings.config.log);
        self.sessions.trim(&self.context);
        self.sessions.limit_again(&self.context, Instant::now());
        self.reload_service();
    }

    /// Started by hand, the service gets a signal from us. One that is not here yet may have read the file before.
    pub(super) fn reload_service(&mut self) {
        let Some(service) = &self.service else { return };
        self.stale = self.link.is_none();
        if !self.stale
            && let Err(error) = service.reload()
        {
            tracing::error!(%error, "the service cannot be signalled that the configuration changed");
        }
    }

    fn end_reload(&self, result: Result<(), ReloadError>) {
        let file = self.context.settings.file.display();
        let status = match &result {
            Ok(()) => {
                tracing::info!(%file, "the configuration was read again");
                format!("{file} was read again")
            }
            Err(error) => {
                tracing::error!(%file, %error, "the configuration was refused: what held before goes on");
                format!("{file} was refused, what held before goes on: {error}")
            }
        };
        let status = status.replace(char::is_control, " ");
        self.notify_if_ready(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&status)]);
    }

    /// Before it is ready, nothing is said that would mean that it is.
    fn notify_if_ready(&self, states: &[sd_notify::NotifyState<'_>]) {
        if self.ready {
            notify_manager(states);
        }
    }
}
