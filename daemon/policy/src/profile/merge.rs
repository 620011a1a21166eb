//! How a child is laid over its parents: each type of a profile's keys has one way.

use std::collections::BTreeMap;

use super::network::NetworkDefault;
use super::{Profile, Schema};
use crate::config::Bounds;
use crate::limits::Asked;
use crate::names::ProfileName;

/// What a child's value becomes over its parent's.
pub trait Overlay {
    /// Lays `child` over `self`.
    fn overlay(&mut self, child: Self);
}

/// An entry of a list.
pub trait Item: PartialEq {
    /// Whether a child's entry `other` is about the same: then it is laid over this one, and not added.
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    /// Lays the same entry of a child over `self`.
    fn merge(&mut self, _child: Self)
    where
        Self: Sized,
    {
    }
}

/// A single value replaces the parent's.
impl<T> Overlay for Option<T> {
    fn overlay(&mut self, child: Self) {
        if child.is_some() {
            *self = child;
        }
    }
}

/// A list adds what is not there yet, in order.
impl<T: Item> Overlay for Vec<T> {
    fn overlay(&mut self, child: Self) {
        for entry in child {
            match self.iter_mut().find(|parent| parent.is_same(&entry)) {
                Some(parent) => parent.merge(entry),
                None => self.push(entry),
            }
        }
    }
}

impl Overlay for BTreeMap<String, String> {
    fn overlay(&mut self, child: Self) {
        self.extend(child);
    }
}

impl Overlay for Asked {
    fn overlay(&mut self, child: Self) {
        *self = self.overlaid(&child);
    }
}

/// So does a value that is always there.
impl Overlay for String {
    fn overlay(&mut self, child: Self) {
        *self = child;
    }
}

impl Overlay for Schema {
    fn overlay(&mut self, _child: Self) {}
}

impl Item for String {}
impl Item for ProfileName {}

/// A table of a profile: a child is laid over it key by key.
macro_rules! table {
    ($(#[$attr:meta])* pub struct $name:ident { $($(#[$key_attr:meta])* pub $key:ident: $type:ty,)* }) => {
        $(#[$attr])*
        pub struct $name {
            $($(#[$key_attr])* pub $key: $type,)*
        }

        impl $crate::profile::merge::Overlay for $name {
            fn overlay(&mut self, child: Self) {
                $($crate::profile::merge::Overlay::overlay(&mut self.$key, child.$key);)*
            }
        }
    };
}
pub(super) use table;

impl Profile {
    /// Lays `child` over `self`: its lists add to the parent's, its single values replace them. What a
    /// parent denies, masks or protects stays.
    #[must_use]
    pub fn overlaid(mut self, child: Self) -> Self {
        let closed = self.network.default == Some(NetworkDefault::None);
        (self.name, self.extends) = (None, Vec::new());
        self.overlay(child);
        // No child takes it back.
        if closed {
            self.network.default = Some(NetworkDefault::None);
        }
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
