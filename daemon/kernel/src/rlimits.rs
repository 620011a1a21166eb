//! Resource limits (`setrlimit(2)`): lowered for good, and read back.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory that a process may lock.
const MEMLOCK: u64 = 8 << 20;
/// POSIX message queues of a user.
const MSGQUEUE: u64 = 819_200;
/// Signals that wait, and timers, of all its processes together.
const SIGPENDING: u64 = 16_384;
/// The stack's soft limit; the hard one stays as it is.
const STACK: u64 = 8 << 20;

/// What a process and all that it starts may use at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open descriptors of one process.
    pub open_files: u64,
}

/// The limits are in force.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// Open descriptors; fewer than asked for if the host allows fewer.
    pub open_files: u64,
}

/// A limit that is not in force.
#[derive(Debug, thiserror::Error)]
pub enum RlimitError {
    /// The kernel refused.
    #[error("cannot set the resource limit {limit}: {source}")]
    Set {
        /// Which limit, as in `setrlimit(2)`.
        limit: &'static str,
        /// The kernel's error for it.
        source: std::io::Error,
    },
    /// The kernel took it and says otherwise.
    #[error("the resource limit {0} is not in force after it was set")]
    NotInForce(&'static str),
}

impl Limits {
    /// `open_files`, and no limit that a session alone has.
    pub const fn of_files(open_files: u64) -> Self {
        Self { open_files }
    }

    /// Lowers this process's limits; none is ever raised above the hard limit that it has.
    ///
    /// # Errors
    /// [`RlimitError`]; some may be set.
    pub fn apply(self) -> Result<Enforced, RlimitError> {
        let hard = |value| Rlimit { current: Some(value), maximum: Some(value) };
        // 0 would still start a core handler that is a pipe; 1 starts none and writes nothing. The agent's filter
        // keeps it.
        lower("RLIMIT_CORE", Resource::Core, hard(1))?;
        // No real-time scheduling, whatever the launcher was given.
        lower("RLIMIT_RTPRIO", Resource::Rtprio, hard(0))?;
        lower("RLIMIT_MEMLOCK", Resource::Memlock, hard(MEMLOCK))?;
        lower("RLIMIT_MSGQUEUE", Resource::Msgqueue, hard(MSGQUEUE))?;
        lower("RLIMIT_SIGPENDING", Resource::Sigpending, hard(SIGPENDING))?;
        lower("RLIMIT_STACK", Resource::Stack, Rlimit { current: Some(STACK), maximum: None })?;
        let open_files = lower("RLIMIT_NOFILE", Resource::Nofile, hard(self.open_files))?;
        Ok(Enforced { open_files })
    }
}

/// Raises the hard limit of open descriptors to `count`, for a process that may, so that each that it starts can have
/// as many. One that is higher stays.
///
/// # Errors
/// If the host does not allow so many (`fs.nr_open`), or the process may not raise it.
pub fn raise_open_files(count: u64) -> Result<(), RlimitError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if maximum.is_none_or(|maximum| maximum >= count) {
        return Ok(());
    }
    let new = Rlimit { current, maximum: Some(count) };
    setrlimit(Resource::Nofile, new)
        .map_err(|e| RlimitError::Set { limit: "RLIMIT_NOFILE", source: e.into() })
}

/// Sets `wanted`, or the present hard limit where that is lower. Returns the soft limit.
fn lower(limit: &'static str, resource: Resource, wanted: Rlimit) -> Result<u64, RlimitError> {
    let ceiling = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let [current, maximum] = [wanted.current, wanted.maximum].map(|v| v.unwrap_or(u64::MAX).min(ceiling));
    let finite = |value| (value != u64::MAX).then_some(value);
    let new = Rlimit { current: finite(current), maximum: finite(maximum) };
    setrlimit(resource, new).map_err(|e| RlimitError::Set { limit, source: e.into() })?;
    if getrlimit(resource) != new {
        return Err(RlimitError::NotInForce(limit));
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockdown::testing::in_child;

    #[test]
    fn limits_hold_and_are_never_raised() {
        in_child(|| {
            let stack = getrlimit(Resource::Stack).maximum;
            assert_eq!(Limits { open_files: 64 }.apply().unwrap().open_files, 64);
            assert_eq!(Limits { open_files: 128 }.apply().unwrap().open_files, 64);
            assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(1), maximum: Some(1) });
            assert_eq!(getrlimit(Resource::Stack).maximum, stack);
            let files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/").ok()).take(100).collect();
            assert!(files.len() < 64);
        });
    }
}
