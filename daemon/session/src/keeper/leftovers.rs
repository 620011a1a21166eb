//! What is left in directories that were given as they are, once no process of the session is: placeholders go, and
//! what programs outside would run is looked for, before the session's end is recorded.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::event::{Aside, EventBody, Finding};
use agentd_policy::names::AbsPath;
use agentd_policy::wire::encode;

use super::Keeper;
use super::phase::Input;
use super::source::{Events, Source};
use super::spool::Spool;
use crate::order::Reply;
use crate::scout::{CopyKind, CopyOf, FromScout, MAX_COPIES, Scout, SearchAgain};

/// How long the launcher may take to have placeholders taken away. It does so later if it is not there.
const REMOVING: Duration = Duration::from_secs(2);
/// How long the search may take.
const SEARCHING: Duration = Duration::from_secs(10);

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The session runs.
    Waiting,
    /// The launcher takes placeholders away.
    Removing(Instant),
    /// The scouts search.
    Searching(Instant),
    /// All is done, or nothing was to do.
    Done,
}

/// A copy, for who looks at the end at what changed in it.
#[derive(Debug)]
pub struct Copied {
    /// The workspace that it is for.
    pub workspace: AbsPath,
    /// The path in the workspace that it covers.
    pub name: String,
    /// What it is.
    pub kind: CopyKind,
    /// As the search takes them.
    pub descriptors: Vec<OwnedFd>,
}

/// What is done about it.
#[derive(Debug)]
pub struct Leftovers {
    launcher: Option<Packets>,
    scouts: Vec<Scout>,
    copied: Vec<Copied>,
    /// What was found before the session began.
    found: Vec<(String, Finding)>,
    step: Step,
}

impl Leftovers {
    /// With those that search in the end; and what is known already.
    pub fn new(scouts: Vec<Scout>, copied: Vec<Copied>, found: Vec<(String, Finding)>) -> Self {
        Self { launcher: None, scouts, copied, found, step: Step::Waiting }
    }

    /// What must not be closed.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let scouts = self.scouts.iter().flat_map(|scout| [scout.socket.as_fd(), scout.child.pidfd.as_fd()]);
        let copies = self.copied.iter().flat_map(|copied| copied.descriptors.iter().map(|fd| fd.as_fd()));
        scouts.chain(copies).chain(self.launcher.as_ref().map(|launcher| launcher.as_fd()))
    }

    /// What is known at the start.
    pub fn known(&mut self) -> Vec<EventBody> {
        let body = |(path, finding)| EventBody::File { path, finding, more: 0 };
        self.found.drain(..).map(body).collect()
    }

    /// No process of the session is left.
    pub fn begin(&mut self, events: &Events, spool: &mut Spool) {
        if self.step != Step::Waiting {
            return;
        }
        self.step = Step::Removing(Instant::now() + REMOVING);
        let asked = self.launcher.as_ref().is_some_and(|launcher| {
            let watched = events.add(launcher, Source::Leftovers, EventFlags::IN);
            let emptied = encode(&Reply::Emptied).ok();
            watched.is_ok() && emptied.is_some_and(|emptied| launcher.send(&emptied, &[]).is_ok())
        });
        if !asked {
            self.search(events, spool);
        }
    }

    fn search(&mut self, events: &Events, spool: &mut Spool) {
        self.launcher = None;
        self.step = Step::Searching(Instant::now() + SEARCHING);
        let scouts = std::mem::take(&mut self.scouts);
        let copied = std::mem::take(&mut self.copied);
        for scout in scouts {
            let asked = ask(&scout, &copied, spool)
                && scout.socket.set_nonblocking(true).is_ok()
                && events.add(&scout.socket, Source::Leftovers, EventFlags::IN).is_ok();
            match asked {
                true => self.scouts.push(scout),
                false => unsearched(scout, spool),
            }
        }
        self.look(spool);
    }

    /// Something is to be read.
    pub fn handle(&mut self, events: &Events, spool: &mut Spool) {
        match self.step {
            // The launcher closes its end when it is done.
            Step::Removing(_) => self.search(events, spool),
            Step::Searching(_) => self.look(spool),
            Step::Waiting | Step::Done => {}
        }
    }

    fn look(&mut self, spool: &mut Spool) {
        for scout in std::mem::take(&mut self.scouts) {
            match scout.receive() {
                Err(PacketError::WouldBlock) => self.scouts.push(scout),
                Ok(Some(FromScout::Found(found))) => {
                    let top = scout.workspace.as_str();
                    each(top, found.left, found.more_left, |path, finding, more| {
                        spool.push(EventBody::File { path, finding, more });
                    });
                    each(top, found.aside, found.more_aside, |path, change, more| {
                        spool.push(EventBody::Aside { path, change, more });
                    });
                    scout.end();
                }
                _ => unsearched(scout, spool),
            }
        }
        if self.scouts.is_empty() {
            self.step = Step::Done;
        }
    }

    /// What takes too long is not waited for.
    pub fn expire(&mut self, now: Instant, events: &Events, spool: &mut Spool) {
        match self.step {
            Step::Removing(until) if until <= now => self.search(events, spool),
            Step::Searching(until) if until <= now => {
                self.scouts.drain(..).for_each(|scout| unsearched(scout, spool));
                self.step = Step::Done;
            }
            _ => {}
        }
    }

    /// When that is.
    pub fn due(&self) -> Option<Instant> {
        match self.step {
            Step::Removing(until) | Step::Searching(until) => Some(until),
            Step::Waiting | Step::Done => None,
        }
    }

    /// Whether the end may be recorded.
    pub fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// Ends what waits.
    pub fn abandon(self) {
        self.scouts.into_iter().for_each(Scout::end);
    }
}

/// Has a search look once more; whether it will. Copies that are too many for it are reported as unread.
fn ask(scout: &Scout, copied: &[Copied], spool: &mut Spool) -> bool {
    let own: Vec<&Copied> = copied.iter().filter(|copied| copied.workspace == scout.workspace).collect();
    let (looked_at, others) = own.split_at(own.len().min(MAX_COPIES));
    if let Some(first) = others.first() {
        let (path, more) = (format!("{}/{}", scout.workspace, first.name), others.len() as u64 - 1);
        spool.push(EventBody::Aside { path, change: Aside::Unreadable, more });
    }
    let copies = looked_at.iter().map(|copied| CopyOf { name: copied.name.clone(), kind: copied.kind });
    let descriptors: Vec<_> =
        looked_at.iter().flat_map(|copied| copied.descriptors.iter().map(|fd| fd.as_fd())).collect();
    scout.ask(&SearchAgain { copies: copies.collect() }, &descriptors).is_ok()
}

/// Tells each of a list by its path below `top`; `more` goes with the last.
fn each<T>(top: &str, list: Vec<(String, T)>, more: u64, mut push: impl FnMut(String, T, u64)) {
    let last = list.len();
    for (number, (path, what)) in (1..).zip(list) {
        let path = if path.is_empty() { top.to_owned() } else { format!("{top}/{path}") };
        push(path, what, if number == last { more } else { 0 });
    }
}

fn unsearched(scout: Scout, spool: &mut Spool) {
    let path = scout.workspace.to_string();
    spool.push(EventBody::File { path, finding: Finding::Unsearched, more: 0 });
    scout.end();
}

impl Keeper {
    /// The launcher gets a message when the session is empty, if anything is to be taken away then.
    pub fn tell_when_empty(&mut self, launcher: Packets) {
        if !self.files.leftovers.scouts.is_empty() {
            self.files.leftovers.launcher = Some(launcher);
        }
    }

    /// A launcher or a scout says something.
    pub(super) fn receive_leftovers(&mut self) {
        self.files.leftovers.handle(&self.event_loop, &mut self.spool);
        self.leftovers_looked_at();
    }

    /// The search may be over.
    pub(super) fn leftovers_looked_at(&mut self) {
        if self.files.leftovers.is_done() {
            self.advance(Input::Searched);
        }
    }
}
