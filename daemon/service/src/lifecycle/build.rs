//! How a session is built.

use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::plan::Permitted;
use agentd_policy::rule::Rule;
use agentd_policy::wire::{Ticket, Timing};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use super::{carried, finish, numbering};
use crate::host::Host;
use crate::launcher::link::Link;
use crate::launcher::{Built, CallerHandle, no_launcher};
use crate::metrics::metrics;
use crate::session::{EndRequest, Phase, Session, SessionRequests};
use crate::stream::hub::Inward;
use crate::stream::relay;

/// What is needed to build it.
pub struct Order {
    pub plan: Permitted,
    pub ticket: Ticket,
    /// Cancelled when the client that asked for it is gone.
    pub creator: CancellationToken,
    /// The client's connection.
    pub handle: Arc<CallerHandle>,
}

/// Builds the session, answers, and sees it to its end.
pub async fn run(
    host: Arc<Host>,
    session: Arc<Session>,
    order: Order,
    requests: SessionRequests,
    answer: oneshot::Sender<Result<Vec<Timing>, Refusal>>,
) {
    let Order { plan, ticket, creator, handle } = order;
    // Written while it is built: without a record there is no session.
    let saved = host.store.create(&session.record()).await;
    let built = host.launcher.build(&handle, ticket, plan).await;
    drop(handle);
    let saved = saved.await;
    let opened = match built {
        Ok(built) => {
            let opened = match saved {
                Ok(Ok(())) => open(built),
                _ => Err(Refusal::new(
                    "the session's record",
                    Rule::ServiceStore,
                    "it could not be written; look at the log of agentd and at the disk",
                )),
            };
            // Its keeper goes on without us.
            opened.inspect_err(|_| host.launcher.end(session.id.clone()))
        }
        Err(refusal) => Err(refusal),
    };
    let (keeper, relay, timings) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            host.registry.remove(&session.id);
            session.log.close();
            host.store.forget(&session.id).await;
            drop(answer.send(Err(refusal)));
            return;
        }
    };
    let stream = relay::carry(session.hub.clone(), relay, None, host.writers.clone());
    tokio::spawn(carried(session.clone(), stream));
    if session.facts().detached && !session.facts().terminal {
        session.hub.input.try_send(Inward::Eof).ok();
    }
    session.change(|status| status.phase = Phase::Running);
    metrics().session_built(&timings);
    tracing::info!(session = %session.id, user = session.uid, profile = session.facts().profile, "session started");
    if answer.send(Ok(timings)).is_err() && !session.facts().detached {
        // The client is gone without knowing its id.
        session.end(EndRequest { reason: Some("its client is gone"), ..EndRequest::default() });
    }
    let numbering = numbering(&session, 0, 0);
    Supervisor::new(&host, &session, Some(keeper), numbering).supervise(creator, requests).await;
    finish(&host, &session).await;
}

fn open(built: Built) -> Result<(Link, UnixStream, Vec<Timing>), Refusal> {
    let fail = |e: std::io::Error| no_launcher(&format!("the session's sockets: {e}"));
    let keeper = Link::new(built.keeper).map_err(fail)?;
    Ok((keeper, relay::from_fd(built.relay).map_err(fail)?, built.timings))
}
