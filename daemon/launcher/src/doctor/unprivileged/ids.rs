//! The throwaway ids: nothing else on the host may use them.

use agentd_policy::lease::Pool;
use agentd_policy::wire::{Check, Status};

use super::{fine, lack};
use crate::settings::Settings;

/// Looks for accounts and ranges that meet the pool.
pub fn pool(settings: &Settings) -> Check {
    let pool = settings.config.pool.uids;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut met = Vec::new();
    met.extend(accounts(&read("/etc/passwd"), &pool).map(|name| format!("account {name}")));
    met.extend(accounts(&read("/etc/group"), &pool).map(|name| format!("group {name}")));
    let mut reserved = true;
    for path in ["/etc/subuid", "/etc/subgid"] {
        let text = read(path);
        let own = |range: &&Range<'_>| range.first == pool.first() && range.last == u64::from(pool.last());
        let ranges: Vec<_> = ranges(&text).filter(|range| range.meets(&pool)).collect();
        reserved &= ranges.iter().any(|range| own(&range));
        met.extend(
            ranges.iter().filter(|range| !own(range)).map(|range| format!("{} in {path}", range.owner)),
        );
    }
    let name = "pool.uids";
    let range = String::from(pool);
    if !met.is_empty() {
        let impact = "a session could share an id with them: each could end and read the other's processes";
        let fix = "set pool.uids in agentd.toml to a range that nothing uses";
        return lack(name, Status::Missing, format!("{range} is used by {}", met.join(", ")), impact, fix);
    }
    if !reserved {
        let impact = "somebody may be given a part of it later";
        let count = pool.last() - pool.first() + 1;
        let owner = &settings.config.service_user;
        let fix = format!("put {owner}:{}:{count} into /etc/subuid and /etc/subgid", pool.first());
        return lack(name, Status::Reduced, format!("{range} is free, but not reserved"), impact, &fix);
    }
    fine(name, format!("{range} is reserved and free"))
}

/// Names of passwd(5) or group(5) whose id is in the pool.
fn accounts<'a>(text: &'a str, pool: &'a Pool) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?.parse().ok()?;
        pool.contains(id).then_some(name)
    })
}

/// A line of subuid(5).
struct Range<'a> {
    owner: &'a str,
    first: u32,
    last: u64,
}

impl Range<'_> {
    fn meets(&self, pool: &Pool) -> bool {
        self.first <= pool.last() && self.last >= u64::from(pool.first())
    }
}

fn ranges(text: &str) -> impl Iterator<Item = Range<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let first: u32 = fields.next()?.trim().parse().ok()?;
        let count: u64 = fields.next()?.trim().parse().ok()?;
        Some(Range { owner, first, last: (u64::from(first) + count).checked_sub(1)? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_and_ranges_are_read() {
        let pool = Pool::parse("1900000000-1900065535").unwrap();
        let passwd = "root:x:0:0::/:/bin/sh\nlent:x:1900000005:5::/:/bin/sh\nnonsense\n";
        assert_eq!(accounts(passwd, &pool).collect::<Vec<_>>(), ["lent"]);
        let subuid = "alice:100000:65536\nbob:1899999999:2\ncarol:1900065536:9\nx:y:z\nnone:5:0\n";
        let met: Vec<_> = ranges(subuid).filter(|r| r.meets(&pool)).map(|r| r.owner).collect();
        assert_eq!(met, ["bob"]);
    }
}
