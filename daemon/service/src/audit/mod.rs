//! What happened in a session, as events of the API, and the message of its exit.

mod aside;
mod convert;
pub mod exit;
mod findings;
mod net;
pub mod note;
pub mod numbering;
pub mod reached;
pub mod review;
