//! What there is only so much of, shared between accounts: how many each has, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};

/// How many of something each account has, of which there are [`Shares::MAX`].
#[derive(Debug, Default)]
pub struct Shares {
    each: BTreeMap<u32, usize>,
    total: usize,
}

impl Shares {
    /// The most that all have together.
    pub const MAX: usize = 4096;
    /// Of those, as many are for accounts that have none: the first accounts cannot take the last.
    const KEPT: usize = Self::MAX / 4;

    /// Whether `account` may have one more, if it may have so many.
    pub fn has_room(&self, account: u32, most: usize) -> bool {
        match self.each.get(&account) {
            None => self.total < Self::MAX && most > 0,
            Some(count) => self.total < Self::MAX - Self::KEPT && *count < most,
        }
    }

    /// It has one more.
    pub fn add(&mut self, account: u32) {
        *self.each.entry(account).or_default() += 1;
        self.total += 1;
    }

    /// It has one less.
    pub fn remove(&mut self, account: u32) {
        let Some(count) = self.each.get_mut(&account) else { return };
        *count -= 1;
        self.total -= 1;
        if *count == 0 {
            self.each.remove(&account);
        }
    }
}

/// A queue in which accounts take turns, however much one of them has waiting.
#[derive(Debug)]
pub struct Turns<T> {
    waiting: BTreeMap<u32, VecDeque<T>>,
    order: VecDeque<u32>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// Puts `item` behind the account's others.
    pub fn push(&mut self, account: u32, item: T) {
        let own = self.waiting.entry(account).or_insert_with(|| {
            self.order.push_back(account);
            VecDeque::new()
        });
        own.push_back(item);
    }

    /// The first item of the first account that `may` go on; the account is last from then on.
    pub fn pop(&mut self, mut may: impl FnMut(u32) -> bool) -> Option<(u32, T)> {
        let at = self.order.iter().position(|account| may(*account))?;
        let account = self.order.remove(at)?;
        let own = self.waiting.get_mut(&account)?;
        let item = own.pop_front();
        if own.is_empty() {
            self.waiting.remove(&account);
        } else {
            self.order.push_back(account);
        }
        item.map(|item| (account, item))
    }

    /// Takes out what is not `wanted` of one account.
    pub fn sift(&mut self, account: u32, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let Some(own) = self.waiting.get_mut(&account) else { return Vec::new() };
        let (kept, out): (VecDeque<T>, VecDeque<T>) =
            std::mem::take(own).into_iter().partition(|i| wanted(i));
        if kept.is_empty() {
            self.waiting.remove(&account);
            self.order.retain(|other| *other != account);
        } else {
            *own = kept;
        }
        out.into()
    }

    /// How many an account has waiting.
    pub fn count(&self, account: u32) -> usize {
        self.waiting.get(&account).map_or(0, VecDeque::len)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All that wait.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().flatten()
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.order.clear();
        std::mem::take(&mut self.waiting).into_values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_none_gets_one_where_others_get_no_more() {
        let mut shares = Shares::default();
        for account in 0..48 {
            for _ in 0..64 {
                assert!(shares.has_room(account, 64));
                shares.add(account);
            }
        }
        assert!(!shares.has_room(0, 64));
        shares.remove(0);
        assert!(shares.has_room(0, 64));
        shares.add(0);
        // The rest is for those who have none.
        shares.add(100);
        assert!(!shares.has_room(100, 64));
        for account in 101..100 + u32::try_from(Shares::KEPT).unwrap() {
            assert!(shares.has_room(account, 64));
            shares.add(account);
        }
        assert!(!shares.has_room(5000, 64));
    }

    #[test]
    fn what_is_given_back_can_be_had_again() {
        let mut shares = Shares::default();
        shares.add(7);
        shares.remove(7);
        shares.remove(7);
        assert_eq!((shares.total, shares.each.len()), (0, 0));
    }

    #[test]
    fn accounts_take_turns() {
        let mut turns = Turns::default();
        (0..3).for_each(|item| turns.push(1, item));
        turns.push(2, 10);
        turns.push(3, 20);
        let mut order = Vec::new();
        while let Some((account, item)) = turns.pop(|account| account != 3) {
            order.push((account, item));
        }
        assert_eq!(order, [(1, 0), (2, 10), (1, 1), (1, 2)]);
        assert_eq!((turns.count(3), turns.is_empty()), (1, false));
        assert_eq!(turns.sift(3, |_| false), [20]);
        assert!(turns.is_empty());
    }

    #[test]
    fn what_is_sifted_keeps_its_order() {
        let mut turns = Turns::default();
        (0..6).for_each(|item| turns.push(1, item));
        assert_eq!(turns.sift(1, |item| item % 2 == 0), [1, 3, 5]);
        assert_eq!(turns.drain().collect::<Vec<_>>(), [0, 2, 4]);
        assert!(turns.is_empty());
    }
}
