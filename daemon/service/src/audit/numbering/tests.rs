use super::*;
use agentd_policy::connection_end::ConnectionEnd;
use agentd_policy::event::{self, Aside, End, ExecResult, ExitStatus, Finding, NetEvent, NetPeer};
use agentd_policy::limit_kind::LimitKind;
use agentd_policy::step::CommandStep;

use crate::audit::review::{Action, Review};

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
    numbering.own(Note::Attached { user: "alice".into() });
    numbering.rewind(mark);
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
    let not_run = |step, errno| of(End::NotRun { step, errno });
    assert_eq!(
        (not_run(CommandStep::Exec, 2).code, not_run(CommandStep::Exec, 13).code),
        (Some(127), Some(126))
    );
    assert_eq!(not_run(CommandStep::Cwd, 2).reason, "failed");
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

/// What has an event of `kind` written. A kind without a source does not compile.
fn cause(kind: EventKind) -> Result<EventBody, Note> {
    let who = event::Actor { pid: 1, ppid: None, exe: None };
    let user = || "alice".to_owned();
    let text = || "x".to_owned();
    let reviewed = |action| {
        let review = Review { action, files: 1, remaining: 0, remaining_bytes: 0 };
        Note::Reviewed { user: "alice".to_owned(), review }
    };
    let peer = NetPeer {
        protocol: "tcp".into(),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        port: 1,
        name: None,
        rule: None,
    };
    let connect = |denied| NetEvent::Connect { peer: peer.clone(), denied, actor: None, count: 1 };
    let file = |finding| EventBody::File { path: text(), finding, more: 0 };
    Ok(match kind {
        EventKind::SessionCreated => {
            return Err(Note::Created { user: user(), profile: text(), command: vec![] });
        }
        EventKind::FileApplied => return Err(reviewed(Action::Applied)),
        EventKind::FileDiscarded => return Err(reviewed(Action::Discarded)),
        EventKind::SessionAttached => return Err(Note::Attached { user: user() }),
        EventKind::SessionDetached => return Err(Note::Detached { user: user() }),
        EventKind::SessionExec => return Err(Note::Exec { user: user(), command: vec![] }),
        EventKind::SessionStopping => return Err(Note::Stopping { user: None, message: None }),
        EventKind::SessionStarted => EventBody::Started,
        EventKind::SessionEnded => EventBody::Ended(End::Killed),
        EventKind::ProcessExec => EventBody::Exec {
            actor: who,
            path: text(),
            interpreters: vec![],
            argv: None,
            result: ExecResult::Ran,
            image: None,
            count: 1,
        },
        EventKind::ProcessExit => EventBody::Exit { actor: who, status: Some(ExitStatus::Code(0)) },
        EventKind::FileChanged => EventBody::Aside { path: text(), change: Aside::Hook, more: 0 },
        EventKind::FileDenied => file(Finding::Links(1)),
        EventKind::NetConnect => EventBody::Net(connect(None)),
        EventKind::NetDenied => EventBody::Net(connect(Some(text()))),
        EventKind::NetClosed => EventBody::Net(NetEvent::Closed {
            peer,
            names: vec![],
            more_names: 0,
            sent: 0,
            received: 0,
            duration_ms: 0,
            reason: ConnectionEnd::Failed(text()),
        }),
        EventKind::DnsQuery => EventBody::Net(NetEvent::Dns {
            name: text(),
            question: "A".into(),
            denied: None,
            allowed: None,
            addresses: vec![],
            actor: None,
            count: 1,
        }),
        EventKind::HttpRequest => EventBody::Net(NetEvent::Http {
            peer,
            method: text(),
            host: text(),
            denied: text(),
            actor: None,
            count: 1,
        }),
        EventKind::LimitHit => EventBody::Limit { kind: LimitKind::Pids, limit: 1 },
        EventKind::ConfineDenied => {
            EventBody::CallRefused { actor: who, call: text(), argument: None, count: 1 }
        }
        EventKind::PolicyChanged => EventBody::Policy { change: text(), uid: 1 },
        EventKind::AuditDropped => EventBody::Dropped { count: 1 },
    })
}

#[test]
fn each_kind_has_what_writes_it() {
    for kind in EventKind::ALL {
        let mut numbering = numbering();
        let event = match cause(*kind) {
            Ok(body) => numbering.take(source(1, body)).0.remove(0).event,
            Err(note) => numbering.own(note).event,
        };
        assert_eq!(event.kind, kind.as_str());
    }
}
