//! Bytes on their way to a command that has not read them yet: bounded, never moved.

use std::io::{IoSlice, IoSliceMut};

/// A queue of bytes in a fixed block of memory.
pub struct Ring {
    block: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Ring {
    /// An empty one that holds up to `size` bytes.
    pub fn new(size: usize) -> Self {
        Self { block: vec![0; size].into(), start: 0, len: 0 }
    }

    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more it takes.
    pub fn room(&self) -> usize {
        self.block.len() - self.len
    }

    /// Where the next bytes go, at most `max` of them. [`filled`](Self::filled) is given how many came.
    pub fn spare(&mut self, max: usize) -> [IoSliceMut<'_>; 2] {
        let size = self.block.len();
        let take = max.min(self.room());
        let begin = (self.start + self.len) % size;
        let first = take.min(size - begin);
        let (low, high) = self.block.split_at_mut(begin);
        [IoSliceMut::new(&mut high[..first]), IoSliceMut::new(&mut low[..take - first])]
    }

    /// `count` bytes were put into [`spare`](Self::spare).
    pub fn filled(&mut self, count: usize) {
        self.len += count.min(self.room());
    }

    /// What is in it, oldest first.
    pub fn queued(&self) -> [IoSlice<'_>; 2] {
        let first = self.len.min(self.block.len() - self.start);
        [
            IoSlice::new(&self.block[self.start..self.start + first]),
            IoSlice::new(&self.block[..self.len - first]),
        ]
    }

    /// The oldest `count` bytes are gone. The last of them, if any.
    pub fn consumed(&mut self, count: usize) -> Option<u8> {
        let count = count.min(self.len);
        let last = count.checked_sub(1).map(|last| self.block[(self.start + last) % self.block.len()]);
        self.len -= count;
        // An empty one starts over: then the next bytes lie in one piece.
        self.start = if self.len == 0 { 0 } else { (self.start + count) % self.block.len() };
        last
    }

    /// Appends as much of `bytes` as there is room for.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut count = 0;
        for mut slice in self.spare(bytes.len()) {
            let (now, later) = rest.split_at(slice.len());
            slice.copy_from_slice(now);
            (rest, count) = (later, count + now.len());
        }
        self.filled(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        let mut ring = Ring::new(7);
        let (mut sent, mut got) = (0u8, 0u8);
        for step in 0..1000usize {
            let add = (step * 5 % 4).min(ring.room());
            ring.push(&(0..add).map(|i| sent.wrapping_add(u8::try_from(i).unwrap())).collect::<Vec<_>>());
            sent = sent.wrapping_add(u8::try_from(add).unwrap());
            let all: Vec<u8> = ring.queued().iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(all.len(), ring.len());
            let take = (step * 3 % 5).min(all.len());
            for byte in &all[..take] {
                assert_eq!(*byte, got);
                got = got.wrapping_add(1);
            }
            assert_eq!(ring.consumed(take), all[..take].last().copied());
        }
    }

    #[test]
    fn it_never_takes_more_than_it_holds() {
        let mut ring = Ring::new(4);
        ring.push(b"abcdef");
        assert_eq!((ring.len(), ring.room()), (4, 0));
        ring.filled(9);
        assert_eq!(ring.len(), 4);
        assert_eq!(ring.consumed(9), Some(b'd'));
        assert!(ring.is_empty());
    }
}
