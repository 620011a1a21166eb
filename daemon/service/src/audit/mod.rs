//! What a keeper saw, as events of the API, and what is said of a session at its end.

mod aside;
pub mod convert;
mod left;
mod net;
pub mod reached;
