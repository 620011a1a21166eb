//! What each account may have, and how often it may ask.

pub mod rate;
pub mod slots;

use std::sync::Arc;

use agentd_policy::config::Bounds;

use self::rate::Rate;
use self::slots::Slots;

/// Connections of one user besides those of its sessions.
const SPARE_CONNECTIONS: u32 = 32;
/// Requests of one user that have not come in whole, each of which may hold its longest message in memory.
const REQUESTS: u32 = 32;
/// Streams of events of one user, each of which may hold files open.
const FOLLOWERS: u32 = 32;
/// Streams of output and states of one user besides those of its sessions.
const SPARE_WATCHERS: u32 = 32;
/// Clients at commands of one user, besides one for each session.
const SPARE_ATTACHED: u32 = 64;

/// The quotas of all accounts, each counted by account.
pub struct Quotas {
    pub connections: Arc<Slots>,
    /// Requests whose message is being read.
    pub requests: Arc<Slots>,
    /// Streams of events and logs.
    pub followers: Arc<Slots>,
    /// Streams of states, and stops.
    pub watchers: Arc<Slots>,
    /// Clients at commands.
    pub attached: Arc<Slots>,
    pub rate: Rate,
}

impl Quotas {
    pub fn new(bounds: &Bounds) -> Self {
        let sessions = bounds.max_sessions_per_user;
        Self {
            connections: Slots::new(sessions.saturating_add(SPARE_CONNECTIONS)),
            requests: Slots::new(REQUESTS),
            followers: Slots::new(FOLLOWERS),
            watchers: Slots::new(sessions.saturating_add(SPARE_WATCHERS)),
            attached: Slots::new(sessions.saturating_add(SPARE_ATTACHED)),
            rate: Rate::new(bounds.user_requests),
        }
    }

    /// Applies the site's new bounds. An account that has more than it may now keeps that, and gets no more.
    pub fn set(&self, bounds: &Bounds) {
        let sessions = bounds.max_sessions_per_user;
        self.rate.set(bounds.user_requests);
        self.connections.set(sessions.saturating_add(SPARE_CONNECTIONS));
        self.watchers.set(sessions.saturating_add(SPARE_WATCHERS));
        self.attached.set(sessions.saturating_add(SPARE_ATTACHED));
    }
}
