//! A command's output that the service has not acknowledged: bounded, in order, each byte with the stream that
//! it came from.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use agentd_policy::wire::frame;
use rustix::buffer::spare_capacity;
use rustix::io::retry_on_intr;

/// The most bytes of a command that wait for their acknowledgement.
pub const WINDOW: usize = 1 << 20;
/// Bytes are read into blocks of this size.
const BLOCK: usize = frame::MAX;
/// A block with less room than this is full.
const LEAST: usize = BLOCK / 4;
/// The most changes from one stream to the other: a command that writes to both in turn, byte by byte, costs no
/// more memory than others.
const MAX_RUNS: usize = 4096;
/// Blocks that are kept for the next bytes, as long as there are any; then one.
const SPARE: usize = 4;

/// Bytes of one stream, up to the offset where the next are of the other.
#[derive(Debug)]
struct Run {
    kind: u8,
    end: u64,
}

#[derive(Debug)]
struct Block {
    start: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// The bytes from the first that is not acknowledged to the last that was read.
#[derive(Debug, Default)]
pub struct Backlog {
    runs: VecDeque<Run>,
    blocks: VecDeque<Block>,
    spare: Vec<Vec<u8>>,
    base: u64,
    end: u64,
}

impl Backlog {
    /// The offset of the first byte that it has.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The offset behind the last.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether more may be read: as much as a block holds.
    pub fn has_room(&self) -> bool {
        let len = usize::try_from(self.end - self.base).unwrap_or(usize::MAX);
        len + BLOCK <= WINDOW && self.runs.len() < MAX_RUNS
    }

    /// Reads once from `fd`, as output of `kind`. The bytes that came; none at its end.
    pub fn read(&mut self, kind: u8, fd: impl std::os::fd::AsFd) -> io::Result<&[u8]> {
        if self.blocks.back().is_none_or(|last| last.bytes.capacity() - last.bytes.len() < LEAST) {
            let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK));
            self.blocks.push_back(Block { start: self.end, bytes });
        }
        let Some(Block { bytes, .. }) = self.blocks.back_mut() else { return Ok(&[]) };
        let before = bytes.len();
        let count = retry_on_intr(|| rustix::io::read(&fd, spare_capacity(&mut *bytes)))?;
        self.end += count as u64;
        match self.runs.back_mut() {
            Some(run) if run.kind == kind => run.end = self.end,
            _ if count > 0 => self.runs.push_back(Run { kind, end: self.end }),
            _ => {}
        }
        Ok(bytes.get(before..).unwrap_or_default())
    }

    /// Which stream the byte at `offset` is of, and how many follow it of the same, itself counted.
    pub fn run_at(&self, offset: u64) -> Option<(u8, usize)> {
        let run = self.runs.get(self.runs.partition_point(|run| run.end <= offset))?;
        Some((run.kind, usize::try_from(run.end - offset).unwrap_or(usize::MAX)))
    }

    /// The `len` bytes from `offset` on, as far as there are that many.
    pub fn slices(&self, offset: u64, len: usize) -> impl Iterator<Item = IoSlice<'_>> {
        let first = self.blocks.partition_point(|block| block.end() <= offset);
        let end = offset + len as u64;
        self.blocks.range(first..).take_while(move |block| block.start < end).map(move |block| {
            let at = |offset: u64| usize::try_from(offset - block.start).unwrap_or(usize::MAX);
            let (from, to) = (at(offset.max(block.start)), at(end.min(block.end())));
            IoSlice::new(&block.bytes[from..to])
        })
    }

    /// Forgets what comes before `offset`, which is not beyond the end.
    pub fn acknowledged(&mut self, offset: u64) {
        self.base = self.base.max(offset.min(self.end));
        let (base, empty) = (self.base, self.base == self.end);
        while self.runs.front().is_some_and(|run| run.end <= base) {
            self.runs.pop_front();
        }
        while self
            .blocks
            .front()
            .is_some_and(|block| block.end() <= base && (empty || !block.bytes.is_empty()))
        {
            let Some(Block { mut bytes, .. }) = self.blocks.pop_front() else { break };
            bytes.clear();
            if self.spare.len() < if empty { 1 } else { SPARE } {
                self.spare.push(bytes);
            }
        }
        if empty {
            self.spare.truncate(1);
            (self.runs, self.blocks) = (VecDeque::new(), VecDeque::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn bytes(backlog: &Backlog, offset: u64, len: usize) -> Vec<u8> {
        backlog.slices(offset, len).flat_map(|slice| slice.to_vec()).collect()
    }

    fn put(backlog: &mut Backlog, kind: u8, payload: &[u8]) {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(payload).unwrap();
        assert_eq!(backlog.read(kind, &reader).unwrap(), payload);
    }

    proptest! {
        #[test]
        fn every_byte_is_there_until_it_is_acknowledged(
            steps in prop::collection::vec((0_u8..2, 0_usize..40_000, 0_u64..60_000), 1..40),
        ) {
            let mut backlog = Backlog::default();
            let mut all: Vec<(u8, u8)> = Vec::new();
            for (kind, len, ack) in steps {
                if backlog.has_room() && len > 0 {
                    let payload: Vec<u8> = (0..len).map(|i| u8::try_from((all.len() + i) % 251).unwrap()).collect();
                    // What does not fit into the present block would come with the next read.
                    let (reader, mut writer) = std::io::pipe().unwrap();
                    writer.write_all(&payload).unwrap();
                    let got = backlog.read(kind, &reader).unwrap().len();
                    all.extend(payload[..got].iter().map(|byte| (kind, *byte)));
                }
                prop_assert_eq!(backlog.end(), all.len() as u64);
                backlog.acknowledged((backlog.base() + ack).min(backlog.end()));
                let (mut at, mut seen) = (backlog.base(), Vec::new());
                while let Some((kind, len)) = backlog.run_at(at) {
                    let piece = bytes(&backlog, at, len);
                    prop_assert_eq!(piece.len(), len);
                    seen.extend(piece.into_iter().map(|byte| (kind, byte)));
                    at += len as u64;
                }
                prop_assert!(seen == all[usize::try_from(backlog.base()).unwrap()..]);
            }
        }
    }

    #[test]
    fn neither_bytes_nor_changes_grow_without_end() {
        let mut backlog = Backlog::default();
        let mut turns = 0;
        while backlog.has_room() {
            put(&mut backlog, 3 + u8::from(turns % 2 == 1), b"x");
            turns += 1;
        }
        assert_eq!(turns, MAX_RUNS);
        assert!(backlog.blocks.len() == 1);
        backlog.acknowledged(backlog.end());
        assert!(backlog.runs.capacity() == 0 && backlog.blocks.capacity() == 0 && backlog.spare.len() == 1);
        while backlog.has_room() {
            put(&mut backlog, 3, &[0; 4000]);
        }
        assert!(
            (WINDOW - BLOCK..=WINDOW).contains(&usize::try_from(backlog.end() - backlog.base()).unwrap())
        );
        assert!(backlog.blocks.len() <= WINDOW / (BLOCK - LEAST) + 1);
    }
}
