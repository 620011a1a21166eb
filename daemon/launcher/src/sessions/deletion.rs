//! Children that delete overlays and close clients' sockets, so that the loop need not wait.

use agentd_kernel::packets::Packets;
use agentd_kernel::process::Child;
use agentd_policy::Refusal;
use agentd_policy::event::ExitStatus;
use agentd_policy::names::SessionId;
use agentd_policy::wire::{FromLauncher, RequestNumber};

use super::{Message, Sessions};
use crate::context::Context;
use crate::workers;

/// The most children that delete or close.
const MAX_WORKERS: usize = 64;

/// A child that deletes or closes something.
pub struct Worker {
    child: Child,
    /// Who waits for it.
    pub request: Option<(RequestNumber, SessionId)>,
}

impl Sessions {
    /// Closes clients' sockets and what is in them without waiting for it.
    pub fn close_apart(&mut self, cx: &Context, sockets: Vec<Packets>) {
        match workers::close(cx.token, sockets) {
            Ok(child) => self.workers.push(Worker { child, request: None }),
            Err(error) => tracing::error!(%error, "offers cannot be closed"),
        }
    }

    /// Whether another child may be started: those that hang on a client's file are waited for.
    pub fn has_workers_to_spare(&self) -> bool {
        self.workers.len() < MAX_WORKERS
    }

    /// Deletes the overlay of a session that is over. The answer comes with the end of that, from
    /// [`Sessions::tick`]; a refusal comes at once.
    pub fn remove(
        &mut self,
        cx: &Context,
        request: RequestNumber,
        owner: u32,
        id: &SessionId,
    ) -> Option<Message> {
        let refused = |refusal| Some((FromLauncher::Removed { request, refusal }, Vec::new()));
        if self.all.values().any(|s| s.id.as_ref() == Some(id)) {
            let mend = "end it first";
            return refused(Some(Refusal::new(format!("session {id} lives"), "session.running", mend)));
        }
        if !self.has_workers_to_spare() {
            let mend = "try again in a moment";
            return refused(Some(Refusal::new("one more deletion", "host.busy", mend)));
        }
        match self.delete_uppers(cx, owner, id, Some(request)) {
            Ok(true) => None,
            Ok(false) => refused(None),
            Err(error) => refused(Some(not_removed(id, &error))),
        }
    }

    /// Starts a child that deletes; whether there was anything to delete.
    pub(super) fn delete_uppers(
        &mut self,
        cx: &Context,
        owner: u32,
        id: &SessionId,
        request: Option<RequestNumber>,
    ) -> Result<bool, String> {
        let Some(user) = cx.directories.user_overlays(owner)? else { return Ok(false) };
        let child = workers::delete(cx.token, &user, id.as_str(), Some(id)).map_err(|e| e.to_string())?;
        self.workers.push(Worker { child, request: request.map(|request| (request, id.clone())) });
        Ok(true)
    }

    /// Takes up the ends of children that delete; the answers that waited for them.
    pub(super) fn reap_workers(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        self.workers.retain_mut(|worker| match worker.child.try_wait() {
            Ok(None) => true,
            ended => {
                if let Some((request, id)) = worker.request.take() {
                    let refusal = match ended {
                        Ok(Some(ExitStatus::Code(0))) => None,
                        _ => Some(not_removed(&id, "not everything could be deleted")),
                    };
                    messages.push((FromLauncher::Removed { request, refusal }, Vec::new()));
                }
                false
            }
        });
        messages
    }
}

fn not_removed(id: &SessionId, why: &str) -> Refusal {
    Refusal::new(format!("session {id}: {why}"), "session.remove", "see the launcher's log")
}
