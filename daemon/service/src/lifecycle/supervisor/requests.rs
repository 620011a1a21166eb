//! Requests of clients, and what their coming and going means.

use std::time::Duration;

use agentd_policy::wire::ToKeeper;
use tokio::time::Instant;

use super::{GRACE_AT_START, OUTBOX, Supervisor};
use crate::audit::note::Note;
use crate::session::commands;
use crate::session::state::{Input, State};
use crate::session::{EndRequest, SessionRequest};

impl Supervisor<'_> {
    /// Sets the deadline of a session without a client, or lifts it.
    pub(super) fn look(&mut self, left: bool) {
        let status = self.session.status();
        let awaited = status.interactive_clients > 0 || status.detached || !(left || status.visited);
        if awaited || !matches!(self.state, State::Running { .. }) {
            self.orphan_deadline = None;
        } else if self.orphan_deadline.is_none() && !self.session.kill.is_cancelled() {
            let grace = Duration::from_millis(self.host.site().config.client_grace);
            let first = self.recovered && self.found.is_some();
            let grace = if first { grace.max(GRACE_AT_START) } else { grace };
            self.orphan_deadline = Some(Instant::now() + grace);
        }
    }

    pub(super) fn abandon(&self) {
        self.session.end(EndRequest { by: None, reason: Some("its client is gone") });
    }

    pub(super) fn killed(&mut self) {
        let end = self.session.end_request();
        self.note = self.note.take().or_else(|| end.reason.map(str::to_owned));
        self.by = end.by;
    }

    pub(super) async fn handle_request(&mut self, request: SessionRequest) -> Option<Input> {
        let running = matches!(self.state, State::Running { .. });
        let crowded = self.outbox.len() >= OUTBOX.0;
        match request {
            // Its keeper reads nothing: one signal more is lost.
            SessionRequest::Signal { .. } if crowded => {}
            SessionRequest::Signal { command, signal } => {
                self.send_keeper(&ToKeeper::Signal { command, signal })
            }
            SessionRequest::Stop { who, grace } if running => {
                (self.by, self.grace) = (Some(who), grace);
                return Some(Input::Stop);
            }
            SessionRequest::Run(start) if running && crowded => {
                drop(start.answer.send(Err(commands::keeper_busy())))
            }
            SessionRequest::Run(start) if running => {
                let note = Note::Exec { user: start.who.clone(), command: start.shown.clone() };
                if self.own(note).await
                    && let Some(packet) = self.commands.start(*start)
                {
                    self.outbox.push_back(packet);
                }
            }
            SessionRequest::Close(command) => {
                if self.commands.forget(command) {
                    self.send_keeper(&ToKeeper::End { command });
                }
            }
            SessionRequest::Note(note) if running => {
                let detached = matches!(note, Note::Detached { .. });
                self.own(note).await;
                if detached {
                    self.save();
                }
            }
            // A request that waits for an answer gets none.
            SessionRequest::Stop { .. } | SessionRequest::Run(_) | SessionRequest::Note(_) => {}
        }
        self.count();
        None
    }

    pub(super) fn count(&self) {
        let count = self.commands.count();
        if self.session.status().commands != count {
            self.session.change(|status| status.commands = count);
        }
    }
}
