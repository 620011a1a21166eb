//! The launcher, as the rest of the service sees it: each request gets its answer, or a refusal while there is no
//! launcher.

pub mod link;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::Refusal;
use agentd_policy::limits::DiskForm;
use agentd_policy::names::SessionId;
use agentd_policy::plan::Permitted;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{self, CallerNumber, Check, FromService, Leak, RequestNumber, Ticket, Timing};
use tokio::sync::{mpsc, oneshot, watch};

use self::link::Link;
use crate::sync::lock;

/// A session that runs, as the launcher hands it over.
#[derive(Debug)]
pub struct Built {
    pub keeper: Packets,
    pub relay: OwnedFd,
    pub timings: Vec<Timing>,
}

/// What a host offers, and what was left behind.
pub type Examined = (Vec<Check>, Vec<Leak>);

/// What the launcher answers.
#[derive(Debug)]
pub enum Answer {
    Built(Built),
    Refused(Refusal),
    Removed(Option<Refusal>),
    Examined(Examined),
}

/// Messages that found no room at once. There are never more than connections and sessions.
pub type Late = mpsc::UnboundedReceiver<FromService>;

/// A connection to a launcher.
struct Uplink {
    /// Which one, counted from 1: what one launcher accepted the next knows nothing of.
    launcher: u64,
    link: Arc<Link>,
    late: mpsc::UnboundedSender<FromService>,
}

/// How limits are enforced on this host.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// What enforces those of overlays.
    pub disk: DiskForm,
    /// The most open files of a process.
    pub open_files: u64,
}

/// The launcher, or its place while there is none.
pub struct Launcher {
    uplink: Mutex<Option<Arc<Uplink>>>,
    /// The present one's number; 0 for none.
    present: watch::Sender<u64>,
    next: AtomicU64,
    /// What the launcher sent last.
    facts: Mutex<Option<Facts>>,
    pending: Mutex<HashMap<RequestNumber, oneshot::Sender<Answer>>>,
}

/// A connection's number, for as long as a request may still name it to the launcher.
pub struct CallerHandle {
    number: CallerNumber,
    /// Of the launcher that accepted it, by the service's count.
    accepted_by: u64,
    launcher: Arc<Launcher>,
}

impl CallerHandle {
    /// Of a connection that the launcher with the number `accepted_by` knows as `number`.
    pub fn new(number: CallerNumber, accepted_by: u64, launcher: Arc<Launcher>) -> Self {
        Self { number, accepted_by, launcher }
    }
}

impl Drop for CallerHandle {
    fn drop(&mut self) {
        self.launcher.forget(self);
    }
}

impl Launcher {
    pub fn new() -> Self {
        Self {
            uplink: Mutex::default(),
            present: watch::Sender::new(0),
            next: AtomicU64::new(1),
            facts: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    /// How limits are enforced on this host, once a launcher was there.
    pub fn facts(&self) -> Option<Facts> {
        *lock(&self.facts)
    }

    /// Takes what a launcher reports of the host.
    pub fn has_facts(&self, facts: Facts) {
        *lock(&self.facts) = Some(facts);
    }

    /// Wakes with every launcher that comes, and when it goes: then with 0.
    pub fn present(&self) -> watch::Receiver<u64> {
        self.present.subscribe()
    }

    /// There is a launcher: its number, and what is to be sent to it later.
    pub fn connected(&self, link: &Arc<Link>) -> (u64, Late) {
        let launcher = self.next.fetch_add(1, Ordering::Relaxed);
        let (late, receiver) = mpsc::unbounded_channel();
        *lock(&self.uplink) = Some(Arc::new(Uplink { launcher, link: link.clone(), late }));
        self.present.send_replace(launcher);
        (launcher, receiver)
    }

    /// It is gone. Requests that wait for an answer fail.
    pub fn lost(&self) {
        *lock(&self.uplink) = None;
        lock(&self.pending).clear();
        self.present.send_replace(0);
    }

    fn uplink(&self) -> Option<Arc<Uplink>> {
        lock(&self.uplink).clone()
    }

    /// Has a session built.
    pub async fn build(
        &self,
        handle: &CallerHandle,
        ticket: Ticket,
        plan: Permitted,
    ) -> Result<Built, Refusal> {
        let (caller, plan) = (handle.number, Box::new(plan.into()));
        match self.ask(handle, |request| FromService::Build { request, caller, ticket, plan }).await? {
            Answer::Built(built) => Ok(built),
            Answer::Refused(refusal) => Err(refusal),
            _ => Err(no_launcher("another answer than it was asked for")),
        }
    }

    /// Has what is left of an ended session deleted.
    pub async fn remove(&self, handle: &CallerHandle, owner: u32, session: SessionId) -> Result<(), Refusal> {
        let caller = handle.number;
        match self.ask(handle, |request| FromService::Remove { request, caller, owner, session }).await? {
            Answer::Removed(None) => Ok(()),
            Answer::Removed(Some(refusal)) | Answer::Refused(refusal) => Err(refusal),
            _ => Err(no_launcher("another answer than it was asked for")),
        }
    }

    /// Has the host looked at.
    pub async fn examine(
        &self,
        handle: &CallerHandle,
        leaks: bool,
        clean: bool,
    ) -> Result<Examined, Refusal> {
        let caller = handle.number;
        match self.ask(handle, |request| FromService::Examine { request, caller, leaks, clean }).await? {
            Answer::Examined(examined) => Ok(examined),
            Answer::Refused(refusal) => Err(refusal),
            _ => Err(no_launcher("another answer than it was asked for")),
        }
    }

    /// Has a session ended whose keeper does not end it.
    pub fn end(&self, session: SessionId) {
        match self.uplink() {
            Some(uplink) => uplink.send(FromService::End { session }),
            // It is requested again, or the next launcher reports that there is no such session.
            None => tracing::warn!(%session, "a session is to be ended, and there is no launcher"),
        }
    }

    /// Reports that a connection is gone.
    fn forget(&self, handle: &CallerHandle) {
        if let Some(uplink) = self.uplink().filter(|uplink| uplink.launcher == handle.accepted_by) {
            uplink.send(FromService::Forget { caller: handle.number });
        }
    }

    async fn ask(
        &self,
        handle: &CallerHandle,
        message: impl FnOnce(RequestNumber) -> FromService,
    ) -> Result<Answer, Refusal> {
        let uplink = self.uplink().ok_or_else(|| no_launcher("there is none at this moment"))?;
        if uplink.launcher != handle.accepted_by {
            return Err(Refusal::new(
                "a connection that an earlier launcher accepted",
                Rule::CallerUnknown,
                "connect again",
            ));
        }
        let request = RequestNumber(self.next.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        let packet = wire::encode(&message(request)).map_err(|e| {
            Refusal::new(format!("a plan: {e}"), Rule::PlanSize, "ask for fewer mounts, names and arguments")
        })?;
        lock(&self.pending).insert(request, answer);
        if let Err(error) = uplink.link.send(&packet).await {
            lock(&self.pending).remove(&request);
            return Err(no_launcher(&error.to_string()));
        }
        // It may have gone between the two: then no other code would fail the request.
        if *self.present.borrow() != uplink.launcher {
            lock(&self.pending).remove(&request);
        }
        answered.await.map_err(|_| no_launcher("it went away"))
    }

    /// How many wait for an answer.
    pub fn waiting(&self) -> usize {
        lock(&self.pending).len()
    }

    /// Hands an answer to the request that waits for it.
    pub fn answer(&self, request: RequestNumber, answer: Answer) {
        match lock(&self.pending).remove(&request) {
            Some(waiting) => drop(waiting.send(answer)),
            None => tracing::warn!(request = request.0, "the launcher answers a request that is not open"),
        }
    }
}

/// A refusal of something that needs the launcher.
pub fn no_launcher(why: &str) -> Refusal {
    Refusal::new(
        format!("the launcher: {why}"),
        Rule::HostLauncher,
        "it may be starting anew: try again, and look at the log of agentd-launcher if it stays so",
    )
}

impl Uplink {
    fn send(&self, message: FromService) {
        let sent = wire::encode(&message).map(|packet| self.link.send_now(&packet));
        match sent {
            Ok(Ok(())) => {}
            // The receiver lives as long as the link; without it the message has nowhere to go.
            Ok(Err(PacketError::WouldBlock)) => drop(self.late.send(message)),
            Ok(Err(error)) => tracing::debug!(%error, "a message was not sent to the launcher"),
            Err(error) => tracing::error!(%error, "a message to the launcher was not encoded"),
        }
    }
}
