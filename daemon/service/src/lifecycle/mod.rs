//! A session from its build, or its recovery after a restart, to its end.

pub mod build;
mod keeper_socket;
pub mod recover;
pub mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use crate::audit::numbering::Numbering;
use crate::host::Host;
use crate::session::{EndRequest, Session};
use crate::store::output::OutputLog;

/// How long a session that is to be forgotten waits for a client that may come back for its exit.
const EXIT_RETENTION: Duration = Duration::from_secs(40);

/// Numbers the events of `session`, of which `seq` are on record, and its keeper's up to `source`.
fn numbering(session: &Session, seq: u64, source: u64) -> Numbering {
    let facts = session.facts();
    let shown = (facts.command.first().cloned().unwrap_or_default(), facts.limits.clone());
    Numbering::new(session.id.clone(), shown, seq, source)
}

/// Waits for the end of `stream`. A malformed frame ends the session.
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
        // Its overlay went with it: as its plan had it. A client that lost us may come back for its exit.
        let mut status = session.watch();
        let delivered = status.wait_for(|status| status.exit_delivered || status.detached);
        tokio::time::timeout(EXIT_RETENTION, delivered).await.ok();
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
    tokio::task::spawn_blocking(move || hub.log.as_ref().map(OutputLog::remove)).await.ok();
    host.store.retire(&session.id).await;
}
