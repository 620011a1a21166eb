//! What clients ask about the changes that their sessions made: to see them, which a worker shows, and to have them
//! deleted.

use std::os::fd::AsFd as _;

use agentd_kernel::peer;
use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::offer::ToClient;
use agentd_policy::rule::Rule;
use agentd_policy::wire::Peer;
use agentd_session::error::HostError;
use agentd_session::refusals;

use super::Server;
use crate::directories;
use crate::review::Review;

impl Server {
    /// A client asks to see what a session changed.
    pub(super) fn review(&mut self, number: u64, peer: &Peer, session: SessionId) {
        if let Err(refusal) = self.start_review(number, peer, session) {
            self.answer_client(number, &ToClient::Refused(refusal));
        }
    }

    /// Only their own, whoever asks: a directory of uppers lies below that of its user. One that has none looks like one
    /// that is not there.
    fn start_review(&mut self, number: u64, peer: &Peer, session: SessionId) -> Result<(), Refusal> {
        let failed = |error: HostError| {
            let hint = "try again; the launcher's log has more";
            tracing::error!(%session, %error, "a review cannot begin");
            Refusal::new(format!("a review of session {session}"), Rule::ReviewFailed, hint)
        };
        let user = self.context.directories.user_overlays(peer.uid).map_err(failed)?;
        let directory = user.and_then(|user| directories::open(&user, session.as_str()).ok());
        let directory = directory.ok_or_else(|| refusals::unknown(&session))?;
        if !self.reviews.has_room(self.context.accounts.of(peer.uid)) {
            return Err(Refusal::new("one more review", Rule::HostBusy, "try again in a moment"));
        }
        let client = self.offers.socket(number).ok_or_else(|| refusals::unknown(&session))?;
        let groups = peer::groups(client.as_fd()).map_err(|error| failed(error.into()))?;
        self.unwatch(client.as_fd());
        let Some((socket, account)) = self.offers.hand_over(number) else { return Ok(()) };
        let review = Review { session, uid: peer.uid, gid: peer.gid, groups, directory, socket };
        let (socket, started) = self.reviews.start(&self.context, account, review);
        if let Err(error) = started {
            tracing::error!(user = peer.uid, %error, "a review cannot begin");
        }
        self.discard(socket.into_fd());
        Ok(())
    }

    /// A client asks for what a session changed to be deleted.
    pub(super) fn discard_changes(&mut self, number: u64, peer: &Peer, session: &SessionId) {
        let answer = self.sessions.discard(&self.context, peer.uid, session);
        self.answer_client(number, &answer.map_or_else(ToClient::Refused, |()| ToClient::Discarded));
    }
}
