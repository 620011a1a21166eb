//! What a session may reach: its own rules, and before them the site's blocklists.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agentd_kernel::memfd::Sealed;
use agentd_policy::blocklist::{Blocklist, TableError};
use agentd_policy::denial::Denial;
use agentd_policy::egress::Egress;
use agentd_policy::hosts::HostName;

/// The rules that are in force.
#[derive(Clone)]
pub struct Rules {
    plan: Arc<Egress>,
    listed: Option<Arc<Blocklist>>,
}

impl Rules {
    /// Those of `plan`, with these blocklists.
    pub fn new(plan: Arc<Egress>, listed: Option<Arc<Blocklist>>) -> Self {
        Self { plan, listed }
    }

    /// Whether no blocklist has `name`, which takes some reads: of what is pinned it is known, because the lists of a
    /// session never change.
    ///
    /// # Errors
    /// The denial.
    pub fn unlisted(&self, name: &HostName) -> Result<(), Denial> {
        self.listed.as_ref().map_or(Ok(()), |listed| listed.check(name))
    }

    /// Whether some name is denied whatever its address.
    pub fn denies_names(&self) -> bool {
        !self.hosts.deny.is_empty() || self.listed.is_some()
    }
}

impl Deref for Rules {
    type Target = Egress;

    fn deref(&self) -> &Egress {
        &self.plan
    }
}

/// The blocklists in the memory that `fd` is.
///
/// # Errors
/// If it is no sealed memory, or no table.
pub fn table(fd: OwnedFd) -> Result<Blocklist, TableError> {
    let memory = Sealed::adopt(fd)?;
    let size = memory.size()?;
    Blocklist::open(size, move |buffer, offset| memory.read_exact_at(buffer, offset))
}
