//! Answers DNS queries, by datagrams and on streams. What is known is answered at once, many at a time, without
//! anything being made for it.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentd_kernel::datagrams::{Answers, Received, Route};
use agentd_policy::hosts::HostName;
use agentd_policy::protocol::Protocol;
use agentd_policy::rule::Rule;
use agentd_policy::wire::Client;
use agentd_protocols::dns::{Answer, MAX_QUERY, Query, Transport};
use tokio::time::{sleep, timeout};

use super::cache::Found;
use super::dns::{find, record};
use super::{Gate, copy, packet, upstream};
use crate::Endpoint;

/// How long a client may be silent on a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
const DNS: u16 = 53;
/// After a socket failed.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Answers the queries that come by datagrams.
pub async fn serve(gate: Arc<Gate>, socket: Endpoint) {
    // One byte more than a query has, so that it is seen which are longer.
    let mut received = Received::new(MAX_QUERY + 1);
    let mut answers = Answers::default();
    let mut others = Vec::new();
    loop {
        tokio::task::coop::consume_budget().await;
        if packet::take(&socket, &mut received).await.is_err() {
            sleep(RETRY_DELAY).await;
            continue;
        }
        let now = Instant::now();
        for (bytes, route) in received.iter() {
            match Query::read(bytes) {
                Ok(query) => {
                    if !answer_known(&gate, &query, route, now, &mut answers) {
                        others.push((query, route));
                    }
                }
                Err(malformed) => {
                    if let Some(reply) = malformed.answer() {
                        answers.add(route, |out| out.extend(reply));
                    }
                }
            }
        }
        answers.send(socket.get_ref().as_fd());
        for (query, route) in others.drain(..) {
            answer(&gate, &socket, query, route).await;
        }
    }
}

/// Answers from the cache what is counted and needs no event of its own. The rules allowed it when it was found out,
/// and are the same since.
fn answer_known(gate: &Gate, query: &Query, route: Route, now: Instant, answers: &mut Answers) -> bool {
    let write = |found: &Found| answers.add(route, |out| reply(query, found, Transport::Udp, now, out));
    gate.names.cache.counted(&query.key(), &by_datagram(&route), now, write).is_some()
}

/// Answers anything else: at once what needs no resolver.
async fn answer(gate: &Arc<Gate>, socket: &Endpoint, query: Query, route: Route) {
    let known = match query.name() {
        Ok(name) => gate.names.known(&gate.plan(), &name, query.kind),
        Err(_) => Some(Found::Denied(Rule::DnsName.into())),
    };
    // A client asks again if nothing comes.
    let Ok(place) = gate.names.waiting.clone().try_acquire_owned() else { return };
    let (gate, socket, client) = (gate.clone(), socket.clone(), by_datagram(&route));
    tokio::spawn(async move {
        let reply = match known {
            // Recorded first: a client that has its answer may be gone.
            Some(found) => {
                let tally = record(&gate, shown(&query), query.kind, &found, client).await;
                gate.names.cache.count(&query.key(), tally);
                written(&query, &found, Transport::Udp)
            }
            None => resolve(&gate, &query, client, Transport::Udp).await,
        };
        packet::answer(socket.get_ref(), &reply, route).ok();
        drop(place);
    });
}

/// Who asks by a datagram.
fn by_datagram(route: &Route) -> Client {
    Client { protocol: Protocol::Udp, from: route.from, to: SocketAddr::new(route.to, DNS) }
}

/// Answers what comes on a stream, one after the other.
pub async fn serve_stream(gate: &Gate, client: &Endpoint, (from, to): (SocketAddr, SocketAddr)) {
    let who = Client { protocol: Protocol::Tcp, from, to };
    let mut held = Vec::new();
    while let Ok(Ok(Some(message))) = timeout(STREAM_TIMEOUT, upstream::message(client, &mut held)).await {
        let reply = match Query::read(&message) {
            Ok(query) => Some(resolve(gate, &query, who, Transport::Tcp).await),
            Err(malformed) => malformed.answer(),
        };
        let Some(reply) = reply else { return };
        let Ok(length) = u16::try_from(reply.len()) else { return };
        let message = [&length.to_be_bytes()[..], &reply].concat();
        if !matches!(timeout(STREAM_TIMEOUT, copy::write(client, &message)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn resolve(gate: &Gate, query: &Query, client: Client, transport: Transport) -> Vec<u8> {
    let found = match query.name() {
        Ok(name) => find(gate, &name, query.kind, client).await,
        Err(_) => {
            let found = Found::Denied(Rule::DnsName.into());
            record(gate, shown(query), query.kind, &found, client).await;
            found
        }
    };
    written(query, &found, transport)
}

/// The name in its one spelling, or, if it has none, as it came.
fn shown(query: &Query) -> String {
    query.name().as_ref().map_or_else(|_| query.shown(), HostName::to_string)
}

fn written(query: &Query, found: &Found, transport: Transport) -> Vec<u8> {
    let mut out = Vec::new();
    reply(query, found, transport, Instant::now(), &mut out);
    out
}

/// Writes the reply for what was found.
fn reply(query: &Query, found: &Found, transport: Transport, now: Instant, out: &mut Vec<u8>) {
    let mut answer = |answer| query.write_answer(answer, transport, out);
    let left = |until: &Instant| u32::try_from(until.saturating_duration_since(now).as_secs()).unwrap_or(0);
    match found {
        Found::Addresses(addresses, until) => answer(Answer::Addresses(addresses, left(until))),
        Found::Data(data, until) => answer(Answer::Data(data, left(until))),
        Found::Nothing(_) => answer(Answer::Nothing),
        Found::NoName(_) => answer(Answer::NoName),
        Found::Denied(rule) => match query.name() {
            Ok(_) => answer(Answer::Denied(&format!("agentd: not allowed ({rule})"))),
            Err(why) => answer(Answer::Denied(&format!("agentd: {why} ({rule})"))),
        },
        Found::Refused(rule) => answer(Answer::Refused(&format!("agentd: not answered ({rule})"))),
        Found::Failed(why) => answer(Answer::Failed(&format!("agentd: {why}"))),
    }
}
