//! One connection out of several addresses (RFC 8305): each a moment after the one before, or as soon as that fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agentd_policy::egress::Purpose;
use agentd_policy::event::{NetEvent, NetPeer};
use agentd_policy::profile::Protocol;
use rustix::io::Errno;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Gate;
use super::keeper::DialError;
use super::tcp::End;
use crate::Endpoint;

/// How long an address has before the next is tried as well (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// The most addresses that are tried.
const MAX_TRIES: usize = 6;

/// The first of `addresses` that accepts. What fails on the way is told, but for the last.
pub async fn first(
    gate: &Arc<Gate>,
    purpose: &Purpose,
    addresses: Vec<SocketAddr>,
    from: SocketAddr,
) -> Result<(Endpoint, SocketAddr), End> {
    let mut left = addresses.into_iter().take(MAX_TRIES).peekable();
    // One address needs no task of its own.
    if let Some(only) = left.next_if(|_| true) {
        if left.peek().is_none() {
            let dialled = gate.keeper.dial(purpose.clone(), only, Protocol::Tcp, from).await;
            return dialled.map(|server| (server, only)).map_err(End::from);
        }
        return race(gate, purpose, only, left, from).await;
    }
    Err(DialError::Refused(Errno::ADDRNOTAVAIL).into())
}

async fn race(
    gate: &Arc<Gate>,
    purpose: &Purpose,
    first: SocketAddr,
    mut left: impl Iterator<Item = SocketAddr>,
    from: SocketAddr,
) -> Result<(Endpoint, SocketAddr), End> {
    let mut tries = JoinSet::new();
    let start = |tries: &mut JoinSet<_>, to: SocketAddr| {
        let (gate, purpose) = (gate.clone(), purpose.clone());
        tries.spawn(async move { (gate.keeper.dial(purpose, to, Protocol::Tcp, from).await, to) });
    };
    start(&mut tries, first);
    loop {
        let next = tokio::select! {
            Some(ended) = tries.join_next() => match ended {
                Ok((Ok(server), to)) => return Ok((server, to)),
                Ok((Err(error), to)) => Some((error, to)),
                Err(error) => Some((io::Error::other(error).into(), first)),
            },
            () = sleep(STAGGER) => None,
        };
        let more = left.next();
        match (next, more) {
            (Some((error, _)), None) if tries.is_empty() => return Err(error.into()),
            (Some((error, to)), _) => tell(gate, purpose, &error, to).await,
            (None, _) => {}
        }
        if let Some(to) = more {
            start(&mut tries, to);
        }
    }
}

async fn tell(gate: &Gate, purpose: &Purpose, error: &DialError, to: SocketAddr) {
    let DialError::Failed(why) = error else { return };
    let name = match purpose {
        Purpose::Name(name) => Some(name.to_string()),
        _ => None,
    };
    let peer = NetPeer { protocol: "tcp".into(), address: to.ip(), port: to.port(), name };
    let reason = format!("failed: {why}");
    gate.keeper.tell(NetEvent::Closed { peer, sent: 0, received: 0, duration_ms: 0, reason }).await;
}
