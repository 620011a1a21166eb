//! Throwaway ids: three for each session, out of the pool.

use serde::{Deserialize, Serialize};

/// The ids that nothing else on the host uses, as configured: `FIRST-LAST`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pool {
    first: u32,
    last: u32,
}

/// Why a range cannot be the pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pool.uids {0:?} is not a range FIRST-LAST above 65535 with room for 3 ids, below 4294967294")]
pub struct PoolError(String);

/// Three ids, each used as uid and as gid, that belong to one session as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Which lease of the pool it is, from 0.
    pub number: u32,
    /// The keeper's id: it owns the session's user and network namespaces.
    pub keeper: LeasedUid,
    /// The relay's id.
    pub relay: LeasedUid,
    /// The agent's id, as the host sees it.
    pub agent: LeasedUid,
}

/// An id out of the pool. Never on a disk, never a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedUid(u32);

impl LeasedUid {
    /// The number, for uid and gid alike.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Pool {
    /// The range as `FIRST-LAST`.
    ///
    /// # Errors
    /// [`PoolError`] if it is not such a range, or reaches into ids that systems hand out.
    pub fn parse(text: &str) -> Result<Self, PoolError> {
        let fail = || PoolError(text.chars().take(64).collect());
        let (first, last) = text.split_once('-').ok_or_else(fail)?;
        let first: u32 = first.trim().parse().map_err(|_| fail())?;
        let last: u32 = last.trim().parse().map_err(|_| fail())?;
        // Two below the top: (uid_t)-1 means "leave as it is", and -2 is taken for nobody by NFS.
        if first <= 65_535 || last < first || last - first < 2 || last >= u32::MAX - 1 {
            return Err(fail());
        }
        Ok(Self { first, last })
    }

    /// The first id of the range.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// The last id of the range, which still belongs to it.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// Whether `id` lies in the range.
    pub fn contains(&self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }

    /// How many leases the range has.
    pub fn leases(&self) -> u32 {
        ((u64::from(self.last - self.first) + 1) / 3) as u32
    }

    /// Lease `number`, if the range is long enough.
    pub fn lease(&self, number: u32) -> Option<Lease> {
        (number < self.leases()).then(|| {
            let base = self.first + number * 3;
            Lease { number, keeper: LeasedUid(base), relay: LeasedUid(base + 1), agent: LeasedUid(base + 2) }
        })
    }
}

impl TryFrom<String> for Pool {
    type Error = PoolError;
    fn try_from(text: String) -> Result<Self, PoolError> {
        Self::parse(&text)
    }
}

impl From<Pool> for String {
    fn from(pool: Pool) -> String {
        format!("{}-{}", pool.first, pool.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_ranges_that_others_use() {
        for bad in
            ["", "1-2", "0-100000", "65535-70000", "70000-70001", "70003-70000", "1900000000-4294967295"]
        {
            assert!(Pool::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn leases_stay_inside_and_never_meet(first in 65_536u32..4_000_000_000, len in 2u32..70_000) {
            let pool = Pool::parse(&format!("{first}-{}", first + len)).unwrap();
            let all: Vec<_> = (0..pool.leases()).filter_map(|n| pool.lease(n)).collect();
            let mut ids: Vec<_> = all.iter().flat_map(|l| [l.keeper, l.relay, l.agent]).map(LeasedUid::get).collect();
            prop_assert!(ids.iter().all(|id| pool.contains(*id)));
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), count);
            prop_assert!(pool.lease(pool.leases()).is_none());
        }
    }
}
