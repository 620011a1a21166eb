//! From the service to the command: its standard input, and its terminal's size.
//!
//! Input that the command does not read waits in a [`Ring`]. As long as there is room, frames behind it are
//! read, so a new size is set at once, ahead of input that came before it; and the service sends no more than
//! there is room for.

use std::io::{self, IoSliceMut};

use agentd_policy::wire::frame;
use rustix::io::{Errno, retry_on_intr};
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize};

use crate::ring::Ring;
use crate::{Endpoint, RelayError};

/// How many bytes wait for a command that does not read.
#[expect(clippy::cast_possible_truncation, reason = "a constant that fits")]
const QUEUE: usize = frame::INPUT_WINDOW as usize;
/// The most bytes of answers that wait for a command that does not read.
const ANSWERS: usize = 4 << 10;
/// What a header and the longest payload that is not input need.
const HEAD: usize = frame::HEADER + 8;

/// Where the command's input goes.
pub enum Sink {
    /// Into a pipe, whose end the command sees once it is closed.
    Pipe(Endpoint),
    /// Into a terminal's master.
    Terminal(Endpoint),
    /// Nowhere: the command closed it, or the client did.
    Closed,
}

impl Sink {
    fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Pipe(fd) | Self::Terminal(fd) => Some(fd),
            Self::Closed => None,
        }
    }

    /// Sets a terminal's size. Without a terminal there is none to set, and nothing happens.
    pub fn resize(&self, ws_row: u16, ws_col: u16) {
        if let Self::Terminal(fd) = self {
            // It fails only once the terminal is gone, and then its size is of no use.
            rustix::termios::tcsetwinsize(&**fd, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).ok();
        }
    }
}

/// What a frame of the service requests, besides input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Another size of the terminal: rows and columns.
    Resize(u16, u16),
    /// To go on from this byte of output.
    Resume(u64),
    /// To forget the output before this byte.
    Ack(u64),
    /// To show the screen.
    Screen,
}

/// The frames of one stream, as far as they are read.
pub struct Frames {
    head: [u8; HEAD],
    have: usize,
    need: usize,
    /// Bytes of input that are still to come in the present frame.
    left: usize,
    /// They are for a pipe that has been closed, and are dropped.
    skipped: bool,
    /// The first must be [`frame::RESUME`].
    first: bool,
}

impl Frames {
    /// Of the command's first stream, or of a later one.
    pub fn new(later: bool) -> Self {
        Self { head: [0; HEAD], have: 0, need: frame::HEADER, left: 0, skipped: false, first: later }
    }

    /// Reads input and drops it.
    fn skip(&mut self, fd: &impl std::os::fd::AsFd) -> io::Result<usize> {
        let mut nowhere = [0; 4096];
        let most = self.left.min(nowhere.len());
        let count = retry_on_intr(|| rustix::io::read(fd, &mut nowhere[..most]))?;
        self.left -= count;
        Ok(count)
    }

    /// The header that was read last.
    pub fn header(&self) -> [u8; frame::HEADER] {
        let [kind, a, b, c, ..] = self.head;
        [kind, a, b, c]
    }
}

/// What goes to the command.
pub struct Inputs {
    sink: Sink,
    ring: Ring,
    /// How many bytes came, on all streams.
    received: u64,
    /// No more will come.
    ended: bool,
    eof_given: bool,
    /// The last byte that a terminal got.
    last: u8,
    /// What the terminal itself answers, ahead of what is typed.
    answers: Vec<u8>,
}

impl Inputs {
    /// For this command.
    pub fn new(sink: Sink) -> Self {
        let (ring, answers) = (Ring::new(QUEUE), Vec::new());
        Self { sink, ring, received: 0, ended: false, eof_given: false, last: b'\n', answers }
    }

    /// Answers what the command has asked its terminal. For one that asks and does not read, no more is kept.
    pub fn answer(&mut self, answers: &[u8]) {
        if matches!(self.sink, Sink::Terminal(_)) && self.answers.len() + answers.len() <= ANSWERS {
            self.answers.extend_from_slice(answers);
        }
    }

    /// Whether frames can be read: there is room for the input that comes next.
    pub fn has_room_for(&self, frames: &Frames) -> bool {
        frames.left == 0 || frames.skipped || self.ring.room() > 0
    }

    /// Where input waits to go.
    pub fn waiting(&self) -> Option<&Endpoint> {
        self.sink.endpoint().filter(|_| !self.ring.is_empty() || !self.answers.is_empty())
    }

    /// How many bytes of input the command took, or would not have.
    pub fn taken(&self) -> u64 {
        // What waits behind the end of the input is that end.
        self.received.saturating_sub(if self.eof_given { 0 } else { self.ring.len() as u64 })
    }

    /// The stream is lost, and with it what the command has not taken: it comes again.
    pub fn lose(&mut self) {
        if !self.eof_given && !self.ring.is_empty() {
            (self.received, self.ended) = (self.taken(), false);
            self.ring.consumed(self.ring.len());
        }
    }

    /// The command's end.
    pub fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Reads what is there: the rest of the input straight into the ring, and what comes behind it, up to the end
    /// of a head. How many bytes.
    pub fn read(&mut self, frames: &mut Frames, fd: &impl std::os::fd::AsFd) -> io::Result<usize> {
        if frames.skipped && frames.left > 0 {
            return frames.skip(fd);
        }
        let input = frames.left.min(self.ring.room());
        let head = if input == frames.left { &mut frames.head[frames.have..frames.need] } else { &mut [] };
        let [a, b] = self.ring.spare(input);
        let mut slices = [a, b, IoSliceMut::new(head)];
        let count = retry_on_intr(|| rustix::io::readv(fd, &mut slices))?;
        let into_ring = count.min(input);
        self.ring.filled(into_ring);
        self.received += into_ring as u64;
        frames.left -= into_ring;
        frames.have += count - into_ring;
        if matches!(self.sink, Sink::Closed) {
            self.ring.consumed(self.ring.len());
        }
        Ok(count)
    }

    /// Acts on a frame's head once it is complete; its request, if it has one.
    pub fn take_request(&mut self, frames: &mut Frames) -> Result<Option<Request>, RelayError> {
        let [_, _, _, _, body @ ..] = frames.head;
        let header = frames.header();
        let malformed = Err(RelayError::Malformed(header));
        if frames.have < frames.need {
            return Ok(None);
        }
        let Some((kind, len)) = frame::parse(header) else { return malformed };
        if frames.first != (kind == frame::RESUME) {
            return malformed;
        }
        if frames.need == frame::HEADER && matches!(kind, frame::RESIZE | frame::RESUME | frame::ACK) {
            frames.need += len;
            return Ok(None);
        }
        (frames.have, frames.need, frames.first) = (0, frame::HEADER, false);
        let [r0, r1, c0, c1, ..] = body;
        match kind {
            frame::RESIZE => {
                let (rows, columns) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
                return Ok(Some(Request::Resize(rows, columns)));
            }
            frame::RESUME => return Ok(Some(Request::Resume(u64::from_le_bytes(body)))),
            frame::ACK => return Ok(Some(Request::Ack(u64::from_le_bytes(body)))),
            frame::SCREEN if len == 0 => return Ok(Some(Request::Screen)),
            frame::STDIN => {
                // A terminal goes on after an end that was typed; a pipe does not.
                frames.skipped = self.ended && !matches!(self.sink, Sink::Terminal(_));
                if self.ended && !frames.skipped && len > 0 {
                    self.give_eof();
                    (self.ended, self.eof_given) = (false, false);
                }
                frames.left = len;
            }
            frame::STDIN_EOF => self.end(),
            _ => return malformed,
        }
        Ok(None)
    }

    /// Writes once what waits.
    pub fn write(&mut self, fd: &impl std::os::fd::AsFd) -> io::Result<usize> {
        if !self.answers.is_empty() {
            return Ok(retry_on_intr(|| rustix::io::write(fd, &self.answers))?);
        }
        let queued = self.ring.queued();
        Ok(retry_on_intr(|| rustix::io::writev(fd, &queued))?)
    }

    /// What came of that.
    pub fn written(&mut self, written: io::Result<usize>) -> Result<(), RelayError> {
        match written {
            Ok(count) if !self.answers.is_empty() => {
                self.last = self.answers.drain(..count).next_back().unwrap_or(self.last);
            }
            Ok(count) => self.last = self.ring.consumed(count).unwrap_or(self.last),
            // Nobody reads any more; what else comes is thrown away.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PIPE) => {
                self.sink = Sink::Closed;
                self.ring.consumed(self.ring.len());
            }
            // A terminal that nobody has open. A size can still be set.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => {
                self.answers.clear();
                self.ring.consumed(self.ring.len());
            }
            Err(source) => return Err(RelayError::Io { what: "write the command's input", source }),
        }
        self.give_eof();
        Ok(())
    }

    /// No more will come. A later stream may say so again.
    fn end(&mut self) {
        self.ended = true;
        self.give_eof();
    }

    /// Once the client's input has ended and all of it is written: a pipe is closed. On a terminal the end is
    /// what a person would type: the terminal's own end-of-file character; twice within a line, where the first
    /// only hands over what was typed.
    fn give_eof(&mut self) {
        if !self.ended || self.eof_given || !self.ring.is_empty() {
            return;
        }
        self.eof_given = true;
        match &self.sink {
            Sink::Pipe(_) => self.sink = Sink::Closed,
            Sink::Closed => {}
            Sink::Terminal(fd) => {
                let (code, lines) = match rustix::termios::tcgetattr(&**fd) {
                    Ok(modes) => (
                        modes.special_codes[SpecialCodeIndex::VEOF],
                        modes.local_modes.contains(LocalModes::ICANON),
                    ),
                    Err(_) => (4, true),
                };
                let times = match code {
                    // The terminal has no such character.
                    0 => 0,
                    _ if lines && self.last != b'\n' && self.last != b'\r' => 2,
                    _ => 1,
                };
                self.ring.push(&[code; 2][..times]);
            }
        }
    }
}
