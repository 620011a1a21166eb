//! What no profile and no flag exceeds: `[bounds]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::GroupBounds;
use crate::ceiling::{Ceiling, Hosts};
use crate::mode::Mode;
use crate::quantity::{bytes, milliseconds, optional_bytes};

/// Limits of the site.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Sessions on the host.
    pub max_sessions: u32,
    /// Sessions of one user.
    pub max_sessions_per_user: u32,
    /// Bytes of all sessions of a user together.
    #[serde(deserialize_with = "bytes")]
    pub user_memory: u64,
    /// Processes of all sessions of a user together.
    pub user_pids: u64,
    /// CPUs of all sessions of a user together.
    pub user_cpus: f64,
    /// Requests of one user a second, on average; a burst may be twice that.
    pub user_requests: u32,
    /// Bytes of all sessions on the host; absent: seven eighths of its memory.
    #[serde(deserialize_with = "optional_bytes")]
    pub host_memory: Option<u64>,
    /// Processes of all sessions on the host; absent: half of what the kernel can have.
    pub host_pids: Option<u64>,
    /// Bytes of one session.
    #[serde(deserialize_with = "bytes")]
    pub memory: u64,
    /// Processes of one session.
    pub pids: u64,
    /// CPUs of one session.
    pub cpus: f64,
    /// Bytes that one session may write to its overlay.
    #[serde(deserialize_with = "bytes")]
    pub disk: u64,
    /// Files, directories and links that one session may make in its overlay.
    pub inodes: u64,
    /// Milliseconds that one session may last.
    #[serde(deserialize_with = "milliseconds")]
    pub timeout: u64,
    /// Workspace modes that nobody gets.
    pub modes_forbidden: Vec<Mode>,
    /// Whether ports of sessions may appear on the host's loopback.
    pub publish: bool,
    /// Whether sessions may reach ports of the host's loopback.
    pub local: bool,
    /// Whether opaque rules may be for ports 80 and 443.
    pub opaque: bool,
    /// The names and networks that a session may ever be allowed.
    pub hosts: Vec<Hosts>,
    /// Those that none ever reaches.
    pub hosts_denied: Vec<Hosts>,
    /// What stands in the place of these for the members of a group, by its name.
    pub group: BTreeMap<String, GroupBounds>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_sessions: 1000,
            max_sessions_per_user: 32,
            user_memory: 16 << 30,
            user_pids: 16_384,
            user_cpus: 1024.0,
            user_requests: 4000,
            host_memory: None,
            host_pids: None,
            memory: 8 << 30,
            pids: 8192,
            cpus: 256.0,
            disk: 100 << 30,
            inodes: 4_000_000,
            timeout: 30 * 86_400_000,
            modes_forbidden: Vec::new(),
            publish: true,
            local: true,
            opaque: false,
            hosts: vec![Hosts::All],
            hosts_denied: Vec::new(),
            group: BTreeMap::new(),
        }
    }
}

impl Bounds {
    /// What sessions may reach at most.
    pub fn ceiling(&self) -> Ceiling {
        Ceiling {
            hosts: self.hosts.clone(),
            denied: self.hosts_denied.clone(),
            local: self.local,
            publish: self.publish,
            opaque: self.opaque,
        }
    }
}
