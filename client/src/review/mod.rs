//! Reviews of what a session changed: shown, applied, taken back, thrown away. All of it is done here, as the caller.

mod apply;
mod ask;
mod conflict;
mod diff;
mod ended;
mod left;
mod loaded;
mod open;
mod pager;
mod plan;
mod select;
mod undo;

pub use apply::apply;
pub use ask::can_ask;
pub use diff::diff;
pub use ended::{After, attached_ended, ended, unless_interrupted};
pub use undo::{discard, forget};
