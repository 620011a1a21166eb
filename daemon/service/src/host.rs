//! What all parts of the service share.

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::launcher::Launcher;
use crate::metrics::Scrapes;
use crate::rate::Rate;
use crate::registry::Registry;
use crate::site::Site;
use crate::slots::Slots;
use crate::store::Store;
use crate::sync::lock;
use crate::users::Users;
use crate::watchdog::Heartbeat;

/// Connections of one user besides those of its sessions.
const SPARE: u32 = 32;
/// Requests of one user that have not come in whole, each of which may hold its longest message in memory.
const REQUESTS: u32 = 32;
/// Streams of events of one user, each of which may hold files open.
const FOLLOWERS: u32 = 32;
/// Streams of output and states of one user besides those of its sessions.
const WATCHERS: u32 = 32;
/// Clients at commands of one user, besides one for each session.
const ATTACHED: u32 = 64;
/// Threads that read files of events and output, for all users together and in turn.
const READERS: usize = 2;
/// Threads that write output, for all users together and in turn.
const DISK: usize = 4;

/// The service.
pub struct Host {
    /// What the site decides now.
    site: Mutex<Arc<Site>>,
    pub launcher: Launcher,
    pub registry: Registry,
    pub store: Store,
    pub users: Users,
    /// Of each user: connections, requests that are being read, streams of events, of output and states, and of
    /// commands.
    pub connections: Arc<Slots>,
    pub requests: Arc<Slots>,
    pub followers: Arc<Slots>,
    pub watchers: Arc<Slots>,
    pub attached: Arc<Slots>,
    /// How often each user asks.
    pub rate: Rate,
    /// Files that are read at this moment.
    pub readers: Semaphore,
    /// Files of output that are written.
    pub disk: Arc<Semaphore>,
    /// Of the task that looks after the link to the launcher.
    pub pulse: Heartbeat,
    /// Who asks for numbers.
    pub scrapes: Scrapes,
}

impl Host {
    pub fn new(site: Site, launcher: Launcher, store: Store) -> Self {
        let bounds = &site.config.bounds;
        let registry = Registry::new(bounds);
        registry.keep(site.config.audit.retain);
        let sessions = bounds.max_sessions_per_user;
        let connections = Slots::new(sessions.saturating_add(SPARE));
        let rate = Rate::new(bounds.user_requests);
        Self {
            site: Mutex::new(Arc::new(site)),
            launcher,
            registry,
            store,
            users: Users::default(),
            connections,
            requests: Slots::new(REQUESTS),
            followers: Slots::new(FOLLOWERS),
            watchers: Slots::new(sessions.saturating_add(WATCHERS)),
            attached: Slots::new(sessions.saturating_add(ATTACHED)),
            rate,
            readers: Semaphore::new(READERS),
            disk: Arc::new(Semaphore::new(DISK)),
            pulse: Heartbeat::new(),
            scrapes: Scrapes::default(),
        }
    }

    /// What the site decides at this moment; the same for as long as it is held.
    pub fn site(&self) -> Arc<Site> {
        lock(&self.site).clone()
    }

    /// The site has decided anew. Whoever has more than it may now keeps that, and gets no more.
    pub fn take(&self, site: Site) {
        let bounds = &site.config.bounds;
        let sessions = bounds.max_sessions_per_user;
        self.registry.bound(bounds);
        self.registry.keep(site.config.audit.retain);
        self.rate.set(bounds.user_requests);
        self.connections.set(sessions.saturating_add(SPARE));
        self.watchers.set(sessions.saturating_add(WATCHERS));
        self.attached.set(sessions.saturating_add(ATTACHED));
        self.store.keep(site.config.audit.retain);
        *lock(&self.site) = Arc::new(site);
    }
}
