//! One kernel facility a file: a part of the plan in, a handle out.
//!
//! [`packets`] and [`offer`] are safe and small, for every process. The rest needs the feature `session`,
//! which only the launcher asks for. This is the only crate of agentd that may hold `unsafe`; each use
//! argues why it is sound.

pub mod offer;
pub mod packets;
