//! What a rule lets through at most, and by which rule a connection counts.
//!
//! Several rules may allow the same. Then the closest one counts: an exact name before `*.`, a longer `*.` before a
//! shorter, a longer prefix before a shorter; of those that are equally close the one that was given last, a child's
//! after its parents', a flag's after the profile's, a change's after both.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::allow::AllowRule;
use crate::rule::Rule;
use crate::size::format_size;

/// What a rule lets through at most; what is `None` has no bound of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Connections that are open at a time; flows of UDP alike.
    pub connections: Option<u32>,
    /// Bytes from the session, over all connections and its whole life.
    pub sent: Option<u64>,
}

impl Caps {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(most) = self.connections {
            write!(f, " max_connections={most}")?;
        }
        match self.sent {
            Some(most) => write!(f, " max_sent={}", format_size(most)),
            None => Ok(()),
        }
    }
}

/// A rule with what it lets through at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capped {
    /// The rule that connections are counted by.
    pub rule: AllowRule,
    /// What it lets through at most.
    pub caps: Caps,
}

impl fmt::Display for Capped {
    /// As [`AllowRule::parse`] reads the rule; caps behind it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.rule, self.caps)
    }
}

/// A cap of nothing is a deny that nobody sees.
pub(crate) fn check(rule: &AllowRule, caps: Caps) -> Result<(), Refusal> {
    for (key, none) in [("max_connections", caps.connections == Some(0)), ("max_sent", caps.sent == Some(0))]
    {
        if none {
            return Err(Refusal::new(
                format!("network.allow {rule} with {key} of 0"),
                Rule::NetworkCap,
                "give at least 1, or leave out the entry",
            ));
        }
    }
    Ok(())
}
