//! What goes wrong while a session is built.

use agentd_policy::Refusal;

/// A step that could not be done in full; the session is not built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Fault(pub Refusal);

impl Fault {
    /// `step` failed on `object` because of `why`; the host's administrator has to look.
    pub fn host(step: &str, object: &str, why: impl std::fmt::Display) -> Self {
        let mend = "see `agentctl doctor` and the launcher's log for what this host lacks";
        Self(Refusal::new(format!("{object}: {why}"), format!("build.{step}"), mend))
    }

    /// `object` breaks `rule`; the caller can mend it.
    pub fn caller(object: impl AsRef<str>, rule: &str, mend: impl AsRef<str>) -> Self {
        Self(Refusal::new(object, rule, mend))
    }
}

/// Names the step and the object of an error.
pub trait At<T> {
    /// The error as a fault of the host.
    fn at(self, step: &str, object: &str) -> Result<T, Fault>;
}

impl<T, E: std::fmt::Display> At<T> for Result<T, E> {
    fn at(self, step: &str, object: &str) -> Result<T, Fault> {
        self.map_err(|e| Fault::host(step, object, e))
    }
}
