//! How a session is built, and how it is forgotten.

use std::sync::Arc;
use std::time::Duration;

use agentd_policy::Refusal;
use agentd_policy::plan::Plan;
use agentd_policy::wire::{Ticket, Timing};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::connection::Caller;
use crate::convert::Numbering;
use crate::error::no_launcher;
use crate::host::Host;
use crate::launcher::Built;
use crate::link::Link;
use crate::metrics::metrics;
use crate::output_log::OutputLog;
use crate::session::{Asks, EndRequest, Phase, Session, stream};
use crate::streams;
use crate::supervisor::Supervisor;

/// How long a session that is to be forgotten waits for a client that may come back for its exit.
const FAREWELL: Duration = Duration::from_secs(40);

/// What is needed to build it.
pub struct Order {
    pub plan: Plan,
    pub ticket: Ticket,
    pub caller: Caller,
}

/// Builds the session, answers, and sees it to its end.
pub async fn run(
    host: Arc<Host>,
    session: Arc<Session>,
    order: Order,
    asks: Asks,
    answer: oneshot::Sender<Result<Vec<Timing>, Refusal>>,
) {
    let Order { plan, ticket, caller } = order;
    let (creator, line) = (caller.gone.clone(), caller.line.clone());
    drop(caller);
    // Written while it is built: without a record there is no session.
    let saved = host.store.create(&session.record()).await;
    let built = host.launcher.build(&line, ticket, plan).await;
    drop(line);
    let saved = saved.await;
    let opened = match built {
        Ok(built) => {
            let opened = match saved {
                Ok(Ok(())) => open(built),
                _ => Err(Refusal::new(
                    "the session's record",
                    "service.store",
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
    let stream = streams::carry(session.hub.clone(), relay, None, host.disk.clone());
    tokio::spawn(carried(session.clone(), stream));
    if session.facts().detached && !session.facts().terminal {
        let _ = session.hub.input.try_send(crate::hub::Inward::Eof);
    }
    session.change(|status| status.phase = Phase::Running);
    metrics().session_built(&timings);
    tracing::info!(session = %session.id, user = session.uid, profile = session.facts().profile, "session started");
    if answer.send(Ok(timings)).is_err() && !session.facts().detached {
        // Whoever asked is gone without knowing its id.
        session.end(EndRequest { reason: Some("its client is gone"), ..EndRequest::default() });
    }
    let facts = session.facts();
    let shown = (facts.command.first().cloned().unwrap_or_default(), facts.limits.clone());
    let numbering = Numbering::new(session.id.clone(), shown, 0, 0);
    Supervisor::new(&host, &session, Some(keeper), numbering).supervise(creator, asks).await;
    finish(&host, &session).await;
}

/// Says it if the relay does not speak as it should: then the session ends.
pub async fn carried(session: Arc<Session>, stream: impl Future<Output = Result<(), [u8; 4]>>) {
    if let Err(header) = stream.await {
        tracing::error!(session = %session.id, error = ?header, "a relay sent what is no frame");
        session.end(EndRequest { reason: Some("its relay sent what is no frame"), ..EndRequest::default() });
    }
}

/// Nothing of the session runs any more.
pub async fn finish(host: &Arc<Host>, session: &Arc<Session>) {
    session.log.close();
    session.hub.rest();
    if session.remove {
        // Its overlay went with it: the plan said so. A client that lost us may come back for its exit.
        let mut status = session.watch();
        let told = status.wait_for(|status| status.told || status.detached);
        let _ = tokio::time::timeout(FAREWELL, told).await;
        remove(host, session).await;
        return;
    }
    if session.hub.log.as_ref().is_some_and(|log| log.size() > 0) {
        host.registry.bound_output(session.uid).await;
    }
}

/// Deletes what the session left, and keeps what is on record of it: for its user it is gone, for admins it is not.
pub async fn remove(host: &Arc<Host>, session: &Arc<Session>) {
    host.registry.retire(session);
    let hub = session.hub.clone();
    // A panic in it leaves files behind, which the store deletes.
    let _ = tokio::task::spawn_blocking(move || hub.log.as_ref().map(OutputLog::remove)).await;
    host.store.retire(&session.id).await;
}

fn open(built: Built) -> Result<(Link, UnixStream, Vec<Timing>), Refusal> {
    let fail = |e: std::io::Error| no_launcher(&format!("the session's sockets: {e}"));
    let keeper = Link::new(built.keeper).map_err(fail)?;
    Ok((keeper, stream(built.relay).map_err(fail)?, built.timings))
}
