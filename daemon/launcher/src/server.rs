//! The launcher's loop: one thread that polls non-blocking sockets and never waits for anyone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::Hierarchies;
use agentd_kernel::packets::Packets;
use agentd_kernel::peer;
use agentd_kernel::process::SingleThreaded;
use agentd_policy::Refusal;
use agentd_policy::wire::{CallerNumber, FromLauncher, FromService, RequestNumber};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{SocketFlags, SocketType};

use crate::build::monotonic_ns;
use crate::callers::Callers;
use crate::directories::{Directories, listen};
use crate::host::Host;
use crate::link::Link;
use crate::offers::{Heard, Offers};
use crate::service::Service;
use crate::sessions::{Message, Request, Sessions};
use crate::settings::Settings;

/// How long sessions may take to end when the launcher is told to.
const FAREWELL: Duration = Duration::from_secs(10);

/// How many messages of the service are taken in one turn.
const MESSAGES: usize = 64;

/// What an event is about: the kind in the upper half, a number in the lower.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Source {
    Clients = 1,
    OfferClients,
    Services,
    Signals,
    Service,
    Caller,
    Offer,
    Builder,
    Keeper,
}

const SOURCES: [Source; 9] = [
    Source::Clients,
    Source::OfferClients,
    Source::Services,
    Source::Signals,
    Source::Service,
    Source::Caller,
    Source::Offer,
    Source::Builder,
    Source::Keeper,
];

/// Everything that the launcher has.
pub struct Server {
    settings: Settings,
    directories: Directories,
    host: Host,
    epoll: OwnedFd,
    clients: OwnedFd,
    offer_clients: OwnedFd,
    services: OwnedFd,
    signals: SignalFd,
    callers: Callers,
    offers: Offers,
    sessions: Sessions,
    link: Option<Link>,
    /// Clients are let in only while there is a service.
    open: bool,
    ready: bool,
    token: SingleThreaded,
    service: Option<Service>,
    closing: Option<Instant>,
}

impl Server {
    /// Opens the sockets.
    pub fn new(
        token: SingleThreaded,
        settings: Settings,
        directories: Directories,
        host: Host,
        hierarchies: Hierarchies,
        signals: SignalFd,
    ) -> Result<Self, String> {
        let config = &settings.config;
        let group = settings.socket_gid;
        let clients = listen(config.socket.as_str(), SocketType::STREAM, 0, group, 0o660)?;
        let offer_clients = listen(&config.offer_socket(), SocketType::SEQPACKET, 0, group, 0o660)?;
        let owner = settings.service_uid;
        let services = listen(&config.service_socket(), SocketType::SEQPACKET, owner, 0, 0o600)?;
        let server = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC).map_err(|e| format!("epoll: {e}"))?,
            sessions: Sessions::new(token, hierarchies),
            settings,
            directories,
            host,
            clients,
            offer_clients,
            services,
            signals,
            callers: Callers::default(),
            offers: Offers::default(),
            link: None,
            open: false,
            ready: false,
            token,
            service: None,
            closing: None,
        };
        server.watch(server.services.as_fd(), Source::Services, 0, EventFlags::IN)?;
        server.watch(server.offer_clients.as_fd(), Source::OfferClients, 0, EventFlags::IN)?;
        server.watch(server.signals.as_fd(), Source::Signals, 0, EventFlags::IN)?;
        Ok(server)
    }

    fn watch(
        &self,
        fd: BorrowedFd<'_>,
        source: Source,
        number: u64,
        flags: EventFlags,
    ) -> Result<(), String> {
        let data = EventData::new_u64((source as u64) << 56 | number);
        epoll::add(&self.epoll, fd, data, flags).map_err(|e| format!("epoll: {e}"))
    }

    /// Runs until a signal ends it. With `service`, starts the service too and ends with it.
    pub fn run(mut self, with_service: bool) -> Result<(), String> {
        if with_service {
            self.service = Some(Service::start(self.token, &self.settings)?);
        }
        let mut events = Vec::with_capacity(256);
        loop {
            let now = Instant::now();
            for message in self.sessions.tick(now, &self.directories) {
                self.tell(message);
            }
            self.offers.expire(now);
            if self.closing.is_none() {
                self.sessions.refill(now, &self.settings, &self.directories, &self.host);
            }
            self.watch_builders();
            if self.sessions.has_workers_to_spare() {
                let dead = self.offers.dead();
                dead.iter().for_each(|socket| self.unwatch(socket.as_fd()));
                if !dead.is_empty() {
                    self.sessions.close_apart(dead);
                }
            }
            if self.is_over(now) {
                break;
            }
            let timeout = self.timeout(now);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(format!("epoll: {errno}")),
            }
            for event in &events {
                self.handle(event.data.u64());
            }
        }
        self.close()
    }

    fn handle(&mut self, data: u64) {
        let number = data & ((1 << 56) - 1);
        let Some(source) = SOURCES.into_iter().find(|s| *s as u64 == data >> 56) else { return };
        match source {
            Source::Clients => self.accept_client(),
            Source::OfferClients => self.accept_offer(),
            Source::Services => self.accept_service(),
            Source::Signals => self.signal(),
            Source::Service => self.service_says(),
            Source::Caller => self.forget(CallerNumber(number)),
            Source::Offer => self.offer_says(number),
            Source::Builder => {
                if let Some(message) = self.sessions.answered(u32::try_from(number).unwrap_or(u32::MAX)) {
                    self.tell(message);
                }
            }
            Source::Keeper => {
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                // Its last word may still be unread.
                if let Some(message) = self.sessions.answered(number) {
                    self.tell(message);
                }
                self.sessions.keeper_ended(number);
            }
        }
    }

    /// Accepts one client, attests it, and hands it to the service under a number.
    fn accept_client(&mut self) {
        let Some((socket, peer)) = self.accept(|server| server.clients.as_fd()) else { return };
        if !self.callers.has_room(peer.uid) {
            tracing::warn!(uid = peer.uid, "too many connections");
            return;
        }
        let Ok(own) = socket.try_clone() else { return };
        let number = self.callers.add(peer, own);
        // A second handle is kept for its hang-up alone: the data is the service's.
        let own = self.callers.socket(number);
        let watched = own.map(|own| self.watch(own.as_fd(), Source::Caller, number.0, EventFlags::RDHUP));
        if let Some(Err(error)) = watched {
            tracing::error!(%error, "client");
            self.callers.remove(number);
            return;
        }
        self.tell((FromLauncher::Caller { number, peer }, vec![socket]));
    }

    fn forget(&mut self, number: CallerNumber) {
        if let Some(caller) = self.callers.remove(number) {
            self.unwatch(caller.socket.as_fd());
        }
    }

    /// Takes a descriptor from epoll before it is closed: another process may have the same open file, and epoll
    /// would report on it for as long.
    fn unwatch(&self, fd: BorrowedFd<'_>) {
        match epoll::delete(&self.epoll, fd) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => tracing::error!(%errno, "epoll"),
        }
    }

    fn accept_offer(&mut self) {
        let Some((socket, peer)) = self.accept(|server| server.offer_clients.as_fd()) else { return };
        if !self.offers.has_room(peer.uid) {
            tracing::warn!(uid = peer.uid, "too many offers");
            return;
        }
        let number = self.offers.add(peer, Packets::from_fd(socket));
        let flags = EventFlags::IN | EventFlags::RDHUP;
        let watched = self.offers.socket(number).map(|s| self.watch(s.as_fd(), Source::Offer, number, flags));
        if let Some(Err(error)) = watched {
            tracing::error!(%error, "offer");
        }
    }

    /// An offer that is held stays in its socket, which is watched for its end alone from then on.
    fn offer_says(&mut self, number: u64) {
        if self.offers.ready(number) != Heard::Offer {
            return;
        }
        let data = EventData::new_u64((Source::Offer as u64) << 56 | number);
        let socket = self.offers.socket(number);
        if let Some(Err(errno)) = socket.map(|s| epoll::modify(&self.epoll, s, data, EventFlags::RDHUP)) {
            tracing::error!(%errno, "offer");
        }
    }

    fn accept(
        &self,
        listener: impl Fn(&Self) -> BorrowedFd<'_>,
    ) -> Option<(OwnedFd, agentd_policy::wire::Peer)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener(self), flags) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {
                return None;
            }
            Err(errno) => {
                tracing::error!(%errno, "accept");
                return None;
            }
        };
        match peer::attest(socket.as_fd(), self.settings.admin_gid) {
            Ok(peer) => Some((socket, peer)),
            Err(error) => {
                tracing::error!(%error, "peer credentials");
                None
            }
        }
    }

    /// The service connects: nobody else has its uid's socket, but the peer is attested all the same.
    fn accept_service(&mut self) {
        let Some((socket, peer)) = self.accept(|server| server.services.as_fd()) else { return };
        if peer.uid != self.settings.service_uid {
            tracing::error!(uid = peer.uid, "not the service");
            return;
        }
        self.lose_service("another took its place");
        if let Err(error) = self.watch(socket.as_fd(), Source::Service, 0, EventFlags::IN | EventFlags::RDHUP)
        {
            tracing::error!(%error, "service");
            return;
        }
        self.link = Some(Link::new(Packets::from_fd(socket)));
        if !self.open && self.closing.is_none() {
            match self.watch(self.clients.as_fd(), Source::Clients, 0, EventFlags::IN) {
                Ok(()) => self.open = true,
                Err(error) => tracing::error!(%error, "clients"),
            }
        }
        if !self.ready {
            self.ready = true;
            tell_manager(&[sd_notify::NotifyState::Ready]);
        }
    }

    fn lose_service(&mut self, why: &str) {
        if self.link.take().is_none() {
            return;
        }
        tracing::warn!(why, "the service is gone");
        for caller in self.callers.clear() {
            self.unwatch(caller.socket.as_fd());
        }
        if std::mem::take(&mut self.open)
            && let Err(errno) = epoll::delete(&self.epoll, &self.clients)
        {
            tracing::error!(%errno, "clients");
        }
    }

    fn tell(&mut self, (message, descriptors): Message) {
        let Some(link) = &mut self.link else { return };
        let sent = link.send(&message, descriptors);
        self.after_sending(sent);
    }

    /// Asks to be told of room while something waits for it; a service that cannot be told is gone.
    fn after_sending(&mut self, sent: Result<(), String>) {
        let Some(link) = &self.link else { return };
        let mut flags = EventFlags::IN | EventFlags::RDHUP;
        flags.set(EventFlags::OUT, link.is_full());
        let data = EventData::new_u64((Source::Service as u64) << 56);
        let watched = epoll::modify(&self.epoll, link, data, flags).map_err(|e| e.to_string());
        if let Err(error) = sent.and(watched) {
            self.lose_service(&error);
        }
    }

    fn service_says(&mut self) {
        if let Some(link) = &mut self.link {
            let sent = link.flush();
            self.after_sending(sent);
        }
        // What is left is reported again: a service that never pauses does not starve the rest.
        for _ in 0..MESSAGES {
            let Some(link) = &self.link else { return };
            match link.receive() {
                Ok(Some(message)) => self.obey(message, monotonic_ns()),
                Ok(None) => return,
                Err(error) => self.lose_service(&error),
            }
        }
    }

    fn obey(&mut self, message: FromService, began_ns: u64) {
        match message {
            FromService::Forget { caller } => self.forget(caller),
            FromService::End { session } => self.sessions.kill(&session),
            FromService::Build { request, caller, ticket, plan } => {
                if let Err(refusal) = self.build(request, caller, ticket, *plan, began_ns) {
                    tracing::info!(%refusal, "refused");
                    self.tell((FromLauncher::Refused { request, refusal }, Vec::new()));
                }
            }
            FromService::Remove { request, caller, owner, session } => {
                let answer = match self.callers.get(caller) {
                    Some(peer) if peer.uid == owner || peer.admin => {
                        self.sessions.remove(request, owner, &session, &self.directories)
                    }
                    _ => {
                        let refusal = Some(Refusal::new("the caller", "caller.unknown", "connect again"));
                        Some((FromLauncher::Removed { request, refusal }, Vec::new()))
                    }
                };
                if let Some(answer) = answer {
                    self.tell(answer);
                }
            }
        }
    }

    fn build(
        &mut self,
        number: RequestNumber,
        caller: CallerNumber,
        ticket: Option<agentd_policy::wire::Ticket>,
        plan: agentd_policy::plan::Plan,
        began_ns: u64,
    ) -> Result<(), Refusal> {
        if self.closing.is_some() {
            return Err(Refusal::new("a new session", "host.closing", "agentd is shutting down; try later"));
        }
        let caller = self
            .callers
            .get(caller)
            .ok_or_else(|| Refusal::new("the caller", "caller.unknown", "connect again"))?;
        let mut offer = ticket.map(|ticket| self.offers.take(ticket, &caller)).transpose()?;
        if let Some(socket) = &offer {
            self.unwatch(socket.as_fd());
        }
        let request = Request { number, caller, plan, began_ns };
        let built = self.sessions.build(request, &self.settings, &self.directories, &self.host, &mut offer);
        if let Some(left) = offer {
            self.offers.give_back(left);
        }
        built
    }

    fn watch_builders(&mut self) {
        for new in self.sessions.unwatched() {
            if let Err(error) = self.watch_builder(new) {
                tracing::error!(%error, "a builder cannot be watched");
            }
        }
    }

    fn watch_builder(&self, lease: u32) -> Result<(), String> {
        let Some((builder, keeper)) = self.sessions.watch(lease) else { return Ok(()) };
        self.watch(builder.as_fd(), Source::Builder, u64::from(lease), EventFlags::IN)?;
        self.watch(keeper.as_fd(), Source::Keeper, u64::from(lease), EventFlags::IN)
    }

    fn signal(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let child = Signal::SIGCHLD as u32;
            if info.ssi_signo == child {
                continue;
            }
            tracing::info!("ending every session");
            tell_manager(&[sd_notify::NotifyState::Stopping]);
            self.begin_closing();
        }
        // By hand, launcher and service are one: without it there is nothing to wait for.
        if self.service.as_ref().is_some_and(Service::has_ended) && self.closing.is_none() {
            tracing::error!("the service ended");
            self.begin_closing();
        }
    }

    fn begin_closing(&mut self) {
        if self.closing.is_none() {
            self.closing = Some(Instant::now() + FAREWELL);
            self.sessions.kill_agents();
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.closing.is_some_and(|until| self.sessions.is_empty() || now >= until)
    }

    fn timeout(&self, now: Instant) -> rustix::event::Timespec {
        let due = [self.sessions.next_tick(), self.offers.next_expiry(), self.closing];
        let next = due.into_iter().flatten().min().unwrap_or(now + Duration::from_secs(60));
        let wait = next.saturating_duration_since(now);
        rustix::event::Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(60),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }

    /// Takes the sockets and groups away; every error is told, none stops the rest.
    fn close(mut self) -> Result<(), String> {
        let mut errors = Vec::new();
        if let Some(service) = self.service.take() {
            errors.extend(service.stop().err());
        }
        let config = &self.settings.config;
        for path in [config.socket.as_str(), &config.offer_socket(), &config.service_socket()] {
            errors.extend(rustix::fs::unlink(path).err().map(|e| format!("{path}: {e}")));
        }
        errors.extend(self.sessions.close().err());
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}

/// Tells whoever supervises us; without one, nobody.
fn tell_manager(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "sd_notify");
    }
}
