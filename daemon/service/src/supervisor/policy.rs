//! What a session may reach is changed while it runs.

use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::egress::Egress;
use agentd_policy::wire::ToKeeper;

use super::Supervisor;
use crate::policy::{Asked, no_network};

impl Supervisor<'_> {
    /// Has the keeper enforce it. What is kept is changed first: should we end in between, the next service tells the
    /// keeper again, and no later change can take a deny back.
    pub(super) fn change_policy(&mut self, asked: Asked) {
        let Some(now) = self.session.status().egress.filter(|egress| !egress.is_closed()) else {
            return asked.answer(Err(no_network(&self.session.id)));
        };
        let next = match asked.change.apply(&now) {
            Ok(next) => Arc::new(next),
            Err(refusal) => return asked.answer(Err(refusal)),
        };
        let change = asked.change.to_string();
        self.session.change(|status| {
            (status.egress, status.change) = (Some(next), Some(change));
        });
        self.save();
        self.changes.wait(asked);
        self.tell_policy();
    }

    /// Tells the keeper all that the session may reach, unless it has said that this is in force.
    pub(super) fn tell_policy(&mut self) {
        let status = self.session.status();
        if let (Some(egress), Some(change)) = (status.egress, status.change) {
            self.tell_keeper(&ToKeeper::Policy { egress: Box::new((*egress).clone()), change });
        }
    }

    /// The keeper refused a change: what it enforces is what the session may reach.
    pub(super) fn policy_refused(&mut self, change: &str, refusal: Refusal, egress: Egress) {
        self.session.change(|status| (status.egress, status.change) = (Some(Arc::new(egress)), None));
        self.save();
        self.changes.refused(change, refusal);
    }

    /// Changes are in force, and their events are written.
    pub(super) fn policy_in_force(&mut self, changes: Vec<(String, Option<Asked>)>) {
        for (change, asked) in changes {
            if self.session.status().change.as_ref() == Some(&change) {
                self.session.change(|status| status.change = None);
                self.save();
            }
            if let Some(asked) = asked {
                asked.answer(Ok(()));
            }
        }
    }
}
