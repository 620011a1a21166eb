//! What a session did with its way out, as clients see it.

use agentd_policy::event::{NetEvent, NetPeer};
use agentd_proto::v1::{DnsDetail, Event, HttpDetail, NetDetail};

use crate::convert::bounded;

/// The event, of which `new` makes what all kinds have.
pub fn convert(event: NetEvent, mut new: impl FnMut(&str) -> Event) -> Event {
    let judged = |event: Event, denied: Option<String>| Event {
        decision: Some(if denied.is_some() { "deny" } else { "allow" }.into()),
        rule: denied.as_deref().map(bounded),
        ..event
    };
    match event {
        NetEvent::Dns { name, question, denied, addresses, count } => {
            let answers = addresses.iter().map(ToString::to_string).collect();
            let dns = DnsDetail { name: bounded(&name), r#type: bounded(&question), answers, count };
            judged(Event { dns: Some(dns), ..new("dns.query") }, denied)
        }
        NetEvent::Connect { peer, denied } => {
            let kind = if denied.is_some() { "net.denied" } else { "net.connect" };
            judged(Event { net: Some(far_end(&peer)), ..new(kind) }, denied)
        }
        NetEvent::Closed { peer, sent, received, duration_ms, reason } => {
            let net = NetDetail {
                sent: Some(sent),
                received: Some(received),
                duration_ms: Some(duration_ms),
                reason: Some(bounded(&reason)),
                ..far_end(&peer)
            };
            Event { net: Some(net), ..new("net.closed") }
        }
        NetEvent::Http { peer, method, host, denied } => {
            let http = HttpDetail { method: bounded(&method), host: bounded(&host) };
            judged(Event { net: Some(far_end(&peer)), http: Some(http), ..new("http.request") }, Some(denied))
        }
    }
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
