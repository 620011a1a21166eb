//! What a keeper saw, as details of the API's events. The keeper's texts come from the session: bounded here.

use agentd_policy::event::{self, EventBody, ExecResult, ExitStatus, Finding};
use agentd_policy::rule::Rule;
use agentd_proto::v1::{
    Actor, ConfineDetail, DroppedDetail, Event, ExecDetail, ExitDetail, FileDetail, LimitDetail, NetDetail,
    PolicyDetail,
};

use super::{aside, net};
use crate::text::{arguments, bounded};

/// `event`, which has what all events have, with what `body` says.
pub fn with_detail(event: Event, body: EventBody) -> Event {
    match body {
        EventBody::Started => event,
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
            ..event
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
            ..event
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
            ..event
        },
        EventBody::Exit { actor: who, status } => Event {
            actor: Some(actor(&who)),
            exit: Some(match status {
                Some(ExitStatus::Code(code)) => ExitDetail { code: Some(code), signal: None },
                Some(ExitStatus::Signal(signal)) => ExitDetail { code: None, signal: Some(signal) },
                None => ExitDetail { code: None, signal: None },
            }),
            ..event
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
            ..event
        },
        EventBody::Net(net) => net::with_detail(event, net),
        EventBody::Policy { change, uid: _ } => {
            let policy = PolicyDetail { change: bounded(&change), user: None };
            Event { policy: Some(policy), ..event }
        }
        EventBody::Limit { kind, limit } => {
            let limit = LimitDetail { name: bounded(&kind.to_string()), limit: Some(limit) };
            Event { limit: Some(limit), ..event }
        }
        EventBody::File { path, finding, more } => {
            let rule = if matches!(finding, Finding::Links(_)) { Rule::MaskLinks } else { Rule::DirectLeft };
            let finding = finding.as_text();
            let file = FileDetail { path: bounded(&path), finding, more, ..FileDetail::default() };
            Event { file: Some(file), rule: Some(rule.into()), ..event }
        }
        EventBody::Aside { path, change, more } => {
            let file = aside::detail(&path, change, more);
            Event { file: Some(file), rule: Some(Rule::DirectAside.into()), ..event }
        }
        EventBody::Dropped { count } => Event { dropped: Some(DroppedDetail { count }), ..event },
        EventBody::Ended(_) => event,
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
