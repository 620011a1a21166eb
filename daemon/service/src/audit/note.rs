//! The events that the service itself records.

use agentd_policy::event_kind::EventKind;
use agentd_proto::v1::{Event, ReviewDetail, SessionDetail};

use super::review::{Action, Review};

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
    /// `user` says what became of its changes.
    Reviewed {
        user: String,
        review: Review,
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
            Self::Reviewed { review: Review { action: Action::Discarded, .. }, .. } => {
                EventKind::FileDiscarded
            }
            Self::Reviewed { .. } => EventKind::FileApplied,
        }
    }

    /// `event`, which has what all events have, with what this says.
    pub(super) fn with_detail(self, event: Event) -> Event {
        let empty = SessionDetail::default();
        let detail = match self {
            Self::Created { user, profile, command } => {
                SessionDetail { user: Some(user), profile: Some(profile), command, ..empty }
            }
            Self::Attached { user } | Self::Detached { user } => SessionDetail { user: Some(user), ..empty },
            Self::Exec { user, command } => SessionDetail { user: Some(user), command, ..empty },
            Self::Stopping { user, message } => SessionDetail { user, message, ..empty },
            Self::Reviewed { user, review } => {
                let Review { action, files, remaining, .. } = review;
                let action = action.as_str().to_owned();
                return Event {
                    review: Some(ReviewDetail { action, files, remaining, user: Some(user) }),
                    ..event
                };
            }
        };
        Event { lifecycle: Some(detail), ..event }
    }
}
