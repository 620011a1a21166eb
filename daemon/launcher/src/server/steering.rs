//! Changes of sessions that run. A client asks for them here, not of the service, and the launcher passes on what the
//! client's user may ask for: the keeper takes it from root alone.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use agentd_kernel::event_loop::EventFlags;
use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::offer::{Steer, ToClient};
use agentd_policy::rule::Rule;
use agentd_policy::wire::{FromRoot, MAX_KEEPER_PACKET, Peer, ToRoot, decode_with, encode};
use agentd_session::refusals;

use super::Server;
use super::source::Source;
use agentd_session::error::HostError;

/// How long a keeper may take to answer. Its client waits longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Questions that keepers have not answered yet, by the number of the client's side socket.
#[derive(Debug, Default)]
pub(super) struct Steering(BTreeMap<u64, Asked>);

#[derive(Debug)]
struct Asked {
    session: SessionId,
    keeper: Packets,
    until: Instant,
}

impl Steering {
    /// When the next keeper takes too long.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.0.values().map(|asked| asked.until).min()
    }
}

impl Server {
    /// A client asks for a change.
    pub(super) fn steer(&mut self, number: u64, peer: &Peer, steer: Steer) {
        if let Err(refusal) = self.pass_on(number, peer, steer) {
            self.answer_steer(number, Err(refusal));
        }
    }

    fn pass_on(&mut self, number: u64, peer: &Peer, steer: Steer) -> Result<(), Refusal> {
        let Steer { session, change } = steer;
        self.may_steer(peer, &session)?;
        change.check()?;
        let unknown = || Refusal::new("the caller", Rule::CallerUnknown, "ask again");
        let client = self.offers.socket(number).ok_or_else(unknown)?;
        let groups = self.groups_of(peer, client.as_fd()).map_err(|_| unknown())?;
        let ceiling = self.context.settings.config.bounds.of_groups(&groups).ceiling();
        change.allow.iter().try_for_each(|allowed| ceiling.check_rule(&allowed.rule))?;
        let failed = |error: HostError| {
            tracing::warn!(%session, %error, "a session's keeper cannot be asked");
            Refusal::new(
                format!("session {session}: {error}"),
                Rule::SessionUnanswered,
                "it may be ending: look at it with agentctl ps, or try again",
            )
        };
        let keeper = self.context.directories.keeper(&session).map_err(failed)?;
        let question = encode(&FromRoot::Change { change, uid: peer.uid }).map_err(|e| failed(e.into()))?;
        keeper.send(&question, &[]).map_err(|e| failed(e.into()))?;
        self.watch(keeper.as_fd(), Source::Steering(number), EventFlags::IN).map_err(failed)?;
        let until = Instant::now() + ANSWER_TIMEOUT;
        self.steering.0.insert(number, Asked { session, keeper, until });
        Ok(())
    }

    /// Whether it is the peer's own session, or the peer is an admin. Of others' sessions nobody learns that they are.
    fn may_steer(&self, peer: &Peer, session: &SessionId) -> Result<(), Refusal> {
        match self.sessions.running(session) {
            Some(owner) if owner == peer.uid || peer.admin => Ok(()),
            Some(_) if peer.uid == 0 => Err(Refusal::new(
                format!("session {session} of another user"),
                Rule::CallerRoot,
                "root may look at sessions and end them; ask as their user or as an admin",
            )),
            _ => Err(refusals::unknown(session)),
        }
    }

    /// A keeper has answered, or is gone.
    pub(super) fn keeper_answers(&mut self, number: u64) {
        let Some(asked) = self.steering.0.get(&number) else { return };
        let answer = match asked.keeper.receive(MAX_KEEPER_PACKET, 0) {
            Err(PacketError::WouldBlock) => return,
            Ok(Some(packet)) => match decode_with(&packet.bytes, packet.descriptors) {
                Ok((ToRoot::Changed(changed), _)) => changed,
                Err(_) => Err(unanswered(&asked.session)),
            },
            Ok(None) | Err(_) => Err(refusals::ended(&asked.session)),
        };
        self.answer_steer(number, answer);
    }

    /// Gives up keepers that take too long.
    pub(super) fn expire_steering(&mut self, now: Instant) {
        let late = self.steering.0.iter().filter(|(_, asked)| asked.until <= now);
        let late: Vec<_> = late.map(|(number, asked)| (*number, asked.session.clone())).collect();
        for (number, session) in late {
            self.answer_steer(number, Err(unanswered(&session)));
        }
    }

    fn answer_steer(&mut self, number: u64, answer: Result<(), Refusal>) {
        if let Some(asked) = self.steering.0.remove(&number) {
            self.unwatch(asked.keeper.as_fd());
        }
        self.answer_client(number, &answer.map_or_else(ToClient::Refused, |()| ToClient::Steered));
    }

    /// Answers what a client asked for by its side socket.
    pub(super) fn answer_client(&mut self, number: u64, answer: &ToClient) {
        if let Some(socket) = self.offers.socket(number) {
            self.unwatch(socket.as_fd());
        }
        self.offers.answer(number, answer);
    }
}

fn unanswered(session: &SessionId) -> Refusal {
    Refusal::new(
        format!("session {session}, which does not answer"),
        Rule::SessionUnanswered,
        "the change may be in force: look at its events for policy.changed, or end it",
    )
}
