//! From the command to the service: its standard output and error, or its terminal, as frames.
//!
//! What was read is kept until the service has acknowledged it, on whichever stream. Nothing is read that finds no
//! room, so a slow client slows the command down, and one that is away stops it once the window is full.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use agentd_policy::wire::frame;
use agentd_protocols::terminal::screen::Screen;
use rustix::io::{Errno, retry_on_intr};

use crate::Endpoint;
use crate::backlog::Backlog;

/// How much more input the command takes before the service is sent a new count.
const INPUT_STEP: u64 = frame::INPUT_WINDOW / 4;
/// The most pieces that are written at once.
const PIECES: usize = 8;

/// One output of the command.
pub struct Source {
    kind: u8,
    /// `None` once it has ended.
    pub fd: Option<Endpoint>,
}

impl Source {
    /// What is read from `fd` goes out as frames of `kind`; without `fd`, nothing does.
    pub fn new(kind: u8, fd: Option<Endpoint>) -> Self {
        Self { kind, fd }
    }
}

/// All output of one command.
pub struct Outputs {
    /// Standard output or the terminal, and standard error.
    pub sources: [Source; 2],
    /// What is not acknowledged.
    pub backlog: Backlog,
    /// What a terminal shows.
    pub screen: Option<Screen>,
}

impl Outputs {
    /// Reads once from one of them.
    pub fn read(&mut self, which: usize, fd: &impl std::os::fd::AsFd) -> io::Result<usize> {
        let Self { sources, backlog, screen } = self;
        let source = &mut sources[which];
        let bytes = match backlog.read(source.kind, fd) {
            Ok(bytes) => bytes,
            // A terminal that no process has open any more.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => &[],
            Err(error) => return Err(error),
        };
        if bytes.is_empty() {
            source.fd = None;
        } else if let Some(screen) = screen {
            screen.write(bytes);
        }
        Ok(bytes.len())
    }

    /// Whether nothing more will come.
    pub fn have_ended(&self) -> bool {
        self.sources.iter().all(|source| source.fd.is_none())
    }
}

/// What has gone to the service on one stream, and what is on its way.
#[derive(Default)]
pub struct Sender {
    /// The first byte of output that is not sent.
    sent: u64,
    /// The frame that is being written: what is left of its header, and of its payload in the backlog.
    header: ([u8; frame::HEADER], usize),
    payload: usize,
    /// Frames that are not output, and how much of them has been written.
    raw: (Vec<u8>, usize),
    /// Screens, each behind the byte before which it comes.
    screens: VecDeque<(u64, Vec<u8>)>,
    drained: bool,
    /// How much input the service knows to be taken.
    reported: u64,
}

impl Sender {
    /// Goes on from `offset`; first sends how much input was taken.
    pub fn resume(&mut self, offset: u64, taken: u64) {
        self.sent = offset;
        self.report_taken(taken);
    }

    fn report_taken(&mut self, taken: u64) {
        self.reported = taken;
        self.raw.0.extend(frame::header(frame::INPUT, 8).unwrap_or_default());
        self.raw.0.extend(taken.to_le_bytes());
    }

    /// The first byte that is not sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the end of the output was sent.
    pub fn has_drained(&self) -> bool {
        self.drained && self.raw.0.is_empty()
    }

    /// How many screens wait for the output before them.
    pub fn screens(&self) -> usize {
        self.screens.len()
    }

    /// Sends a screen, once the output that it shows is sent.
    pub fn show(&mut self, outputs: &mut Outputs) {
        let shown = outputs.screen.as_mut().map(Screen::show).unwrap_or_default();
        self.screens.push_back((outputs.backlog.end(), shown));
    }

    /// Makes the next frame, if there is none under way; whether there is something to write.
    pub fn prepare(&mut self, outputs: &Outputs, taken: u64) -> bool {
        if self.raw.1 < self.raw.0.len() || self.header.1 > 0 || self.payload > 0 {
            return true;
        }
        if taken >= self.reported + INPUT_STEP {
            self.report_taken(taken);
        }
        while self.screens.front().is_some_and(|(place, _)| *place <= self.sent) {
            let Some((_, shown)) = self.screens.pop_front() else { break };
            for piece in shown.chunks(frame::MAX).chain([&[][..]]) {
                self.raw.0.extend(frame::header(frame::SCREEN, piece.len()).unwrap_or_default());
                self.raw.0.extend_from_slice(piece);
            }
        }
        if !self.raw.0.is_empty() {
            return true;
        }
        if let Some((kind, len)) = outputs.backlog.run_at(self.sent) {
            let until = self.screens.front().map_or(u64::MAX, |(place, _)| place - self.sent);
            let len = len.min(frame::MAX).min(usize::try_from(until).unwrap_or(usize::MAX));
            let Some(header) = frame::header(kind, len) else { return false };
            (self.header, self.payload) = ((header, frame::HEADER), len);
            return true;
        }
        if outputs.have_ended() && !self.drained {
            self.drained = true;
            self.raw.0.extend(frame::header(frame::DRAINED, 0).unwrap_or_default());
            return true;
        }
        false
    }

    /// One write, as much as the stream takes.
    pub fn write(&mut self, outputs: &Outputs, fd: &impl std::os::fd::AsFd) -> io::Result<()> {
        if !self.raw.0.is_empty() {
            self.raw.1 += retry_on_intr(|| rustix::io::write(fd, &self.raw.0[self.raw.1..]))?;
            if self.raw.1 == self.raw.0.len() {
                self.raw = (Vec::new(), 0);
            }
            return Ok(());
        }
        let (header, left) = &self.header;
        let mut slices: [IoSlice<'_>; PIECES] = std::array::from_fn(|_| IoSlice::new(&[]));
        slices[0] = IoSlice::new(&header[frame::HEADER - left..]);
        let payload = outputs.backlog.slices(self.sent, self.payload);
        slices[1..].iter_mut().zip(payload).for_each(|(slice, piece)| *slice = piece);
        let count = retry_on_intr(|| rustix::io::writev(fd, &slices))?;
        let of_header = count.min(self.header.1);
        self.header.1 -= of_header;
        self.payload -= count - of_header;
        self.sent += (count - of_header) as u64;
        Ok(())
    }
}
