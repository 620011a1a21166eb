//! The CPUs that a process may run on (`sched_setaffinity(2)`). Children inherit them, and programs count them to know
//! how many threads to start. It is a hint and no limit: a process that has been narrowed can widen it again.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Narrows this process to `count` of the CPUs that it has now. Each `turn` takes those after the one before, so that
/// sessions are spread. With fewer CPUs than that, nothing changes.
///
/// # Errors
/// As `sched_setaffinity(2)`.
pub fn narrow(count: usize, turn: u32) -> std::io::Result<()> {
    let present = match sched_getaffinity(None) {
        Ok(set) => set,
        // More CPUs than the set has room for.
        Err(rustix::io::Errno::INVAL) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let present: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| present.is_set(*cpu)).collect();
    let Some(chosen) = choose(&present, count, turn) else { return Ok(()) };
    let mut set = CpuSet::new();
    for cpu in chosen {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// `count` of `present`, as a ring; `None` if these are not more than that.
fn choose(present: &[usize], count: usize, turn: u32) -> Option<Vec<usize>> {
    let count = count.max(1);
    if present.len() <= count {
        return None;
    }
    let first = (turn as usize % present.len()) * (count % present.len()) % present.len();
    Some(present.iter().cycle().skip(first).take(count).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread() {
        let present = [0, 1, 2, 5, 6];
        let of = |count, turn| choose(&present, count, turn);
        assert_eq!(of(2, 0), Some(vec![0, 1]));
        assert_eq!(of(2, 1), Some(vec![2, 5]));
        assert_eq!(of(2, 2), Some(vec![6, 0]));
        assert_eq!(of(0, u32::MAX), Some(vec![0]));
        assert_eq!(of(5, 0), None);
        assert_eq!(of(usize::MAX, u32::MAX), None);
    }
}
