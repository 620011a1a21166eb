//! What an earlier service left: the sessions that it knew, and the keepers of those that live.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use super::{finish, keeper_socket, numbering};
use crate::host::Host;
use crate::launcher::link::Link;
use crate::session::state::{Ending, State};
use crate::session::{Phase, Session, SessionRequests};
use crate::store::record::Record;
use crate::store::{StoreError, Tail};

/// Takes all of them up. What is found here is known before the launcher reports which sessions live. Blocks.
pub fn take_up(host: &Arc<Host>) -> Result<(), StoreError> {
    let mut users = BTreeSet::new();
    for record in host.store.records()? {
        let id = record.id.clone();
        users.insert(record.uid);
        if let Err(error) = one(host, record) {
            host.store.set_aside(&id, &error);
        }
    }
    for record in host.store.all_removed()? {
        if let Some(session) = Session::from_removed(record, &host.store) {
            host.registry.adopt(&session);
        }
    }
    let host = host.clone();
    tokio::spawn(async move {
        for uid in users {
            host.registry.bound_output(uid).await;
        }
    });
    Ok(())
}

/// The events of a session cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("its events: {0}")]
struct EventsError(std::io::Error);

fn one(host: &Arc<Host>, mut record: Record) -> Result<(), EventsError> {
    let log = host.store.log(&record.id);
    let tail = match host.store.take_up(&log, record.exit.is_some()) {
        Ok(tail) => tail,
        Err(error) => {
            log.close();
            return Err(EventsError(error));
        }
    };
    let keeper = keeper_socket::connect(host, &record.id);
    let output = host.store.output(&record.id);
    let taken = record.whole.then_some(record.output);
    // Its last event is on disk before the record that has the end.
    if let (None, Some((exit, at))) = (&record.exit, &tail.ended) {
        output.open();
        // A keeper does not go before all of the output was taken; that of a command that wrote none leaves no trace.
        record.whole = output.is_drained() || output.range().1 == 0;
        (record.exit, record.ended_us) = (Some(exit.clone()), Some(*at));
    }
    let (ended, stop) = (record.exit.clone(), record.stop_us);
    let (session, requests) = Session::new(record, log, output);
    let (events, started) = (tail.seq, tail.started);
    session.change(|status| {
        (status.events, status.visited) = (events, true);
        status.started_us = status.started_us.or(started);
    });
    host.registry.adopt(&session);
    if session.hub.log.as_ref().is_some_and(|log| log.is_open()) {
        session.hub.open();
    }
    if let Some(exit) = ended {
        // Its keeper waits for what was not acknowledged, its relay for who takes the rest of the output.
        if keeper.is_some() {
            session.hub.open();
            let is_drained = session.hub.log.as_ref().is_some_and(|log| log.is_drained());
            if !is_drained && taken.is_none_or(|output| session.hub.end() < output) {
                session.hub.reopen();
            }
            session.hub.exited.cancel();
            session.change(|status| status.phase = Phase::Ended);
            supervise(host, session, requests, keeper, tail, State::Draining { exit, gone: false });
        } else if session.remove {
            let host = host.clone();
            tokio::spawn(async move { finish(&host, &session).await });
        } else {
            session.log.close();
        }
        return Ok(());
    }
    session.hub.open();
    let ending = if stop.is_some() { Ending::Stopping } else { Ending::No };
    session.change(|status| status.phase = if stop.is_some() { Phase::Stopping } else { Phase::Running });
    supervise(host, session, requests, keeper, tail, State::Running { drained: false, ending });
    Ok(())
}

fn supervise(
    host: &Arc<Host>,
    session: Arc<Session>,
    requests: SessionRequests,
    keeper: Option<Link>,
    tail: Tail,
    state: State,
) {
    let numbering = numbering(&session, tail.seq, tail.source);
    let host = host.clone();
    tokio::spawn(async move {
        let nobody = CancellationToken::new();
        let supervisor = Supervisor::recovered(&host, &session, keeper, numbering, tail.length, state);
        supervisor.supervise(nobody, requests).await;
        finish(&host, &session).await;
    });
}
