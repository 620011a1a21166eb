//! What every test stands on: a private daemon, played users, a look at the host before and after.

mod daemon;
mod host;
mod pty;
mod run;
mod trials;
mod users;
mod wait;
mod world;

pub use daemon::{Daemon, binaries};
pub use host::{Snapshot, within};
pub use pty::Pty;
pub use run::{RunOutput, Session, objects, text_at};
pub use trials::{Named, Test, named, run_one_by_one, run_tests};
pub use users::User;
pub use wait::wait_for_exit;
pub use world::World;
