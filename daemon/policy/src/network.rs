//! What is to be allowed and denied besides what is, and what becomes of an [`Egress`] with it.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::addresses::Net;
use crate::allow::AllowRule;
use crate::allow::parse::denied;
use crate::caps::{self, Capped, Caps};
use crate::egress::Egress;
use crate::hosts::{HostName, HostPattern, HostRule};
use crate::resolver::Resolver;
use crate::rule::Rule;

/// The most entries of one change.
pub const MAX_CHANGE: usize = 64;
/// The longest text of a change, as its event has it: printable ASCII.
pub const MAX_TEXT: usize = 2048;

/// What is to be allowed and denied, besides what is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What passes, and how much of it.
    pub allow: Vec<Capped>,
    /// Names that nothing can allow.
    pub deny: Vec<HostPattern>,
}

/// What the site gives to every session's egress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Whom names are asked of.
    pub resolvers: Vec<Resolver>,
    /// Domains that programs look for names in.
    pub search: Vec<HostName>,
    /// Special-purpose ranges that count as public ones.
    pub allow_private_ranges: Vec<Net>,
    /// The proxy by which names are reached, if there is one.
    pub proxy: Option<SocketAddr>,
}

impl Change {
    /// Reads entries as flags have them: without caps.
    ///
    /// # Errors
    /// The first that cannot be meant.
    pub fn parse(allow: &[String], deny: &[String]) -> Result<Self, Refusal> {
        let uncapped = |text: &String| Ok(Capped { rule: AllowRule::parse(text)?, caps: Caps::default() });
        Ok(Self {
            allow: allow.iter().map(uncapped).collect::<Result<_, Refusal>>()?,
            deny: deny.iter().map(|text| denied("deny", text)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether it holds something, and no more than one change may.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Refusal> {
        match self.allow.len() + self.deny.len() {
            0 => Err(Refusal::new("a change of nothing", Rule::NetworkChange, "name what to allow or deny")),
            1..=MAX_CHANGE => {
                self.allow.iter().try_for_each(|Capped { rule, caps }| caps::check(rule, *caps))
            }
            many => Err(Refusal::new(
                format!("{many} changes at once"),
                Rule::NetworkChange,
                format!("give at most {MAX_CHANGE}, or several times"),
            )),
        }
    }

    /// What a running session's egress becomes with it.
    ///
    /// # Errors
    /// What is denied already, what only a new session can have, and what goes beyond any plan.
    pub fn apply(&self, now: &Egress) -> Result<Egress, Refusal> {
        let mut next = now.clone();
        self.add_to(&mut next)?;
        now.may_become(&next)?;
        Ok(next)
    }
    /// Adds what somebody asks for by hand.
    ///
    /// # Errors
    /// What is denied already, and a name that nobody resolves.
    pub(crate) fn add_to(&self, egress: &mut Egress) -> Result<(), Refusal> {
        egress.deny(&self.deny);
        for Capped { rule, .. } in &self.allow {
            if let AllowRule::Host(HostRule { host, .. }) = rule
                && let Some(pattern) = egress.hosts.deny.iter().find(|pattern| pattern.covers(host))
            {
                return Err(Refusal::new(
                    format!("allow {rule}, while {pattern} is denied"),
                    Rule::NetworkDeny,
                    "a deny wins over every allow and is not taken back: leave one of them out, from the start",
                ));
            }
        }
        egress.allow(&self.allow)
    }
}

impl fmt::Display for Change {
    /// On one line, cut at [`MAX_TEXT`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allow = self.allow.iter().map(|rule| format!("allow {rule}"));
        let deny = self.deny.iter().map(|pattern| format!("deny {pattern}"));
        const REST: &str = ", ...";
        let mut room = MAX_TEXT - REST.len();
        for (number, entry) in allow.chain(deny).enumerate() {
            let Some(left) = room.checked_sub(entry.len() + 2) else { return f.write_str(REST) };
            room = left;
            write!(f, "{}{entry}", if number > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
