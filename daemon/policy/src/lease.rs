//! Throwaway ids: three for each session, and one for each group that its caller may have, out of the pool.

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
#[error("pool.uids {0:?} is not a range FIRST-LAST above 65535 with room for 36 ids, below 4294967294")]
pub struct PoolError(String);

/// The ids that a session takes as uids and gids.
const IDS: u32 = 3;
/// Those and the gids of groups.
const ALL: u32 = IDS + GROUPS;
/// Gids of groups: see [`Groups::MAX`].
const GROUPS: u32 = 32;

/// The ids that belong to one session as long as it lives. The first three are uids and gids alike.
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
    /// The first of the gids that stand for groups of the caller.
    first_group: u32,
}

impl Lease {
    /// Which gid stands for which group of the caller: the group's, and the leased one.
    pub fn groups(&self, groups: &Groups) -> Vec<(u32, LeasedUid)> {
        groups.iter().zip(self.first_group..).map(|(group, leased)| (group, LeasedUid(leased))).collect()
    }
}

/// The supplementary groups of a caller, each once, without its first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    count: u8,
    all: [u32; Groups::MAX],
}

/// More groups than a session has gids for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} groups besides the first one")]
pub struct TooManyGroups(pub usize);

impl Groups {
    /// The most that a caller may have.
    pub const MAX: usize = GROUPS as usize;

    /// Those of somebody whose first group is `first`, as the kernel lists them.
    ///
    /// # Errors
    /// [`TooManyGroups`].
    pub fn new(first: u32, listed: &[u32]) -> Result<Self, TooManyGroups> {
        let mut others: Vec<u32> = listed.iter().copied().filter(|group| *group != first).collect();
        others.sort_unstable();
        others.dedup();
        let count = u8::try_from(others.len()).map_err(|_| TooManyGroups(others.len()))?;
        let mut all = [0; Self::MAX];
        let places = all.get_mut(..others.len()).ok_or(TooManyGroups(others.len()))?;
        places.copy_from_slice(&others);
        Ok(Self { count, all })
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.all.into_iter().take(usize::from(self.count))
    }
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
        if first <= 65_535 || last < first || last - first < ALL || last >= u32::MAX - 1 {
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

    /// What root's files are in every session, where they are only read: no process ever has this id.
    pub fn system(&self) -> LeasedUid {
        LeasedUid(self.last)
    }

    /// How many leases the range has.
    pub fn leases(&self) -> u32 {
        (self.last - self.first) / ALL
    }

    /// Lease `number`, if the range is long enough.
    pub fn lease(&self, number: u32) -> Option<Lease> {
        (number < self.leases()).then(|| {
            let base = self.first + number * IDS;
            let first_group = self.first + self.leases() * IDS + number * (ALL - IDS);
            let [keeper, relay, agent] = [base, base + 1, base + 2].map(LeasedUid);
            Lease { number, keeper, relay, agent, first_group }
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
            ["", "1-2", "0-100000", "65535-70000", "70000-70034", "70003-70000", "1900000000-4294967295"]
        {
            assert!(Pool::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn groups_are_each_there_once_and_bounded() {
        let groups = Groups::new(7, &[9, 7, 0, 9]).unwrap();
        assert_eq!(groups.iter().collect::<Vec<_>>(), [0, 9]);
        let many: Vec<u32> = (100..140).collect();
        assert!(Groups::new(7, &many[..32]).is_ok());
        assert_eq!(Groups::new(7, &many[..33]), Err(TooManyGroups(33)));
        assert!(Groups::new(7, &(0..60_000).collect::<Vec<_>>()).is_err());
    }

    proptest! {
        #[test]
        fn leases_stay_inside_and_never_meet(first in 65_536u32..4_000_000_000, len in 35u32..70_000) {
            let pool = Pool::parse(&format!("{first}-{}", first + len)).unwrap();
            let all: Vec<_> = (0..pool.leases()).filter_map(|n| pool.lease(n)).collect();
            let full = Groups::new(0, &(1..=32).collect::<Vec<_>>()).unwrap();
            let ids = |l: &Lease| {
                let groups: Vec<_> = l.groups(&full).into_iter().map(|(_, leased)| leased).collect();
                prop_assert_eq!(groups.len(), 32);
                Ok([vec![l.keeper, l.relay, l.agent], groups].concat())
            };
            let mut ids: Vec<u32> = all.iter().map(ids).collect::<Result<Vec<_>, _>>()?.concat().into_iter().map(LeasedUid::get).collect();
            prop_assert!(ids.iter().all(|id| pool.contains(*id)));
            ids.push(pool.system().get());
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), count);
            prop_assert!(pool.lease(pool.leases()).is_none());
        }
    }
}
