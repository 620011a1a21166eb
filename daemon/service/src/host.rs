//! The parts of the service that a request may need: what the site decides, sessions, their files and quotas.

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::launcher::Launcher;
use crate::metrics::Snapshot;
use crate::quota::Quotas;
use crate::session::Phase;
use crate::session::registry::Registry;
use crate::site::Site;
use crate::store::Store;
use crate::sync::lock;
use crate::users::Users;

/// Threads that read files of events and output, for all users together and in turn.
const READERS: usize = 2;
/// Threads that write output, for all users together and in turn.
const WRITERS: usize = 4;

pub struct Host {
    site: Mutex<Arc<Site>>,
    pub launcher: Arc<Launcher>,
    pub registry: Registry,
    pub store: Store,
    pub users: Users,
    pub quotas: Quotas,
    /// Permits to read files of events and output.
    pub readers: Semaphore,
    /// Permits to write files of output.
    pub writers: Arc<Semaphore>,
}

impl Host {
    pub fn new(site: Site, store: Store) -> Self {
        let bounds = &site.config.bounds;
        let registry = Registry::new(bounds);
        registry.keep(site.config.audit.retain);
        Self {
            launcher: Arc::new(Launcher::new()),
            registry,
            store,
            users: Users::default(),
            quotas: Quotas::new(bounds),
            readers: Semaphore::new(READERS),
            writers: Arc::new(Semaphore::new(WRITERS)),
            site: Mutex::new(Arc::new(site)),
        }
    }

    /// What the site decides at this moment; the same for as long as it is held.
    pub fn site(&self) -> Arc<Site> {
        lock(&self.site).clone()
    }

    /// Puts a new decision of the site in force. An account that has more than it may now keeps that, and gets no more.
    pub fn reload(&self, site: Site) {
        let bounds = &site.config.bounds;
        self.registry.bound(bounds);
        self.registry.keep(site.config.audit.retain);
        self.quotas.set(bounds);
        self.store.keep(site.config.audit.retain);
        *lock(&self.site) = Arc::new(site);
    }

    /// The present counts, as metrics export them.
    pub fn snapshot(&self) -> Snapshot {
        let (mut counts, mut unsynced) = ([0; 5], 0);
        for session in self.registry.all() {
            if session.is_removed() {
                continue;
            }
            counts[session.phase() as usize] += 1;
            unsynced += session.log.written().saturating_sub(session.log.committed());
        }
        let sessions = [
            (Phase::Creating, "creating"),
            (Phase::Running, "running"),
            (Phase::Stopping, "stopping"),
            (Phase::Ended, "ending"),
            (Phase::Cleared, "ended"),
        ];
        let quotas = &self.quotas;
        Snapshot {
            sessions: sessions.map(|(phase, state)| (state, counts[phase as usize])),
            queues: [("store", self.store.waiting()), ("launcher", self.launcher.waiting())],
            connections: quotas.connections.taken(),
            clients: [
                ("commands", quotas.attached.taken()),
                ("events", quotas.followers.taken()),
                ("states", quotas.watchers.taken()),
                ("requests", quotas.requests.taken()),
            ],
            store_unsynced: unsynced,
            store_failed: self.store.check().is_err(),
            launcher_up: *self.launcher.present().borrow() != 0,
        }
    }
}
