//! What a session changed in a workspace: found, shown, applied and undone, all of it as the caller.
//!
//! Nothing here runs a program, and nothing that the agent wrote is more than bytes. Three trees are compared
//! ([`trees::Trees`]): the workspace itself, the session's upper directory, which says where to look, and the merged
//! view, in which the kernel shows what the session saw. Redirects, opaque directories and whiteouts are the kernel's
//! to interpret, so that a review cannot see another tree than the session did. Every name is opened beneath one of
//! the three, without following a link.
//!
//! [`walk::changes`] makes [`change::Changes`] of them; what is shown is made of these. [`apply`] makes
//! them in the workspace.

pub mod apply;
pub mod base;
pub mod beneath;
pub mod calls;
pub mod change;
pub mod content;
pub mod danger;
pub mod digest;
pub mod error;
#[cfg(test)]
mod fixture;
mod frame;
pub mod hunks;
pub mod lines;
pub mod merge;
pub mod path;
pub mod seen;
pub mod show;
pub mod state;
#[cfg(test)]
mod tests;
pub mod trees;
pub mod walk;
