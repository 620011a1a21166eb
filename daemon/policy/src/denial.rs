//! Why something may not be reached.

use std::fmt;

use crate::addresses::Kind;
use crate::rule::Rule;

/// Why an address may not be reached, as events name the rule.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No rule names it.
    Default,
    /// The session has no network: no rule lets anything out.
    Closed,
    /// A deny names it: the pattern.
    Denied(String),
    /// The site's blocklist of that name has it.
    Listed(String),
    /// The site's blocklists cannot be read.
    Unreadable,
    /// The address is of a special-purpose range that no rule names.
    Special(Kind),
    /// The address is the host's own, and no rule is for it alone.
    Own,
    /// The name is allowed and did not answer with this address lately.
    Unpinned,
    /// It is none of the plan's resolvers.
    Resolver,
    /// It is none of the plan's published ports.
    Publish,
    /// The site lets no session reach it: the entry of its list.
    Ceiling(String),
}

impl Denial {
    /// The rule, without what is particular to this denial.
    pub fn rule(&self) -> Rule {
        match self {
            Self::Default => Rule::Default,
            Self::Closed => Rule::NetworkNone,
            Self::Denied(_) => Rule::Deny,
            Self::Listed(_) => Rule::Blocklist,
            Self::Unreadable => Rule::BlocklistUnreadable,
            Self::Special(_) => Rule::Address,
            Self::Own => Rule::AddressOwn,
            Self::Unpinned => Rule::PinUnknown,
            Self::Resolver => Rule::ResolverUnknown,
            Self::Publish => Rule::PublishUnknown,
            Self::Ceiling(_) => Rule::BoundsHostsDenied,
        }
    }
}

impl fmt::Display for Denial {
    /// As events have it: the rule's name, and behind it the entry or the kind of address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule();
        match self {
            Self::Denied(entry) | Self::Listed(entry) | Self::Ceiling(entry) => write!(f, "{rule} {entry}"),
            Self::Special(kind) => write!(f, "{rule}.{kind}"),
            _ => rule.fmt(f),
        }
    }
}

impl std::error::Error for Denial {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_name_the_rule_and_what_it_is_about() {
        for (denial, text) in [
            (Denial::Default, "default"),
            (Denial::Closed, "network.none"),
            (Denial::Denied("*.example".into()), "deny *.example"),
            (Denial::Listed("ads".into()), "blocklist ads"),
            (Denial::Unreadable, "blocklist.unreadable"),
            (Denial::Special(Kind::Private), "address.private"),
            (Denial::Own, "address.own"),
            (Denial::Unpinned, "pin.unknown"),
            (Denial::Resolver, "resolver.unknown"),
            (Denial::Publish, "publish.unknown"),
            (Denial::Ceiling("192.0.2.0/24".into()), "bounds.hosts_denied 192.0.2.0/24"),
        ] {
            assert_eq!(denial.to_string(), text);
        }
    }
}
