//! What a session's user did with its changes, as the user's client says: the service cannot see them.

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_proto::v1::{Changes, ReviewedRequest};
use agentd_request::malformed;

/// What was done with changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// They were counted: no event.
    Seen,
    /// They are in the workspace now.
    Applied,
    /// What was applied was taken back.
    Undone,
    /// They were thrown away.
    Discarded,
}

impl Action {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Applied => "applied",
            Self::Undone => "undone",
            Self::Discarded => "discarded",
        }
    }
}

/// A client's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Review {
    pub action: Action,
    /// What it was done to.
    pub files: u64,
    /// What still differs from the workspaces.
    pub remaining: u64,
    pub remaining_bytes: u64,
}

impl Review {
    /// What `request` says.
    ///
    /// # Errors
    /// If it says something else than this version knows.
    pub fn parse(request: &ReviewedRequest) -> Result<Self, Refusal> {
        let known = [Action::Seen, Action::Applied, Action::Undone, Action::Discarded];
        let action = known.into_iter().find(|action| action.as_str() == request.action);
        let unknown = || malformed(format!("action {:?}", request.action), Rule::RequestReview);
        Ok(Self {
            action: action.ok_or_else(unknown)?,
            files: request.files,
            remaining: request.remaining,
            remaining_bytes: request.remaining_bytes,
        })
    }

    /// What is shown of the session's changes from now on.
    pub fn changes(self, before: Option<&Changes>) -> Changes {
        let was_applied = before.is_some_and(|before| matches!(before.state.as_str(), "partly" | "applied"));
        let state = match (self.action, self.remaining) {
            (Action::Discarded, _) => "discarded",
            (Action::Applied, 0) => "applied",
            (Action::Applied, _) => "partly",
            (Action::Seen, 0) if was_applied => "applied",
            (Action::Seen, _) if was_applied => "partly",
            (Action::Seen, 0) => "none",
            (Action::Seen | Action::Undone, _) => "unapplied",
        };
        Changes { files: self.remaining, bytes: self.remaining_bytes, state: state.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(action: Action, remaining: u64, before: Option<&Changes>) -> Changes {
        Review { action, files: 1, remaining, remaining_bytes: 7 * remaining }.changes(before)
    }

    #[test]
    fn what_is_applied_stays_so_until_it_is_undone() {
        let seen = claim(Action::Seen, 2, None);
        assert_eq!((seen.state.as_str(), seen.files, seen.bytes), ("unapplied", 2, 14));
        let half = claim(Action::Applied, 1, Some(&seen));
        assert_eq!(half.state, "partly");
        assert_eq!(claim(Action::Seen, 1, Some(&half)).state, "partly");
        let whole = claim(Action::Applied, 0, Some(&half));
        assert_eq!(claim(Action::Seen, 0, Some(&whole)).state, "applied");
        assert_eq!(claim(Action::Undone, 2, Some(&whole)).state, "unapplied");
        assert_eq!(claim(Action::Discarded, 0, Some(&seen)).state, "discarded");
        assert_eq!(claim(Action::Seen, 0, None).state, "none");
    }

    #[test]
    fn only_known_actions() {
        let request = |action: &str| ReviewedRequest { action: action.into(), ..ReviewedRequest::default() };
        assert!(Review::parse(&request("applied")).is_ok());
        assert_eq!(Review::parse(&request("apply")).unwrap_err().rule, Rule::RequestReview);
    }
}
