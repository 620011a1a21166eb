//! What clients ask of a session, by coming and going too.

use std::time::Duration;

use agentd_policy::wire::ToKeeper;
use agentd_proto::v1::SessionDetail;
use tokio::time::Instant;

use super::{GRACE_AT_START, OUTBOX, Supervisor};
use crate::session::commands;
use crate::session::state::{Input, State};
use crate::session::{Ask, EndRequest};

impl Supervisor<'_> {
    /// Whether somebody is there, or will be.
    pub(super) fn look(&mut self, left: bool) {
        let status = self.session.status();
        let awaited = status.strict > 0 || status.detached || !(left || status.visited);
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
        let request = self.session.end_request();
        self.note = self.note.take().or_else(|| request.reason.map(str::to_owned));
        self.by = request.by;
    }

    pub(super) async fn asked(&mut self, ask: Ask) -> Option<Input> {
        let running = matches!(self.state, State::Running { .. });
        let crowded = self.outbox.len() >= OUTBOX.0;
        match ask {
            // It hears nothing: one signal more is lost.
            Ask::Signal { .. } if crowded => {}
            Ask::Signal { command, signal } => self.tell_keeper(&ToKeeper::Signal { command, signal }),
            Ask::Stop { who, grace } if running => {
                (self.by, self.grace) = (Some(who), grace);
                return Some(Input::Stop);
            }
            Ask::Run(start) if running && crowded => drop(start.answer.send(Err(commands::deaf()))),
            Ask::Run(start) if running => {
                let detail = SessionDetail {
                    user: Some(start.who.clone()),
                    command: start.shown.clone(),
                    ..SessionDetail::default()
                };
                if self.own("session.exec", detail).await
                    && let Some(packet) = self.commands.start(*start)
                {
                    self.outbox.push_back(packet);
                }
            }
            Ask::Close(command) => {
                if self.commands.forget(command) {
                    self.tell_keeper(&ToKeeper::End { command });
                }
            }
            Ask::Note { kind, who } if running => {
                self.own(kind, SessionDetail { user: Some(who), ..SessionDetail::default() }).await;
                if kind == "session.detached" {
                    self.save();
                }
            }
            // Whoever waits for an answer gets none.
            Ask::Stop { .. } | Ask::Run(_) | Ask::Note { .. } => {}
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
