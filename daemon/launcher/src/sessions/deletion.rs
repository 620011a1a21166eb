//! Children that delete overlays and close clients' sockets, so that the loop need not wait. An overlay that is to go
//! is renamed first: whatever becomes of the child, or of this launcher, what is left of it is known by its name, and
//! is deleted later.

use std::fmt::Display;
use std::time::{Duration, Instant};

use agentd_kernel::packets::Packets;
use agentd_kernel::process::Child;
use agentd_policy::Refusal;
use agentd_policy::event::ExitStatus;
use agentd_policy::names::SessionId;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{FromLauncher, RequestNumber};

use super::{Message, Sessions};
use crate::context::Context;
use crate::directories::Doomed;
use crate::workers;
use agentd_session::error::HostError;
use agentd_session::refusals;

/// The most children that delete: of one account, and of all.
const DELETERS: (usize, usize) = (4, 32);
/// The most deletions of one account that wait for one.
const MAX_WAITING: usize = 1024;
/// The most children that close.
const CLOSERS: usize = 32;
/// Before what failed is tried again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// An overlay that is to go.
#[derive(Debug)]
pub struct Deletion {
    doomed: Doomed,
    pause: Duration,
}

/// A child that deletes one.
#[derive(Debug)]
pub struct Deleter {
    child: Child,
    account: u32,
    deletion: Deletion,
}

impl Sessions {
    /// Closes clients' sockets and what is in them without waiting for it.
    pub fn close_apart(&mut self, cx: &Context, sockets: Vec<Packets>) {
        match workers::close(cx.token, sockets) {
            Ok(child) => self.closers.push(child),
            Err(error) => tracing::error!(%error, "offers cannot be closed"),
        }
    }

    /// Whether another child may be started that closes: those that hang on a client's file are waited for.
    pub fn has_closers_to_spare(&self) -> bool {
        self.closers.len() < CLOSERS
    }

    /// Deletes the overlay of a session that is over. The answer comes with the end of that, from
    /// [`Sessions::tick`]; a refusal comes at once.
    pub fn remove(
        &mut self,
        cx: &Context,
        request: RequestNumber,
        owner: u32,
        id: &SessionId,
    ) -> Option<Message> {
        let deleted = self.delete_ended(cx, owner, id);
        if deleted == Ok(true) {
            self.removals.push((id.clone(), request));
            return None;
        }
        Some((FromLauncher::Removed { request, refusal: deleted.err() }, Vec::new()))
    }

    /// Deletes the overlay of a session of `owner`'s that is over, while its record stays. Nobody waits for the end of
    /// that.
    pub fn discard(&mut self, cx: &Context, owner: u32, id: &SessionId) -> Result<(), Refusal> {
        let others = self.all.values().any(|s| s.id.as_ref() == Some(id) && s.owner.uid != owner);
        match !others && self.delete_ended(cx, owner, id)? {
            true => Ok(()),
            false => Err(refusals::unknown(id)),
        }
    }

    /// Has the overlay of a session that is over deleted; whether there is any.
    fn delete_ended(&mut self, cx: &Context, owner: u32, id: &SessionId) -> Result<bool, Refusal> {
        if self.all.values().any(|s| s.id.as_ref() == Some(id)) {
            return Err(Refusal::new(format!("session {id} lives"), Rule::SessionRunning, "end it first"));
        }
        if self.deletions.count(cx.accounts.of(owner)) >= MAX_WAITING {
            return Err(Refusal::new("one more deletion", Rule::HostBusy, "try again in a moment"));
        }
        self.delete_uppers(cx, owner, id).map_err(|error| not_removed(id, &error))
    }

    /// Has a session's overlay deleted; whether there is any.
    pub(super) fn delete_uppers(
        &mut self,
        cx: &Context,
        owner: u32,
        id: &SessionId,
    ) -> Result<bool, HostError> {
        let Some(doomed) = cx.directories.doom_uppers(owner, id.as_str())? else { return Ok(false) };
        self.delete(cx, doomed);
        Ok(true)
    }

    fn delete(&mut self, cx: &Context, doomed: Doomed) {
        if !self.deletes(&doomed) {
            let account = cx.accounts.of(doomed.owner);
            self.deletions.push(account, Deletion { doomed, pause: PAUSE.0 });
        }
    }

    /// Whether an overlay is being deleted, or will be.
    pub fn deletes(&self, doomed: &Doomed) -> bool {
        let running = self.deleters.iter().map(|deleter| &deleter.deletion);
        let later = self.later.iter().map(|(_, deletion)| deletion);
        self.deletions.iter().chain(running).chain(later).any(|deletion| deletion.doomed == *doomed)
    }

    /// Goes on with what others began to delete, and did not to the end.
    pub fn take_up_deletions(&mut self, cx: &Context) {
        match cx.directories.doomed() {
            Ok(doomed) => doomed.into_iter().for_each(|doomed| self.delete(cx, doomed)),
            Err(error) => tracing::error!(%error, "what was to be deleted is not known"),
        }
    }

    /// When what failed is tried again.
    pub(super) fn next_deletion(&self) -> Option<Instant> {
        self.later.iter().map(|(due, _)| *due).min()
    }

    /// Starts what may start, one account's after another's.
    pub(super) fn start_deletions(&mut self, cx: &Context, now: Instant) {
        for (_, deletion) in self.later.extract_if(.., |(due, _)| *due <= now) {
            self.deletions.push(cx.accounts.of(deletion.doomed.owner), deletion);
        }
        while self.deleters.len() < DELETERS.1 {
            let deleters = &self.deleters;
            let own = |account| deleters.iter().filter(|d| d.account == account).count() < DELETERS.0;
            let Some((account, deletion)) = self.deletions.pop(own) else { return };
            let Doomed { owner, session, .. } = &deletion.doomed;
            let delete = |user| workers::delete(cx.token, &user, &deletion.doomed.name(), session.as_ref());
            let user = cx.directories.user_overlays(*owner);
            let started = user.and_then(|user| Ok(user.map(delete).transpose()?));
            match started {
                Ok(Some(child)) => self.deleters.push(Deleter { child, account, deletion }),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "an overlay cannot be deleted now");
                    self.put_off(deletion, now);
                }
            }
        }
    }

    fn put_off(&mut self, deletion: Deletion, now: Instant) {
        let pause = (deletion.pause * 2).min(PAUSE.1);
        self.later.push((now + deletion.pause, Deletion { pause, ..deletion }));
    }

    /// Takes up the ends of children; the answers that waited for them.
    pub(super) fn reap_workers(&mut self, now: Instant) -> Vec<Message> {
        self.closers.retain(|child| matches!(child.try_wait(), Ok(None)));
        let mut messages = Vec::new();
        let running = std::mem::take(&mut self.deleters);
        for deleter in running {
            let done = match deleter.child.try_wait() {
                Ok(None) => {
                    self.deleters.push(deleter);
                    continue;
                }
                ended => matches!(ended, Ok(Some(ExitStatus::Code(0)))),
            };
            let of = |id: &SessionId| deleter.deletion.doomed.session.as_ref() == Some(id);
            for (id, request) in self.removals.extract_if(.., |(id, _)| of(&*id)) {
                let refusal = (!done).then(|| not_removed(&id, &"not everything could be deleted yet"));
                messages.push((FromLauncher::Removed { request, refusal }, Vec::new()));
            }
            if !done {
                self.put_off(deleter.deletion, now);
            }
        }
        messages
    }
}

fn not_removed(id: &SessionId, why: &dyn Display) -> Refusal {
    Refusal::new(format!("session {id}: {why}"), Rule::SessionRemove, "see the launcher's log")
}
