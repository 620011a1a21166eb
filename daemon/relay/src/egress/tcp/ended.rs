//! The end of a connection: what is recorded of it, and what its two sides see.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use agentd_policy::event::{MAX_NAMES, NetEvent, NetPeer};
use agentd_policy::protocol::Protocol;
use agentd_policy::wire::Client;

use super::super::close::{CloseReason, denied};
use super::super::copy;
use super::super::judge::RejectWith;
use super::{Connection, lock};

impl Connection {
    /// Records how it ended, and closes or resets both sides.
    pub(super) async fn close(self, end: CloseReason) {
        let peer = self.peer();
        let server = self.server.get();
        if let CloseReason::Refused(refusal) = &end {
            let name = refusal.subject.name().map(str::to_owned).or_else(|| peer.name.clone());
            self.gate
                .keeper
                .record_and_wait(denied(NetPeer { name, ..peer.clone() }, refusal), self.who())
                .await;
        }
        let reason = end.reason();
        let cut_short = self.dialling.load(Ordering::Relaxed);
        if server.is_some() || cut_short || matches!(&end, CloseReason::Failed(failure) if failure.dialled) {
            let sent = self.sent.load(Ordering::Relaxed);
            let received = self.received.load(Ordering::Relaxed);
            let duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (names, more_names) = self.names();
            let closed = NetEvent::Closed { peer, names, more_names, sent, received, duration_ms, reason };
            self.gate.keeper.record(closed).await;
        }
        match &end {
            CloseReason::Closed => return,
            CloseReason::Refused(refusal) if refusal.reject_with != RejectWith::Plain => {
                copy::linger(&self.client, &refusal.answer()).await;
            }
            _ => copy::reset(&self.client),
        }
        if let Some(server) = server {
            copy::reset(server);
        }
    }

    /// Its client's socket, as the client has it: where it went may have changed since.
    pub fn who(&self) -> Client {
        let to = rustix::net::getsockname(self.client.get_ref()).ok();
        let to = to.and_then(|to| SocketAddr::try_from(to).ok()).unwrap_or_else(|| self.to());
        Client { protocol: Protocol::Tcp, from: self.from, to }
    }

    /// The far end, for the record.
    fn peer(&self) -> NetPeer {
        let (to, used) = (self.to(), lock(&self.authorization));
        let name = used.as_ref().and_then(|used| used.names.first()).map(|(name, _)| name.to_string());
        let rule = used.as_ref().and_then(|used| used.rule.clone());
        NetPeer { protocol: "tcp".into(), address: to.ip(), port: to.port(), name, rule }
    }

    /// The names that it was used for, if there are several, and how many more there are.
    fn names(&self) -> (Vec<String>, u32) {
        let used = lock(&self.authorization);
        let names = used.as_ref().map_or(&[][..], |used| &used.names);
        if names.len() < 2 {
            return (Vec::new(), 0);
        }
        let listed = names.iter().take(MAX_NAMES).map(|(name, _)| name.to_string()).collect();
        (listed, u32::try_from(names.len().saturating_sub(MAX_NAMES)).unwrap_or(u32::MAX))
    }
}
