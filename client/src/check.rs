//! A line of what `agentctl doctor` prints.

use agentd_proto::v1::Check;

/// A check in one line of code.
pub fn check(name: &str, status: &str, found: impl Into<String>, impact: &str, fix: &str) -> Check {
    Check {
        name: name.into(),
        status: status.into(),
        found: found.into(),
        impact: impact.into(),
        fix: fix.into(),
    }
}
