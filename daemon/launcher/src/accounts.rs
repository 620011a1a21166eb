//! Which account answers for a uid. A subordinate uid (`subuid(5)`) counts for the account that has it: else one user
//! would have the share of sixty-five thousand. Names are looked up in /etc/passwd alone: a directory service can take
//! its time, and the loop has none.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use agentd_session::error::{HostError, On as _};

/// Where subordinate uids are.
const SUBORDINATE: &str = "/etc/subuid";
/// Where names are.
const ACCOUNTS: &str = "/etc/passwd";
/// The longest file that is read.
const MAX_FILE: u64 = 8 << 20;
/// The most ranges that are taken.
const MAX_RANGES: usize = 65_536;
/// Between two looks whether the file has changed.
const REST: Duration = Duration::from_secs(5);

/// Uids of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    account: u32,
}

/// What differs between two versions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    dev: u64,
    ino: u64,
    size: i64,
    changed: (i64, i64),
}

/// Who has which uids.
#[derive(Debug, Default)]
pub struct Accounts {
    /// In order, without overlaps.
    ranges: Vec<Range>,
    /// Uids that are accounts of their own, in order.
    own: Vec<u32>,
    read: Option<Version>,
    looked: Option<Instant>,
}

impl Accounts {
    /// The account that answers for `uid`: itself, if nobody else does.
    pub fn of(&self, uid: u32) -> u32 {
        if self.own.binary_search(&uid).is_ok() {
            return uid;
        }
        let at = self.ranges.partition_point(|range| range.last < uid);
        self.ranges.get(at).filter(|range| range.first <= uid).map_or(uid, |range| range.account)
    }

    /// Reads the files if they are others than before, which is looked at now and then. What cannot be read changes
    /// nothing.
    pub fn refresh(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now < looked + REST) {
            return;
        }
        self.looked = Some(now);
        let version = rustix::fs::stat(SUBORDINATE).ok().map(|stat| version(&stat));
        if version.is_some() && version == self.read {
            return;
        }
        match (read(Path::new(SUBORDINATE)), read(Path::new(ACCOUNTS))) {
            (Ok(Some((ranges, version))), Ok(accounts)) => {
                self.take(&ranges, &accounts.map(|(text, _)| text).unwrap_or_default());
                self.read = Some(version);
            }
            // Nobody has any.
            (Ok(None), _) => (self.ranges, self.read) = (Vec::new(), None),
            (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "subordinate uids are not known"),
        }
    }

    fn take(&mut self, subordinate: &str, accounts: &str) {
        let uids: BTreeMap<&str, u32> = accounts.lines().filter_map(account).collect();
        let mut unknown: BTreeMap<&str, u32> = BTreeMap::new();
        let mut ranges = Vec::new();
        let mut malformed = 0_usize;
        for line in subordinate.lines().filter(|line| !line.trim().is_empty()) {
            let Some((name, first, last)) = range(line).filter(|_| ranges.len() < MAX_RANGES) else {
                malformed += 1;
                continue;
            };
            let known = uids.get(name).copied().or_else(|| name.parse().ok());
            // Somebody whom only a directory service knows: the ranges are one account's in any case.
            let account = known.unwrap_or_else(|| *unknown.entry(name).or_insert(first));
            ranges.push(Range { first, last, account });
        }
        if malformed > 0 {
            tracing::warn!(lines = malformed, path = SUBORDINATE, "lines are skipped");
        }
        self.ranges = apart(ranges);
        self.own = uids.into_values().collect();
        self.own.sort_unstable();
    }
}

/// Of what overlaps, the range that begins first has it.
fn apart(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_by_key(|range| range.first);
    let mut kept: Vec<Range> = Vec::with_capacity(ranges.len());
    for mut range in ranges {
        if let Some(before) = kept.last() {
            let Some(next) = before.last.checked_add(1) else { break };
            range.first = range.first.max(next);
        }
        if range.first <= range.last {
            kept.push(range);
        }
    }
    kept
}

/// A line of `subuid(5)`: `NAME:FIRST:COUNT`.
fn range(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.split(':');
    let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    let (first, count): (u32, u32) = (first.trim().parse().ok()?, count.trim().parse().ok()?);
    let last = first.checked_add(count.checked_sub(1)?)?;
    (fields.next().is_none() && !name.is_empty()).then_some((name, first, last))
}

/// Name and uid of a line of `passwd(5)`.
fn account(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    Some((name, fields.nth(1)?.parse().ok()?))
}

fn version(stat: &Stat) -> Version {
    Version {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: stat.st_size,
        changed: (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
    }
}

/// A file that is root's and that nobody else can write; `None` if there is none.
fn read(path: &Path) -> Result<Option<(String, Version)>, HostError> {
    let object = path.display();
    // What is no file must not hold anybody up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).on(object),
    };
    let stat = rustix::fs::fstat(&file).on(&object)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return Err(HostError::unfit("is no regular file that root alone can write").on(object));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).on(&object)?;
    match text.len() as u64 {
        0..=MAX_FILE => Ok(Some((text, version(&stat)))),
        _ => Err(HostError::unfit("is longer than 8 MiB").on(object)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accounts(subordinate: &str) -> Accounts {
        let mut accounts = Accounts::default();
        accounts
            .take(subordinate, "root:x:0:0::/:/bin/sh\nalice:x:1000:1000::/:\nbob:x:1001:1001::/:\nodd\n");
        accounts
    }

    #[test]
    fn subordinate_uids_count_for_their_account() {
        let found = accounts("alice:100000:65536\nbob:165536:10\n1000:300000:5\nalice:400000:1\n");
        for (uid, account) in [
            (100_000, 1000),
            (165_535, 1000),
            (165_536, 1001),
            (165_545, 1001),
            (165_546, 165_546),
            (300_004, 1000),
            (400_000, 1000),
            (1000, 1000),
            (0, 0),
        ] {
            assert_eq!(found.of(uid), account, "{uid}");
        }
    }

    #[test]
    fn an_account_is_its_own_even_where_another_has_its_uid() {
        // As LXD's documentation has it.
        let found = accounts("root:1000:1\nroot:1001:1\nroot:70000:10\n");
        assert_eq!((found.of(1000), found.of(1001), found.of(70_001)), (1000, 1001, 0));
    }

    #[test]
    fn who_is_in_a_directory_service_is_one_account() {
        let found = accounts("carol:100000:10\ncarol:200000:10\ndave:300000:10\n");
        assert_eq!(found.of(100_009), found.of(200_000));
        assert_ne!(found.of(100_009), found.of(300_000));
    }

    #[test]
    fn malformed_lines_are_nobodys() {
        let found = accounts(":1:1\nalice:1\nalice:x:1\nalice:100:0\nalice:4294967295:2\nalice:7:1:1\n\n");
        assert_eq!(found.ranges, []);
    }

    proptest! {
        #[test]
        fn ranges_never_overlap(wanted in proptest::collection::vec((any::<u32>(), 0_u32..1000), 0..40)) {
            let ranges = wanted.into_iter().map(|(first, more)| Range {
                first,
                last: first.saturating_add(more),
                account: first,
            });
            let kept = apart(ranges.collect());
            prop_assert!(kept.windows(2).all(|pair| pair[0].last < pair[1].first));
        }

        #[test]
        fn nonsense_is_read_without_panic(text in "[a-z0-9:\n\u{0}é -]{0,200}") {
            let mut accounts = Accounts::default();
            accounts.take(&text, &text);
            accounts.of(7);
        }
    }
}
