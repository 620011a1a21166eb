//! Messages between launcher and keeper, about a live change of what the session may reach.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::network::Change;
use crate::wire::Message;

/// Launcher to keeper, on a connection of its own, which has one question. Whoever makes it has uid 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRoot {
    /// The session may reach more or less from now on: the word of a caller that the launcher attested and that may
    /// steer it. Answered by [`ToRoot::Changed`].
    Change {
        /// What is allowed and denied.
        change: Box<Change>,
        /// The caller's uid.
        uid: u32,
    },
}

impl Message for FromRoot {
    fn descriptors(&self) -> RangeInclusive<usize> {
        0..=0
    }
}

/// Keeper to launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRoot {
    /// The change is in force, or why not.
    Changed(Result<(), Refusal>),
}

impl Message for ToRoot {
    fn descriptors(&self) -> RangeInclusive<usize> {
        0..=0
    }
}
