//! The launcher's loop: one thread that polls non-blocking sockets and never waits for anyone.

mod clients;
mod ending;
mod reload;
mod reviewing;
mod service;
mod source;
mod steering;
mod watchdog;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::Hierarchies;
use agentd_kernel::event_loop::{EventFlags, EventLoop};
use agentd_kernel::packets::Packets;
use nix::sys::signalfd::SignalFd;
use rustix::net::SocketType;

use crate::activation::Sockets;
use crate::callers::Callers;
use crate::context::Context;
use crate::directories::listen;
use crate::examine::Examiner;
use crate::link::Link;
use crate::offers::Offers;
use crate::review::Reviews;
use crate::service::Service;
use crate::sessions::Sessions;
use agentd_session::error::{HostError, On as _};

pub use ending::Ended;
use ending::Failed;
use reload::Reload;
use source::Source;
use steering::Steering;
use watchdog::Watchdog;

/// The most events of one turn.
const MAX_EVENTS: usize = 256;

/// Everything that the launcher has.
pub struct Server {
    context: Context,
    event_loop: EventLoop<Source>,
    clients: OwnedFd,
    offer_clients: OwnedFd,
    services: OwnedFd,
    /// Where numbers are asked for: made here, for each service that comes.
    metrics: Option<OwnedFd>,
    signals: SignalFd,
    callers: Callers,
    offers: Offers,
    steering: Steering,
    reviews: Reviews,
    sessions: Sessions,
    examiner: Examiner,
    link: Option<Link>,
    /// Clients are let in only while there is a service: without one they wait in the kernel's queue, where they
    /// outlive this launcher too.
    open: bool,
    /// Clients' sockets that may have descriptors in them, to be closed apart.
    unclean: Vec<Packets>,
    ready: bool,
    /// Launcher and service are one, for somebody who started them by hand.
    by_hand: bool,
    service: Option<Service>,
    /// Whether the service was started before the configuration changed, and does not know of that.
    stale: bool,
    /// The names of the sockets that were made here.
    bound: Vec<String>,
    reload: Option<Reload>,
    watchdog: Option<Watchdog>,
    closing: Option<Instant>,
    /// Why it ends, if nobody asked for that.
    failed: Option<Failed>,
}

impl Server {
    /// Takes up what an earlier launcher left, and opens the sockets.
    pub fn new(
        context: Context,
        hierarchies: Hierarchies,
        signals: SignalFd,
        sockets: Sockets,
    ) -> Result<Self, HostError> {
        let mut sessions = Sessions::new(hierarchies);
        let adopted = sessions.recover(&context)?;
        if adopted > 0 {
            tracing::info!(sessions = adopted, "sessions of an earlier launcher adopted");
        }
        let settings = &context.settings;
        let config = &settings.config;
        let group = settings.socket_gid;
        let mut bound = Vec::new();
        let mut bind = |path: &str, kind, (owner, group, mode)| {
            let socket = listen(path, kind, owner, group, mode)?;
            bound.push(path.to_owned());
            Ok::<_, HostError>(socket)
        };
        let others = (0, group, 0o660);
        let clients = match sockets.clients {
            Some(socket) => socket,
            None => bind(config.socket.as_str(), SocketType::STREAM, others)?,
        };
        let offer_clients = match sockets.offers {
            Some(socket) => socket,
            None => bind(&config.offer_socket(), SocketType::SEQPACKET, others)?,
        };
        let service = (settings.service_uid, 0, 0o600);
        let services = bind(&config.service_socket(), SocketType::SEQPACKET, service)?;
        let members = (0, settings.metrics_gid, 0o660);
        let metrics =
            config.metrics_socket().map(|path| bind(&path, SocketType::STREAM, members)).transpose()?;
        let server = Self {
            event_loop: EventLoop::new(MAX_EVENTS).on("epoll")?,
            sessions,
            examiner: Examiner::default(),
            context,
            clients,
            offer_clients,
            services,
            metrics,
            signals,
            callers: Callers::default(),
            offers: Offers::default(),
            steering: Steering::default(),
            reviews: Reviews::default(),
            link: None,
            open: false,
            unclean: Vec::new(),
            ready: false,
            by_hand: false,
            service: None,
            stale: false,
            bound,
            reload: None,
            watchdog: Watchdog::wanted(),
            closing: None,
            failed: None,
        };
        // Before Linux 6.16 it is enough that the loop does not close such a socket itself.
        agentd_kernel::peer::refuse_descriptors(server.clients.as_fd()).on("clients")?;
        server.watch(server.services.as_fd(), Source::Services, EventFlags::IN)?;
        server.watch(server.offer_clients.as_fd(), Source::OfferClients, EventFlags::IN)?;
        server.watch(server.signals.as_fd(), Source::Signals, EventFlags::IN)?;
        Ok(server)
    }

    fn watch(&self, fd: BorrowedFd<'_>, source: Source, flags: EventFlags) -> Result<(), HostError> {
        self.event_loop.add(fd, source, flags).on("epoll")
    }

    /// Runs until a signal ends it. With `service`, starts the service too and ends with it.
    pub fn run(mut self, with_service: bool) -> Result<(), Ended> {
        self.by_hand = with_service;
        if with_service {
            self.service = Some(Service::start(self.context.token, &self.context.settings)?);
        }
        loop {
            let now = Instant::now();
            self.context.accounts.refresh(now);
            self.look_after_cgroups();
            self.restart_service(now);
            let messages = self.sessions.tick(&self.context, now);
            self.send_all(messages);
            let answer = self.examiner.tick(&self.context, &mut self.sessions, now);
            self.send_all(answer);
            self.expire_steering(now);
            self.reviews.reap();
            self.offers.expire(now);
            self.expire_reload(now);
            let owner = self.context.settings.config.pool.uids.system().get();
            self.context.host.etc.refresh(self.context.token, owner, now);
            if self.closing.is_none() {
                self.sessions.refill(&self.context, now);
            }
            self.hand_over();
            self.watch_service();
            self.watch_new();
            self.close_dead();
            if self.is_over(now) {
                break;
            }
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.turn(now);
            }
            let timeout = self.timeout(now);
            for source in self.event_loop.wait(Some(&timeout)).on("epoll")? {
                self.handle(source);
            }
        }
        self.close()
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Clients => self.accept_clients(),
            Source::OfferClients => self.accept_offers(),
            Source::Services => self.accept_service(),
            Source::Signals => self.signal(),
            Source::Service => self.service_readable(),
            Source::Caller(number) => self.forget(number),
            Source::Offer(number) => self.offer_readable(number),
            Source::Builder(lease) => {
                let answer = self.sessions.answered(&self.context, lease);
                self.send_all(answer);
            }
            Source::Keeper(lease) => {
                // Its last word may still be unread.
                let answer = self.sessions.answered(&self.context, lease);
                self.send_all(answer);
                self.sessions.keeper_ended(lease);
            }
            Source::Reload => self.reload_readable(),
            Source::Steering(number) => self.keeper_answers(number),
            Source::Examiner => {
                let answer = self.examiner.receive(&self.context, &mut self.sessions);
                self.send_all(answer);
            }
        }
    }

    fn watch_new(&mut self) {
        for new in self.sessions.unwatched() {
            if let Err(error) = self.watch_session(new) {
                tracing::error!(lease = new, %error, "a session cannot be watched");
            }
        }
        if let Some(socket) = self.examiner.unwatched()
            && let Err(errno) = self.event_loop.add(socket, Source::Examiner, EventFlags::IN)
        {
            tracing::error!(error = %errno, "an examination cannot be watched");
        }
    }

    fn watch_session(&self, lease: u32) -> Result<(), HostError> {
        let Some((builder, keeper)) = self.sessions.watch(lease) else { return Ok(()) };
        if let Some(builder) = builder {
            self.watch(builder.as_fd(), Source::Builder(lease), EventFlags::IN)?;
        }
        self.watch(keeper.as_fd(), Source::Keeper(lease), EventFlags::IN)
    }

    /// Gives offers that nobody needs to a child that closes them.
    fn close_dead(&mut self) {
        if !self.sessions.has_closers_to_spare() {
            return;
        }
        let mut dead = self.offers.dead();
        dead.extend(self.sessions.left());
        dead.iter().for_each(|socket| self.unwatch(socket.as_fd()));
        dead.append(&mut self.unclean);
        if !dead.is_empty() {
            self.sessions.close_apart(&self.context, dead);
        }
    }

    fn timeout(&self, now: Instant) -> rustix::event::Timespec {
        let due = [
            self.sessions.next_tick(now),
            self.offers.next_expiry(),
            self.steering.next_expiry(),
            self.examiner.next_tick(),
            self.next_reload(),
            self.context.host.etc.due(now),
            self.watchdog.as_ref().map(Watchdog::due),
            self.service.as_ref().and_then(Service::due),
            self.closing,
        ];
        let next = due.into_iter().flatten().min().unwrap_or(now + Duration::from_secs(60));
        let wait = next.saturating_duration_since(now);
        rustix::event::Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(60),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }
}

/// Sends `states` to the service manager, if there is one.
fn notify_manager(states: &[sd_notify::NotifyState<'_>]) {
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    if let Err(error) = agentd_kernel::notify::notify(&lines.join("\n")) {
        tracing::warn!(%error, "the service manager cannot be notified");
    }
}
