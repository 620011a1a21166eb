//! What a keeper saw, as events of the API. The keeper's texts come from the session: bounded here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentd_policy::event::{self, End, EventBody, ExecResult, ExitStatus, Finding, SourceEvent};
use agentd_policy::names::SessionId;
use agentd_policy::rule::Rule;
use agentd_proto::v1::{
    Actor, ConfineDetail, DroppedDetail, Event, ExecDetail, Exit, ExitDetail, FileDetail, LimitDetail,
    Limits, NetDetail, PolicyDetail, SessionDetail,
};

use crate::audit::aside::{self, Changes};
use crate::audit::left::Left;
use crate::audit::reached::Reached;
use crate::clock::rfc3339;
use crate::store::Line;
use crate::text::{arguments, bounded};

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
    left: Left,
    aside: Changes,
    reached: Reached,
}

impl Numbering {
    /// Of a session whose events an earlier service numbered up to `seq`, and its keeper up to `last`.
    pub fn new(session: SessionId, (program, limits): (String, Limits), seq: u64, last: u64) -> Self {
        Self {
            session,
            seq,
            last,
            program,
            left: Left::default(),
            aside: Changes::default(),
            reached: Reached::new(limits),
        }
    }

    /// Where it stands.
    pub fn mark(&self) -> Mark {
        Mark { seq: self.seq, last: self.last }
    }

    /// What came since was not written.
    pub fn back(&mut self, mark: Mark) {
        (self.seq, self.last) = (mark.seq, mark.last);
    }

    /// The limits that it has reached.
    pub fn reached(&self) -> &Reached {
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

    /// An event of the session itself.
    pub fn own(&mut self, kind: &str, lifecycle: SessionDetail) -> Line {
        let event = self.event(kind, SystemTime::now());
        Line { event: Event { lifecycle: Some(lifecycle), ..event }, source: None }
    }

    /// What a keeper saw while nobody heard it, and can tell nobody any more.
    pub fn unheard(&mut self, time: SystemTime) -> Line {
        let event = self.event("audit.dropped", time);
        Line { event: Event { dropped: Some(DroppedDetail { count: 0 }), ..event }, source: None }
    }

    /// The next event, of this kind.
    pub fn event(&mut self, kind: &str, time: SystemTime) -> Event {
        self.seq += 1;
        Event {
            session: self.session.to_string(),
            seq: self.seq,
            time: rfc3339(time),
            kind: kind.to_owned(),
            ..Event::default()
        }
    }

    /// The events that `source` stands for: none if it is a double, and one more if others were lost
    /// before it. With the session's end, how that was.
    pub fn take(&mut self, source: SourceEvent) -> (Vec<Line>, Option<Exit>) {
        let time =
            UNIX_EPOCH.checked_add(Duration::from_micros(source.time_us)).unwrap_or_else(SystemTime::now);
        let mut events = Vec::new();
        if source.number <= self.last {
            return (events, None);
        }
        let missing = source.number - self.last - 1;
        if missing > 0 {
            let dropped = Some(DroppedDetail { count: missing });
            let event = Event { dropped, ..self.event("audit.dropped", time) };
            events.push(Line { event, source: Some(source.number - 1) });
        }
        self.last = source.number;
        let exit = match &source.body {
            EventBody::Ended(end) => {
                let exit = self.reached.noted(exit(end, &self.program, &self.reached));
                Some(self.aside.noted(self.left.noted(exit, &self.session), &self.session))
            }
            _ => None,
        };
        let event = match &exit {
            Some(exit) => self.ended(exit, time),
            None => self.body(source.body, time),
        };
        events.push(Line { event, source: Some(source.number) });
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
        Event { lifecycle: Some(lifecycle), ..self.event("session.ended", time) }
    }

    fn body(&mut self, body: EventBody, time: SystemTime) -> Event {
        let mut new = |kind: &str| self.event(kind, time);
        match body {
            EventBody::Started => new("session.started"),
            EventBody::Exec { actor: who, path, interpreters, argv, result, image, count } => Event {
                decision: Some("allow".into()),
                actor: Some(actor(&who)),
                exec: Some(ExecDetail {
                    path: bounded(&path),
                    argv_claimed: argv.is_some(),
                    argv: arguments(&argv.unwrap_or_default()),
                    interpreters: arguments(&interpreters),
                    result: Some(exec_result(result).into()),
                    image: image.as_deref().map(bounded),
                    count: (count > 1).then_some(count),
                }),
                ..new("process.exec")
            },
            EventBody::ExecRefused { actor: who, path, rule } => Event {
                decision: Some("deny".into()),
                rule: Some(rule),
                actor: Some(actor(&who)),
                exec: Some(ExecDetail {
                    path: bounded(&path),
                    result: Some(exec_result(ExecResult::Failed).into()),
                    ..ExecDetail::default()
                }),
                ..new("process.exec")
            },
            EventBody::CallRefused { actor: who, call, argument, count } => Event {
                decision: Some("deny".into()),
                rule: Some(Rule::ConfineCall.into()),
                actor: Some(actor(&who)),
                confine: Some(ConfineDetail {
                    call: bounded(&call),
                    argument: argument.as_deref().map(bounded),
                    count,
                }),
                ..new("confine.denied")
            },
            EventBody::Exit { actor: who, status } => Event {
                actor: Some(actor(&who)),
                exit: Some(match status {
                    Some(ExitStatus::Code(code)) => ExitDetail { code: Some(code), signal: None },
                    Some(ExitStatus::Signal(signal)) => ExitDetail { code: None, signal: Some(signal) },
                    None => ExitDetail { code: None, signal: None },
                }),
                ..new("process.exit")
            },
            EventBody::NetDenied { protocol, address, port, name, rule, actor: who, count } => Event {
                decision: Some("deny".into()),
                rule: Some(bounded(&rule)),
                actor: who.as_ref().map(actor),
                net: Some(NetDetail {
                    protocol: bounded(&protocol),
                    address: address.to_string(),
                    port: port.map(u32::from),
                    name: name.as_deref().map(bounded),
                    count,
                    ..NetDetail::default()
                }),
                ..new("net.denied")
            },
            EventBody::Net(event) => crate::audit::net::convert(event, new),
            EventBody::Policy { change, uid: _ } => {
                let policy = PolicyDetail { change: bounded(&change), user: None };
                Event { policy: Some(policy), ..new("policy.changed") }
            }
            EventBody::Limit { name, limit } => {
                self.reached.note(&name, limit);
                let limit = LimitDetail { name: bounded(&name), limit: Some(limit) };
                Event { limit: Some(limit), ..self.event("limit.hit", time) }
            }
            EventBody::File { path, finding, more } => {
                self.left.add(&path, finding, more);
                let links = matches!(finding, Finding::Links(_));
                let finding = finding.as_text();
                let file = FileDetail { path: bounded(&path), finding, more, ..FileDetail::default() };
                let (kind, rule) =
                    if links { ("file.denied", Rule::MaskLinks) } else { ("file.changed", Rule::DirectLeft) };
                Event { file: Some(file), rule: Some(rule.into()), ..self.event(kind, time) }
            }
            EventBody::Aside { path, change, more } => {
                self.aside.add(&path, &change, more);
                let file = aside::detail(&path, change, more);
                Event {
                    file: Some(file),
                    rule: Some(Rule::DirectAside.into()),
                    ..self.event("file.changed", time)
                }
            }
            EventBody::Dropped { count } => {
                Event { dropped: Some(DroppedDetail { count }), ..new("audit.dropped") }
            }
            EventBody::Ended(_) => new("session.ended"),
        }
    }
}

fn exec_result(result: ExecResult) -> &'static str {
    match result {
        ExecResult::Ran => "ran",
        ExecResult::Failed => "failed",
        ExecResult::Unknown => "unknown",
    }
}

/// A process, as clients see it.
pub fn actor(actor: &event::Actor) -> Actor {
    Actor { pid: actor.pid, exe: actor.exe.as_deref().map(bounded), ppid: actor.ppid }
}

/// How a session ended, as clients see it.
pub fn exit(end: &End, program: &str, reached: &Reached) -> Exit {
    let with =
        |reason: &str, code, signal, message: String| Exit { reason: reason.into(), code, signal, message };
    match end {
        End::Command(ExitStatus::Code(code)) => with("exited", Some(*code), None, String::new()),
        End::Command(ExitStatus::Signal(signal)) => with("signaled", None, Some(*signal), String::new()),
        End::NotRun { step, errno } => {
            let error = std::io::Error::from_raw_os_error(*errno);
            match (step.as_str(), error.kind()) {
                ("exec", std::io::ErrorKind::NotFound) => {
                    with("exited", Some(127), None, format!("{program}: not found"))
                }
                ("exec", _) => with("exited", Some(126), None, bounded(&format!("{program}: {error}"))),
                ("stopped", _) => with(
                    "failed",
                    None,
                    None,
                    "a process of the session stopped it before it could run".into(),
                ),
                (step, _) => with("failed", None, None, bounded(&format!("{step}: {error}"))),
            }
        }
        End::Timeout => with("timeout", None, None, reached.timeout()),
        End::Idle => with("timeout", None, None, reached.idle()),
        End::OutOfMemory => with("oom", None, None, reached.memory()),
        End::Killed => with("killed", None, None, String::new()),
        End::Failed { what } => with("failed", None, None, bounded(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbering() -> Numbering {
        Numbering::new(SessionId::parse("0123456789ab").unwrap(), ("x".into(), Limits::default()), 0, 0)
    }

    fn source(number: u64, body: EventBody) -> SourceEvent {
        SourceEvent { number, time_us: 1_767_323_045_678_901, body }
    }

    #[test]
    fn doubles_are_dropped_and_gaps_are_said() {
        let mut numbering = numbering();
        let mut seen = Vec::new();
        for number in [1, 2, 2, 1, 5] {
            let (events, _) = numbering.take(source(number, EventBody::Started));
            seen.extend(
                events
                    .into_iter()
                    .map(|l| (l.event.seq, l.event.kind, l.event.dropped.map(|d| d.count), l.source)),
            );
        }
        let started = |seq, n| (seq, "session.started".to_owned(), None, Some(n));
        let dropped = (3, "audit.dropped".to_owned(), Some(2), Some(4));
        assert_eq!(seen, [started(1, 1), started(2, 2), dropped, started(4, 5)]);
        let mut again =
            Numbering::new(SessionId::parse("0123456789ab").unwrap(), ("x".into(), Limits::default()), 4, 5);
        assert!(again.take(source(5, EventBody::Started)).0.is_empty());
        assert_eq!(again.take(source(6, EventBody::Started)).0[0].event.seq, 5);
    }

    #[test]
    fn what_was_not_written_leaves_no_gap_and_is_said() {
        let mut numbering = numbering();
        numbering.take(source(1, EventBody::Started));
        let mark = numbering.mark();
        numbering.take(source(2, EventBody::Started));
        numbering.own("session.attached", SessionDetail::default());
        numbering.back(mark);
        let (lines, _) = numbering.take(source(4, EventBody::Started));
        let seen: Vec<_> = lines.iter().map(|l| (l.event.seq, l.event.dropped.map(|d| d.count))).collect();
        assert_eq!(seen, [(2, Some(2)), (3, None)]);
    }

    #[test]
    fn times_have_microseconds_and_cannot_break_anything() {
        let (events, _) = numbering().take(source(1, EventBody::Started));
        assert_eq!(events[0].event.time, "2026-01-02T03:04:05.678901Z");
        let late = SourceEvent { time_us: u64::MAX, ..source(1, EventBody::Started) };
        assert_eq!(numbering().take(late).0[0].event.time.len(), "9999-12-31T23:59:59.000000Z".len());
    }

    #[test]
    fn ends_become_exits() {
        let of = |end| numbering().take(source(1, EventBody::Ended(end))).1.unwrap();
        assert_eq!(of(End::Command(ExitStatus::Code(7))).code, Some(7));
        assert_eq!(of(End::Command(ExitStatus::Signal(9))).signal, Some(9));
        let not_run = |step: &str, errno| of(End::NotRun { step: step.into(), errno });
        assert_eq!((not_run("exec", 2).code, not_run("exec", 13).code), (Some(127), Some(126)));
        assert_eq!(not_run("cwd", 2).reason, "failed");
    }

    #[test]
    fn what_a_session_says_is_bounded() {
        let argv = Some(vec!["ü".repeat(3000); 1000]);
        let who = event::Actor { pid: 1, ppid: None, exe: Some("x".repeat(9000)) };
        let (path, image, result) = ("p".repeat(9000), Some("i".repeat(9000)), ExecResult::Ran);
        let body = EventBody::Exec { actor: who, path, interpreters: vec![], argv, result, image, count: 1 };
        let (events, _) = numbering().take(source(1, body));
        assert!(serde_json::to_string(&events[0].event).unwrap().len() < 40 << 10);
    }
}
