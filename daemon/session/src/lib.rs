//! A session's own processes, which the launcher forks: the builder that makes a session and becomes its keeper; init,
//! which is pid 1 in it and forks its commands; the meter and the scouts.

mod builder;
mod command;
mod cpus;
pub mod error;
mod host;
pub mod image;
mod init;
mod keeper;
pub mod log;
mod meter;
mod order;
mod public_etc;
pub mod refusals;
mod scout;
mod stdio;

pub use builder::{Builder, COMMON_DIR, COPY_ON_WRITE};
pub use cpus::Cpus;
pub use host::{AgentFilters, Host};
pub use meter::{Reserve, Space, Usage};
pub use order::{DiskOrder, Order, OrderDescriptors, Owner, Reply, monotonic_ns};
pub use public_etc::PublicEtc;
