//! Names that were made in callers' directories to be covered, and how they go again.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use agentd_kernel::packets::Packets;
use agentd_kernel::process::Child;
use agentd_policy::lease::Groups;
use agentd_policy::mode::Mode;
use agentd_policy::names::AbsPath;
use agentd_policy::plan::Plan;
use agentd_session::Owner;

use super::{Message, Session, Sessions};
use crate::context::Context;
use crate::workers::{self, Place};
use agentd_session::error::HostError;

/// How long a request waits for placeholders to be taken away.
const UNLINKING: Duration = Duration::from_millis(100);
/// How long that may take. The child is the caller itself, who can stop it, or owns the file system.
const UNLINK_DEADLINE: Duration = Duration::from_secs(10);

/// A name that was made in a caller's directory to be covered.
pub struct Placeholder {
    /// The directory's path, as the caller knows it.
    pub workspace: AbsPath,
    pub place: Place,
    /// The name in it.
    pub name: String,
    /// Uid and gid of who made it: nobody else may be able to take it away.
    pub owner: (u32, u32),
}

impl Placeholder {
    /// The file system and the number of its directory.
    pub fn identity(&self) -> (u64, u64) {
        match &self.place {
            Place::Open { dev, ino, .. } | Place::Named { dev, ino, .. } => (*dev, *ino),
        }
    }
}

/// A child that takes placeholders away.
pub struct Unlinking {
    child: Child,
    /// Whose they were.
    uid: u32,
    /// Whoever waits for its end sees this closed.
    link: Option<Rc<Packets>>,
    /// The workspaces that it takes them from.
    places: Vec<AbsPath>,
    /// Until when a request for one of those places waits.
    until: Instant,
    /// When it is ended; again and again, should it not be enough.
    end: Instant,
    /// What is said of their session once they are gone.
    pub(super) news: Option<Message>,
}

impl Unlinking {
    fn new(child: Child, uid: u32, places: Vec<AbsPath>, link: Option<Rc<Packets>>, now: Instant) -> Self {
        Self { child, uid, places, link, until: now + UNLINKING, end: now + UNLINK_DEADLINE, news: None }
    }

    /// Whether it is over; one that takes too long is ended.
    fn is_over(&mut self, now: Instant) -> bool {
        if self.end <= now {
            self.end = now + UNLINK_DEADLINE;
            if let Err(error) = self.child.kill() {
                tracing::error!(user = self.uid, %error, "a child that takes placeholders away cannot be ended");
            }
        }
        !matches!(self.child.try_wait(), Ok(None))
    }
}

/// What one user made: in which workspaces, and the names.
type Names = (Vec<AbsPath>, Vec<(Place, String)>);

/// The directories that a plan gives as they are.
pub fn places(plan: &Plan) -> Vec<AbsPath> {
    plan.workspaces.iter().filter(|w| w.mode == Mode::Direct).map(|w| w.path.clone()).collect()
}

fn share(these: &[AbsPath], those: &[AbsPath]) -> bool {
    these.iter().any(|a| those.iter().any(|b| a.starts_with(b) || b.starts_with(a)))
}

impl Session {
    /// Takes up what the builder is about to make. A directory with many of them is held once.
    pub(super) fn keep_placeholder(
        &mut self,
        workspace: AbsPath,
        name: String,
        dir: OwnedFd,
        (dev, ino): (u64, u64),
    ) {
        let known = self.placeholders.iter().find_map(|other| match &other.place {
            Place::Open { dir, .. } if other.identity() == (dev, ino) => Some(dir.clone()),
            _ => None,
        });
        let place = Place::Open { dir: known.unwrap_or_else(|| Rc::new(dir)), dev, ino };
        self.placeholders.push(Placeholder {
            workspace,
            place,
            name,
            owner: (self.owner.uid, self.owner.gid),
        });
    }
}

impl Sessions {
    /// Takes placeholders away, each as who made it, or leaves them to another session that may have covered them,
    /// whosever it is: unlinking a name takes every mount from it, in every namespace (`detach_mounts`).
    /// `link` is closed once they are gone. Whether a child was started for it, the last of `unlinking`.
    pub(super) fn release_placeholders(
        &mut self,
        cx: &Context,
        session: &mut Session,
        link: Option<Packets>,
    ) -> bool {
        let mut mine: BTreeMap<(u32, u32), Names> = BTreeMap::new();
        let mut heirs = Vec::new();
        for placeholder in session.placeholders.drain(..) {
            let place = std::slice::from_ref(&placeholder.workspace);
            // One that is only being cleared away needs them no more.
            match self.all.iter_mut().find(|(_, s)| share(&s.places, place) && !s.has_ended()) {
                Some((number, heir)) => {
                    heir.placeholders.push(placeholder);
                    heirs.push(*number);
                }
                None => {
                    let (places, names) = mine.entry(placeholder.owner).or_default();
                    places.push(placeholder.workspace);
                    names.push((placeholder.place, placeholder.name));
                }
            }
        }
        heirs.dedup();
        for heir in heirs {
            if let Err(error) = self.record(cx, heir) {
                session.errors.push(error.on("placeholders"));
            }
        }
        let link = link.map(Rc::new);
        let mut started = false;
        for ((uid, gid), (mut places, names)) in mine {
            places.dedup();
            let owner = match session.owner {
                own if own.uid == uid => own,
                _ => Owner { uid, gid, groups: Groups::default() },
            };
            match workers::remove_placeholders(cx.token, (session.id.as_ref(), owner), &names) {
                Ok(child) => {
                    self.unlinking.push(Unlinking::new(child, uid, places, link.clone(), Instant::now()));
                    started = true;
                }
                Err(error) => session.errors.push(HostError::from(error).on("placeholders")),
            }
        }
        started
    }

    /// Whether names are being taken away where a session would cover them: it would lose the mounts.
    pub(super) fn must_wait(&self, places: &[AbsPath], now: Instant) -> bool {
        self.unlinking.iter().any(|u| u.until > now && share(&u.places, places))
    }

    /// Takes up the ends of children that take placeholders away, and starts what waited for them.
    pub(super) fn reap_unlinking(&mut self, cx: &Context, now: Instant) -> Vec<Message> {
        let mut messages = Vec::new();
        self.unlinking.retain_mut(|unlinking| {
            let over = unlinking.is_over(now);
            drop(unlinking.link.take_if(|_| over));
            messages.extend(unlinking.news.take_if(|_| over));
            !over
        });
        messages.extend(self.start_deferred(cx, now));
        messages
    }

    /// When a request has waited long enough.
    pub(super) fn next_deferred(&self) -> Option<Instant> {
        let waits = !self.deferred.is_empty();
        self.unlinking.iter().map(|u| u.until).filter(|_| waits).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shared_from_above_and_from_below() {
        let path = |text: &str| AbsPath::parse(text).unwrap();
        let (project, below, other) = (path("/w/a"), path("/w/a/b"), path("/w/ab"));
        let (above, inside) = ([project], [below]);
        assert!(share(&above, &[other.clone(), inside[0].clone()]));
        assert!(share(&inside, &above));
        assert!(!share(&above, &[other]));
        assert!(!share(&[], &[path("/")]));
    }
}
