//! Why a session or a command ended, as exits in the API, events and records have it.

/// The reasons. `docs/json.md` has what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is explained by its text")]
pub enum ExitReason {
    Exited,
    Signaled,
    Timeout,
    OutOfMemory,
    Killed,
    Failed,
}

impl ExitReason {
    /// Each of them.
    pub const ALL: [Self; 6] =
        [Self::Exited, Self::Signaled, Self::Timeout, Self::OutOfMemory, Self::Killed, Self::Failed];

    /// As it is on the wire and on disk.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::Timeout => "timeout",
            Self::OutOfMemory => "oom",
            Self::Killed => "killed",
            Self::Failed => "failed",
        }
    }

    /// The reason that `text` names; none for one of another version.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// Whether the command ended by itself: it exited, or a signal that it may have sent itself ended it.
    #[must_use]
    pub const fn is_of_command(self) -> bool {
        matches!(self, Self::Exited | Self::Signaled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_as_it_is_written() {
        assert!(ExitReason::ALL.iter().all(|reason| ExitReason::parse(reason.as_str()) == Some(*reason)));
        assert_eq!(ExitReason::parse("Exited"), None);
    }
}
