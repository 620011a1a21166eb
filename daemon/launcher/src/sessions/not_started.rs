//! Why the launcher's part of a build failed.

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use agentd_policy::step::Step;
use agentd_session::error::HostError;

/// A step that failed: the session is refused, or not prepared.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct NotStarted {
    pub step: Step,
    pub cause: HostError,
}

impl From<NotStarted> for Refusal {
    fn from(error: NotStarted) -> Self {
        Self::new(error.to_string(), Rule::Build(error.step), "see the launcher's log")
    }
}

/// Names the step in which something failed.
pub trait InStep<T> {
    /// The error in `step`.
    fn in_step(self, step: Step) -> Result<T, NotStarted>;
}

impl<T, E: Into<HostError>> InStep<T> for Result<T, E> {
    fn in_step(self, step: Step) -> Result<T, NotStarted> {
        self.map_err(|error| NotStarted { step, cause: error.into() })
    }
}
