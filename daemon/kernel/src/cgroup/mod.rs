//! Control groups: cgroup2 for tracking, freezing and killing, and for limits wherever it has the
//! controller; the v1 hierarchy of the controller otherwise (`cgroups(7)`, kernel docs `cgroup-v2.rst`,
//! `cgroup-v1/`). The same relative path is used in every hierarchy.

mod files;
mod freezer;
mod group;
mod hierarchies;
mod visible;
mod watch;

pub use freezer::Freezer;
pub use group::{Group, Limits};
pub use hierarchies::{Hierarchies, mount_point};
pub use watch::Watch;

/// What was refused, with the file or directory.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or directory of a hierarchy.
    #[error("cgroup {what}: {source}")]
    File {
        /// Its name, and what was done.
        what: String,
        #[source]
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The host lacks something.
    #[error("cgroup: {0}")]
    Host(String),
}

fn failed(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> CgroupError {
    let what = what.into();
    move |source| CgroupError::File { what, source }
}

/// What limits a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Pids,
    Cpu,
}

const CONTROLLERS: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}
