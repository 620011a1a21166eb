//! What a session's user says of its changes, on record: while it runs, and after its end.

use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;

use super::{Phase, Session, SessionRequest};
use crate::audit::note::Note;
use crate::audit::numbering::Numbering;
use crate::audit::review::{Action, Review};
use crate::metrics::metrics;
use crate::store::Store;

impl Session {
    /// Records what `user` says of the session's changes.
    ///
    /// # Errors
    /// If that cannot be written.
    pub async fn reviewed(
        self: &Arc<Self>,
        store: &Store,
        user: String,
        review: Review,
    ) -> Result<(), Refusal> {
        if review.action != Action::Seen {
            let note = Note::Reviewed { user, review };
            if self.phase() < Phase::Ended && self.request(SessionRequest::Note(note.clone())).await {
                self.claim(store, review);
                return Ok(());
            }
            self.reached(Phase::Cleared).await;
            self.append_late(store, note).await?;
        }
        self.claim(store, review);
        Ok(())
    }

    fn claim(&self, store: &Store, review: Review) {
        self.change(|status| status.changes = Some(review.changes(status.changes.as_ref())));
        store.save(&self.record());
    }

    /// Appends an event after the session's last.
    async fn append_late(&self, store: &Store, note: Note) -> Result<(), Refusal> {
        let _turn = self.late.lock().await;
        let seq = self.status().events;
        let unused = (String::new(), self.facts().limits.clone());
        let line = Numbering::new(self.id.clone(), unused, seq, 0).own(note);
        let written = store.append(&self.log, std::slice::from_ref(&line)).await;
        self.log.close();
        written.map_err(|error| {
            tracing::error!(session = %self.id, %error, "an event after a session's end was not written");
            Refusal::new("the record of this", Rule::AuditFailed, "look at the log of agentd and at the disk")
        })?;
        self.change(|status| status.events = seq + 1);
        metrics().event(&line.event);
        store.wake();
        Ok(())
    }
}
