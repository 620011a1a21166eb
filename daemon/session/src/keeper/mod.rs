//! The keeper: what the builder becomes. It has no capability on the host. It owns the session's user
//! namespace, sees its execs, answers the kernel, passes signals and further commands on, and ends it. It needs
//! neither launcher nor service: what a service has not taken waits for the next.

mod calls;
mod commands;
mod egress;
mod ending;
mod execs;
mod files;
mod init;
mod leftovers;
mod limits;
mod link;
mod network;
mod outbox;
mod owners;
mod phase;
mod processes;
mod refused;
mod relay;
mod repeats;
mod rights;
mod scratch;
mod source;
mod spool;
mod steering;
mod watched;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::Watch;
use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::exec_watch::ExecWatch;
use agentd_kernel::packets::Packets;
use agentd_kernel::process::Child;
use agentd_policy::ceiling::Ceiling;
use agentd_policy::lease::Lease;
use agentd_policy::names::SessionId;
use agentd_policy::plan::Plan;
use agentd_policy::step::Step;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};

use crate::error::{HostError, On as _};
use crate::init::Network;
use commands::Commands;
use egress::EgressState;
use execs::ExecAudit;
use files::Files;
use init::InitProcess;
pub use leftovers::{Copied, Leftovers};
use limits::Limits;
use link::ServiceSocket;
use network::Denials;
use phase::Phase;
use refused::Refused;
use relay::RelayProcess;
pub use scratch::Scratch;
use source::{Events, Source};
use spool::Spool;

/// How many messages of the service's or the relay's are taken in one turn: what is left is reported again, and one
/// that never pauses does not starve the rest.
const MESSAGES: usize = 64;
/// The most events of one turn.
const MAX_EVENTS: usize = 64;

/// Why init is not confined.
#[derive(Debug, thiserror::Error)]
pub enum NotConfined {
    /// It could not do a step.
    #[error("init: {step}: {why}")]
    Init {
        step: Step,
        /// In init's words.
        why: String,
    },
    /// It did not say so as it has to, or what it sent cannot be used.
    #[error("init: {0}")]
    Host(#[source] HostError),
}

/// What a keeper is made of.
pub struct Parts<'a> {
    /// The plan, for its limits.
    pub plan: &'a Plan,
    /// What the site lets it reach at most.
    pub ceiling: Ceiling,
    pub lease: Lease,
    /// The lock on them.
    pub lock: OwnedFd,
    /// The host's /proc.
    pub proc: OwnedFd,
    /// The session's cgroup.
    pub watch: Watch,
    /// To the service.
    pub service: Packets,
    /// Where a service connects later on.
    pub listener: OwnedFd,
    /// Which uid it has.
    pub service_uid: u32,
    /// Whose session it is.
    pub owner: u32,
    /// pid 1 of the session.
    pub init: Child,
    pub to_init: Packets,
    pub relay: Child,
    /// To it. Its end is the relay's.
    pub control: Packets,
    /// What asks to run.
    pub execs: ExecWatch,
    /// Reports when a mount of the session goes, if names are covered in a directory that others change too.
    pub mounts: Option<OwnedFd>,
    /// What looks at the size of the session's overlays, and the pipe of its notices.
    pub disk: Option<(Child, OwnedFd)>,
    /// Its file systems in memory.
    pub scratches: Vec<Scratch>,
    /// What is done about what it leaves behind.
    pub leftovers: Leftovers,
    /// The session's network.
    pub network: Network,
    /// The site's blocklists, if the session egress.
    pub blocklist: Option<OwnedFd>,
    /// The CA bundle, if its egress asks over TLS.
    pub trust: Option<OwnedFd>,
    /// What the site's proxy wants to know of its clients, if it does.
    pub credential: Option<OwnedFd>,
    /// What [`signals`] gave.
    pub signals: SignalFd,
    /// The session's mount namespace. Whoever holds it last takes it apart and waits for what an overlay has to write:
    /// that shall be neither init, whose end others wait for, nor the launcher.
    pub root: OwnedFd,
}

/// Has SIGTERM, by which a service manager asks everything in the sessions' cgroup to end, come by a descriptor.
pub fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Whose session it is.
struct Identity {
    session: SessionId,
    /// The caller's uid.
    owner: u32,
    lease: Lease,
    /// Says that the lease is taken.
    lock: OwnedFd,
}

/// The session's keeper.
pub struct Keeper {
    identity: Identity,
    phase: Phase,
    event_loop: Events,
    signals: SignalFd,
    /// The host's /proc.
    proc: OwnedFd,
    /// The session's cgroup.
    watch: Watch,
    limits: Limits,
    spool: Spool,
    service: ServiceSocket,
    init: InitProcess,
    relay: RelayProcess,
    commands: Commands,
    audit: ExecAudit,
    files: Files,
    denials: Denials,
    egress_state: Option<EgressState>,
}

impl Keeper {
    /// Puts the parts together. Still with every right.
    pub fn new(parts: Parts<'_>) -> Result<Self, HostError> {
        let event_loop = Events::new(MAX_EVENTS)?;
        let denials = Denials::new(parts.network, parts.proc.as_fd());
        // cgroup files are always readable; only their priority data says that something changed.
        let memory =
            if parts.watch.memory_is_eventfd() { EventFlags::PRI | EventFlags::IN } else { EventFlags::PRI };
        let sources: [(BorrowedFd<'_>, Source, EventFlags); 6] = [
            (parts.signals.as_fd(), Source::Signals, EventFlags::IN),
            (parts.execs.as_fd(), Source::Execs, EventFlags::IN),
            (parts.execs.closes_fd(), Source::Closes, EventFlags::IN),
            (denials.as_fd(), Source::Denials, EventFlags::IN),
            (parts.watch.pids_fd(), Source::Pids, EventFlags::PRI),
            (parts.watch.memory_fd(), Source::Memory, memory),
        ];
        let disk = parts.disk.as_ref().map(|(_, notices)| (notices.as_fd(), Source::Disk, EventFlags::IN));
        for (fd, source, flags) in sources.into_iter().chain(disk) {
            event_loop.add(fd, source, flags)?;
        }
        let egress_state = match &parts.plan.egress {
            Some(egress) => {
                Some(EgressState::new(egress.clone(), parts.ceiling, parts.blocklist, parts.credential)?)
            }
            None => None,
        };
        Ok(Self {
            identity: Identity {
                session: parts.plan.session.clone(),
                owner: parts.owner,
                lease: parts.lease,
                lock: parts.lock,
            },
            phase: Phase::Running,
            limits: Limits::new(parts.plan.limits, &parts.watch, parts.disk)?,
            spool: Spool::default(),
            service: ServiceSocket::new(parts.listener, parts.service_uid, parts.service, &event_loop)?,
            init: InitProcess::new(parts.init, parts.to_init, &event_loop)?,
            relay: RelayProcess::new(parts.relay, parts.control, parts.trust, &event_loop)?,
            commands: Commands::default(),
            audit: ExecAudit::new(parts.execs, parts.proc.try_clone()?),
            files: Files::new(parts.mounts, parts.scratches, parts.leftovers, parts.root),
            denials,
            egress_state,
            event_loop,
            signals: parts.signals,
            proc: parts.proc,
            watch: parts.watch,
        })
    }

    /// Keeps the session until nothing of it is left. The process's exit code.
    pub fn run(mut self) -> i32 {
        if let Err(error) = self.keep() {
            tracing::error!(%error, "the keeper cannot go on: the session ends");
            // Whatever went wrong, the session does not outlive its keeper.
            if let Err(error) = self.watch.kill() {
                tracing::error!(%error, "what is left of the session cannot be killed");
            }
            return 1;
        }
        0
    }

    fn keep(&mut self) -> Result<(), HostError> {
        loop {
            self.flush()?;
            if self.is_finished() {
                return Ok(());
            }
            let timeout = self.timeout();
            // epoll_wait(2) counts in milliseconds, in which a process can come and go.
            let mut due = vec![PollFd::new(&self.event_loop, PollFlags::IN)];
            // Asking after it takes the news away: it must not be behind another poll, as in the epoll instance.
            due.extend(self.files.mounts.as_ref().map(|mounts| PollFd::new(mounts, PollFlags::PRI)));
            match rustix::event::poll(&mut due, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).on("poll"),
            }
            if due.get(1).is_some_and(|mounts| !mounts.revents().is_empty()) {
                self.mounts_changed();
            }
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            for source in self.event_loop.wait(Some(&now)).on("epoll")? {
                self.handle(source)?;
            }
            self.clock()?;
        }
    }

    fn handle(&mut self, source: Source) -> Result<(), HostError> {
        match source {
            Source::Service => self.receive_service()?,
            Source::Listener => self.accept()?,
            Source::Init => self.receive_init()?,
            Source::Relay => self.receive_relay()?,
            Source::Leftovers => self.receive_leftovers(),
            Source::Refused => self.calls_refused()?,
            Source::Steering => self.steered(),
            Source::InitExit => self.init_ended()?,
            Source::RelayExit => self.relay_ended()?,
            Source::Execs => self.execs()?,
            Source::Closes => self.closes()?,
            Source::Denials => self.packets_denied()?,
            Source::Signals => self.asked_to_end(),
            Source::Pids => self.pids_limit()?,
            Source::Memory => self.memory_limit().map(drop)?,
            Source::Disk => self.disk_limit()?,
            Source::MeterExit => self.meter_ended()?,
            Source::Process(pid) => self.process_ended(pid)?,
            Source::Datagrams(number) => self.datagrams(number),
            Source::Tunnel(number) => self.tunnel(number),
        }
        Ok(())
    }

    /// What is due by the clock.
    fn clock(&mut self) -> Result<(), HostError> {
        let now = Instant::now();
        if self.phase.is_running() {
            self.look_at_limits(now)?;
        }
        for event in self.files.scratches.look_if_due(now).on("scratch")? {
            self.spool.push(event);
        }
        for event in self.audit.processes.look(&self.audit.execs, now) {
            self.spool.push_of_process(event);
        }
        self.expire_renewals(now);
        self.expire_tunnels(now);
        self.denials.flush_older(now, &mut self.spool);
        for event in self.audit.refused.as_mut().map(|refused| refused.flush_older(now)).unwrap_or_default() {
            self.spool.push_of_process(event);
        }
        if let Some(egress_state) = &mut self.egress_state {
            egress_state.coalescer.flush_older(now, &mut self.spool);
        }
        self.service.steering.recorded(self.spool.acknowledged(), now);
        self.files.leftovers.expire(now, &self.event_loop, &mut self.spool);
        self.leftovers_looked_at();
        self.look_at_the_end(now);
        Ok(())
    }

    /// Until the next thing that is due by the clock.
    fn timeout(&self) -> rustix::event::Timespec {
        let dues = [
            self.audit.processes.next_look(),
            self.denials.next_flush(),
            self.audit.refused.as_ref().and_then(Refused::due),
            self.egress_state.as_ref().and_then(|egress_state| egress_state.coalescer.next_flush()),
            self.egress_state.as_ref().and_then(|egress_state| egress_state.renewals.due()),
            self.egress_state.as_ref().and_then(|egress_state| egress_state.tunnels.due()),
            self.limits.due().filter(|_| self.phase.is_running()),
            self.spool.due().filter(|_| self.service.link.is_some()),
            self.end_due(),
            self.files.scratches.due(),
            self.files.leftovers.due(),
            self.service.steering.due(),
            self.phase.due(),
        ];
        let now = Instant::now();
        let next = dues.into_iter().flatten().min().unwrap_or(now + Duration::from_secs(60));
        let wait = next.saturating_duration_since(now).max(Duration::from_micros(50));
        rustix::event::Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(60),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }
}
