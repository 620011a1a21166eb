//! The events that the service itself records.

use agentd_policy::event_kind::EventKind;
use agentd_proto::v1::SessionDetail;

/// What the service itself records of a session, besides its end.
#[derive(Clone, Debug)]
pub enum Note {
    Created {
        user: String,
        profile: String,
        command: Vec<String>,
    },
    Attached {
        user: String,
    },
    Detached {
        user: String,
    },
    /// `user` asked for a further command.
    Exec {
        user: String,
        command: Vec<String>,
    },
    /// It is being ended, by `user` if that is known.
    Stopping {
        user: Option<String>,
        message: Option<String>,
    },
}

impl Note {
    pub(super) fn kind(&self) -> EventKind {
        match self {
            Self::Created { .. } => EventKind::SessionCreated,
            Self::Attached { .. } => EventKind::SessionAttached,
            Self::Detached { .. } => EventKind::SessionDetached,
            Self::Exec { .. } => EventKind::SessionExec,
            Self::Stopping { .. } => EventKind::SessionStopping,
        }
    }

    pub(super) fn into_detail(self) -> SessionDetail {
        let empty = SessionDetail::default();
        match self {
            Self::Created { user, profile, command } => {
                SessionDetail { user: Some(user), profile: Some(profile), command, ..empty }
            }
            Self::Attached { user } | Self::Detached { user } => SessionDetail { user: Some(user), ..empty },
            Self::Exec { user, command } => SessionDetail { user: Some(user), command, ..empty },
            Self::Stopping { user, message } => SessionDetail { user, message, ..empty },
        }
    }
}
