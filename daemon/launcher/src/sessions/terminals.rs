//! Terminals: the host has so many for everybody (`kernel.pty.max`), and a session gets a share of what is left of
//! them.

use agentd_session::error::{HostError, On as _};

/// The most that one session gets.
const MOST: u32 = 256;
/// The least that it begins with.
const LEAST: u32 = 2;
/// Which part of what is left one session gets.
const PART: u32 = 64;

/// What the kernel counts.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// How many there can be besides those that only the host's own mounts get.
    limit: u32,
    /// How many there are.
    used: u32,
}

impl Host {
    /// Asks the kernel.
    pub fn read() -> Result<Self, HostError> {
        let number = |name: &str| -> Result<u32, HostError> {
            let path = format!("/proc/sys/kernel/pty/{name}");
            let text = std::fs::read_to_string(&path).on(&path)?;
            text.trim().parse::<u32>().on(path)
        };
        Ok(Self { limit: number("max")?.saturating_sub(number("reserve")?), used: number("nr")? })
    }

    /// How many one more session gets, if those that there are may have `given` in all: a quarter of what there can be
    /// stays the host's. Never none, which devpts takes for all.
    pub fn share(self, given: u32) -> Option<u32> {
        let left = (self.limit / 4 * 3).saturating_sub(given.max(self.used));
        (left >= LEAST).then(|| (left / PART).clamp(LEAST, MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_sessions_together_leave_the_host_a_quarter(limit in 0_u32..200_000, used in 0_u32..10_000) {
            let host = Host { limit, used };
            let mut given = 0;
            while let Some(share) = host.share(given) {
                prop_assert!((LEAST..=MOST).contains(&share));
                given += share;
            }
            prop_assert!(given <= limit / 4 * 3);
        }
    }

    #[test]
    fn with_the_kernels_own_limits_more_than_two_hundred_run_at_once() {
        let host = Host { limit: 3072, used: 10 };
        let mut given = 0;
        let shares: Vec<u32> = std::iter::from_fn(|| {
            let share = host.share(given)?;
            given += share;
            Some(share)
        })
        .collect();
        assert_eq!(shares.first(), Some(&35));
        assert!(shares.len() > 200, "{}", shares.len());
        // Others have them all.
        assert_eq!(Host { limit: 3072, used: 2304 }.share(0), None);
        assert!(Host::read().unwrap().limit > 0);
    }
}
