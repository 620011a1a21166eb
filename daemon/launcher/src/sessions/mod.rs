//! The sessions that exist on this host: their leases, cgroups and processes, from the request to the last
//! trace.

mod ahead;
mod deletion;
mod groups;
mod lease;
mod life;
mod not_started;
mod placeholders;
mod prewarmed;
mod recover;
mod relimit;
mod request;
mod rest;
mod sockets;
mod squeeze;
mod terminals;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::{Group, Hierarchies, Limits};
use agentd_kernel::nsfs::Handle;
use agentd_kernel::packets::Packets;
use agentd_kernel::process::Child;
use agentd_policy::Refusal;
use agentd_policy::event::ExitStatus;
use agentd_policy::names::{AbsPath, SessionId};
use agentd_policy::wire::{FromLauncher, RequestNumber};
use agentd_session::Owner;
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use crate::context::Context;
use crate::shares::Turns;
use agentd_session::error::HostError;
pub use groups::{KINDS, path as group_path};
pub use request::Request;

use deletion::{Deleter, Deletion};
use not_started::{InStep, NotStarted};
use placeholders::{Placeholder, Unlinking};
use relimit::{Lowering, Whose};
use request::Deferred;
use rest::Resting;
use squeeze::Squeeze;

/// How long a build may take before it is killed.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a builder that has nothing to do any more may take to end.
const BUILDER_EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// One session, or what is prepared for one.
struct Session {
    /// `None` while nobody has asked for it.
    id: Option<SessionId>,
    owner: Owner,
    agents: Group,
    helpers: Group,
    keeper: Option<Keeper>,
    state: State,
    /// The limits that its group was made with, until it has its own.
    limits: Option<Limits>,
    /// The processors that it was to have, if that is known.
    cpus: Option<f64>,
    /// Whether directories of uppers were made for it ahead, and it has not taken them.
    ahead: bool,
    /// Whether it has a directory of uppers.
    uppers: bool,
    /// Whether that goes with it; it does, too, if the session never ran.
    remove: bool,
    /// Whether its command was started.
    ran: bool,
    /// Whether it was ended by force, so that nothing is wrong with how its keeper ended.
    killed: bool,
    /// The workspaces that it has in mode direct.
    places: Vec<AbsPath>,
    placeholders: Vec<Placeholder>,
    /// How many terminals it may have.
    terminals: u32,
    /// Its user namespace, if the kernel has a handle that shows whether it is still there.
    users: Option<Handle>,
    /// By it the keeper of a session that it built says that no process of it is left.
    link: Option<Packets>,
    /// Since when it has said so, and that is not seen yet.
    emptied: Option<Instant>,
    errors: Vec<HostError>,
}

/// A session's keeper, or the builder that will be one.
struct Keeper {
    process: Child,
    /// Whether it is a child of this launcher rather than of an earlier one.
    ours: bool,
}

/// Where it is in its life.
enum State {
    /// Prepared, or being prepared; `builder` waits for an order.
    Waiting { builder: Packets, since: Instant },
    /// Being built; the request is `None` once nobody waits for it.
    Building { request: Option<RequestNumber>, builder: Packets, until: Instant },
    /// Its keeper has it.
    Running,
    /// Its keeper is gone; what is left of it is being ended. A build that failed is answered after that.
    Emptying { refused: Option<(RequestNumber, Refusal)>, next: Instant, pause: Duration },
}

impl State {
    fn emptying(refused: Option<(RequestNumber, Refusal)>) -> Self {
        Self::Emptying { refused, next: Instant::now(), pause: Duration::from_millis(1) }
    }
}

/// All of them, by the number of their lease.
pub struct Sessions {
    hierarchies: Hierarchies,
    all: BTreeMap<u32, Session>,
    next_lease: u32,
    resting: Resting,
    /// Users without a session whose memory is still in use, and when to look again.
    held: BTreeMap<u32, Instant>,
    /// Whether the limit of all sessions together is in force.
    host_limited: bool,
    /// Users whose limit is.
    limited: BTreeSet<u32>,
    /// Whose new limit of memory is less than they have in use.
    over: BTreeSet<Whose>,
    /// Children that lower limits.
    lowering: Vec<Lowering>,
    /// When limits that are not in force are set again.
    next_limit: Option<Instant>,
    /// Who asked last, and with which limits.
    likely: Option<(u32, Limits)>,
    /// For whom to prepare a session, and when.
    wanted: Option<(Owner, Instant)>,
    /// Sessions that have just begun, whose helpers may still have what a build needs.
    uncapped: Vec<u32>,
    /// Builders whose descriptors nobody watches yet.
    unwatched: Vec<u32>,
    /// Overlays that are to be deleted: by children, in turn, and later what failed.
    deletions: Turns<Deletion>,
    deleters: Vec<Deleter>,
    later: Vec<(Instant, Deletion)>,
    /// Requests that wait for such an end.
    removals: Vec<(SessionId, RequestNumber)>,
    /// Children that close clients' sockets.
    closers: Vec<Child>,
    /// Children that take placeholders away, and requests that wait for them.
    unlinking: Vec<Unlinking>,
    deferred: VecDeque<Deferred>,
    /// Requests that wait until their account has fewer builds under way.
    queued: Turns<Deferred>,
    /// Offers that no builder took over.
    left: Vec<Packets>,
    /// What is done while the host's disk is nearly full.
    squeeze: Squeeze,
    /// Leases and names that were in use since somebody began to look for what is left behind.
    seen: Option<Seen>,
}

/// What belongs to a session, or did a moment ago.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Numbers of leases.
    pub leases: BTreeSet<u32>,
    /// Ids of sessions.
    pub ids: BTreeSet<String>,
}

/// A message for the service, with its descriptors.
pub type Message = (FromLauncher, Vec<OwnedFd>);

impl Sessions {
    /// Whose session that is, if it runs.
    pub fn running(&self, id: &SessionId) -> Option<u32> {
        let found = self.all.values().find(|session| session.id.as_ref() == Some(id));
        found.filter(|session| matches!(session.state, State::Running)).map(|session| session.owner.uid)
    }

    /// None yet. The first lease is any: what a launcher gave before this one rests.
    pub fn new(hierarchies: Hierarchies) -> Self {
        let mut random = [0; 4];
        // Without randomness they begin at the first.
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK).ok();
        let next_lease = u32::from_ne_bytes(random);
        Self {
            hierarchies,
            all: BTreeMap::new(),
            next_lease,
            resting: Resting::default(),
            held: BTreeMap::new(),
            host_limited: false,
            limited: BTreeSet::new(),
            over: BTreeSet::new(),
            lowering: Vec::new(),
            next_limit: None,
            likely: None,
            wanted: None,
            uncapped: Vec::new(),
            unwatched: Vec::new(),
            deletions: Turns::default(),
            deleters: Vec::new(),
            later: Vec::new(),
            removals: Vec::new(),
            closers: Vec::new(),
            unlinking: Vec::new(),
            deferred: VecDeque::new(),
            queued: Turns::default(),
            left: Vec::new(),
            squeeze: Squeeze::default(),
            seen: None,
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.is_idle()
    }

    /// Whether nothing is left but sessions that run by themselves.
    pub fn is_settled(&self) -> bool {
        self.all.values().all(|s| matches!(s.state, State::Running)) && self.is_idle()
    }

    /// Whether no child deletes or closes.
    fn is_reaped(&self) -> bool {
        self.deleters.is_empty() && self.closers.is_empty()
    }

    fn is_idle(&self) -> bool {
        self.deletions.is_empty()
            && self.is_reaped()
            && self.unlinking.is_empty()
            && self.resting.is_idle()
            && self.deferred.is_empty()
            && self.queued.is_empty()
    }

    /// The ids of the sessions that run.
    pub fn live(&self) -> Vec<SessionId> {
        let running = self.all.values().filter(|s| matches!(s.state, State::Running));
        running.filter_map(|s| s.id.clone()).collect()
    }

    /// Where the groups are.
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Builders and keepers that are new since the last call, to be watched.
    pub fn unwatched(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.unwatched)
    }

    /// Offers that are of no use any more, to be closed apart.
    pub fn left(&mut self) -> Vec<Packets> {
        std::mem::take(&mut self.left)
    }

    /// The descriptors to watch for a session: its builder's answer and its keeper's end.
    pub fn watch(&self, number: u32) -> Option<(Option<&Packets>, &OwnedFd)> {
        let session = self.all.get(&number)?;
        let builder = match &session.state {
            State::Waiting { builder, .. } | State::Building { builder, .. } => Some(builder),
            _ => None,
        };
        session.keeper.as_ref().map(|keeper| (builder, &keeper.process.pidfd))
    }

    /// From now on everything that is in use is noted, besides what is already.
    pub fn begin_to_see(&mut self) {
        self.seen = Some(self.seen_now());
    }

    /// What is in use now.
    pub fn seen_now(&self) -> Seen {
        let ids = self.all.values().filter_map(|s| s.id.as_ref()).map(ToString::to_string).collect();
        Seen { leases: self.all.keys().copied().chain(self.resting.numbers()).collect(), ids }
    }

    /// What was noted; nothing is any more.
    pub fn seen(&mut self) -> Seen {
        self.seen.take().unwrap_or_default()
    }

    fn insert(&mut self, number: u32, session: Session) {
        if let Some(seen) = &mut self.seen {
            seen.leases.insert(number);
        }
        self.all.insert(number, session);
    }

    /// Ends a session by force.
    pub fn kill(&mut self, id: &SessionId) {
        if let Some(session) = self.all.values_mut().find(|s| s.id.as_ref() == Some(id)) {
            session.kill_all();
        }
    }

    /// Lets what is only prepared go, and ends what is being built.
    pub fn abandon(&mut self) {
        self.wanted = None;
        self.drop_waiting();
        for session in self.all.values_mut() {
            match session.state {
                State::Waiting { .. } => session.dismiss(),
                State::Building { .. } => session.kill_all(),
                _ => {}
            }
        }
    }

    /// The same, and ends the agents of every session; the keepers report it and end.
    pub fn kill_agents(&mut self) {
        self.abandon();
        for session in self.all.values_mut().filter(|s| matches!(s.state, State::Running)) {
            // It says why, then; one that is gone or does not listen makes no difference.
            if let Some(keeper) = &session.keeper {
                rustix::process::pidfd_send_signal(&keeper.process.pidfd, Signal::TERM).ok();
            }
            if let Err(error) = session.agents.kill() {
                session.errors.push(error.into());
            }
        }
    }

    /// The service is gone, and with it everybody who waited for an answer. What was being built for it is ended.
    pub fn forget_requests(&mut self) {
        for session in self.all.values_mut() {
            match &mut session.state {
                State::Building { request, .. } => {
                    *request = None;
                    session.kill_all();
                }
                State::Emptying { refused, .. } => *refused = None,
                _ => {}
            }
        }
        self.removals.clear();
        self.drop_waiting();
    }

    /// Nobody waits any more for what has not begun.
    fn drop_waiting(&mut self) {
        let waiting = self.deferred.drain(..).chain(self.queued.drain());
        self.left.extend(waiting.map(|waiting| waiting.offer));
    }

    /// Whether there is a place for their cgroups.
    pub fn are_rooted(&self) -> bool {
        self.hierarchies.is_there()
    }

    /// Removes every group and its own directories: the end of all sessions.
    pub fn close(&self) -> Result<(), HostError> {
        Ok(self.hierarchies.clear().and_then(|()| self.hierarchies.remove_root())?)
    }
}

impl Session {
    /// Whether no process of its agent's is left, its pid 1 among them; its keeper may still have messages.
    fn has_ended(&self) -> bool {
        matches!(self.state, State::Running | State::Emptying { .. })
            && self.agents.is_populated().is_ok_and(|populated| !populated)
    }

    /// Nothing but groups: `number` is a lease's.
    fn of_groups(owner: Owner, agents: Group, helpers: Group, state: State) -> Self {
        Self {
            id: None,
            owner,
            agents,
            helpers,
            keeper: None,
            state,
            limits: None,
            cpus: None,
            ahead: false,
            uppers: false,
            remove: false,
            ran: false,
            killed: false,
            places: Vec::new(),
            placeholders: Vec::new(),
            terminals: 0,
            users: None,
            link: None,
            emptied: None,
            errors: Vec::new(),
        }
    }

    /// What it is called in the log.
    fn label(&self) -> Option<&str> {
        self.id.as_ref().map(SessionId::as_str)
    }

    /// Lets a waiting builder go: it ends when its socket does, and takes with it what it prepared.
    fn dismiss(&mut self) {
        self.state = State::emptying(None);
    }

    fn kill_all(&mut self) {
        self.killed = true;
        for group in [&self.agents, &self.helpers] {
            if let Err(error) = group.kill() {
                self.errors.push(error.into());
            }
        }
    }

    fn has_no_process(&self) -> bool {
        [&self.agents, &self.helpers].into_iter().all(|g| matches!(g.is_populated(), Ok(false)))
    }
}

impl Keeper {
    /// Whether its pidfd says that it has ended. A child stays to be reaped.
    fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.process.pidfd, PollFlags::IN)];
        !matches!(
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })),
            Ok(0)
        )
    }

    /// How it ended, if it has: of one that is not our child only that it has.
    fn try_wait(&self) -> std::io::Result<Option<ExitStatus>> {
        match self.ours {
            true => self.process.try_wait(),
            false => Ok(self.has_ended().then_some(ExitStatus::Code(0))),
        }
    }
}

/// What both halves of a rule need: the bounds that `cx` names.
fn bounds(cx: &Context) -> &agentd_policy::config::Bounds {
    &cx.settings.config.bounds
}
