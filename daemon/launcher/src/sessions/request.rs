//! A request: checked by the launcher's own rules, and given to a builder.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use agentd_kernel::packets::Packets;
use agentd_policy::Refusal;
use agentd_policy::config::{Bounds, Config};
use agentd_policy::consent::Consent;
use agentd_policy::lease::Groups;
use agentd_policy::mode::Mode;
use agentd_policy::plan::{Permitted, Plan};
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use agentd_policy::wire::{FromLauncher, Peer, RequestNumber, encode};
use agentd_session::{Order, OrderDescriptors, Owner, Reserve, Usage};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::placeholders::places;
use super::{DEADLINE, InStep as _, Message, NotStarted, Session, Sessions, State, ahead, bounds};
use crate::context::Context;
use crate::disk;
use agentd_session::error::HostError;

/// The most requests of one account that wait for placeholders to go.
const MAX_DEFERRED: usize = 64;
/// The most builds at once: of one account, so that a start of another's competes with few, and of all.
const BUILDS: (usize, usize) = (4, 64);

/// What a request brings, besides an offer; a `Request<Plan>` was not checked yet.
pub struct Request<P = Permitted> {
    /// For the answer.
    pub number: RequestNumber,
    pub caller: Peer,
    pub groups: Groups,
    /// What its sessions may have at most.
    pub bounds: Bounds,
    pub plan: P,
    /// What the caller agreed to, which is the plan or nothing.
    pub consent: Consent,
    /// When it was read: nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
}

/// One that waits: until names are taken away that it would cover, or for its account's turn.
pub struct Deferred {
    pub request: Request,
    pub offer: Packets,
}

impl Sessions {
    /// Checks a request by the launcher's own rules, and gives it to a builder.
    pub fn build(&mut self, cx: &Context, request: Request<Plan>, offer: Packets) -> Result<(), Refusal> {
        let request = match self.check(cx, request) {
            Ok(request) => request,
            Err(refusal) => {
                self.left.push(offer);
                return Err(refusal);
            }
        };
        if self.must_wait(&places(&request.plan), Instant::now()) {
            let account = cx.accounts.of(request.caller.uid);
            let own = self.deferred.iter().filter(|d| cx.accounts.of(d.request.caller.uid) == account);
            if own.count() >= MAX_DEFERRED {
                self.left.push(offer);
                let hint = "try again in a moment";
                return Err(Refusal::new("one more session in that directory", Rule::HostBusy, hint));
            }
            self.deferred.push_back(Deferred { request, offer });
            return Ok(());
        }
        self.start_in_turn(cx, request, offer)
    }

    /// Starts a build, or has it wait until its account has fewer.
    fn start_in_turn(&mut self, cx: &Context, request: Request, offer: Packets) -> Result<(), Refusal> {
        let account = cx.accounts.of(request.caller.uid);
        if self.queued.count(account) > 0 || !Self::may_build(&self.building(cx), account) {
            self.queued.push(account, Deferred { request, offer });
            return Ok(());
        }
        self.start(cx, request, offer)
    }

    /// How many builds are under way, by account.
    fn building(&self, cx: &Context) -> BTreeMap<u32, usize> {
        let mut builds = BTreeMap::new();
        for session in self.all.values().filter(|s| matches!(s.state, State::Building { .. })) {
            *builds.entry(cx.accounts.of(session.owner.uid)).or_default() += 1;
        }
        builds
    }

    fn may_build(builds: &BTreeMap<u32, usize>, account: u32) -> bool {
        let (each, all) = BUILDS;
        builds.values().sum::<usize>() < all && builds.get(&account).is_none_or(|own| *own < each)
    }

    /// Starts what waited for its turn, one account's after another's.
    pub(super) fn start_queued(&mut self, cx: &Context) -> Vec<Message> {
        let mut messages = Vec::new();
        if self.queued.is_empty() {
            return messages;
        }
        loop {
            let builds = self.building(cx);
            let Some((_, Deferred { request, offer })) =
                self.queued.pop(|account| Self::may_build(&builds, account))
            else {
                return messages;
            };
            // A session of the same directory may have ended meanwhile.
            if self.must_wait(&places(&request.plan), Instant::now()) {
                self.deferred.push_back(Deferred { request, offer });
                continue;
            }
            let number = request.number;
            if let Err(refusal) = self.start(cx, request, offer) {
                messages.push((FromLauncher::Refused { request: number, refusal }, Vec::new()));
            }
        }
    }

    /// What waited and need not any longer.
    pub(super) fn start_deferred(&mut self, cx: &Context, now: Instant) -> Vec<Message> {
        let mut messages = Vec::new();
        for deferred in std::mem::take(&mut self.deferred) {
            if self.must_wait(&places(&deferred.request.plan), now) {
                self.deferred.push_back(deferred);
                continue;
            }
            let request = deferred.request.number;
            if let Err(refusal) = self.start_in_turn(cx, deferred.request, deferred.offer) {
                messages.push((FromLauncher::Refused { request, refusal }, Vec::new()));
            }
        }
        messages
    }

    /// Whether an account, or all together, may have one more. Sessions whose last process is gone do not count, since
    /// their users know that they ended; but neither may there be as many of them again.
    fn check_count(&self, cx: &Context, account: Option<u32>, most: u32, rule: Rule) -> Result<(), Refusal> {
        let most = most as usize;
        let own = |uid: u32| account.is_none_or(|account| account == cx.accounts.of(uid));
        let known = || self.all.values().filter(|s| s.id.is_some() && own(s.owner.uid));
        let waiting = self.deferred.iter().chain(self.queued.iter());
        let waiting = waiting.filter(|d| own(d.request.caller.uid)).count();
        let count = known().count() + waiting;
        // Each of them is asked about only where it matters.
        let live = || known().filter(|s| !s.has_ended()).count() + waiting;
        if count < most || (count < most.saturating_mul(2) && live() < most) {
            return Ok(());
        }
        Err(Refusal::new(
            format!("one more session besides {count}"),
            rule,
            "end some first (agentctl ps, agentctl kill)",
        ))
    }

    fn check(&self, cx: &Context, request: Request<Plan>) -> Result<Request, Refusal> {
        let Request { number, caller, groups, bounds: most, plan, consent, began_ns } = request;
        let (config, bounds) = (&cx.settings.config, bounds(cx));
        if caller.uid == 0 && !config.allow_root {
            return Err(Refusal::new(
                "a session for uid 0",
                Rule::CallerRoot,
                "run agentctl as an ordinary user, or set allow_root = true",
            ));
        }
        let leased = |id: u32| config.pool.uids.contains(id);
        if leased(caller.uid) || leased(caller.gid) || groups.iter().any(leased) {
            return Err(Refusal::new(
                "a session for a leased uid",
                Rule::CallerPool,
                "sessions ask for none",
            ));
        }
        let plan = plan.permit(&most)?;
        consent.check(&plan)?;
        plan.egress.as_ref().map_or(Ok(()), |egress| config.egress.check(egress))?;
        let (account, each) = (cx.accounts.of(caller.uid), bounds.max_sessions_per_user);
        self.check_count(cx, None, bounds.max_sessions, Rule::BoundsMaxSessions)?;
        self.check_count(cx, Some(account), each, Rule::BoundsMaxSessionsPerUser)?;
        if let Some(rule) = self.exceeds(caller.uid) {
            return Err(Refusal::new(
                "one more session, while those that run have more memory in use than they may",
                rule,
                "end some first (agentctl ps, agentctl kill)",
            ));
        }
        match self.has_memory(caller.uid, plan.limits.memory, bounds) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Refusal::new(
                    "one more session, while what ended sessions left in use is all the memory that there is",
                    Rule::BoundsUserMemory,
                    "close what still holds descriptors of theirs",
                ));
            }
            Err(error) => {
                return Err(Refusal::new(
                    error.to_string(),
                    Rule::BoundsUserMemory,
                    "see the launcher's log",
                ));
            }
        }
        let known = self.all.values().filter_map(|s| s.id.as_ref());
        let mut taken =
            known.chain(self.deferred.iter().chain(self.queued.iter()).map(|d| &d.request.plan.session));
        if taken.any(|id| *id == plan.session) {
            return Err(Refusal::new(format!("session {}", plan.session), Rule::SessionExists, "ask again"));
        }
        Ok(Request { number, caller, groups, bounds: most, plan, consent, began_ns })
    }

    fn start(&mut self, cx: &Context, request: Request, offer: Packets) -> Result<(), Refusal> {
        let files = || SiteFiles::open(&cx.settings.config, &request.plan);
        let (reserve, files) = match reserve(cx, &request.plan).and_then(|free| Ok((free, files()?))) {
            Ok(both) => both,
            Err(refusal) => {
                self.left.push(offer);
                return Err(refusal);
            }
        };
        let mut offer = Some(offer);
        let started = self.find_builder(cx, &request).and_then(|number| {
            let ordered = self.order(cx, number, request, &mut offer, (reserve, files));
            if let Some(session) = self.all.get_mut(&number).filter(|_| ordered.is_err()) {
                session.state = State::emptying(None);
                session.kill_all();
            }
            ordered
        });
        self.left.extend(offer);
        Ok(started?)
    }

    /// One that waits, or a new one.
    fn find_builder(&mut self, cx: &Context, request: &Request) -> Result<u32, NotStarted> {
        let owner = Owner { uid: request.caller.uid, gid: request.caller.gid, groups: request.groups };
        let waiting = |s: &Session| {
            let alive = s.keeper.as_ref().is_some_and(|k| !k.has_ended());
            s.owner == owner && matches!(s.state, State::Waiting { .. }) && alive
        };
        match self.all.iter().find(|(_, s)| waiting(s)) {
            // A limit that could not be set again after a restart is a refusal here, too.
            Some((number, _)) => {
                let number = *number;
                self.limit(cx, owner.uid).in_step(Step::Cgroup)?;
                Ok(number)
            }
            None => self.prepare(cx, owner),
        }
    }

    /// The directory for a session's uppers: the one that was made ahead, or a new one.
    fn uppers(&mut self, cx: &Context, number: u32, plan: &Plan) -> Result<OwnedFd, HostError> {
        let Some(session) = self.all.get_mut(&number) else {
            return Err(HostError::unfit("the builder is gone"));
        };
        let (owner, id) = (session.owner.uid, plan.session.as_str());
        if session.ahead
            && let Some(taken) = ahead::take(&cx.directories, owner, number, id)?
        {
            session.ahead = false;
            return Ok(taken);
        }
        cx.directories.make_uppers(owner, id)
    }

    /// Gives a waiting builder its order.
    fn order(
        &mut self,
        cx: &Context,
        number: u32,
        request: Request,
        offer: &mut Option<Packets>,
        (reserve, files): (Reserve, SiteFiles),
    ) -> Result<(), NotStarted> {
        let Some(session) = self.all.get_mut(&number) else {
            return Err(HostError::unfit("the builder is gone")).in_step(Step::Order);
        };
        let Request { number: answer, caller, bounds: own, plan, began_ns, .. } = request;
        let limits = super::groups::of_session(&plan.limits, bounds(cx)).in_step(Step::Cgroup)?;
        if session.limits.take() != Some(limits) {
            session.agents.limit(&limits).in_step(Step::Cgroup)?;
        }
        self.likely = Some((caller.uid, limits));
        session.id = Some(plan.session.clone());
        session.cpus = Some(plan.limits.cpus);
        session.uppers = plan.workspaces.iter().any(|w| w.mode == Mode::Overlay);
        session.remove = plan.remove;
        session.places = places(&plan);
        let overlays = session.uppers;
        if let Some(seen) = &mut self.seen {
            seen.ids.insert(plan.session.to_string());
        }
        // Whoever comes after a launcher that dies now finds what there is to take away.
        self.record(cx, number).in_step(Step::Lease)?;
        let directories = &cx.directories;
        let service_uid = cx.settings.service_uid;
        let listener = directories.keeper_socket(&plan.session, service_uid).in_step(Step::Socket)?;
        let uppers = match overlays {
            true => {
                let uppers = self.uppers(cx, number, &plan).in_step(Step::Overlay)?;
                cx.disk.bound(&uppers, &plan).in_step(Step::Disk)?;
                Some(uppers)
            }
            false => None,
        };
        let Some(session) = self.all.get_mut(&number) else {
            return Err(HostError::unfit("the builder is gone")).in_step(Step::Order);
        };
        let waiting = std::mem::replace(&mut session.state, State::Running);
        let State::Waiting { builder, .. } = waiting else {
            session.state = waiting;
            return Err(HostError::unfit("the builder does not wait")).in_step(Step::Order);
        };
        let blocklist = cx.blocklist.as_ref().filter(|_| plan.egress.is_some());
        let disk = cx.disk.order(caller.uid, &plan.session);
        let order = Order {
            ceiling: own.ceiling(),
            plan,
            began_ns,
            uppers: uppers.is_some(),
            disk,
            reserve,
            blocklist: blocklist.is_some(),
            trust: files.trust.is_some(),
            credential: files.credential.is_some(),
            service_uid,
        };
        let sent = match offer.as_ref() {
            Some(offer) => {
                let descriptors = OrderDescriptors {
                    listener: listener.as_fd(),
                    offer: offer.as_fd(),
                    uppers: uppers.as_ref().map(AsFd::as_fd),
                    blocklist: blocklist.map(AsFd::as_fd),
                    ca_bundle: files.trust.as_ref().map(AsFd::as_fd),
                    credential: files.credential.as_ref().map(AsFd::as_fd),
                };
                send_order(&builder, &order, descriptors)
            }
            None => Err(HostError::unfit("no offer")),
        };
        if sent.is_ok() {
            // It is the builder's from now on.
            drop(offer.take());
        }
        session.state = State::Building { request: Some(answer), builder, until: Instant::now() + DEADLINE };
        if let Err(error) = sent {
            // It has ended, or is ended now. Why is in the answer that it left, or in how it ended.
            session.errors.push(error.on("order"));
            session.kill_all();
        }
        Ok(())
    }
}

/// What a session that writes to the disk has to leave alone. There is none while the disk is nearly full.
fn reserve(cx: &Context, plan: &Plan) -> Result<Reserve, Refusal> {
    if !plan.workspaces.iter().any(|w| w.mode == Mode::Overlay) {
        return Ok(Reserve::default());
    }
    let limit = Usage { bytes: plan.limits.disk, inodes: plan.limits.inodes };
    disk::admit(&cx.directories.state, cx.settings.config.disk_reserve, limit, cx.disk.form).map_err(|found| {
        Refusal::new(
            format!("one more session on the disk of state_dir: {found}"),
            Rule::HostDisk,
            "delete sessions that have ended (agentctl ps -a, agentctl rm), or have the administrator make room",
        )
    })
}

/// Files of the site's that a session's keeper and relay need, and cannot open.
struct SiteFiles {
    /// Authorities, if some resolver is asked over TLS.
    trust: Option<OwnedFd>,
    /// What the site's proxy wants to know of its clients.
    credential: Option<OwnedFd>,
}

impl SiteFiles {
    fn open(config: &Config, plan: &Plan) -> Result<Self, Refusal> {
        let Some(egress) = &plan.egress else { return Ok(Self { trust: None, credential: None }) };
        let site = &config.egress;
        let trust = egress.asks_over_tls().then(|| {
            regular(site.trust.path()).map_err(|errno| {
                Refusal::new(
                    format!("a resolver over TLS without trust anchors: {}: {errno}", site.trust.path()),
                    Rule::EgressTrust,
                    "have the administrator set `trust` in [egress] of agentd.toml to a file of certificates as PEM",
                )
            })
        });
        let credential = site.proxy_credential.as_ref().filter(|_| egress.proxy.is_some()).map(|path| {
            regular(path.as_str()).map_err(|errno| {
                Refusal::new(
                    format!("the site's proxy without its password: {path}: {errno}"),
                    Rule::EgressProxy,
                    "have the administrator set `proxy_credential` in [egress] of agentd.toml to a file with USER:PASSWORD",
                )
            })
        });
        Ok(Self { trust: trust.transpose()?, credential: credential.transpose()? })
    }
}

/// A file that is one: opening it waits for nobody.
fn regular(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if regular { Ok(file) } else { Err(Errno::INVAL) }
}

fn send_order(
    builder: &Packets,
    order: &Order,
    descriptors: OrderDescriptors<BorrowedFd<'_>>,
) -> Result<(), HostError> {
    let order = encode(order)?;
    Ok(builder.send(&order, &descriptors.into_vec())?)
}
