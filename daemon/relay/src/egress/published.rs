//! Ports of the session on the host's loopback: who connects to one is carried to the same port of the session's own.
//! The listeners came with the plan; the way inside is the keeper's to open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentd_policy::connection_end::ConnectionEnd;
use agentd_policy::egress::Purpose;
use agentd_policy::event::NetEvent;
use agentd_policy::protocol::Protocol;
use agentd_policy::publish::Publish;
use agentd_policy::rule::Rule;
use rustix::io::Errno;
use tokio::time::sleep;

use super::Gate;
use super::accept::{Accepted, accept_all};
use super::copy::{self, Direction};
use super::idle::idle;
use super::keeper::DialError;
use super::tcp::IDLE_TIMEOUT;
use crate::Endpoint;

/// The most connections by all published ports of a session; its own have other places.
pub const MAX_VISITS: u32 = 256;
/// Where a server listens that is meant for those nearby: tried in this order.
const OWN: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// How long what a server had sent by the end of its session still goes out.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(250);

/// How one ended.
enum End {
    Closed,
    Reset,
    /// Nothing went by for too long.
    Idle,
    /// The session is over.
    Over,
    /// Nobody listens inside, or the keeper did not let it in.
    Failed(DialError),
}

/// A connection from outside.
struct Visit {
    gate: Arc<Gate>,
    client: Endpoint,
    from: SocketAddr,
    publish: Publish,
    began: Instant,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Lets in who comes.
pub async fn listen(gate: Arc<Gate>, listener: Endpoint, publish: Publish) {
    let serve = |Accepted { client, from, .. }: Accepted| {
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let (gate, began) = (gate.clone(), Instant::now());
        Visit { gate, client, from, publish, began, sent, received }.serve()
    };
    let denied = |accepted: &Accepted| {
        let denied = Some(Rule::PublishConnections.into());
        NetEvent::Entered { from: accepted.from, publish, denied }
    };
    accept_all(listener, &gate.visits, &gate.keeper, serve, denied).await;
}

impl Visit {
    async fn serve(self) {
        let mut server = None;
        let end = tokio::select! {
            end = self.carry(&mut server) => end,
            () = self.over() => End::Over,
            () = self.idle() => End::Idle,
        };
        self.close(end, server).await;
    }

    async fn carry(&self, server: &mut Option<Endpoint>) -> End {
        let server = match self.enter().await {
            Ok(inside) => &*server.insert(inside),
            Err(error) => return End::Failed(error),
        };
        let control = self.gate.keeper.control();
        let mut inwards = Direction::new(&self.client, server, &self.received, control);
        let mut outwards = Direction::new(server, &self.client, &self.sent, control);
        match tokio::try_join!(inwards.drain(), outwards.drain()) {
            Ok(_) => End::Closed,
            Err(_) => End::Reset,
        }
    }

    /// The way inside, to whichever address somebody listens on.
    async fn enter(&self) -> Result<Endpoint, DialError> {
        let mut refused = DialError::Refused(Errno::CONNREFUSED);
        for own in OWN {
            let (purpose, to) = (Purpose::Publish(self.publish), SocketAddr::new(own, self.publish.port));
            match self.gate.keeper.dial(purpose, to, Protocol::Tcp, self.from).await {
                Err(error) if error.errno() == Errno::CONNREFUSED => refused = error,
                other => return other,
            }
        }
        Err(refused)
    }

    async fn over(&self) {
        let mut state = self.gate.watch();
        // It is over as well if the sender is gone.
        while !state.borrow_and_update().over && state.changed().await.is_ok() {}
        sleep(DRAIN_TIMEOUT).await;
    }

    async fn idle(&self) {
        idle(IDLE_TIMEOUT, || self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed))
            .await;
    }

    /// Records how it ended, and resets both sides unless it ended in order.
    async fn close(self, end: End, server: Option<Endpoint>) {
        let reason = match &end {
            End::Closed | End::Over => ConnectionEnd::Closed,
            End::Reset => ConnectionEnd::Reset,
            End::Idle => ConnectionEnd::Idle,
            End::Failed(error) => ConnectionEnd::failed(error),
        };
        // What is cut short must not look whole.
        if !matches!(end, End::Closed) {
            copy::reset(&self.client);
            server.iter().for_each(copy::reset);
        }
        let Self { gate, client, from, publish, began, sent, received } = self;
        drop((client, server));
        // These the keeper did not even try: it has recorded why, or has no room for that.
        if matches!(end, End::Failed(DialError::Refused(Errno::ACCESS | Errno::AGAIN | Errno::CANCELED))) {
            return;
        }
        let (sent, received) = (sent.into_inner(), received.into_inner());
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        gate.keeper.record(NetEvent::Left { from, publish, sent, received, duration_ms, reason }).await;
    }
}
