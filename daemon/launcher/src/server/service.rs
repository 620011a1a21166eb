//! The service's connection: what it sends, and what is sent to it.

use std::os::fd::{AsFd as _, OwnedFd};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::Packets;
use agentd_kernel::peer;
use agentd_policy::Refusal;
use agentd_policy::lease::Groups;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{CallerNumber, FromLauncher, FromService, MAX_LIVE, RequestNumber, Ticket};
use agentd_session::monotonic_ns;

use super::clients::accept;
use super::source::Source;
use super::{Server, notify_manager};
use crate::examine::Asked;
use crate::link::{Link, LinkError};
use crate::sessions::{Message, Request};

/// How many messages of the service are taken in one turn.
const MESSAGES: usize = 64;

impl Server {
    /// The service connects: nobody else has its uid's socket, but the peer is attested all the same.
    pub(super) fn accept_service(&mut self) {
        let Some(socket) = accept(self.services.as_fd()) else { return };
        let peer = match peer::attest(socket.as_fd(), self.context.settings.admin_gid) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::error!(%error, "a service that cannot be attested was sent away");
                return;
            }
        };
        if peer.uid != self.context.settings.service_uid {
            tracing::error!(user = peer.uid, pid = peer.pid, "a service of another account was sent away");
            return;
        }
        self.lose_service(&LinkError::Replaced);
        if let Err(error) = self.watch(socket.as_fd(), Source::Service, Link::WATCHED) {
            tracing::error!(%error, "the service's connection cannot be watched");
            return;
        }
        self.link = Some(Link::new(Packets::from_fd(socket)));
        self.send_live();
        self.send_metrics();
        if self.link.is_none() {
            return;
        }
        if !self.open && self.closing.is_none() {
            match self.watch(self.clients.as_fd(), Source::Clients, EventFlags::IN) {
                Ok(()) => self.open = true,
                Err(error) => tracing::error!(%error, "clients cannot be let in"),
            }
        }
        if std::mem::take(&mut self.stale) {
            self.reload_service();
        }
        if !self.ready {
            self.ready = true;
            notify_manager(&[sd_notify::NotifyState::Ready]);
        }
    }

    /// The first message to a service: which sessions go on.
    fn send_live(&mut self) {
        let (live, disk) = (self.sessions.live(), self.context.disk.form);
        let open_files = self.context.open_files;
        let mut parts = live.chunks(MAX_LIVE).peekable();
        if parts.peek().is_none() {
            self.send((
                FromLauncher::Live { disk, open_files, sessions: Vec::new(), last: true },
                Vec::new(),
            ));
        }
        while let Some(part) = parts.next() {
            let last = parts.peek().is_none();
            self.send((FromLauncher::Live { disk, open_files, sessions: part.to_vec(), last }, Vec::new()));
        }
    }

    /// Who asks for numbers is the service's from then on: nobody is accepted here.
    fn send_metrics(&mut self) {
        match self.metrics.as_ref().map(OwnedFd::try_clone) {
            Some(Ok(socket)) => self.send((FromLauncher::Metrics, vec![socket])),
            Some(Err(error)) => tracing::error!(%error, "nobody can ask for metrics"),
            None => {}
        }
    }

    pub(super) fn lose_service(&mut self, why: &LinkError) {
        if self.link.take().is_none() {
            return;
        }
        tracing::warn!(error = %why, "the service is gone");
        self.sessions.forget_requests();
        self.examiner.forget();
        for caller in self.callers.clear() {
            self.unwatch(caller.socket.as_fd());
            self.discard(caller.socket);
        }
        if std::mem::take(&mut self.open)
            && let Err(errno) = self.event_loop.remove(&self.clients)
        {
            tracing::error!(error = %errno, "clients cannot be kept waiting");
        }
    }

    pub(super) fn send(&mut self, (message, descriptors): Message) {
        let Some(link) = &mut self.link else { return };
        if let Err(error) = link.send(&message, descriptors) {
            self.lose_service(&error);
        }
    }

    pub(super) fn send_all(&mut self, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            self.send(message);
        }
    }

    /// Watches the service for what there is to wait for: once a turn.
    pub(super) fn watch_service(&mut self) {
        let more = self.callers.has_waiting();
        let Some(link) = &mut self.link else { return };
        let wanted = link.wanted(more);
        if wanted == link.watched {
            return;
        }
        match self.event_loop.modify(&*link, Source::Service, wanted) {
            Ok(()) => link.watched = wanted,
            Err(errno) => self.lose_service(&LinkError::Epoll(errno.into())),
        }
    }

    pub(super) fn service_readable(&mut self) {
        if let Some(Err(error)) = self.link.as_mut().map(Link::flush) {
            self.lose_service(&error);
        }
        // What is left is reported again: a service that never pauses does not starve the rest.
        for _ in 0..MESSAGES {
            let Some(link) = self.link.as_ref().filter(|link| link.is_read()) else { return };
            match link.receive() {
                Ok(Some(message)) => self.handle_message(message, monotonic_ns()),
                Ok(None) => return,
                Err(error) => self.lose_service(&error),
            }
        }
    }

    fn handle_message(&mut self, message: FromService, began_ns: u64) {
        match message {
            FromService::Forget { caller } => self.forget(caller),
            FromService::End { session } => self.sessions.kill(&session),
            FromService::Build { request, caller, ticket, plan } => {
                let session = plan.session.clone();
                if let Err(refusal) = self.build(request, caller, ticket, *plan, began_ns) {
                    tracing::info!(%session, rule = refusal.rule.name(), error = %refusal, "session refused");
                    self.send((FromLauncher::Refused { request, refusal }, Vec::new()));
                }
            }
            FromService::Remove { request, caller, owner, session } => {
                let answer = match self.callers.get(caller) {
                    Some(peer) if peer.uid == owner || peer.admin => {
                        self.sessions.remove(&self.context, request, owner, &session)
                    }
                    _ => {
                        let refusal = Some(Refusal::new("the caller", Rule::CallerUnknown, "connect again"));
                        Some((FromLauncher::Removed { request, refusal }, Vec::new()))
                    }
                };
                self.send_all(answer);
            }
            FromService::Examine { request, caller, leaks, clean } => {
                let answer = match self.callers.get(caller) {
                    Some(peer) => {
                        // Others see the host, not what everybody's sessions left.
                        let all = peer.admin || peer.uid == 0;
                        let (leaks, clean) = (leaks && all, clean && leaks && all);
                        let account = self.context.accounts.of(peer.uid);
                        self.examiner.ask(Asked { request, uid: peer.uid, account, leaks, clean })
                    }
                    None => {
                        let (checks, leaks) = (Vec::new(), Vec::new());
                        Some((FromLauncher::Examined { request, checks, leaks }, Vec::new()))
                    }
                };
                self.send_all(answer);
            }
        }
    }

    fn build(
        &mut self,
        number: RequestNumber,
        caller: CallerNumber,
        ticket: Ticket,
        plan: agentd_policy::plan::Plan,
        began_ns: u64,
    ) -> Result<(), Refusal> {
        if self.closing.is_some() {
            return Err(Refusal::new(
                "a new session",
                Rule::HostClosing,
                "agentd is shutting down; try later",
            ));
        }
        let bounds = self.bounds_of(caller)?;
        let unknown = || Refusal::new("the caller", Rule::CallerUnknown, "connect again");
        let socket = self.callers.socket(caller).ok_or_else(unknown)?;
        let listed = peer::groups(socket.as_fd()).map_err(|e| {
            Refusal::new(format!("the caller's groups: {e}"), Rule::CallerGroups, "connect again")
        })?;
        let caller = self.callers.get(caller).ok_or_else(unknown)?;
        let groups = Groups::new(caller.gid, &listed).map_err(|e| {
            Refusal::new(
                format!("a session for a member of {e}"),
                Rule::CallerGroups,
                format!("run agentctl with at most {} of them, by `setpriv --groups`", Groups::MAX),
            )
        })?;
        let (offer, consent) = self.offers.take(ticket, &caller)?;
        self.unwatch(offer.as_fd());
        let request = Request { number, caller, groups, bounds, plan, consent, began_ns };
        self.sessions.build(&self.context, request, offer)
    }
}
