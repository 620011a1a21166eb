//! What a session's command has written, as far as it is kept: two files at most, of frames with the place of
//! their first byte before them. The older one goes when the newer is full.

mod reader;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use agentd_policy::names::SessionId;
use agentd_policy::wire::frame;
use bytes::Bytes;

pub use self::reader::Reader;
use self::reader::{head, scan};
use crate::log::session_of;
use crate::sync::lock;

/// The longest file, in bytes.
const SEGMENT: u64 = 4 << 20;
/// What each file begins with; the place of its first byte follows (8 bytes, little endian).
const MAGIC: &[u8; 8] = b"agentd/1";
const HEAD: u64 = HEAD_BYTES as u64;
const HEAD_BYTES: usize = 16;

/// A piece of output.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its place among all bytes that the command has written.
    pub at: u64,
    /// [`frame::STDOUT`] or [`frame::STDERR`].
    pub kind: u8,
    pub bytes: Bytes,
}

impl Frame {
    /// The place behind it.
    pub fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// What of it is not before `place`.
    pub fn from(mut self, place: u64) -> Option<Self> {
        if self.end() <= place {
            return None;
        }
        if self.at < place {
            self.bytes = self.bytes.slice(usize::try_from(place - self.at).ok()?..);
            self.at = place;
        }
        Some(self)
    }
}

/// The output of one session.
pub struct OutputLog {
    slots: [PathBuf; 2],
    state: Mutex<Option<State>>,
    /// Held by who writes, in the order of the output.
    file: Mutex<Option<File>>,
    /// Nothing is kept any more.
    removed: AtomicBool,
    /// The last write failed, which was logged.
    failing: AtomicBool,
    /// Bytes that an earlier service left on disk.
    found: OnceLock<u64>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The older first.
    segments: Vec<Segment>,
    end: u64,
    drained: bool,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    slot: usize,
    /// The place of its first byte.
    base: u64,
    /// Its length as a file.
    length: u64,
}

impl State {
    fn start(&self) -> u64 {
        self.segments.first().map_or(self.end, |segment| segment.base)
    }
}

impl OutputLog {
    /// Of a session in `dir`. Nothing is read or made yet.
    pub fn new(dir: &Path, session: &SessionId) -> Self {
        let slot = |name| dir.join(format!("{session}.{name}"));
        Self {
            slots: [slot("out0"), slot("out1")],
            state: Mutex::new(None),
            file: Mutex::new(None),
            removed: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            found: OnceLock::new(),
        }
    }

    /// Nothing was written yet: there is no need to look.
    pub fn begin(&self) {
        *lock(&self.state) = Some(State::default());
    }

    /// The session that it is of.
    pub fn session(&self) -> Option<&str> {
        session_of(&self.slots[0])
    }

    /// Whether the files have been looked at.
    pub fn is_open(&self) -> bool {
        lock(&self.state).is_some()
    }

    /// Looks at what an earlier service wrote. Blocks.
    pub fn open(&self) {
        if self.is_open() {
            return;
        }
        let mut found = Vec::new();
        for (slot, path) in self.slots.iter().enumerate() {
            match scan(path) {
                Ok(Some(scanned)) => found.push((slot, scanned)),
                Ok(None) => {}
                Err(error) => {
                    let session = session_of(path);
                    tracing::warn!(session, path = %path.display(), %error, "output cannot be read");
                }
            }
        }
        found.sort_by_key(|(_, scanned)| scanned.base);
        let mut state = State::default();
        for (slot, scanned) in found {
            if !state.segments.is_empty() && scanned.base != state.end {
                // What lies between is lost: only what comes after it is kept.
                state.segments.clear();
            }
            state.segments.push(Segment { slot, base: scanned.base, length: scanned.length });
            (state.end, state.drained) = (scanned.end, scanned.drained);
        }
        lock(&self.state).get_or_insert(state);
    }

    /// The first place that is kept, and the one behind the last.
    pub fn range(&self) -> (u64, u64) {
        lock(&self.state).as_ref().map_or((0, 0), |state| (state.start(), state.end))
    }

    /// Whether the last byte was written.
    pub fn is_drained(&self) -> bool {
        lock(&self.state).as_ref().is_some_and(|state| state.drained)
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        if let Some(state) = &*lock(&self.state) {
            return state.segments.iter().map(|segment| segment.length).sum();
        }
        *self
            .found
            .get_or_init(|| self.slots.iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum())
    }

    /// Writes `frames`, which follow what is there, and at last that there are no more. Blocks. What cannot be
    /// written is not kept: the session does not depend on it.
    pub fn append(&self, frames: &[Frame], drained: bool) {
        let mut file = lock(&self.file);
        let mut state = lock(&self.state).clone().unwrap_or_default();
        if self.removed.load(Ordering::Acquire) {
            return;
        }
        if frames.is_empty() && state.segments.is_empty() {
            // A command that wrote nothing leaves no file.
            state.drained |= drained;
            *lock(&self.state) = Some(state);
            return;
        }
        let written = self.write(&mut file, &mut state, frames, drained);
        let failed_before = self.failing.swap(written.is_err(), Ordering::Relaxed);
        if let Err(error) = written {
            if !failed_before {
                let (session, path) = (self.session(), &self.slots[0]);
                tracing::warn!(session, path = %path.display(), %error, "output is not kept");
            }
            *file = None;
            self.unlink();
            let end = frames.last().map_or(state.end, Frame::end);
            state = State { end, drained, segments: vec![] };
            // So that the place is known to a service that starts anew.
            if let Err(error) = self.rotate(&mut file, &mut state) {
                tracing::debug!(session = self.session(), %error, "the place of the output is not kept");
            }
        }
        if drained {
            *file = None;
        }
        *lock(&self.state) = Some(state);
    }

    fn write(
        &self,
        file: &mut Option<File>,
        state: &mut State,
        frames: &[Frame],
        drained: bool,
    ) -> io::Result<()> {
        let mut pending = Vec::new();
        for piece in frames {
            let room = state.segments.last().map_or(0, |s| SEGMENT.saturating_sub(s.length));
            if (pending.len() + frame::HEADER + piece.bytes.len()) as u64 > room {
                self.flush(file, state, &mut pending)?;
                state.end = piece.at;
                self.rotate(file, state)?;
            }
            let header = frame::header(piece.kind, piece.bytes.len());
            pending.extend_from_slice(&header.ok_or(io::ErrorKind::InvalidInput)?);
            pending.extend_from_slice(&piece.bytes);
            state.end = piece.end();
        }
        if drained {
            pending.extend_from_slice(&frame::header(frame::DRAINED, 0).ok_or(io::ErrorKind::InvalidInput)?);
            state.drained = true;
        }
        self.flush(file, state, &mut pending)
    }

    fn flush(&self, file: &mut Option<File>, state: &mut State, pending: &mut Vec<u8>) -> io::Result<()> {
        let Some(segment) = state.segments.last_mut().filter(|_| !pending.is_empty()) else { return Ok(()) };
        let file = match file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().append(true).open(&self.slots[segment.slot])?),
        };
        file.write_all(pending)?;
        segment.length += pending.len() as u64;
        pending.clear();
        Ok(())
    }

    /// Begins a new file at the end of what there is. A reader of the one that it replaces still has it.
    fn rotate(&self, file: &mut Option<File>, state: &mut State) -> io::Result<()> {
        let slot = state.segments.last().map_or(0, |last| 1 - last.slot);
        state.segments.retain(|segment| segment.slot != slot);
        crate::store::remove(&self.slots[slot]);
        let mut options = OpenOptions::new();
        let mut new = options.append(true).create_new(true).mode(0o600).open(&self.slots[slot])?;
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&state.end.to_le_bytes());
        new.write_all(&head)?;
        state.segments.push(Segment { slot, base: state.end, length: HEAD });
        *file = Some(new);
        Ok(())
    }

    /// What is kept, from `place` up to `end`. Blocks.
    pub fn reader(&self, place: u64, end: u64) -> io::Result<Reader> {
        let state = lock(&self.state);
        let mut files = Vec::new();
        for segment in state.iter().flat_map(|state| &state.segments) {
            let mut file = File::open(&self.slots[segment.slot])?;
            // At this moment the older one may be in replacement.
            if head(&mut file)? == Some(segment.base) {
                files.push((segment.base, BufReader::new(file.take(segment.length - HEAD))));
            }
        }
        files.reverse();
        Ok(Reader::new(files, place, end))
    }

    /// Deletes the files. Blocks.
    pub fn remove(&self) {
        let mut file = lock(&self.file);
        *file = None;
        self.removed.store(true, Ordering::Release);
        self.unlink();
        lock(&self.state).get_or_insert_default().segments.clear();
    }

    fn unlink(&self) {
        self.slots.iter().for_each(|path| crate::store::remove(path));
    }
}

#[cfg(test)]
mod tests;
