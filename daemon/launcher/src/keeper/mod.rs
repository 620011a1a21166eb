//! The keeper: what the builder becomes. It has no capability on the host. It owns the session's user
//! namespace, sees its execs, answers the kernel, passes signals on, and ends it.

mod network;
mod processes;
mod spool;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::Watch;
use agentd_kernel::exec_watch::ExecWatch;
use agentd_kernel::mount;
use agentd_kernel::packets::{PacketError, Packets};
use agentd_kernel::process::{self, Child};
use agentd_kernel::{creds, rlimits, seccomp};
use agentd_policy::event::{End, EventBody, ExitStatus};
use agentd_policy::lease::Lease;
use agentd_policy::plan::{Limits, Plan};
use agentd_policy::wire::{MAX_KEEPER_PACKET, ToKeeper, decode, encode};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};

use crate::init::{FromInit, Network, ToInit};
use network::Denials;
use processes::{Ended, Met, Processes};
use spool::Spool;

/// How long the relay may take to deliver what the command left behind, once the session has ended.
const DRAIN: Duration = Duration::from_secs(40);
/// How long the service may take to write the last events down.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often the pids limit is looked at where the kernel does not tell.
const PIDS_LOOK: Duration = Duration::from_millis(250);
/// Descriptors besides one for each process of the session.
const OWN_FILES: u64 = 256;

/// What a keeper is made of.
pub struct Parts<'a> {
    /// The plan, for its limits.
    pub plan: &'a Plan,
    /// Its ids.
    pub lease: Lease,
    /// The lock on them.
    pub lock: OwnedFd,
    /// The host's /proc.
    pub proc: OwnedFd,
    /// The session's cgroup.
    pub watch: Watch,
    /// To the service.
    pub service: Packets,
    /// pid 1 of the session.
    pub init: Child,
    /// To it.
    pub to_init: Packets,
    /// The relay.
    pub relay: Child,
    /// Its end is the relay's.
    pub lifeline: OwnedFd,
    /// What asks to run.
    pub execs: ExecWatch,
    /// Reports when a mount of the session goes, if names are covered in a directory that others change too.
    pub mounts: Option<OwnedFd>,
    /// What looks at the size of the session's overlays, and what it tells that by.
    pub disk: Option<(Child, OwnedFd)>,
    /// The session's network.
    pub network: Network,
}

/// The session's keeper.
pub struct Keeper {
    lease: Lease,
    lock: OwnedFd,
    limits: Limits,
    proc: OwnedFd,
    watch: Watch,
    service: Option<Packets>,
    init: Option<Child>,
    to_init: Packets,
    relay: Option<Child>,
    lifeline: Option<OwnedFd>,
    execs: ExecWatch,
    mounts: Option<OwnedFd>,
    disk: Option<(Child, OwnedFd)>,
    /// The meter that has been told to end.
    meter: Option<Child>,
    denials: Denials,
    processes: Processes,
    spool: Spool,
    epoll: OwnedFd,
    deadline: Instant,
    /// What was seen before the command was known to run.
    early: Option<Vec<EventBody>>,
    end: Option<End>,
    over: Option<Instant>,
    memory_kills: u64,
    pids_hits: u64,
    pids_told: Option<Instant>,
    /// When to look at the pids limit, where the kernel does not tell.
    pids_look: Option<Instant>,
}

/// Who an event of the epoll instance is from; a process of the session is its pid above [`PROCESS`].
const SERVICE: u64 = 1;
const INIT_SAYS: u64 = 2;
const INIT_ENDED: u64 = 3;
const RELAY_ENDED: u64 = 4;
const EXECS: u64 = 5;
const PACKETS: u64 = 6;
const PIDS: u64 = 7;
const MEMORY: u64 = 8;
const DISK: u64 = 10;
const METER: u64 = 11;
const PROCESS: u64 = 1 << 32;

impl Keeper {
    /// Puts the parts together. Still with every right.
    pub fn new(parts: Parts<'_>) -> Result<Self, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| text(&e))?;
        let denials = Denials::new(parts.network);
        parts.service.set_nonblocking(true).map_err(|e| text(&e))?;
        parts.to_init.set_nonblocking(true).map_err(|e| text(&e))?;
        let sources: [(BorrowedFd<'_>, u64, EventFlags); 8] = [
            (parts.service.as_fd(), SERVICE, EventFlags::IN),
            (parts.to_init.as_fd(), INIT_SAYS, EventFlags::IN),
            (parts.init.pidfd.as_fd(), INIT_ENDED, EventFlags::IN),
            (parts.relay.pidfd.as_fd(), RELAY_ENDED, EventFlags::IN),
            (parts.execs.as_fd(), EXECS, EventFlags::IN),
            (denials.as_fd(), PACKETS, EventFlags::IN),
            (parts.watch.pids_fd(), PIDS, EventFlags::PRI),
            (parts.watch.memory_fd(), MEMORY, EventFlags::PRI | EventFlags::IN),
        ];
        for (fd, token, flags) in sources {
            // cgroup files are always readable; only their priority data says that something changed.
            let flags =
                if token == MEMORY && !parts.watch.memory_is_eventfd() { EventFlags::PRI } else { flags };
            epoll::add(&epoll, fd, EventData::new_u64(token), flags).map_err(|e| text(&e))?;
        }
        if let Some((_, over)) = &parts.disk {
            epoll::add(&epoll, over, EventData::new_u64(DISK), EventFlags::IN).map_err(|e| text(&e))?;
        }
        let memory_kills = parts.watch.memory_kills().map_err(|e| text(&e))?;
        let pids_hits = parts.watch.pids_hits().map_err(|e| text(&e))?;
        let limits = parts.plan.limits;
        let pids_look = (!parts.watch.pids_notify()).then(Instant::now);
        Ok(Self {
            lease: parts.lease,
            lock: parts.lock,
            limits,
            processes: Processes::new(parts.proc.try_clone().map_err(|e| text(&e))?),
            proc: parts.proc,
            watch: parts.watch,
            service: Some(parts.service),
            init: Some(parts.init),
            to_init: parts.to_init,
            relay: Some(parts.relay),
            lifeline: Some(parts.lifeline),
            execs: parts.execs,
            mounts: parts.mounts,
            disk: parts.disk,
            meter: None,
            denials,
            spool: Spool::default(),
            epoll,
            deadline: Instant::now() + Duration::from_millis(limits.timeout_ms),
            early: Some(Vec::new()),
            end: None,
            over: None,
            memory_kills,
            pids_hits,
            pids_told: None,
            pids_look,
        })
    }

    /// Gives up every right: an empty root, the leased uid, no capability, no descriptor that the builder had
    /// besides those of the keeper and `also`, a filter.
    pub fn give_up(
        &self,
        empty_root: BorrowedFd<'_>,
        also: &[BorrowedFd<'_>],
        filter: &seccomp::Filter,
    ) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        creds::not_dumpable().map_err(|e| text(&e))?;
        rlimits::Limits { open_files: self.limits.pids + OWN_FILES }
            .apply()
            .map(drop)
            .map_err(|e| text(&e))?;
        mount::enter_namespace(empty_root).map_err(|e| text(&e))?;
        self.close_all_but(also).map_err(|e| text(&e))?;
        let id = self.lease.keeper.get();
        creds::become_ids(id, id).map_err(|e| text(&e))?;
        creds::drop_all_capabilities().map_err(|e| text(&e))?;
        creds::no_new_privs().map_err(|e| text(&e))?;
        creds::not_dumpable().map_err(|e| text(&e))?;
        seccomp::install(filter).map_err(|e| text(&e)).map(drop)
    }

    fn close_all_but(&self, also: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let mut keep = also.to_vec();
        keep.extend([
            self.lock.as_fd(),
            self.proc.as_fd(),
            self.to_init.as_fd(),
            self.execs.as_fd(),
            self.epoll.as_fd(),
        ]);
        keep.extend(self.lifeline.as_ref().map(AsFd::as_fd));
        keep.extend(self.mounts.as_ref().map(AsFd::as_fd));
        if let Some((meter, over)) = &self.disk {
            keep.extend([meter.pidfd.as_fd(), over.as_fd()]);
        }
        keep.extend(self.watch.descriptors());
        keep.extend(self.denials.descriptors());
        keep.extend(self.processes.descriptors());
        keep.extend(self.service.as_ref().map(AsFd::as_fd));
        keep.extend(self.init.as_ref().map(|c| c.pidfd.as_fd()));
        keep.extend(self.relay.as_ref().map(|c| c.pidfd.as_fd()));
        process::close_all_but(&keep)
    }

    /// Keeps the session until nothing of it is left. The process's exit code.
    pub fn run(mut self) -> i32 {
        if let Err(error) = self.keep() {
            tracing::error!(%error, "keeper");
            // Whatever went wrong, the session does not outlive its keeper.
            let _ = self.watch.kill();
            return 1;
        }
        0
    }

    fn keep(&mut self) -> Result<(), String> {
        let mut events = Vec::with_capacity(64);
        loop {
            self.flush()?;
            if self.is_finished() {
                return Ok(());
            }
            let timeout = self.timeout();
            // epoll_wait(2) counts in milliseconds, in which a process can come and go.
            let mut due = vec![PollFd::new(&self.epoll, PollFlags::IN)];
            // Asking after it takes the news away: it must not be behind another poll, as in the epoll instance.
            due.extend(self.mounts.as_ref().map(|mounts| PollFd::new(mounts, PollFlags::PRI)));
            match rustix::event::poll(&mut due, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(format!("poll: {errno}")),
            }
            if due.get(1).is_some_and(|mounts| !mounts.revents().is_empty()) {
                self.mounts_changed();
            }
            events.clear();
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(format!("epoll: {errno}")),
            }
            for event in &events {
                self.handle(event.data.u64())?;
            }
            self.clock()?;
        }
    }

    fn handle(&mut self, token: u64) -> Result<(), String> {
        match token {
            SERVICE => self.service_says(),
            INIT_SAYS => self.init_says(),
            INIT_ENDED => self.init_ended()?,
            RELAY_ENDED => self.relay_ended()?,
            EXECS => self.execs()?,
            PACKETS => self.denials.read(&mut self.spool)?,
            PIDS => self.pids_limit()?,
            MEMORY => self.memory_limit()?,
            DISK => self.disk_limit()?,
            METER => self.meter_ended()?,
            process => self.process_ended(process)?,
        }
        Ok(())
    }

    fn service_says(&mut self) {
        while let Some(service) = &self.service {
            let packet = match service.receive(MAX_KEEPER_PACKET, 0) {
                Ok(Some(packet)) => packet,
                Err(PacketError::WouldBlock) => return,
                Ok(None) | Err(_) => {
                    self.service = None;
                    return;
                }
            };
            match decode(&packet.bytes) {
                Ok(ToKeeper::Ack(number)) => self.spool.acknowledge(number),
                Ok(ToKeeper::Kill) => self.finish(End::Killed),
                Ok(ToKeeper::Signal(number)) => {
                    // A session that is ending needs no more signals; init reads its socket otherwise.
                    let packet = encode(&ToInit::Signal(number));
                    let _ = packet.map(|p| self.to_init.send(&p, &[]));
                }
                Err(error) => {
                    tracing::error!(%error, "message from the service");
                    self.service = None;
                }
            }
        }
    }

    fn init_says(&mut self) {
        loop {
            let packet = match self.to_init.receive(MAX_KEEPER_PACKET, 0) {
                Ok(Some(packet)) => packet,
                Err(PacketError::WouldBlock) => return,
                Ok(None) | Err(_) => {
                    let _ = epoll::delete(&self.epoll, &self.to_init);
                    return;
                }
            };
            match decode(&packet.bytes) {
                Ok(FromInit::Running) => {
                    self.spool.push(EventBody::Started);
                    self.tell_early();
                }
                Ok(FromInit::Exited(status)) => {
                    let end = self.end_of_command(status);
                    self.finish(end);
                }
                Ok(FromInit::NotRun(not_run)) => {
                    self.finish(End::NotRun { step: not_run.step, errno: not_run.errno });
                }
                Ok(FromInit::Failed { step, why }) => {
                    self.finish(End::Failed { what: format!("init: {step}: {why}") });
                }
                Ok(_) | Err(_) => self.finish(End::Failed { what: "init: an unexpected message".into() }),
            }
        }
    }

    /// Tells of a process, once the session has started: the command's own exec is seen before init hears
    /// that it succeeded.
    fn tell(&mut self, event: EventBody) {
        match &mut self.early {
            Some(early) => early.push(event),
            None => self.spool.push(event),
        }
    }

    fn tell_early(&mut self) {
        for event in self.early.take().into_iter().flatten() {
            self.spool.push(event);
        }
    }

    /// A command that was killed while the kernel killed for memory was out of memory.
    fn end_of_command(&mut self, status: ExitStatus) -> End {
        let kills = self.watch.memory_kills().unwrap_or(self.memory_kills);
        if kills > self.memory_kills {
            self.told_memory(kills);
        }
        match status {
            ExitStatus::Signal(9) if self.memory_kills > 0 => End::OutOfMemory,
            status => End::Command(status),
        }
    }

    /// Ends the session for this reason, unless it is ending already.
    fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            if let Err(error) = self.watch.kill() {
                tracing::error!(%error, "cgroup.kill");
            }
        }
    }

    fn init_ended(&mut self) -> Result<(), String> {
        let Some(init) = self.init.take() else { return Ok(()) };
        init.wait().map_err(|e| format!("init: {e}"))?;
        // What init said last is still in its socket.
        self.init_says();
        // Nothing in the session can kill pid 1; the kernel can, for memory, and agentd, to end it.
        let kills = self.watch.memory_kills().unwrap_or(self.memory_kills);
        if kills > self.memory_kills && self.end.is_none() {
            self.told_memory(kills);
            self.finish(End::OutOfMemory);
        }
        self.finish(End::Killed);
        self.pids_limit()?;
        // Without its reader the meter ends.
        if let Some((meter, over)) = self.disk.take() {
            drop(over);
            epoll::add(&self.epoll, &meter.pidfd, EventData::new_u64(METER), EventFlags::IN)
                .map_err(|e| format!("epoll: {e}"))?;
            self.meter = Some(meter);
        }
        self.tell_early();
        // With pid 1 the kernel has ended every process of the session (pid_namespaces(7)).
        for event in self.processes.all_ended() {
            self.spool.push(event);
        }
        self.denials.read(&mut self.spool)?;
        self.denials.flush(&mut self.spool);
        let end = self.end.clone().unwrap_or(End::Killed);
        self.spool.push(EventBody::Ended(end));
        self.over = Some(Instant::now());
        Ok(())
    }

    fn relay_ended(&mut self) -> Result<(), String> {
        let Some(relay) = self.relay.take() else { return Ok(()) };
        match relay.wait().map_err(|e| format!("relay: {e}"))? {
            // It has delivered everything: the command closed its output.
            ExitStatus::Code(0) => {}
            status => self.finish(End::Failed { what: format!("the relay ended with {status:?}") }),
        }
        Ok(())
    }

    fn execs(&mut self) -> Result<(), String> {
        let attempts = self.execs.read(self.proc.as_fd()).map_err(|e| format!("fanotify: {e}"))?;
        if attempts.overflow {
            self.spool.lost(1);
        }
        for attempt in attempts.attempts {
            // What cannot be told in full is refused: no room, a file without a name, a process without a pidfd.
            let room = self.spool.has_room();
            let allow = room && self.follow(&attempt);
            if !allow {
                let actor = self.processes.actor(attempt.pid);
                let path = attempt.path.clone().unwrap_or_else(|| "(unnameable)".into());
                let rule = if room { "audit.unnameable" } else { "audit.room" }.into();
                self.spool.push(EventBody::ExecRefused { actor, path, rule });
            }
            self.execs.answer(attempt, allow).map_err(|e| format!("fanotify: {e}"))?;
        }
        Ok(())
    }

    /// Remembers who runs what; whether that could be done.
    fn follow(&mut self, attempt: &agentd_kernel::exec_watch::Attempt) -> bool {
        let Some(path) = &attempt.path else { return false };
        let (known, event) = self.processes.attempt(attempt.pid, path);
        if let Some(event) = event {
            self.tell(event);
        }
        match known {
            Met::New => {
                let data = EventData::new_u64(PROCESS | u64::from(attempt.pid.unsigned_abs()));
                let pidfd = self.processes.pidfd(attempt.pid);
                pidfd.is_some_and(|pidfd| epoll::add(&self.epoll, pidfd, data, EventFlags::IN).is_ok())
            }
            Met::Known => true,
            Met::Unknown => false,
        }
    }

    fn process_ended(&mut self, token: u64) -> Result<(), String> {
        let pid = i32::try_from(token & (PROCESS - 1)).map_err(|e| e.to_string())?;
        match self.processes.ended(pid) {
            Ended::Done(events) => events.into_iter().for_each(|e| self.tell(e)),
            Ended::NotReaped => {
                // Hang-ups, the sign that it was reaped, are reported without being asked for.
                if let Some(pidfd) = self.processes.pidfd(pid) {
                    epoll::modify(&self.epoll, pidfd, EventData::new_u64(token), EventFlags::empty())
                        .map_err(|e| format!("epoll: {e}"))?;
                }
            }
            Ended::Unknown => {}
        }
        Ok(())
    }

    fn pids_limit(&mut self) -> Result<(), String> {
        let hits = self.watch.pids_hits().map_err(|e| format!("pids.events: {e}"))?;
        let quiet = self.pids_told.is_none_or(|told| told.elapsed() >= Duration::from_secs(1));
        if hits > self.pids_hits && quiet {
            self.pids_told = Some(Instant::now());
            self.spool.push(EventBody::Limit { name: "pids".into(), limit: self.limits.pids });
        }
        self.pids_hits = hits;
        Ok(())
    }

    /// The meter has ended: with 0 if there is more than there may be.
    fn disk_limit(&mut self) -> Result<(), String> {
        let Some((meter, _)) = self.disk.take() else { return Ok(()) };
        match meter.wait().map_err(|e| format!("meter: {e}"))? {
            ExitStatus::Code(0) if self.end.is_none() => {
                let limit = self.limits.disk;
                self.spool.push(EventBody::Limit { name: "disk".into(), limit });
                self.finish(End::Failed {
                    what: format!("it wrote more than {limit} bytes to its workspace"),
                });
            }
            status => self.finish(End::Failed { what: format!("the disk meter ended with {status:?}") }),
        }
        Ok(())
    }

    fn meter_ended(&mut self) -> Result<(), String> {
        match self.meter.take() {
            Some(meter) => meter.wait().map(drop).map_err(|e| format!("meter: {e}")),
            None => Ok(()),
        }
    }

    /// Nobody inside can change a mount: a masked or protected name was replaced or removed from outside, and
    /// what covered it is gone.
    fn mounts_changed(&mut self) {
        self.mounts = None;
        let what = "a masked or protected name of its workspace was replaced from outside";
        self.finish(End::Failed { what: what.into() });
    }

    fn memory_limit(&mut self) -> Result<(), String> {
        let kills = self.watch.memory_kills().map_err(|e| format!("memory events: {e}"))?;
        if kills > self.memory_kills {
            self.told_memory(kills);
        }
        Ok(())
    }

    fn told_memory(&mut self, kills: u64) {
        self.memory_kills = kills;
        self.spool.push(EventBody::Limit { name: "memory".into(), limit: self.limits.memory });
    }

    /// What is due by the clock.
    fn clock(&mut self) -> Result<(), String> {
        let now = Instant::now();
        if self.end.is_none() && self.pids_look.is_some_and(|due| due <= now) {
            self.pids_look = Some(now + PIDS_LOOK);
            self.pids_limit()?;
        }
        for event in self.processes.look(now) {
            self.tell(event);
        }
        self.denials.flush_older(now, &mut self.spool);
        if now >= self.deadline && self.end.is_none() {
            let limit = self.limits.timeout_ms;
            self.spool.push(EventBody::Limit { name: "timeout".into(), limit });
            self.finish(End::Timeout);
        }
        if self.over.is_some_and(|over| now >= over + DRAIN) {
            // Whatever it still holds, nobody takes it: without its lifeline the relay ends.
            self.lifeline = None;
        }
        Ok(())
    }

    /// Until the next thing that is due by the clock.
    fn timeout(&self) -> rustix::event::Timespec {
        let dues = [
            self.processes.next_look(),
            self.denials.next_flush(),
            self.pids_look.filter(|_| self.end.is_none()),
            self.end.is_none().then_some(self.deadline),
            self.over
                .filter(|_| self.lifeline.is_some())
                .map(|over| over + if self.relay.is_some() { DRAIN } else { LAST_WORDS }),
        ];
        let now = Instant::now();
        let next = dues.into_iter().flatten().min().unwrap_or(now + Duration::from_secs(60));
        let wait = next.saturating_duration_since(now).max(Duration::from_micros(50));
        rustix::event::Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(60),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }

    /// Sends events; asks to be told when the socket has room again.
    fn flush(&mut self) -> Result<(), String> {
        let Some(service) = &self.service else { return Ok(()) };
        match self.spool.send(service) {
            Ok(more) => {
                let flags = if more { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
                epoll::modify(&self.epoll, service, EventData::new_u64(SERVICE), flags)
                    .map_err(|e| format!("epoll: {e}"))
            }
            Err(error) => {
                tracing::warn!(%error, "the service is gone");
                self.service = None;
                Ok(())
            }
        }
    }

    fn is_finished(&self) -> bool {
        let Some(over) = self.over else { return false };
        let told = self.service.is_none() || self.spool.is_empty() || over.elapsed() >= LAST_WORDS;
        self.init.is_none() && self.relay.is_none() && self.meter.is_none() && told
    }
}
