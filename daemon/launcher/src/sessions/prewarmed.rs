//! Sessions that are prepared before anybody asks for them.

use std::time::{Duration, Instant};

use agentd_kernel::packets::Packets;
use agentd_kernel::process::{self, CloneArgs};
use agentd_policy::limits::DiskForm;
use agentd_policy::step::Step;
use agentd_session::{Builder, Owner};

use super::{InStep as _, Keeper, NotStarted, Session, Sessions, State, ahead, terminals};
use crate::context::Context;
use agentd_session::error::HostError;

/// How long a prepared session waits for a request.
pub const LIFETIME: Duration = Duration::from_secs(300);
/// How long after a session's start the next one is prepared, unless it ends before: it has the processors first.
pub const REST: Duration = Duration::from_millis(25);
/// Between two that are prepared one after the other.
const PAUSE: Duration = Duration::from_millis(2);
/// How many may wait for one user.
const PREWARMED_PER_USER: usize = 2;

impl Sessions {
    /// Starts a builder that prepares a session for `owner`. The lease's number.
    pub(super) fn prepare(&mut self, cx: &Context, owner: Owner) -> Result<u32, NotStarted> {
        let pool = cx.settings.config.pool.uids;
        let (lease, lock) = self.lease(&pool, &cx.directories).in_step(Step::Lease)?;
        let number = lease.number;
        let made = self.terminals().in_step(Step::Terminals).and_then(|terminals| {
            let groups = self.groups(cx, owner.uid, number).in_step(Step::Cgroup)?;
            Ok((groups, terminals))
        });
        let ((agents, helpers, limits), terminals) = match made {
            Ok(made) => made,
            Err(error) => {
                drop(lock);
                self.give_back(cx, number);
                return Err(error);
            }
        };
        let groups = [agents.path().to_owned(), helpers.path().to_owned()];
        let born = Packets::pair().in_step(Step::Socket).and_then(|(ours, theirs)| {
            ours.set_nonblocking(true).in_step(Step::Socket)?;
            let birth = CloneArgs { cgroup: Some(helpers.directory()), ..CloneArgs::default() };
            let builder = Builder {
                owner,
                lease,
                pool,
                lock,
                agents: &agents,
                helpers: &helpers,
                terminals,
                host: &cx.host,
                launcher: theirs,
                token: cx.token,
            };
            let process = process::spawn(cx.token, birth, || builder.run()).in_step(Step::Fork)?;
            Ok((ours, Keeper { process, ours: true }))
        });
        let (builder, keeper) = match born {
            Ok(born) => born,
            Err(error) => {
                for path in groups {
                    if let Err(error) = self.hierarchies.remove(&path) {
                        tracing::error!(user = owner.uid, %error, "a cgroup stays");
                    }
                }
                self.leave_user(owner.uid);
                self.give_back(cx, number);
                return Err(error);
            }
        };
        let state = State::Waiting { builder, since: Instant::now() };
        let keeper = Some(keeper);
        let session = Session {
            keeper,
            terminals,
            limits: Some(limits),
            ..Session::of_groups(owner, agents, helpers, state)
        };
        self.insert(number, session);
        self.unwatched.push(number);
        Ok(number)
    }

    /// How many terminals one more session may have.
    fn terminals(&self) -> Result<u32, HostError> {
        let given = self.all.values().map(|s| s.terminals).sum();
        let share = terminals::Host::read()?.share(given);
        share.ok_or(HostError::unfit("the host has none left for one more session: raise kernel.pty.max"))
    }

    /// A lease that nobody holds any more.
    pub(super) fn give_back(&self, cx: &Context, number: u32) {
        if let Err(error) = cx.directories.remove_lease(number) {
            tracing::error!(lease = number, %error, "the file of a lease stays");
        }
    }

    /// Lets go of what is prepared beyond what the site wants now.
    pub fn trim(&mut self, cx: &Context) {
        let waiting = self.all.values_mut().filter(|s| matches!(s.state, State::Waiting { .. }));
        waiting.skip(cx.settings.config.prewarmed_sessions as usize).for_each(Session::dismiss);
    }

    /// Prepares a session for a user who just had one, if the site wants that.
    pub fn refill(&mut self, cx: &Context, now: Instant) {
        let Some((owner, _)) = self.wanted.take_if(|(_, due)| *due <= now) else { return };
        let since = |s: &Session| match s.state {
            State::Waiting { since, .. } => Some(since),
            _ => None,
        };
        let limit = cx.settings.config.prewarmed_sessions as usize;
        let waiting = self.all.values().filter(|s| since(s).is_some());
        let own = waiting.clone().filter(|s| s.owner == owner).count();
        if limit == 0 || own >= PREWARMED_PER_USER {
            return;
        }
        if waiting.count() >= limit {
            // The one that nobody has asked for the longest makes room for the next time.
            let oldest = self.all.values_mut().filter(|s| since(s).is_some()).min_by_key(|s| since(s));
            if let Some(oldest) = oldest {
                oldest.dismiss();
            }
            return;
        }
        match self.prepare(cx, owner) {
            Ok(number) => self.make_ahead(cx, number),
            Err(NotStarted { step, cause }) => {
                tracing::warn!(user = owner.uid, what = step.name(), error = %cause, "no session was prepared");
            }
        }
        // One more while it is used up faster than it is made.
        if own + 1 < PREWARMED_PER_USER && limit > 1 {
            self.wanted = Some((owner, now + PAUSE));
        }
    }

    /// Makes directories for the overlay that a prepared session probably has. Where a project bounds them they are the
    /// project's from the first on, which is known by its session.
    fn make_ahead(&mut self, cx: &Context, number: u32) {
        let Some(session) = self.all.get_mut(&number).filter(|_| cx.disk.form == DiskForm::Watch) else {
            return;
        };
        // What was made in part is taken away with the session, too.
        session.ahead = true;
        if let Err(error) = ahead::make(&cx.directories, session.owner.uid, number) {
            tracing::warn!(user = session.owner.uid, %error, "no overlay was prepared");
        }
    }

    /// A session of `owner` has ended: the next one need not wait any more.
    pub(super) fn hasten(&mut self, owner: Owner) {
        if let Some((_, due)) = self.wanted.as_mut().filter(|(wanted, _)| *wanted == owner) {
            *due = Instant::now();
        }
    }
}
