//! How a child is laid over its parents.

use super::Profile;
use super::filesystem::Workspace;
use super::network::NetworkDefault;
use crate::config::Bounds;

impl Profile {
    /// Lays `child` over `self`: its lists add to the parent's, its single values replace them. What a
    /// parent denies, masks or protects stays.
    #[must_use]
    pub fn overlaid(mut self, child: Self) -> Self {
        self.name = child.name;
        self.extends = child.extends;
        replace(&mut self.filesystem.home, child.filesystem.home);
        add(&mut self.filesystem.read, child.filesystem.read);
        add(&mut self.filesystem.write, child.filesystem.write);
        for workspace in child.filesystem.workspace {
            match self.filesystem.workspace.iter_mut().find(|w| w.path == workspace.path) {
                Some(parent) => parent.overlay(workspace),
                None => self.filesystem.workspace.push(workspace),
            }
        }
        for scratch in child.filesystem.scratch {
            match self.filesystem.scratch.iter_mut().find(|s| s.path == scratch.path) {
                Some(parent) => {
                    replace(&mut parent.size, scratch.size);
                    replace(&mut parent.exec, scratch.exec);
                }
                None => self.filesystem.scratch.push(scratch),
            }
        }
        // No child takes it back.
        if self.network.default != Some(NetworkDefault::None) {
            replace(&mut self.network.default, child.network.default);
        }
        add(&mut self.network.deny, child.network.deny);
        add(&mut self.network.allow, child.network.allow);
        add(&mut self.network.dns_types, child.network.dns_types);
        add(&mut self.network.publish, child.network.publish);
        replace(&mut self.network.proxy_env, child.network.proxy_env);
        add(&mut self.http, child.http);
        add(&mut self.credential, child.credential);
        add(&mut self.environment.allow, child.environment.allow);
        self.environment.set.extend(child.environment.set);
        add(&mut self.process.exec, child.process.exec);
        replace(&mut self.terminal.filter, child.terminal.filter);
        replace(&mut self.require.landlock_abi, child.require.landlock_abi);
        self.limits = self.limits.overlaid(&child.limits);
        replace(&mut self.approval.timeout, child.approval.timeout);
        self
    }

    /// Lowers each limit to the site's bound. For built-in profiles, which know nothing of the site; what
    /// somebody wrote down is refused instead.
    #[must_use]
    pub fn lowered(mut self, bounds: &Bounds) -> Self {
        self.limits = bounds.lowered(&self.limits);
        self
    }
}

impl Workspace {
    fn overlay(&mut self, child: Self) {
        replace(&mut self.mode, child.mode);
        add(&mut self.mask, child.mask);
        add(&mut self.protect, child.protect);
        add(&mut self.sockets, child.sockets);
    }
}

fn replace<T>(parent: &mut Option<T>, child: Option<T>) {
    if child.is_some() {
        *parent = child;
    }
}

/// Adds what is not there yet, in order.
fn add<T: PartialEq>(parent: &mut Vec<T>, child: Vec<T>) {
    for item in child {
        if !parent.contains(&item) {
            parent.push(item);
        }
    }
}
