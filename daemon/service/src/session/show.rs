//! A session as the API shows it.

use agentd_proto::v1;

use super::{Phase, Session, network};
use crate::clock::{self, rfc3339};
use crate::text::cut;

/// The longest command that is shown, in bytes.
const SHOWN: usize = 4096;

impl Session {
    /// As the API shows it, with a command and a message of at most `room` bytes.
    pub fn show(&self, room: usize) -> v1::Session {
        let status = self.status();
        let mut exit = status.exit;
        if let Some(exit) = &mut exit {
            exit.message = cut(&exit.message, room.min(SHOWN));
        }
        let state = match status.phase {
            _ if status.removed => "removed",
            Phase::Creating => "creating",
            Phase::Running => "running",
            Phase::Stopping => "stopping",
            Phase::Ended | Phase::Cleared => "ended",
        };
        let egress = status.egress.as_deref().filter(|_| status.phase < Phase::Ended);
        v1::Session {
            id: self.id.to_string(),
            name: self.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            user: self.record.user.to_string(),
            state: state.to_owned(),
            profile: self.record.profile.clone(),
            command: cut(&self.record.command.join(" "), room.min(SHOWN)),
            created: rfc3339(self.created_at),
            exit: exit.filter(|_| status.phase >= Phase::Ended),
            attached: status.attached,
            detached: status.detached,
            publish: egress.map(network::published).unwrap_or_default(),
            changes: status.changes,
        }
    }

    /// All that is known of it.
    pub fn inspect(&self) -> v1::InspectReply {
        let (status, facts) = (self.status(), &self.record);
        let when = |micros: Option<u64>| micros.map(|us| rfc3339(clock::time(us))).unwrap_or_default();
        v1::InspectReply {
            session: Some(self.show(SHOWN)),
            command: facts.command.clone(),
            cwd: facts.cwd.to_string(),
            terminal: facts.terminal,
            mounts: facts.mounts.clone(),
            limits: Some(facts.limits.clone()),
            remove: facts.remove,
            started: when(status.started_us),
            ended: when(status.ended_us),
            events: status.events,
            output: self.output(),
            commands: status.commands,
            network: status.egress.as_deref().map(network::show),
        }
    }
}
