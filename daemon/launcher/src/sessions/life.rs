//! A session's way from its builder's first word to its last trace.

use std::time::{Duration, Instant};

use agentd_kernel::descriptor::Kind;
use agentd_kernel::nsfs::Handle;
use agentd_kernel::packets::PacketError;
use agentd_policy::Refusal;
use agentd_policy::event::ExitStatus;
use agentd_policy::mount::MAX_MOUNTS;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use agentd_policy::wire::{FromLauncher, MAX_PACKET, decode, decode_with};
use agentd_session::Reply;

use super::lease::Record;
use super::prewarmed::{LIFETIME, REST};
use super::{BUILDER_EXIT_TIMEOUT, DEADLINE, Message, Session, Sessions, State, ahead};
use crate::context::Context;
use agentd_session::error::HostError;

/// The longest pause between two looks at groups that do not become empty.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a group may take to be empty once its keeper has said so, and when to look again.
const EMPTIED: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(1);
/// How often children are looked at if the signal of their end was lost.
const LOOK: Duration = Duration::from_secs(1);

/// What a builder has said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Which names it is about to make.
    Placed,
    /// Anything else, after which nothing comes.
    Last,
}

impl Sessions {
    /// A builder says something, up to its last word. The messages for the service.
    pub fn answered(&mut self, cx: &Context, number: u32) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut placed = false;
        while let Some(said) = self.receive(cx, number, &mut messages) {
            placed |= said == Said::Placed;
        }
        if placed && let Err(error) = self.record(cx, number) {
            let session = self.all.get(&number).and_then(|session| session.label());
            tracing::error!(session, %error, "placeholders are not on record");
        }
        messages
    }

    /// One message of a builder's; `None` if there is none, or none to expect.
    fn receive(&mut self, cx: &Context, number: u32, messages: &mut Vec<Message>) -> Option<Said> {
        let session = self.all.get_mut(&number)?;
        let (request, builder) = match (&session.state, &session.link) {
            (State::Building { request, builder, .. }, _) => (*request, builder),
            (State::Waiting { builder, .. }, _) => (None, builder),
            (State::Running, Some(_)) => {
                self.keeper_readable(cx, number);
                return None;
            }
            _ => return None,
        };
        let packet = match builder.receive(MAX_PACKET, MAX_MOUNTS) {
            Err(PacketError::WouldBlock) => return None,
            // The builder's end shows the rest.
            Ok(None) | Err(_) => return None,
            Ok(Some(packet)) => packet,
        };
        match decode_with(&packet.bytes, packet.descriptors) {
            Ok((Reply::Placed { workspace, name, dev, ino }, mut attached)) => {
                match attached.one().map_err(HostError::from).and_then(|dir| Ok(Kind::Directory.take(dir)?)) {
                    Ok(dir) => session.keep_placeholder(workspace, name, dir, (dev, ino)),
                    Err(error) => session.errors.push(error.on(format_args!("placeholder {name}"))),
                }
                return Some(Said::Placed);
            }
            Ok((Reply::Built { timings, users }, attached)) => {
                if let State::Building { builder, .. } = std::mem::replace(&mut session.state, State::Running)
                {
                    session.link = Some(builder);
                }
                (session.ran, session.users) = (true, users.map(|(kind, bytes)| Handle { kind, bytes }));
                let owner = session.owner;
                let recorded = self.record(cx, number);
                let session = self.all.get_mut(&number)?;
                // Whoever asked is gone, or a later launcher would not know of it: it shall not go on.
                let Some(request) = request.filter(|_| recorded.is_ok()) else {
                    session.errors.extend(recorded.err());
                    session.ran = false;
                    let what = "the session could not be put on record";
                    let refusal = Refusal::new(what, Rule::Build(Step::Lease), "see the launcher's log");
                    session.state = State::emptying(request.map(|request| (request, refusal)));
                    session.kill_all();
                    return Some(Said::Last);
                };
                tracing::debug!(session = session.label(), user = owner.uid, lease = number, "session built");
                self.uncapped.push(number);
                self.wanted = Some((owner, Instant::now() + REST));
                messages.push((FromLauncher::Built { request, timings }, attached.rest()));
            }
            Ok((Reply::Emptied, _)) => {
                session.errors.push(HostError::unfit("builder: a keeper's message"));
                session.kill_all();
            }
            Ok((Reply::Refused(refusal), _)) => {
                tracing::info!(session = session.label(), rule = refusal.rule.name(), error = %refusal, "session not built");
                if request.is_none() {
                    session.errors.push(HostError::unfit(format!("not built: {refusal}")));
                }
                session.state = State::emptying(request.map(|request| (request, refusal)));
            }
            Err(error) => {
                session.errors.push(HostError::from(error).on("builder"));
                session.kill_all();
            }
        }
        Some(Said::Last)
    }

    /// A keeper says that no process of its session is left, once; or it is gone.
    fn keeper_readable(&mut self, cx: &Context, number: u32) {
        let Some(mut session) = self.all.remove(&number) else { return };
        let link = session.link.take();
        let packet = link.as_ref().map(|link| link.receive(MAX_PACKET, 0));
        match packet {
            Some(Err(PacketError::WouldBlock)) => session.link = link,
            Some(Ok(Some(packet))) => {
                let emptied = matches!(decode(&packet.bytes), Ok(Reply::Emptied));
                if emptied {
                    (session.link, session.emptied) = (link, Some(Instant::now()));
                }
            }
            _ => {}
        }
        self.all.insert(number, session);
        self.look_at_emptied(cx, Instant::now());
    }

    /// A keeper's word alone uncovers nothing: the group has to be empty as well, which it is a moment after its last
    /// process was reaped (Linux 6.18).
    fn look_at_emptied(&mut self, cx: &Context, now: Instant) {
        let emptied = |session: &Session| session.emptied.is_some();
        let numbers: Vec<u32> =
            self.all.iter().filter(|(_, s)| emptied(s)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(mut session) = self.all.remove(&number) else { continue };
            let late = session.emptied.is_some_and(|since| since + EMPTIED <= now);
            let ended = session.has_ended();
            if ended || late {
                session.emptied = None;
                let link = session.link.take();
                if ended {
                    self.release_placeholders(cx, &mut session, link);
                }
            }
            self.all.insert(number, session);
            if ended && let Err(error) = self.record(cx, number) {
                tracing::error!(lease = number, %error, "placeholders that went are still on record");
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
        if !session.killed && !matches!(how, Ok(ExitStatus::Code(0 | 1))) {
            session.errors.push(HostError::unfit(format!("keeper ended with {how:?}")));
        }
        let refused = match &session.state {
            State::Building { request, .. } => {
                let hint = "ask again; see the launcher's log";
                let what = format!("the builder ended with {how:?}");
                request.map(|request| (request, Refusal::new(what, Rule::Build(Step::Ended), hint)))
            }
            State::Emptying { refused, .. } => refused.clone(),
            State::Waiting { .. } | State::Running => None,
        };
        session.state = State::emptying(refused);
        session.kill_all();
        let owner = session.owner;
        self.hasten(owner);
    }

    /// What is due by the clock: builds over their deadline, groups that may be empty by now.
    pub fn tick(&mut self, cx: &Context, now: Instant) -> Vec<Message> {
        self.tick_limits(cx, now);
        self.tick_resting(cx, now);
        self.tick_held(now);
        self.limit_helpers();
        self.look_at_emptied(cx, now);
        let writing = self.all.values().filter(|s| s.uppers && s.ran);
        let writing = writing.filter_map(|s| s.id.as_ref().map(|id| (s.owner.uid, id)));
        self.squeeze.tick(cx, now, writing);
        let mut messages = self.reap_workers(now);
        let numbers: Vec<u32> = self.all.keys().copied().collect();
        for number in numbers {
            let Some(session) = self.all.get_mut(&number) else { continue };
            let has_keeper = session.keeper.is_some();
            match &mut session.state {
                State::Building { until, .. } if *until <= now => {
                    session.errors.push(HostError::unfit(format!("the build took longer than {DEADLINE:?}")));
                    *until = now + DEADLINE;
                    session.kill_all();
                }
                State::Waiting { since, .. } if *since + LIFETIME <= now => session.dismiss(),
                State::Emptying { next, .. } if has_keeper && *next + BUILDER_EXIT_TIMEOUT <= now => {
                    *next = now;
                    session.kill_all();
                }
                State::Emptying { next, pause, .. } if !has_keeper && *next <= now => {
                    *pause = (*pause * 2).min(PAUSE);
                    *next = now + *pause;
                    if session.has_no_process() {
                        messages.extend(self.bury(cx, number));
                    }
                }
                _ => {}
            }
        }
        messages.extend(self.reap_unlinking(cx, now));
        messages.extend(self.start_queued(cx));
        self.start_deletions(cx, now);
        messages
    }

    /// When something is due.
    pub fn next_tick(&self, now: Instant) -> Option<Instant> {
        let due = self.all.values().filter_map(|s| match &s.state {
            State::Building { until, .. } => Some(*until),
            State::Waiting { since, .. } => Some(*since + LIFETIME),
            State::Emptying { next, .. } => {
                Some(if s.keeper.is_some() { *next + BUILDER_EXIT_TIMEOUT } else { *next })
            }
            State::Running => None,
        });
        // The signal of a child's end wakes the loop.
        let children = (!self.is_reaped() || !self.unlinking.is_empty()).then(|| now + LOOK);
        let wanted = self.wanted.map(|(_, due)| due);
        let emptied = self.all.values().any(|s| s.emptied.is_some()).then(|| now + SOON);
        let own = [
            self.next_deferred(),
            self.next_limit(),
            self.next_deletion(),
            wanted,
            emptied,
            self.resting.next(),
            self.held.values().min().copied(),
            self.squeeze.next(),
        ];
        due.chain(children).chain(own.into_iter().flatten()).min()
    }

    /// A lease that nobody asked for is free. Another rests, and its record says so to a later launcher.
    fn bury_lease(&mut self, cx: &Context, number: u32, session: &Session) -> Result<(), HostError> {
        match Record::of(session) {
            Some(record) => {
                self.rest(cx, number, session.users);
                let nothing = (Vec::new(), Vec::new(), Vec::new());
                let (places, dirs, placeholders) = nothing;
                Record { buried: true, places, dirs, placeholders, ..record }.write(&cx.directories, number)
            }
            None => cx.directories.remove_lease(number),
        }
    }

    /// Removes the last traces of a session that has no process left.
    fn bury(&mut self, cx: &Context, number: u32) -> Option<Message> {
        let mut session = self.all.remove(&number)?;
        for path in [session.agents.path(), session.helpers.path()] {
            if let Err(error) = self.hierarchies.remove(path) {
                session.errors.push(error.into());
            }
        }
        self.leave_user(session.owner.uid);
        if session.ahead {
            session.errors.extend(ahead::remove(&cx.directories, session.owner.uid, number).err());
        }
        let unlinking = self.release_placeholders(cx, &mut session, None);
        let id = session.id.clone();
        if let Some(id) = &id {
            session.errors.extend(cx.directories.remove_keeper_socket(id.as_str()).err());
            if session.uppers
                && (session.remove || !session.ran)
                && let Err(error) = self.delete_uppers(cx, session.owner.uid, id)
            {
                session.errors.push(error);
            }
        }
        session.errors.extend(self.bury_lease(cx, number, &session).err());
        for error in &session.errors {
            tracing::warn!(session = session.label(), %error, "not all went well with a session");
        }
        tracing::debug!(session = session.label(), lease = number, "nothing is left of a session");
        let news = match session.state {
            _ if session.ran => {
                let errors = session.errors.iter().map(ToString::to_string).collect();
                FromLauncher::Gone { session: id?, errors }
            }
            State::Emptying { refused: Some((request, refusal)), .. } => {
                FromLauncher::Refused { request, refusal }
            }
            _ => return None,
        };
        let news = Some((news, Vec::new()));
        match self.unlinking.last_mut().filter(|_| unlinking) {
            // It says that nothing is left.
            Some(unlinking) => {
                unlinking.news = news;
                None
            }
            None => news,
        }
    }
}
