//! Which id on a disk is which id in a session, for id-mapped mounts (`mount_setattr(2)`,
//! `MOUNT_ATTR_IDMAP`) and for the session's user namespace (`user_namespaces(7)`).

use std::io::Write as _;
use std::os::fd::{BorrowedFd, OwnedFd};

use agentd_policy::lease::{Groups, Lease, LeasedUid, Pool};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::process::{CloneArgs, SingleThreaded, spawn};

/// One line of a map: `count` ids from `inside` on are those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First id inside the namespace; for a mount: on the disk.
    pub inside: u32,
    /// First id in the parent namespace; for a mount: as processes see it.
    pub outside: u32,
    /// How many ids it covers.
    pub count: u32,
}

/// The map of a session's user namespace for an id of the caller: its own number is the agent's, and 0 is what no
/// process has. A caller with id 0 is the agent alone.
pub fn session(caller: u32, lease: &Lease, pool: &Pool) -> Vec<Extent> {
    let own = single(caller, lease.agent);
    match caller {
        0 => vec![own],
        _ => vec![single(0, pool.system()), own],
    }
}

/// The same for its gids: each group of the caller's has its own number too, which is a leased one outside.
pub fn session_groups(caller: u32, groups: &Groups, lease: &Lease, pool: &Pool) -> Vec<Extent> {
    let mut map = session(caller, lease, pool);
    let groups = lease.groups(groups);
    // For a member of root's group, 0 is that; what belongs to it without being named by the caller is nobody's.
    map.retain(|extent| !groups.iter().any(|(group, _)| *group == extent.inside));
    map.extend(groups.into_iter().map(|(group, leased)| single(group, leased)));
    map
}

/// The map of every mount that can be written through: the caller's files are the agent's; all others keep
/// their owner; the pool does not exist, so no throwaway id ever reaches a disk.
pub fn writable(caller: u32, lease: &Lease, pool: &Pool) -> Vec<Extent> {
    identity_but(pool, vec![(caller, lease.agent)])
}

/// The same for gids: what belongs to a group of the caller's belongs to the one that stands for it.
pub fn writable_groups(caller: u32, groups: &Groups, lease: &Lease, pool: &Pool) -> Vec<Extent> {
    let mut changed = lease.groups(groups);
    changed.push((caller, lease.agent));
    identity_but(pool, changed)
}

/// All ids outside of the pool as they are, but for those that are `changed`, none of which comes twice.
fn identity_but(pool: &Pool, mut changed: Vec<(u32, LeasedUid)>) -> Vec<Extent> {
    changed.sort_unstable_by_key(|(id, _)| *id);
    let mut map = Vec::with_capacity(2 * changed.len() + 2);
    // The last id is (uid_t)-1 and belongs to nobody.
    for range in [0..=pool.first() - 1, pool.last() + 1..=u32::MAX - 1] {
        let (mut first, last) = (*range.start(), *range.end());
        for (id, _) in changed.iter().filter(|(id, _)| range.contains(id)) {
            if *id > first {
                map.push(Extent { inside: first, outside: first, count: id - first });
            }
            first = id + 1;
        }
        if first <= last {
            map.push(Extent { inside: first, outside: first, count: last - first + 1 });
        }
    }
    map.extend(changed.into_iter().map(|(id, leased)| single(id, leased)));
    map
}

fn single(inside: u32, leased: LeasedUid) -> Extent {
    Extent { inside, outside: leased.get(), count: 1 }
}

/// The map of what the system owns: root's files show as root's, all others as nobody's, the caller's too. Whoever may
/// read such a file in the session is everybody. It is one map for all sessions.
pub fn system(pool: &Pool) -> Vec<Extent> {
    vec![single(0, pool.system())]
}

/// A map as `/proc/PID/uid_map` takes it.
fn lines(map: &[Extent]) -> String {
    let mut text = String::new();
    for extent in map {
        text.push_str(&format!("{} {} {}\n", extent.inside, extent.outside, extent.count));
    }
    text
}

/// Writes the maps of the user namespace that `pid` is in. `proc` is a directory of /proc.
///
/// # Errors
/// As `user_namespaces(7)` says of the files.
pub fn write(proc: BorrowedFd<'_>, pid: Pid, uids: &[Extent], gids: &[Extent]) -> std::io::Result<()> {
    for (file, map) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("{}/{file}", pid.as_raw_nonzero());
        let file = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        std::fs::File::from(file).write_all(lines(map).as_bytes())?;
    }
    Ok(())
}

/// A user namespace that holds nothing but maps, for id-mapped mounts. It lives as long as its descriptor
/// or a mount that uses it.
///
/// # Errors
/// If the namespace cannot be made or the maps are refused.
pub fn namespace(
    token: SingleThreaded,
    proc: BorrowedFd<'_>,
    uids: &[Extent],
    gids: &[Extent],
) -> std::io::Result<OwnedFd> {
    let child = spawn(token, CloneArgs { new_user: true, ..CloneArgs::default() }, || {
        // It only has to be there while its maps are written; it goes with its maker.
        let signal = Some(rustix::process::Signal::KILL);
        if rustix::process::set_parent_process_death_signal(signal).is_err() {
            return 1;
        }
        nix::unistd::pause();
        0
    })?;
    let made = write(proc, child.pid, uids, gids).and_then(|()| {
        let path = format!("{}/ns/user", child.pid.as_raw_nonzero());
        Ok(rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    });
    child.kill()?;
    child.wait()?;
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool() -> Pool {
        Pool::parse("1900000000-1900065535").unwrap()
    }

    #[test]
    fn a_session_maps_two_ids() {
        let lease = pool().lease(0).unwrap();
        assert_eq!(lines(&session(1000, &lease, &pool())), "0 1900065535 1\n1000 1900000002 1\n");
        assert_eq!(lines(&session(0, &lease, &pool())), "0 1900000002 1\n");
    }

    #[test]
    fn a_writable_map_swaps_the_caller_alone() {
        let lease = pool().lease(0).unwrap();
        assert_eq!(
            lines(&writable(1000, &lease, &pool())),
            "0 0 1000\n1001 1001 1899998999\n1900065536 1900065536 2394901759\n1000 1900000002 1\n"
        );
        assert!(lines(&writable(0, &lease, &pool())).starts_with("1 1 "));
    }

    #[test]
    fn each_group_has_a_gid_of_its_own() {
        let (pool, lease) = (pool(), pool().lease(0).unwrap());
        let groups = Groups::new(1000, &[27, 0, 2_000_000_000, 1000]).unwrap();
        let leased: Vec<u32> = lease.groups(&groups).iter().map(|(_, leased)| leased.get()).collect();
        let [a, b, c] = leased.try_into().unwrap();
        assert_eq!(
            lines(&session_groups(1000, &groups, &lease, &pool)),
            format!("1000 1900000002 1\n0 {a} 1\n27 {b} 1\n2000000000 {c} 1\n")
        );
        assert_eq!(
            lines(&writable_groups(1000, &groups, &lease, &pool)),
            format!(
                "1 1 26\n28 28 972\n1001 1001 1899998999\n1900065536 1900065536 99934464\n\
                 2000000001 2000000001 2294967294\n0 {a} 1\n27 {b} 1\n1000 1900000002 1\n2000000000 {c} 1\n"
            )
        );
        // What the system owns is nobody's but root's.
        assert_eq!(lines(&system(&pool)), "0 1900065535 1\n");
        // The most groups are within what the kernel takes in one write, a page.
        let most: Vec<u32> = (0..32).map(|n| 1_000_000_000 + 2 * n).collect();
        let most = Groups::new(1000, &most).unwrap();
        assert!(lines(&writable_groups(1000, &most, &lease, &pool)).len() < 4096);
    }

    proptest! {
        #[test]
        fn no_pool_id_reaches_a_disk(caller in 0u32..1_899_999_999, number in 0u32..1000, id in any::<u32>()) {
            let pool = pool();
            let lease = pool.lease(number).unwrap();
            let map = writable(caller, &lease, &pool);
            let on_disk = map.iter().find_map(|e| {
                id.checked_sub(e.outside).filter(|o| *o < e.count).map(|o| e.inside + o)
            });
            if id == lease.agent.get() {
                prop_assert_eq!(on_disk, Some(caller));
            } else if pool.contains(id) || id == caller || id == u32::MAX {
                prop_assert_eq!(on_disk, None);
            } else {
                prop_assert_eq!(on_disk, Some(id));
            }
        }
    }
}
