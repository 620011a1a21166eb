//! The events of one session in their order: each gets its place, doubles are dropped, gaps are recorded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentd_policy::event::{EventBody, SourceEvent};
use agentd_policy::event_kind::EventKind;
use agentd_policy::names::SessionId;
use agentd_proto::v1::{DroppedDetail, Event, Exit, Limits, SessionDetail};

use super::aside::Changes;
use super::convert::with_detail;
use super::exit::exit;
use super::findings::Findings;
use super::note::Note;
use super::reached::ReachedLimits;
use crate::clock::rfc3339;
use crate::store::EventLine;

/// Where a [`Numbering`] stood.
#[derive(Clone, Copy)]
pub struct Mark {
    seq: u64,
    last: u64,
}

/// Gives each event of one session its place.
pub struct Numbering {
    session: SessionId,
    seq: u64,
    /// The keeper's own number of its last event.
    last: u64,
    program: String,
    /// What was found at the end of the session, for the line that its user reads.
    findings: Findings,
    aside: Changes,
    reached: ReachedLimits,
}

impl Numbering {
    /// Of a session whose events an earlier service numbered up to `seq`, and its keeper up to `last`.
    pub fn new(session: SessionId, (program, limits): (String, Limits), seq: u64, last: u64) -> Self {
        Self {
            session,
            seq,
            last,
            program,
            findings: Findings::default(),
            aside: Changes::default(),
            reached: ReachedLimits::new(limits),
        }
    }

    /// Where it stands.
    pub fn mark(&self) -> Mark {
        Mark { seq: self.seq, last: self.last }
    }

    /// Goes back to `mark`: what came since was not written.
    pub fn rewind(&mut self, mark: Mark) {
        (self.seq, self.last) = (mark.seq, mark.last);
    }

    /// The limits that it has reached.
    pub fn reached(&self) -> &ReachedLimits {
        &self.reached
    }

    /// The place of the last event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The keeper's own number of its last event.
    pub fn source(&self) -> u64 {
        self.last
    }

    /// An event that the service itself records.
    pub fn own(&mut self, note: Note) -> EventLine {
        let event = self.event(note.kind(), SystemTime::now());
        EventLine { event: note.with_detail(event), source: None }
    }

    /// Stands for the events of a keeper that no service received: their number is unknown.
    pub fn unreceived(&mut self, time: SystemTime) -> EventLine {
        let event = self.event(EventKind::AuditDropped, time);
        EventLine { event: Event { dropped: Some(DroppedDetail { count: 0 }), ..event }, source: None }
    }

    fn event(&mut self, kind: EventKind, time: SystemTime) -> Event {
        self.seq += 1;
        Event {
            session: self.session.to_string(),
            seq: self.seq,
            time: rfc3339(time),
            kind: kind.as_str().to_owned(),
            ..Event::default()
        }
    }

    /// The events that `source` stands for: none if it is a double, and one more if others were lost
    /// before it. With the session's end, how that was.
    pub fn take(&mut self, source: SourceEvent) -> (Vec<EventLine>, Option<Exit>) {
        let time =
            UNIX_EPOCH.checked_add(Duration::from_micros(source.time_us)).unwrap_or_else(SystemTime::now);
        let mut events = Vec::new();
        if source.number <= self.last {
            return (events, None);
        }
        let missing = source.number - self.last - 1;
        if missing > 0 {
            let dropped = Some(DroppedDetail { count: missing });
            let event = Event { dropped, ..self.event(EventKind::AuditDropped, time) };
            events.push(EventLine { event, source: Some(source.number - 1) });
        }
        self.last = source.number;
        let exit = match &source.body {
            EventBody::Ended(end) => {
                let exit = self.reached.noted(exit(end, &self.program, &self.reached));
                Some(self.aside.noted(self.findings.noted(exit, &self.session), &self.session))
            }
            _ => None,
        };
        self.note(&source.body);
        let event = match &exit {
            Some(exit) => self.ended(exit, time),
            None => with_detail(self.event(source.body.kind(), time), source.body),
        };
        events.push(EventLine { event, source: Some(source.number) });
        (events, exit)
    }

    /// The session's last event.
    pub fn ended(&mut self, exit: &Exit, time: SystemTime) -> Event {
        let lifecycle = SessionDetail {
            reason: Some(exit.reason.clone()),
            code: exit.code,
            signal: exit.signal,
            message: (!exit.message.is_empty()).then(|| exit.message.clone()),
            ..SessionDetail::default()
        };
        Event { lifecycle: Some(lifecycle), ..self.event(EventKind::SessionEnded, time) }
    }

    /// Collects what the message of its exit will have.
    fn note(&mut self, body: &EventBody) {
        match body {
            EventBody::Limit { kind, limit } => self.reached.note(kind, *limit),
            EventBody::File { path, finding, more } => self.findings.add(path, *finding, *more),
            EventBody::Aside { path, change, more } => self.aside.add(path, change, *more),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
