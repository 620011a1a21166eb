//! Why something is refused: an address, a name, a request, or one more connection or byte.

use std::fmt;

use crate::rule::Rule;

/// Why it is refused: the rule, and what of it, as events have it.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What denies it.
    pub rule: Rule,
    /// The entry that it is in, or the kind of address, if the rule has any.
    pub about: Option<String>,
}

impl Denial {
    /// By an entry of `rule`, or a kind of what it is for.
    pub fn about(rule: Rule, about: impl fmt::Display) -> Self {
        Self { rule, about: Some(about.to_string()) }
    }

    /// Whether it is a cap of what an allow lets through.
    pub fn is_cap(&self) -> bool {
        matches!(self.rule, Rule::CapConnections | Rule::CapSent)
    }
}

impl From<Rule> for Denial {
    fn from(rule: Rule) -> Self {
        Self { rule, about: None }
    }
}

impl fmt::Display for Denial {
    /// The rule's name, and behind it what it is about, as the table of rules shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.about {
            None => self.rule.fmt(f),
            Some(about) if self.rule.argument().is_some_and(|shown| shown.starts_with('.')) => {
                write!(f, "{}.{about}", self.rule)
            }
            Some(about) => write!(f, "{} {about}", self.rule),
        }
    }
}

impl std::error::Error for Denial {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::Kind;

    #[test]
    fn events_name_the_rule_and_what_it_is_about() {
        for (denial, text) in [
            (Rule::Default.into(), "default"),
            (Denial::about(Rule::Deny, "*.example"), "deny *.example"),
            (Denial::about(Rule::Blocklist, "ads"), "blocklist ads"),
            (Denial::about(Rule::Address, Kind::Private), "address.private"),
            (Denial::about(Rule::CapSent, "local:5432"), "cap.sent local:5432"),
            (Denial::about(Rule::BoundsHostsDenied, "192.0.2.0/24"), "bounds.hosts_denied 192.0.2.0/24"),
        ] {
            assert_eq!(denial.to_string(), text);
        }
    }
}
