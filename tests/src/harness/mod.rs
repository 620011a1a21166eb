//! What every test stands on: a private daemon, played users, a look at the host before and after.

mod api;
mod daemon;
mod host;
mod internet;
mod mounted;
mod parts;
mod peer;
mod program;
mod pty;
mod run;
mod small_disk;
mod tmux;
mod trials;
mod users;
mod wait;
mod world;

pub use api::Api;
pub use daemon::{Daemon, Part, Setup, binaries, has_faults};
pub use host::{Snapshot, within};
pub use internet::{Internet, NetNs, Question, RejectWith, Resolver};
pub use mounted::Mounted;
pub use parts::{Parts, descriptors_of, kill, peak_memory, signal, uid_of};
pub use peer::{as_user, number_of};
pub use program::start;
pub use pty::Pty;
pub use run::{RunOutput, Session, complete, objects, text_at};
pub use small_disk::SmallDisk;
pub use tmux::Tmux;
pub use trials::{Alone, Named, Test, alone, named, not_tried, run_alone, run_in, run_one_by_one, run_tests};
pub use users::{ADMINS, User};
pub use wait::{long, patience, wait_for_exit};
pub use world::World;
