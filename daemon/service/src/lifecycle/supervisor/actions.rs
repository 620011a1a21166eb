//! What the supervisor does with each input: the state's next step, and its actions.

use std::time::{Duration, SystemTime};

use agentd_policy::exit_reason::ExitReason;
use agentd_policy::wire::{ToKeeper, VERSION};
use agentd_proto::v1::Exit;
use tokio::time::Instant;

use super::{DRAIN, GRACE, KEEPER_DRAIN, SIGTERM, Supervisor, keeper};
use crate::audit::note::Note;
use crate::clock::micros;
use crate::lifecycle::keeper_socket::foreign_format;
use crate::metrics::metrics;
use crate::session::Phase;
use crate::session::state::{Action, Input, State};
use crate::store::EventLine;
use crate::stream::hub::Stage;

impl Supervisor<'_> {
    pub(super) async fn step(&mut self, input: Input) {
        if input == Input::KeeperLost {
            if self.recovered {
                self.no_stream();
            }
            if let Some(format) =
                foreign_format(self.host, &self.session.id).filter(|_| self.upgrade.is_none())
            {
                self.upgrade = Some(keeper::other_format("lease", format, VERSION.into()));
            }
        }
        let state = std::mem::replace(&mut self.state, State::running());
        let (state, actions) = state.step(input);
        self.state = state;
        for action in actions {
            match action {
                Action::Announce => self.stopping().await,
                Action::AskCommand => {
                    self.stop_in(self.grace);
                    self.send_keeper(&ToKeeper::Signal { command: 0, signal: SIGTERM });
                    self.deadline = Some(Instant::now() + self.grace);
                }
                Action::AskKeeper => {
                    self.send_keeper(&ToKeeper::Kill);
                    self.deadline = Some(Instant::now() + GRACE);
                    self.stop_in(Duration::ZERO);
                }
                Action::AskLauncher => {
                    self.host.launcher.end(self.session.id.clone());
                    self.deadline = Some(Instant::now() + GRACE);
                }
                Action::AwaitDrain => {
                    // The relay of a session that is cleared away has sent all that it will.
                    let gone = matches!(self.state, State::Draining { gone: true, .. });
                    self.deadline = Some(Instant::now() + if gone { KEEPER_DRAIN } else { DRAIN });
                }
                Action::Record(exit) => {
                    let (now, before) = (SystemTime::now(), self.numbering.mark());
                    // Without a service its keeper had no receiver, and the packets of another version cannot be read.
                    let unreceived = self.recovered || self.upgrade.is_some();
                    let mut lines: Vec<EventLine> =
                        unreceived.then(|| self.numbering.unreceived(now)).into_iter().collect();
                    let event = self.numbering.ended(&self.noted(exit), now);
                    lines.push(EventLine { event, source: None });
                    self.ended_at(micros(now));
                    self.append(&lines, before).await;
                }
                Action::Publish(exit) => self.publish(exit).await,
                Action::Finish => self.session.change(|status| status.phase = Phase::Cleared),
            }
        }
    }

    async fn publish(&mut self, exit: Exit) {
        self.session.hub.set_stage(Stage::Lost);
        self.commands.close();
        self.deadline = Some(Instant::now() + GRACE);
        self.orphan_deadline = None;
        let (exit, events) = (self.noted(exit), self.numbering.seq());
        metrics().session_ended(&exit.reason);
        let lasted = self.session.created_at.elapsed().unwrap_or_default();
        let Exit { reason, code, signal, message } = &exit;
        tracing::info!(session = %self.session.id, reason, code, signal, error = non_empty(message), ?lasted, "session ended");
        self.session.change(|status| {
            status.ended_us.get_or_insert_with(|| micros(SystemTime::now()));
            (status.phase, status.exit, status.events) = (Phase::Ended, Some(exit), events);
            status.commands = 0;
        });
        self.host.store.wake();
        // The event is on record already: this need not be waited for.
        self.save();
    }

    /// The message of who ended it, where its keeper has none.
    pub(super) fn noted(&self, mut exit: Exit) -> Exit {
        let reason = ExitReason::parse(&exit.reason);
        if let Some(upgrade) = self.upgrade.as_ref().filter(|_| reason == Some(ExitReason::Failed)) {
            exit.message.clone_from(upgrade);
        }
        if let Some(note) = &self.note
            && exit.message.is_empty()
            && reason != Some(ExitReason::Exited)
        {
            exit.message = note.clone();
        }
        exit
    }

    pub(super) fn ended_at(&self, us: u64) {
        self.session.hub.exited.cancel();
        self.session.hub.room.notify_one();
        self.session.change(|status| status.ended_us = status.ended_us.or(Some(us)));
    }

    async fn stopping(&mut self) {
        self.session.change(|status| status.phase = status.phase.max(Phase::Stopping));
        self.own(Note::Stopping { user: self.by.clone(), message: self.note.clone() }).await;
    }

    /// A service that starts anew sees to it as well.
    fn stop_in(&self, grace: Duration) {
        self.session.change(|status| status.stop_us = Some(micros(SystemTime::now() + grace)));
        self.save();
    }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
