//! What all parts of the service share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_policy::config::Config;
use tokio::sync::Semaphore;

use crate::launcher::Launcher;
use crate::registry::Registry;
use crate::slots::Slots;
use crate::store::Store;
use crate::users::Users;

/// Connections of one user besides those of its sessions.
const SPARE: u32 = 32;
/// Requests of one user that have not come in whole, each of which may hold its longest message in memory.
const REQUESTS: u32 = 32;
/// Streams of events of one user, each of which may hold files open.
const FOLLOWERS: u32 = 32;
/// Threads that read event files, for all users together and in turn.
const READERS: usize = 2;

/// The service.
pub struct Host {
    pub config: Config,
    pub launcher: Launcher,
    pub registry: Registry,
    pub store: Store,
    pub users: Users,
    /// Of each user: connections, requests that are being read, and streams of events.
    pub connections: Arc<Slots>,
    pub requests: Arc<Slots>,
    pub followers: Arc<Slots>,
    /// Event files that are read at this moment.
    pub readers: Semaphore,
}

impl Host {
    pub fn new(config: Config, launcher: Launcher, store: Store) -> Self {
        let registry = Registry::new(&config.bounds);
        let connections = Slots::new(config.bounds.max_sessions_per_user.saturating_add(SPARE));
        Self {
            config,
            launcher,
            registry,
            store,
            users: Users::default(),
            connections,
            requests: Slots::new(REQUESTS),
            followers: Slots::new(FOLLOWERS),
            readers: Semaphore::new(READERS),
        }
    }
}

/// Locks `mutex`. What it guards is whole after each statement: a panic elsewhere does not spoil it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
