//! Connections that come by a listener, as far as there are places.

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

/// How often it is told that there are too many.
const TOO_MANY: Duration = Duration::from_secs(1);
/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(20);

/// One that has come.
pub struct Admitted {
    /// Itself.
    pub client: Endpoint,
    /// Who claims to have made it.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
}

/// Has each that comes served, on a task of its own, for as long as it has one of `places`. Those without one are reset;
/// now and then that is told by what `denied` makes of it.
pub async fn admit<S>(
    listener: Endpoint,
    places: &Arc<Semaphore>,
    keeper: &Keeper,
    serve: impl Fn(Admitted) -> S,
    denied: impl Fn(&Admitted) -> NetEvent,
) where
    S: Future<Output = ()> + Send + 'static,
{
    // Those that come inherit it. Where it fails, small messages are slower.
    let _ = rustix::net::sockopt::set_tcp_nodelay(listener.get_ref(), true);
    let mut told: Option<Instant> = None;
    loop {
        tokio::task::coop::consume_budget().await;
        // One that is gone already, or no descriptor is left: others come.
        let Ok(admitted) = accept(&listener).await else {
            sleep(PAUSE).await;
            continue;
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let served = serve(admitted);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(_) => {
                let event = denied(&admitted);
                copy::reset(&admitted.client);
                drop(admitted);
                if told.is_none_or(|told| told.elapsed() >= TOO_MANY) {
                    told = Some(Instant::now());
                    keeper.tell(event).await;
                }
            }
        }
    }
}

async fn accept(listener: &Endpoint) -> io::Result<Admitted> {
    loop {
        let mut ready = listener.readable().await?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::acceptfrom_with(listener.get_ref(), flags) {
            Ok((client, from)) => {
                let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let from = from.and_then(|from| SocketAddr::try_from(from).ok()).unwrap_or(nobody);
                let to = SocketAddr::try_from(rustix::net::getsockname(&client)?)?;
                return Ok(Admitted { client: endpoint(client).map_err(io::Error::other)?, from, to });
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
