//! Accepts connections up to a limit, and resets those beyond it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentd_policy::event::NetEvent;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::copy;
use super::keeper::Keeper;
use crate::{Endpoint, endpoint};

/// The least time between two events that there are too many.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// After an accept that failed.
const RETRY_DELAY: Duration = Duration::from_millis(20);

pub struct Accepted {
    pub client: Endpoint,
    /// Its end in the session: a claim.
    pub from: SocketAddr,
    /// Where its client meant to connect.
    pub to: SocketAddr,
}

/// Serves each connection on a task of its own that holds one of `places`. A connection without a place is reset, and
/// recorded by the event that `denied` makes of it, at most once in [`EVENT_INTERVAL`].
pub async fn accept_all<S>(
    listener: Endpoint,
    places: &Arc<Semaphore>,
    keeper: &Keeper,
    serve: impl Fn(Accepted) -> S,
    denied: impl Fn(&Accepted) -> NetEvent,
) where
    S: Future<Output = ()> + Send + 'static,
{
    // Those that come inherit it. Where it fails, small messages are slower.
    rustix::net::sockopt::set_tcp_nodelay(listener.get_ref(), true).ok();
    let mut last_event: Option<Instant> = None;
    loop {
        tokio::task::coop::consume_budget().await;
        // One that is gone already, or no descriptor is left: others come.
        let Ok(accepted) = accept(&listener).await else {
            sleep(RETRY_DELAY).await;
            continue;
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let served = serve(accepted);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(_) => {
                let event = denied(&accepted);
                copy::reset(&accepted.client);
                drop(accepted);
                if last_event.is_none_or(|last| last.elapsed() >= EVENT_INTERVAL) {
                    last_event = Some(Instant::now());
                    keeper.record(event).await;
                }
            }
        }
    }
}

async fn accept(listener: &Endpoint) -> io::Result<Accepted> {
    loop {
        let mut ready = listener.readable().await?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::acceptfrom_with(listener.get_ref(), flags) {
            Ok((client, from)) => {
                let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let from = from.and_then(|from| SocketAddr::try_from(from).ok()).unwrap_or(unknown);
                let to = SocketAddr::try_from(rustix::net::getsockname(&client)?)?;
                return Ok(Accepted { client: endpoint(client).map_err(io::Error::other)?, from, to });
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
