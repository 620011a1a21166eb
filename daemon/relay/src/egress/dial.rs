//! One connection out of several addresses (RFC 8305): each a moment after the one before, or as soon as that fails.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agentd_policy::connection_end::ConnectionEnd;
use agentd_policy::egress::Purpose;
use agentd_policy::event::{NetEvent, NetPeer};
use agentd_policy::protocol::Protocol;
use rustix::io::Errno;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Gate;
use super::close::CloseReason;
use super::keeper::DialError;
use crate::Endpoint;

/// How long an address has before the next is tried as well (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// The most addresses that are tried.
const MAX_TRIES: usize = 6;

/// The first of `addresses` that accepts. Each that fails is recorded, but for the last.
pub async fn first(
    gate: &Arc<Gate>,
    purpose: &Purpose,
    addresses: Vec<SocketAddr>,
    from: SocketAddr,
) -> Result<(Endpoint, SocketAddr), (CloseReason, SocketAddr)> {
    let mut left = addresses.into_iter().take(MAX_TRIES).peekable();
    // One address needs no task of its own.
    if let Some(only) = left.next_if(|_| true) {
        if left.peek().is_none() {
            let dialled = gate.keeper.dial(purpose.clone(), only, Protocol::Tcp, from).await;
            return dialled.map(|server| (server, only)).map_err(|error| (error.into(), only));
        }
        return race(gate, purpose, only, left, from).await;
    }
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    Err((DialError::Refused(Errno::ADDRNOTAVAIL).into(), nowhere))
}

async fn race(
    gate: &Arc<Gate>,
    purpose: &Purpose,
    first: SocketAddr,
    mut left: impl Iterator<Item = SocketAddr>,
    from: SocketAddr,
) -> Result<(Endpoint, SocketAddr), (CloseReason, SocketAddr)> {
    // What is dropped unfinished is closed.
    let mut tries = JoinSet::new();
    let mut open = Vec::new();
    let mut next = Some(first);
    loop {
        if let Some(to) = next {
            let (gate, purpose) = (gate.clone(), purpose.clone());
            open.push(to);
            tries.spawn(async move { (gate.keeper.dial(purpose, to, Protocol::Tcp, from).await, to) });
        }
        let ended = tokio::select! {
            biased;
            Some(ended) = tries.join_next() => Some(ended.map_err(|error| (io::Error::other(error).into(), first))?),
            () = sleep(STAGGER) => None,
        };
        next = left.next();
        match ended {
            None => {}
            Some((dialled, to)) => {
                open.retain(|other| *other != to);
                match dialled {
                    Ok(server) => {
                        for other in open {
                            record(gate, purpose, other, ConnectionEnd::Unused).await;
                        }
                        return Ok((server, to));
                    }
                    Err(error) if next.is_none() && tries.is_empty() => return Err((error.into(), to)),
                    Err(DialError::Failed(why)) => {
                        record(gate, purpose, to, ConnectionEnd::failed(why)).await;
                    }
                    // It was not tried.
                    Err(DialError::Refused(_)) => {}
                }
            }
        }
    }
}

/// What became of an address that is not the connection's.
async fn record(gate: &Gate, purpose: &Purpose, to: SocketAddr, reason: ConnectionEnd) {
    let name = match purpose {
        Purpose::Name(name) => Some(name.to_string()),
        _ => None,
    };
    let rule = gate.plan().rule(purpose, to, Protocol::Tcp);
    let peer = NetPeer { protocol: "tcp".into(), address: to.ip(), port: to.port(), name, rule };
    let ended =
        NetEvent::Closed { peer, names: vec![], more_names: 0, sent: 0, received: 0, duration_ms: 0, reason };
    gate.keeper.record(ended).await;
}
