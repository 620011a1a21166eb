//! Why a connection ended, as its event has it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reasons. `docs/json.md` has what each means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is explained by its text")]
pub enum ConnectionEnd {
    Closed,
    Reset,
    Idle,
    Policy,
    Limit,
    /// Another address of the name was faster.
    Unused,
    /// Its server could not be reached, or an error ended it: this one, as its system call or protocol names it.
    Failed(String),
}

impl ConnectionEnd {
    /// By an error.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// How many of its bytes are of an error.
    pub(crate) fn variable_bytes(&self) -> usize {
        if let Self::Failed(error) = self { error.len() } else { 0 }
    }
}

impl fmt::Display for ConnectionEnd {
    /// As events and records have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Policy => "policy",
            Self::Limit => "limit",
            Self::Unused => "unused",
            Self::Failed(error) => return write!(f, "failed: {error}"),
        })
    }
}
