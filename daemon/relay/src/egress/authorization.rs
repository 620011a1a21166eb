//! What a connection is authorized for, and whether it still is when other rules are in force.

use std::net::SocketAddr;

use agentd_policy::egress::{Egress, Purpose};
use agentd_policy::hosts::{HostName, HostVerdict};
use agentd_policy::protocol::Protocol;
use agentd_policy::rule::Rule;

use super::judge::Place;

/// The most names that one is used for, and as many addresses: each is judged again whenever the rules change.
const MAX_USED: usize = 1024;

/// What a connection is used for, by its rules.
pub struct Authorization {
    /// What it was dialled for.
    pub purpose: Purpose,
    /// Each name that it was used for, and where.
    pub names: Vec<(HostName, Place)>,
    /// The rule that allowed it, as it was then.
    pub rule: Option<String>,
    /// The names that the beginning shows of what is not inspected.
    pub shown: Vec<HostName>,
    /// It is open by an opaque rule.
    pub opaque: bool,
    /// Each address that a proxy was asked for.
    addresses: Vec<SocketAddr>,
    /// Nothing that its client sends is inspected.
    unseen: bool,
}

impl Authorization {
    /// To an address; `unseen`, if nothing that its client sends is inspected.
    pub fn net(unseen: bool) -> Self {
        Self {
            purpose: Purpose::Net,
            names: Vec::new(),
            addresses: Vec::new(),
            shown: Vec::new(),
            opaque: false,
            rule: None,
            unseen,
        }
    }

    /// It is used for `name` from now on.
    ///
    /// # Errors
    /// The rule by which it is used for too many.
    pub fn use_for(&mut self, name: &HostName, place: Place) -> Result<(), Rule> {
        if self.names.iter().any(|(used, there)| used == name && *there == place) {
            return Ok(());
        }
        if self.names.len() == MAX_USED {
            return Err(Rule::TcpNames);
        }
        self.names.push((name.clone(), place));
        Ok(())
    }

    /// A proxy was asked for `address`.
    ///
    /// # Errors
    /// As [`Authorization::use_for`].
    pub fn use_at(&mut self, address: SocketAddr) -> Result<(), Rule> {
        if self.addresses.contains(&address) {
            return Ok(());
        }
        if self.addresses.len() == MAX_USED {
            return Err(Rule::TcpNames);
        }
        self.addresses.push(address);
        Ok(())
    }

    /// Whether it is used for `name`, wherever.
    pub fn is_used_for(&self, name: &HostName) -> bool {
        self.names.iter().any(|(used, _)| used == name)
    }

    /// Whether `plan` allows all that it is used for, to `to`; `opaque`, whether it is not inspected by that.
    pub fn holds(&self, plan: &Egress, to: SocketAddr, opaque: bool) -> bool {
        let by_net = plan.net(to, Protocol::Tcp).is_some();
        let named = |(name, place): &(HostName, Place)| {
            let verdict = plan.hosts.connect(name, place.to.port(), Protocol::Tcp);
            match verdict {
                HostVerdict::Allowed(_) => true,
                HostVerdict::Denied(_) => false,
                HostVerdict::Unnamed => by_net && !place.proxied,
            }
        };
        let denied = |name: &HostName| matches!(plan.hosts.resolve(name), HostVerdict::Denied(_));
        // Whom it asks for is not known: it may be whom a deny names now.
        let seen = !self.unseen || plan.hosts.deny.is_empty();
        seen && (!self.opaque || (opaque && !self.shown.iter().any(denied)))
            && self.addresses.iter().all(|address| plan.net(*address, Protocol::Tcp).is_some())
            && self.names.iter().all(named)
            && match &self.purpose {
                Purpose::Local => plan.local.contains(&to.port()),
                Purpose::Net => by_net || !self.names.is_empty(),
                Purpose::Name(_) | Purpose::Resolver | Purpose::Publish(_) => true,
            }
    }
}
