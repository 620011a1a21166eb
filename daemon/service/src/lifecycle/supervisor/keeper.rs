//! The packets of a session's keeper, and those to it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agentd_kernel::descriptor::Kind;
use agentd_kernel::packets::{Packet, PacketError};
use agentd_policy::event::{EventBody, SourceEvent};
use agentd_policy::names::SessionId;
use agentd_policy::wire::{self, FromKeeper, ToKeeper, WireError};
use tokio::time::timeout;

use super::{BATCH, BATCH_BYTES, KEEPER_DRAIN, OUTBOX, Supervisor};
use crate::clock::micros;
use crate::launcher::link::Link;
use crate::lifecycle::carried;
use crate::metrics::metrics;
use crate::session::state::Input;
use crate::stream::hub::Stage;
use crate::stream::relay;

impl Supervisor<'_> {
    /// Takes what the keeper sent, with whatever more it has sent already, and writes the events down. They are
    /// acknowledged when they are on disk.
    pub(super) async fn take(&mut self, first: Result<Option<Packet>, PacketError>) -> Option<Input> {
        let (mut lines, mut exit, mut last) = (Vec::new(), None, None);
        let (mut next, mut lost, mut started) = (Some(first), false, None);
        let (mut room, mut bytes) = (BATCH, 0);
        let before = self.numbering.mark();
        while let Some(packet) = next.take() {
            bytes += packet.as_ref().map_or(0, |packet| packet.as_ref().map_or(0, |p| p.bytes.len()));
            match message(&self.session.id, packet) {
                Some(Ok((FromKeeper::Event(source), _))) if self.found.is_none() => {
                    last = Some(source.number);
                    started = started.or_else(|| started_at(&source));
                    let who = match &source.body {
                        EventBody::Policy { uid, .. } => Some(self.host.users.name(*uid).await),
                        _ => None,
                    };
                    let (mut more, end) = self.numbering.take(source);
                    for policy in more.iter_mut().filter_map(|line| line.event.policy.as_mut()) {
                        policy.user.clone_from(&who);
                    }
                    lines.extend(more);
                    exit = exit.or(end);
                }
                Some(Ok((other, descriptor))) => lost |= !self.handle(other, descriptor),
                Some(Err(version)) => {
                    lost = true;
                    if let Some(version) = version {
                        self.upgrade = Some(other_format("keeper", version.into(), wire::VERSION.into()));
                    }
                }
                None => break,
            }
            room -= 1;
            if self.outbox.len() > OUTBOX.1 {
                tracing::error!(session = %self.session.id, "a keeper sends and does not receive");
                lost = true;
            }
            if !lost && exit.is_none() && room > 0 && bytes < BATCH_BYTES {
                next = self.keeper.as_ref().map(|keeper| keeper.receive_now(1));
            }
        }
        let ended = exit.is_some();
        if !lines.is_empty() && !self.append(&lines, before).await {
            last = None;
        }
        if let Some(started) = started {
            metrics()
                .session_runs(Duration::from_micros(started.saturating_sub(micros(self.session.created_at))));
            self.session.change(|status| status.started_us = status.started_us.or(Some(started)));
        }
        if let Some(last) = last {
            self.acknowledge_once_on_disk(last.max(self.numbering.source()));
        }
        if lost {
            self.keeper = None;
        }
        match exit {
            Some(exit) if ended => {
                self.ended_at(micros(SystemTime::now()));
                let exit = self.noted(exit);
                Some(Input::Ended(exit))
            }
            _ => lost.then_some(Input::KeeperLost),
        }
    }

    /// Handles a message that is not an event; whether it is in its place.
    fn handle(&mut self, message: FromKeeper, descriptor: Option<OwnedFd>) -> bool {
        match (message, descriptor) {
            (FromKeeper::Hello { session, acknowledged, commands, .. }, None) if self.found.is_some() => {
                self.found = None;
                if session != self.session.id {
                    tracing::error!(session = %self.session.id, error = %session, "a keeper keeps another session");
                    return false;
                }
                tracing::info!(%session, acknowledged, "session adopted");
                self.acknowledged = acknowledged;
                for command in commands {
                    // Its client is gone with the earlier service.
                    self.send_keeper(&ToKeeper::End { command });
                }
                if self.numbering.source() > acknowledged {
                    self.acknowledge_once_on_disk(self.numbering.source());
                }
                if self.session.hub.stage() == Stage::Waiting {
                    self.send_keeper(&ToKeeper::Connect { command: 0 });
                }
                true
            }
            (FromKeeper::Stream { command: 0 }, Some(stream)) => {
                self.resume(stream);
                true
            }
            (FromKeeper::Stream { .. }, Some(_)) => true,
            (FromKeeper::Running { command }, Some(stream)) => {
                if !self.commands.running(command, stream) {
                    self.send_keeper(&ToKeeper::End { command });
                }
                self.count();
                true
            }
            (FromKeeper::Egress(egress), None) => {
                self.session.change(|status| status.egress = Some(Arc::new(*egress)));
                self.save();
                true
            }
            (FromKeeper::NotRun { command, step, errno }, None) => {
                self.commands.not_run(command, step, errno);
                self.count();
                true
            }
            (FromKeeper::Exited { command, status }, None) => {
                if !self.commands.exited(command, status, self.numbering.reached()) {
                    self.send_keeper(&ToKeeper::End { command });
                }
                self.count();
                true
            }
            (message, _) => {
                tracing::error!(session = %self.session.id, error = ?message, "a keeper's message is out of place");
                false
            }
        }
    }

    /// A new stream to the relay, in the place of the one that an earlier service had.
    fn resume(&self, stream: OwnedFd) {
        let hub = self.session.hub.clone();
        match relay::from_fd(stream) {
            Ok(stream) => {
                let place = hub.end();
                let carrying = relay::carry(hub, stream, Some(place), self.host.writers.clone());
                tokio::spawn(carried(self.session.clone(), carrying));
            }
            Err(error) => {
                tracing::error!(session = %self.session.id, %error, "the stream to the relay cannot be used");
                hub.give_up_waiting();
            }
        }
    }

    fn acknowledge_once_on_disk(&mut self, number: u64) {
        self.written.push_back((self.end, number));
        self.unacknowledged.set(number.saturating_sub(self.acknowledged));
        self.acknowledge();
    }

    /// Acknowledges the keeper's events that are on disk.
    pub(super) fn acknowledge(&mut self) {
        let committed = self.session.log.committed();
        let mut last = None;
        while let Some((_, number)) = self.written.front().filter(|(place, _)| *place <= committed) {
            last = Some(*number);
            self.written.pop_front();
        }
        if let Some(number) = last {
            self.acknowledged = number;
            self.unacknowledged.set(self.numbering.source().saturating_sub(number));
            self.send_keeper(&ToKeeper::Ack(number));
        }
    }

    /// Whatever is still in the socket of a keeper that is gone.
    pub(super) async fn drain_keeper(&mut self) {
        while self.keeper.is_some() {
            let Ok(packet) = timeout(KEEPER_DRAIN, receive(self.keeper.as_ref())).await else { break };
            if let Some(input) = self.take(packet).await {
                self.step(input).await;
            }
        }
        self.keeper = None;
    }

    pub(super) fn send_keeper(&mut self, message: &ToKeeper) {
        let Some(keeper) = &self.keeper else { return };
        let Ok(packet) = wire::encode(message) else { return };
        let is_ack = matches!(message, ToKeeper::Ack(_));
        match keeper.send_now(&packet) {
            // A later acknowledgement covers the earlier.
            Err(PacketError::WouldBlock) if is_ack => self.ack = Some(packet),
            Err(PacketError::WouldBlock) => self.outbox.push_back(packet),
            Ok(()) if is_ack => self.ack = None,
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(session = %self.session.id, %error, "a message was not sent to the keeper")
            }
        }
    }
}

fn started_at(event: &SourceEvent) -> Option<u64> {
    matches!(event.body, EventBody::Started).then_some(event.time_us)
}

/// What is in a packet; nothing if there is no packet yet, an error if there will be none that is right: the format
/// that it has, if that is another than ours.
type Message = (FromKeeper, Option<OwnedFd>);

fn message(
    session: &SessionId,
    packet: Result<Option<Packet>, PacketError>,
) -> Option<Result<Message, Option<u16>>> {
    match packet {
        Ok(Some(packet)) => match wire::decode_with(&packet.bytes, packet.descriptors) {
            Ok((message, attached)) => {
                match attached.rest().pop().map(|fd| Kind::UnixStream.take(fd)).transpose() {
                    Ok(stream) => Some(Ok((message, stream))),
                    Err(error) => {
                        tracing::error!(%session, %error, "a keeper sent another descriptor");
                        Some(Err(None))
                    }
                }
            }
            Err(error) => {
                tracing::error!(%session, %error, "a keeper sent a malformed message");
                Some(Err(match error {
                    WireError::Version(version) => Some(version),
                    _ => None,
                }))
            }
        },
        Ok(None) => Some(Err(None)),
        Err(PacketError::WouldBlock) => None,
        Err(error) => {
            tracing::error!(%session, %error, "receive from a keeper");
            Some(Err(None))
        }
    }
}

/// Why a session does not go on that another version of agentd has started.
pub(super) fn other_format(of: &str, theirs: u64, ours: u64) -> String {
    format!(
        "it was started by another version of agentd, whose {of} has format {theirs} where this one's has format {ours}: \
         the upgrade ended it"
    )
}

pub(super) async fn receive(keeper: Option<&Link>) -> Result<Option<Packet>, PacketError> {
    match keeper {
        Some(keeper) => keeper.receive(1).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn send(keeper: Option<&Link>, packet: Option<&[u8]>) {
    match (keeper, packet) {
        (Some(keeper), Some(packet)) => drop(keeper.send(packet).await),
        _ => std::future::pending().await,
    }
}
