//! The sessions that exist on this host: their leases, cgroups and processes, from the request to the last
//! trace.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::cgroup::{Group, Hierarchies, Limits};
use agentd_kernel::packets::{PacketError, Packets};
use agentd_kernel::process::{self, Birth, Child, SingleThreaded};
use agentd_policy::Refusal;
use agentd_policy::event::ExitStatus;
use agentd_policy::lease::Lease;
use agentd_policy::names::{AbsPath, SessionId};
use agentd_policy::plan::{MAX_MOUNTS, Mode, Plan};
use agentd_policy::wire::{FromLauncher, MAX_PACKET, Peer, RequestNumber, decode, encode};

use rustix::event::{PollFd, PollFlags};

use crate::build::{Builder, Order, Owner, Reply};
use crate::directories::Directories;
use crate::host::Host;
use crate::settings::Settings;
use crate::workers;

/// How long a build may take before it is killed.
const DEADLINE: Duration = Duration::from_secs(20);
/// What keeper and relay of one session may use up.
const HELPERS: Limits = Limits { memory: 256 << 20, pids: 32, cpus: 16.0 };

/// How long a builder that has nothing to do any more may take to end.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the loop may wait for placeholders to be taken away.
const UNLINKING: Duration = Duration::from_millis(100);
/// The most children that delete or close.
const MAX_WORKERS: usize = 64;
/// How long a prepared session waits for a request.
const SPARE: Duration = Duration::from_secs(300);
/// How long after a session's start the next one is prepared: its command has the processors first.
const REST: Duration = Duration::from_millis(2);
/// How many may wait for one user.
const SPARES_PER_USER: usize = 2;

/// One session, or what is prepared for one.
struct Session {
    /// `None` while nobody has asked for it.
    id: Option<SessionId>,
    owner: Owner,
    agents: Group,
    helpers: Group,
    keeper: Option<Child>,
    state: State,
    /// Whether it has a directory of uppers.
    uppers: bool,
    /// Whether that goes with it; it does, too, if the session never ran.
    remove: bool,
    /// Whether its command was started.
    ran: bool,
    /// The workspaces that it has in mode direct.
    places: Vec<AbsPath>,
    placeholders: Vec<Placeholder>,
    /// Its mount namespace, which goes when everything else has gone.
    root: Option<OwnedFd>,
    errors: Vec<String>,
}

/// A name that was made in a caller's directory to be covered.
struct Placeholder {
    workspace: AbsPath,
    dir: OwnedFd,
    name: String,
}

/// Where it is in its life.
enum State {
    /// Prepared, or being prepared; `builder` waits for an order.
    Waiting {
        builder: Packets,
        since: Instant,
    },
    Building {
        request: RequestNumber,
        builder: Packets,
        until: Instant,
    },
    Running,
    /// Its keeper is gone; what is left of it is being ended. A build that failed is answered after that.
    Emptying {
        refused: Option<(RequestNumber, Refusal)>,
        next: Instant,
    },
}

/// All of them, by the number of their lease.
pub struct Sessions {
    token: SingleThreaded,
    hierarchies: Hierarchies,
    all: BTreeMap<u32, Session>,
    next_lease: u32,
    /// For whom to prepare a session, and when.
    wanted: Option<(Owner, Instant)>,
    /// Builders whose descriptors nobody watches yet.
    unwatched: Vec<u32>,
    /// Children that delete, to be reaped.
    workers: Vec<Worker>,
}

/// A child that deletes or closes something.
struct Worker {
    child: Child,
    /// Who waits for it.
    request: Option<(RequestNumber, SessionId)>,
}

/// What a request brings, besides the plan.
pub struct Request {
    /// For the answer.
    pub number: RequestNumber,
    /// For whom.
    pub caller: Peer,
    /// What.
    pub plan: Plan,
    /// When it was read: nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
}

/// A message for the service, with its descriptors.
pub type Message = (FromLauncher, Vec<OwnedFd>);

impl Sessions {
    /// None yet.
    pub fn new(token: SingleThreaded, hierarchies: Hierarchies) -> Self {
        Self {
            token,
            hierarchies,
            all: BTreeMap::new(),
            next_lease: 0,
            wanted: None,
            unwatched: Vec::new(),
            workers: Vec::new(),
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.workers.is_empty()
    }

    /// Builders that are new since the last call, to be watched.
    pub fn unwatched(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.unwatched)
    }

    /// Checks a request by the launcher's own rules, and gives it to a builder.
    pub fn build(
        &mut self,
        request: Request,
        settings: &Settings,
        directories: &Directories,
        host: &Host,
        offer: &mut Option<Packets>,
    ) -> Result<(), Refusal> {
        let (plan, caller) = (&request.plan, request.caller);
        let bounds = &settings.config.bounds;
        if caller.uid == 0 && !settings.config.root_callers {
            return Err(Refusal::new(
                "a session for uid 0",
                "caller.root",
                "run agentctl as an ordinary user, or set root_callers = true",
            ));
        }
        if settings.config.pool.uids.contains(caller.uid) || settings.config.pool.uids.contains(caller.gid) {
            return Err(Refusal::new("a session for a leased uid", "caller.pool", "sessions ask for none"));
        }
        plan.check(bounds)?;
        let taken = || self.all.values().filter(|s| s.id.is_some());
        let own = taken().filter(|s| s.owner.uid == caller.uid).count();
        for (count, most, rule) in [
            (taken().count(), bounds.max_sessions, "bounds.max_sessions"),
            (own, bounds.max_sessions_per_user, "bounds.max_sessions_per_user"),
        ] {
            if count >= most as usize {
                return Err(Refusal::new(
                    format!("one more session besides {count}"),
                    rule,
                    "end some first (agentctl ps, agentctl kill)",
                ));
            }
        }
        if taken().any(|s| s.id.as_ref() == Some(&plan.session)) {
            return Err(Refusal::new(format!("session {}", plan.session), "session.exists", "ask again"));
        }
        self.start(request, settings, directories, host, offer).map_err(|(what, why)| {
            Refusal::new(format!("{what}: {why}"), format!("build.{what}"), "see the launcher's log")
        })
    }

    fn start(
        &mut self,
        request: Request,
        settings: &Settings,
        directories: &Directories,
        host: &Host,
        offer: &mut Option<Packets>,
    ) -> Result<(), (&'static str, String)> {
        let owner = Owner { uid: request.caller.uid, gid: request.caller.gid };
        let waiting = |s: &Session| {
            let alive = s.keeper.as_ref().is_some_and(|k| !has_ended(k));
            s.owner == owner && matches!(s.state, State::Waiting { .. }) && alive
        };
        let spare = self.all.iter().find(|(_, s)| waiting(s)).map(|(number, _)| *number);
        let number = match spare {
            Some(number) => number,
            None => self.prepare(owner, settings, directories, host)?,
        };
        if let Some(session) = self.all.get_mut(&number)
            && let Err(error) = session.order(request, directories, offer)
        {
            session.state = State::Emptying { refused: None, next: Instant::now() };
            session.kill_all();
            return Err(error);
        }
        Ok(())
    }

    /// Starts a builder that prepares a session for `owner`. The lease's number.
    fn prepare(
        &mut self,
        owner: Owner,
        settings: &Settings,
        directories: &Directories,
        host: &Host,
    ) -> Result<u32, (&'static str, String)> {
        let pool = settings.config.pool.uids;
        let (lease, lock) = self.lease(&pool, directories).map_err(|e| ("lease", e))?;
        let (agents, helpers) = self.groups(owner.uid, &lease).map_err(|e| ("cgroup", e))?;
        let groups = [agents.path().to_owned(), helpers.path().to_owned()];
        let mut made = Made { hierarchies: &self.hierarchies, groups, keep: false };
        let (ours, theirs) = Packets::pair().map_err(|e| ("socket", e.to_string()))?;
        ours.set_nonblocking(true).map_err(|e| ("socket", e.to_string()))?;
        let birth = Birth { cgroup: Some(helpers.directory()), ..Birth::default() };
        let builder = Builder {
            owner,
            lease,
            pool,
            lock,
            agents: &agents,
            helpers: &helpers,
            host,
            launcher: theirs,
            token: self.token,
        };
        let keeper =
            process::spawn(self.token, birth, || builder.run()).map_err(|e| ("fork", e.to_string()))?;
        made.keep = true;
        drop(made);
        let session = Session {
            id: None,
            owner,
            agents,
            helpers,
            keeper: Some(keeper),
            state: State::Waiting { builder: ours, since: Instant::now() },
            uppers: false,
            remove: false,
            ran: false,
            places: Vec::new(),
            placeholders: Vec::new(),
            root: None,
            errors: Vec::new(),
        };
        self.all.insert(lease.number, session);
        self.unwatched.push(lease.number);
        Ok(lease.number)
    }

    /// Prepares a session for a user who just had one, if the site wants that.
    pub fn refill(&mut self, now: Instant, settings: &Settings, directories: &Directories, host: &Host) {
        let Some((owner, _)) = self.wanted.take_if(|(_, due)| *due <= now) else { return };
        let since = |s: &Session| match s.state {
            State::Waiting { since, .. } => Some(since),
            _ => None,
        };
        let waiting = self.all.values().filter(|s| since(s).is_some());
        let own = waiting.clone().filter(|s| s.owner == owner).count();
        if settings.config.spares == 0 || own >= SPARES_PER_USER {
            return;
        }
        if waiting.count() >= settings.config.spares as usize {
            // The one that nobody has asked for the longest makes room for the next time.
            let oldest = self.all.values_mut().filter(|s| since(s).is_some()).min_by_key(|s| since(s));
            if let Some(oldest) = oldest {
                oldest.dismiss();
            }
            return;
        }
        if let Err((what, error)) = self.prepare(owner, settings, directories, host) {
            tracing::warn!(what, error, "no session was prepared");
        }
        // One more while it is used up faster than it is made.
        if own + 1 < SPARES_PER_USER && settings.config.spares > 1 {
            self.wanted = Some((owner, now + REST));
        }
    }

    /// A lease that nobody holds. They are used in turn, so that an id rests before it is used again.
    fn lease(
        &mut self,
        pool: &agentd_policy::lease::Pool,
        directories: &Directories,
    ) -> Result<(Lease, OwnedFd), String> {
        for _ in 0..pool.leases() {
            let number = self.next_lease % pool.leases();
            self.next_lease = number + 1;
            if self.all.contains_key(&number) {
                continue;
            }
            if let (Some(lease), Some(lock)) = (pool.lease(number), directories.lock_lease(number)?) {
                return Ok((lease, lock));
            }
        }
        Err(format!("all {} leases of the pool are taken", pool.leases()))
    }

    fn groups(&self, uid: u32, lease: &Lease) -> Result<(Group, Group), String> {
        let path = |kind: &str| format!("u{uid}/{kind}/{}", lease.number);
        let made = |kind: &str, limits: &Limits| {
            let group = self.hierarchies.create(&path(kind)).map_err(|e| e.to_string())?;
            match group.limit(limits) {
                Ok(()) => Ok(group),
                Err(error) => {
                    let cleaned = self.hierarchies.remove(&path(kind));
                    Err(format!("{error}{}", cleaned.err().map_or(String::new(), |e| format!("; then {e}"))))
                }
            }
        };
        // A request sets its own limits; until then there is an init that waits.
        let agents = made("agents", &HELPERS)?;
        match made("helpers", &HELPERS) {
            Ok(helpers) => Ok((agents, helpers)),
            Err(error) => {
                let cleaned = self.hierarchies.remove(agents.path());
                Err(format!("{error}{}", cleaned.err().map_or(String::new(), |e| format!("; then {e}"))))
            }
        }
    }

    /// The descriptors to watch for a session: its builder's answer, its keeper's end, its two groups.
    pub fn watch(&self, number: u32) -> Option<(&Packets, &OwnedFd)> {
        let session = self.all.get(&number)?;
        match (&session.state, &session.keeper) {
            (State::Waiting { builder, .. } | State::Building { builder, .. }, Some(keeper)) => {
                Some((builder, &keeper.pidfd))
            }
            _ => None,
        }
    }

    /// A builder says something. The message for the service.
    pub fn answered(&mut self, number: u32) -> Option<Message> {
        let session = self.all.get_mut(&number)?;
        let (request, builder) = match &session.state {
            State::Building { request, builder, .. } => (Some(*request), builder),
            State::Waiting { builder, .. } => (None, builder),
            _ => return None,
        };
        let packet = match builder.receive(MAX_PACKET, 3 + MAX_MOUNTS) {
            Err(PacketError::WouldBlock) => return None,
            // The builder's end tells the rest.
            Ok(None) | Err(_) => return None,
            Ok(Some(packet)) => packet,
        };
        match decode(&packet.bytes) {
            Ok(Reply::Built { timings, placeholders }) => {
                session.state = State::Running;
                session.ran = true;
                let mut descriptors = packet.descriptors;
                let dirs = descriptors.split_off(descriptors.len().min(3));
                session.root = if descriptors.len() == 3 { descriptors.pop() } else { None };
                session.keep_placeholders(placeholders, &dirs);
                self.wanted = Some((session.owner, Instant::now() + REST));
                request.map(|request| (FromLauncher::Built { request, timings }, descriptors))
            }
            Ok(Reply::Refused(refusal)) => {
                if request.is_none() {
                    session.errors.push(format!("not prepared: {refusal}"));
                }
                let refused = request.map(|request| (request, refusal));
                session.state = State::Emptying { refused, next: Instant::now() };
                None
            }
            Err(error) => {
                session.errors.push(format!("builder: {error}"));
                session.kill_all();
                None
            }
        }
    }

    /// A keeper (or builder) has ended: whatever it left is ended too.
    pub fn keeper_ended(&mut self, number: u32) {
        let Some(session) = self.all.get_mut(&number) else { return };
        let Some(keeper) = &session.keeper else { return };
        // An event may be about an earlier keeper of the same lease: only this one's end counts.
        let how = match keeper.try_wait() {
            Ok(None) => return,
            Ok(Some(how)) => Ok(how),
            Err(error) => Err(error),
        };
        session.keeper = None;
        if !matches!(how, Ok(ExitStatus::Code(0 | 1))) {
            session.errors.push(format!("keeper ended with {how:?}"));
        }
        let refused = match &session.state {
            State::Building { request, .. } => {
                let mend = "ask again; see the launcher's log";
                let what = format!("the builder ended with {how:?}");
                Some((*request, Refusal::new(what, "build.ended", mend)))
            }
            State::Emptying { refused, .. } => refused.clone(),
            State::Waiting { .. } | State::Running => None,
        };
        session.state = State::Emptying { refused, next: Instant::now() };
        session.kill_all();
    }

    /// Ends a session by force.
    pub fn kill(&mut self, id: &SessionId) {
        if let Some(session) = self.all.values_mut().find(|s| s.id.as_ref() == Some(id)) {
            session.kill_all();
        }
    }

    /// Ends the agents of every session; the keepers tell of it and end.
    pub fn kill_agents(&mut self) {
        self.wanted = None;
        for session in self.all.values_mut() {
            if matches!(session.state, State::Waiting { .. }) {
                session.dismiss();
            } else if matches!(session.state, State::Building { .. }) {
                session.kill_all();
            } else if let Err(error) = session.agents.kill() {
                session.errors.push(error.to_string());
            }
        }
    }

    /// What is due by the clock: builds over their deadline, groups that may be empty by now.
    pub fn tick(&mut self, now: Instant, directories: &Directories) -> Vec<Message> {
        let mut messages = self.reap_workers();
        let numbers: Vec<u32> = self.all.keys().copied().collect();
        for number in numbers {
            let Some(session) = self.all.get_mut(&number) else { continue };
            match &mut session.state {
                State::Building { until, .. } if *until <= now => {
                    session.errors.push(format!("the build took longer than {DEADLINE:?}"));
                    *until = now + DEADLINE;
                    session.kill_all();
                }
                State::Waiting { since, .. } if *since + SPARE <= now => session.dismiss(),
                State::Emptying { next, .. } if session.keeper.is_some() && *next + PATIENCE <= now => {
                    *next = now;
                    session.kill_all();
                }
                State::Emptying { next, .. } if *next <= now && session.keeper.is_none() => {
                    *next = now + Duration::from_millis(2);
                    if session.is_empty() {
                        messages.extend(self.bury(number, directories));
                    }
                }
                _ => {}
            }
        }
        messages
    }

    /// When something is due.
    pub fn next_tick(&self) -> Option<Instant> {
        let due = self.all.values().filter_map(|s| match &s.state {
            State::Building { until, .. } => Some(*until),
            State::Waiting { since, .. } => Some(*since + SPARE),
            State::Emptying { next, .. } => Some(if s.keeper.is_some() { *next + PATIENCE } else { *next }),
            _ => None,
        });
        let workers = (!self.workers.is_empty()).then(|| Instant::now() + Duration::from_millis(5));
        due.chain(workers).chain(self.wanted.map(|(_, due)| due)).min()
    }

    /// Removes the last traces of a session that has no process left.
    fn bury(&mut self, number: u32, directories: &Directories) -> Option<Message> {
        let mut session = self.all.remove(&number)?;
        for path in [session.agents.path(), session.helpers.path()] {
            if let Err(error) = self.hierarchies.remove(path) {
                session.errors.push(error.to_string());
            }
        }
        self.release_placeholders(&mut session);
        let label = session.id.as_ref().map_or("prepared", SessionId::as_str);
        for error in &session.errors {
            tracing::error!(session = label, %error, "clean-up");
        }
        let id = session.id?;
        if session.uppers
            && (session.remove || !session.ran)
            && let Err(error) = self.delete_uppers(session.owner.uid, &id, directories, None)
        {
            tracing::error!(session = %id, %error, "clean-up");
            session.errors.push(error);
        }
        if session.ran {
            return Some((FromLauncher::Gone { session: id, errors: session.errors }, Vec::new()));
        }
        match session.state {
            State::Emptying { refused: Some((request, refusal)), .. } => {
                Some((FromLauncher::Refused { request, refusal }, Vec::new()))
            }
            _ => None,
        }
    }

    /// Closes clients' sockets and what is in them without waiting for it. Whether it could be begun.
    pub fn close_apart(&mut self, sockets: Vec<Packets>) {
        match workers::close(self.token, sockets) {
            Ok(child) => self.workers.push(Worker { child, request: None }),
            Err(error) => tracing::error!(%error, "closing offers"),
        }
    }

    /// Whether another child may be started: those that hang on a client's file are waited for.
    pub fn has_workers_to_spare(&self) -> bool {
        self.workers.len() < MAX_WORKERS
    }

    /// Takes placeholders away, or leaves them to another session that may have covered them: unlinking a name
    /// takes every mount from it, in every namespace (`detach_mounts`).
    fn release_placeholders(&mut self, session: &mut Session) {
        let mut mine = Vec::new();
        for placeholder in session.placeholders.drain(..) {
            let place = &placeholder.workspace;
            let shares = |s: &&mut Session| {
                s.places.iter().any(|other| other.starts_with(place) || place.starts_with(other))
            };
            match self.all.values_mut().find(shares) {
                Some(heir) => heir.placeholders.push(placeholder),
                None => mine.push((placeholder.dir, placeholder.name)),
            }
        }
        if !mine.is_empty() {
            match workers::remove_placeholders(self.token, session.owner, &mine) {
                Ok(child) => {
                    // A session that is ordered in between would cover what goes: the one place where the loop
                    // waits, some milliseconds as a rule and never longer than this.
                    wait_for(&child, UNLINKING);
                    self.workers.push(Worker { child, request: None });
                }
                Err(error) => session.errors.push(format!("placeholders: {error}")),
            }
        }
    }

    /// Takes the daemon's own groups away.
    pub fn close(&mut self) -> Result<(), String> {
        for session in self.all.values_mut() {
            session.kill_all();
        }
        self.hierarchies.clear().map_err(|e| e.to_string())?;
        self.hierarchies.remove_root().map_err(|e| e.to_string())
    }

    /// Deletes the overlay of a session that is over. The answer comes with the end of that, from
    /// [`Sessions::tick`]; a refusal comes at once.
    pub fn remove(
        &mut self,
        request: RequestNumber,
        owner: u32,
        id: &SessionId,
        directories: &Directories,
    ) -> Option<Message> {
        let refused = |refusal| Some((FromLauncher::Removed { request, refusal }, Vec::new()));
        if self.all.values().any(|s| s.id.as_ref() == Some(id)) {
            let mend = "end it first";
            return refused(Some(Refusal::new(format!("session {id} lives"), "session.running", mend)));
        }
        if !self.has_workers_to_spare() {
            let mend = "try again in a moment";
            return refused(Some(Refusal::new("one more deletion", "host.busy", mend)));
        }
        match self.delete_uppers(owner, id, directories, Some(request)) {
            Ok(true) => None,
            Ok(false) => refused(None),
            Err(error) => refused(Some(not_removed(id, &error))),
        }
    }

    /// Starts a child that deletes; whether there was anything to delete.
    fn delete_uppers(
        &mut self,
        owner: u32,
        id: &SessionId,
        directories: &Directories,
        request: Option<RequestNumber>,
    ) -> Result<bool, String> {
        let Some(user) = directories.user_overlays(owner)? else { return Ok(false) };
        let child = workers::delete(self.token, &user, id.as_str()).map_err(|e| e.to_string())?;
        self.workers.push(Worker { child, request: request.map(|request| (request, id.clone())) });
        Ok(true)
    }

    /// Takes up the ends of children that delete; the answers that waited for them.
    fn reap_workers(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        self.workers.retain_mut(|worker| match worker.child.try_wait() {
            Ok(None) => true,
            ended => {
                if let Some((request, id)) = worker.request.take() {
                    let refusal = match ended {
                        Ok(Some(ExitStatus::Code(0))) => None,
                        _ => Some(not_removed(&id, "not everything could be deleted")),
                    };
                    messages.push((FromLauncher::Removed { request, refusal }, Vec::new()));
                }
                false
            }
        });
        messages
    }
}

fn not_removed(id: &SessionId, why: &str) -> Refusal {
    Refusal::new(format!("session {id}: {why}"), "session.remove", "see the launcher's log")
}

impl Session {
    /// Lets a waiting builder go: it ends when its socket does, and takes with it what it prepared.
    fn dismiss(&mut self) {
        self.state = State::Emptying { refused: None, next: Instant::now() };
    }

    /// Gives a waiting builder its order.
    fn order(
        &mut self,
        request: Request,
        directories: &Directories,
        offer: &mut Option<Packets>,
    ) -> Result<(), (&'static str, String)> {
        let Request { number, caller, plan, began_ns } = request;
        let limits = Limits { memory: plan.limits.memory, pids: plan.limits.pids, cpus: plan.limits.cpus };
        self.agents.limit(&limits).map_err(|e| ("cgroup", e.to_string()))?;
        let overlays = plan.workspaces.iter().any(|w| w.mode == Mode::Overlay);
        let uppers = match overlays {
            true => {
                Some(directories.make_uppers(caller.uid, plan.session.as_str()).map_err(|e| ("overlay", e))?)
            }
            false => None,
        };
        self.id = Some(plan.session.clone());
        self.uppers = overlays;
        self.remove = plan.remove;
        let direct = plan.workspaces.iter().filter(|w| w.mode == Mode::Direct);
        self.places = direct.map(|w| w.path.clone()).collect();
        let waiting = std::mem::replace(&mut self.state, State::Running);
        let State::Waiting { builder, .. } = waiting else {
            self.state = waiting;
            return Err(("order", "the builder does not wait".into()));
        };
        let sent = send_order(&builder, plan, began_ns, offer, uppers.as_ref());
        self.state = State::Building { request: number, builder, until: Instant::now() + DEADLINE };
        sent.map_err(|e| ("order", e))
    }

    fn kill_all(&mut self) {
        for group in [&self.agents, &self.helpers] {
            if let Err(error) = group.kill() {
                self.errors.push(error.to_string());
            }
        }
    }

    fn is_empty(&mut self) -> bool {
        [&self.agents, &self.helpers].into_iter().all(|g| matches!(g.is_populated(), Ok(false)))
    }

    fn keep_placeholders(&mut self, made: Vec<(u16, AbsPath, String)>, dirs: &[OwnedFd]) {
        for (index, workspace, name) in made {
            match dirs.get(usize::from(index)).map(OwnedFd::try_clone) {
                Some(Ok(dir)) => self.placeholders.push(Placeholder { workspace, dir, name }),
                Some(Err(error)) => self.errors.push(format!("placeholder {name}: {error}")),
                None => self.errors.push(format!("placeholder {name}: no directory")),
            }
        }
    }
}

/// Groups that go again unless the session comes to life.
struct Made<'a> {
    hierarchies: &'a Hierarchies,
    groups: [String; 2],
    keep: bool,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for path in self.groups.iter().filter(|_| !self.keep) {
            if let Err(error) = self.hierarchies.remove(path) {
                tracing::error!(%error, "clean-up");
            }
        }
    }
}

/// Whether a child's pidfd says that it has ended. It stays to be reaped.
fn has_ended(child: &Child) -> bool {
    wait_for(child, Duration::ZERO)
}

/// The same within some time of less than a second.
fn wait_for(child: &Child, most: Duration) -> bool {
    let mut fds = [PollFd::new(&child.pidfd, PollFlags::IN)];
    let most = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
    !matches!(rustix::event::poll(&mut fds, Some(&most)), Ok(0))
}

/// Sends an order. The offer is the builder's from then on.
fn send_order(
    builder: &Packets,
    plan: Plan,
    began_ns: u64,
    offer: &mut Option<Packets>,
    uppers: Option<&OwnedFd>,
) -> Result<(), String> {
    let order = Order { plan, began_ns, offer: offer.is_some(), uppers: uppers.is_some() };
    let order = encode(&order).map_err(|e| e.to_string())?;
    let descriptors: Vec<_> =
        offer.iter().map(AsFd::as_fd).chain(uppers.iter().map(|fd| fd.as_fd())).collect();
    builder.send(&order, &descriptors).map_err(|e| e.to_string())?;
    drop(offer.take());
    Ok(())
}
