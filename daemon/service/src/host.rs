//! What all parts of the service share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_policy::config::Config;

use crate::connection::Slots;
use crate::launcher::Launcher;
use crate::registry::Registry;
use crate::store::Store;
use crate::users::Users;

/// The service.
pub struct Host {
    pub config: Config,
    pub launcher: Launcher,
    pub registry: Registry,
    pub store: Store,
    pub users: Users,
    pub slots: Arc<Slots>,
}

impl Host {
    pub fn new(config: Config, launcher: Launcher, store: Store) -> Self {
        let registry = Registry::new(&config.bounds);
        let slots = Arc::new(Slots::new(&config.bounds));
        Self { config, launcher, registry, store, users: Users::default(), slots }
    }
}

/// Locks `mutex`. What it guards is whole after each statement: a panic elsewhere does not spoil it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
