//! What a session did with its egress, as clients see it.

use std::net::SocketAddr;

use agentd_policy::event::{MAX_NAMES, NetEvent, NetPeer};
use agentd_policy::publish::Publish;
use agentd_proto::v1::{DnsDetail, Event, HttpDetail, NetDetail};

use super::convert::actor;
use crate::text::bounded;

/// `event`, which has what all events have, with what `net` says.
pub fn with_detail(event: Event, net: NetEvent) -> Event {
    let judged = |event: Event, denied: Option<String>| Event {
        decision: Some(if denied.is_some() { "deny" } else { "allow" }.into()),
        rule: denied.as_deref().map(bounded).or(event.rule),
        ..event
    };
    match net {
        NetEvent::Dns { name, question, denied, allowed, addresses, actor: who, count } => {
            let answers = addresses.iter().map(ToString::to_string).collect();
            let dns = DnsDetail { name: bounded(&name), r#type: bounded(&question), answers, count };
            let rule = allowed.as_deref().map(bounded);
            let actor = who.as_ref().map(actor);
            judged(Event { dns: Some(dns), rule, actor, ..event }, denied)
        }
        NetEvent::Connect { peer, denied, actor: who, count } => {
            let net = NetDetail { count, ..far_end(&peer) };
            let actor = who.as_ref().map(actor);
            judged(Event { net: Some(net), rule: by(&peer), actor, ..event }, denied)
        }
        NetEvent::Closed { peer, names, more_names, sent, received, duration_ms, reason } => {
            let net = NetDetail {
                names: names.iter().take(MAX_NAMES).map(|name| bounded(name)).collect(),
                more_names: Some(more_names).filter(|more| *more > 0),
                sent: Some(sent),
                received: Some(received),
                duration_ms: Some(duration_ms),
                reason: Some(bounded(&reason.to_string())),
                ..far_end(&peer)
            };
            Event { net: Some(net), rule: by(&peer), ..event }
        }
        NetEvent::Http { peer, method, host, denied, actor: who, count } => {
            let http = HttpDetail { method: bounded(&method), host: bounded(&host) };
            let net = NetDetail { count, ..far_end(&peer) };
            let actor = who.as_ref().map(actor);
            judged(Event { net: Some(net), http: Some(http), actor, ..event }, Some(denied))
        }
        NetEvent::Entered { from, publish, denied } => {
            let allowed = Some(rule(publish));
            judged(Event { net: Some(visitor(from, publish)), rule: allowed, ..event }, denied)
        }
        NetEvent::Left { from, publish, sent, received, duration_ms, reason } => {
            let net = NetDetail {
                sent: Some(sent),
                received: Some(received),
                duration_ms: Some(duration_ms),
                reason: Some(bounded(&reason.to_string())),
                ..visitor(from, publish)
            };
            Event { net: Some(net), rule: Some(rule(publish)), ..event }
        }
    }
}

/// Who came in by a published port.
fn visitor(from: SocketAddr, publish: Publish) -> NetDetail {
    NetDetail {
        protocol: "tcp".into(),
        address: from.ip().to_string(),
        port: Some(u32::from(from.port())),
        count: 1,
        direction: Some("in".into()),
        published: Some(u32::from(publish.port)),
        ..NetDetail::default()
    }
}

/// What lets them in.
fn rule(publish: Publish) -> String {
    format!("publish {publish}")
}

/// What allows it.
fn by(peer: &NetPeer) -> Option<String> {
    peer.rule.as_deref().map(bounded)
}

fn far_end(peer: &NetPeer) -> NetDetail {
    NetDetail {
        protocol: bounded(&peer.protocol),
        address: peer.address.to_string(),
        port: Some(u32::from(peer.port)),
        count: 1,
        name: peer.name.as_deref().map(bounded),
        ..NetDetail::default()
    }
}
