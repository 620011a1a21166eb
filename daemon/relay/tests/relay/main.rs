//! The relay as it is started, with a test in the place of builder, service and keeper.

#![allow(clippy::unwrap_used)]

mod confined;
mod egress;
mod endings;
mod pipes;
mod resume;
mod rig;
mod terminal;
