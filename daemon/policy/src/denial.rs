//! Why something may not be reached.

/// Why an address may not be reached, as events name the rule.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No rule names it.
    #[error("default")]
    Default,
    /// The session has no network: no rule lets anything out.
    #[error("network.none")]
    Closed,
    /// A deny names it: the pattern.
    #[error("deny {0}")]
    Denied(String),
    /// The site's blocklist of that name has it.
    #[error("blocklist {0}")]
    Listed(String),
    /// The site's blocklists cannot be read.
    #[error("blocklist.unreadable")]
    Unreadable,
    /// The address is of a special-purpose range that no rule names.
    #[error("address.{0}")]
    Special(String),
    /// The name is allowed and did not answer with this address lately.
    #[error("pin.unknown")]
    Unpinned,
    /// It is none of the plan's resolvers.
    #[error("resolver.unknown")]
    Resolver,
    /// It is none of the plan's published ports.
    #[error("publish.unknown")]
    Publish,
    /// The site lets no session reach it: the entry of its list.
    #[error("bounds.hosts_denied {0}")]
    Ceiling(String),
}
