//! What clients ask about the changes that their sessions made: to see them, which a worker shows, and to have them
//! deleted.

use std::os::fd::AsFd as _;

use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::offer::ToClient;
use agentd_policy::rule::Rule;
use agentd_policy::wire::Peer;

use super::Server;

impl Server {
    /// A client asks to see what a session changed. Whose that is, is the worker's to find out.
    pub(super) fn review(&mut self, number: u64, peer: Peer, session: SessionId) {
        let account = self.context.accounts.of(peer.uid);
        if !self.reviews.has_room(account) {
            let busy = Refusal::new("one more review", Rule::HostBusy, "try again in a moment");
            return self.answer_client(number, &ToClient::Refused(busy));
        }
        let Some(socket) = self.offers.hand_over(number) else { return };
        self.unwatch(socket.as_fd());
        self.reviews.start(&self.context, account, (session, peer), &socket);
        self.discard(socket.into_fd());
    }

    /// A client asks for what a session changed to be deleted.
    pub(super) fn discard_changes(&mut self, number: u64, peer: &Peer, session: &SessionId) {
        let answer = self.sessions.discard(&self.context, peer.uid, session);
        self.answer_client(number, &answer.map_or_else(ToClient::Refused, |()| ToClient::Discarded));
    }
}
