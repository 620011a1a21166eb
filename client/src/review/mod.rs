//! Reviews of what a session changed.

pub mod open;
