//! From the service to the command: its standard input, and its terminal's size.
//!
//! Input that the command does not read waits in a [`Ring`]. As long as there is room, frames behind it are
//! read, so a new size is set at once, ahead of input that came before it.

use std::convert::Infallible;
use std::io::{self, IoSliceMut};

use agentd_policy::wire::frame;
use rustix::io::{Errno, retry_on_intr};
use rustix::termios::{LocalModes, SpecialCodeIndex, Winsize};

use crate::outputs::service_gone;
use crate::ring::Ring;
use crate::{Endpoint, RelayError};

/// How many bytes wait for a command that does not read.
const QUEUE: usize = 256 << 10;
/// What a header and the longest payload that is not input need.
const HEAD: usize = frame::HEADER + 4;

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

    /// Sets a terminal's size: rows and columns as in [`frame::RESIZE`]. Without a terminal there is none
    /// to set, and nothing happens.
    fn resize(&self, [r0, r1, c0, c1]: [u8; 4]) {
        if let Self::Terminal(fd) = self {
            let (ws_row, ws_col) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
            // It fails only once the terminal is gone, and then nobody has a use for its size.
            let _ =
                rustix::termios::tcsetwinsize(&**fd, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 });
        }
    }
}

/// The frames from the service, as far as they are read.
struct Frames {
    head: [u8; HEAD],
    have: usize,
    need: usize,
    /// Bytes of input that are still to come in the present frame.
    left: usize,
    /// No more input will come.
    ended: bool,
}

/// Carries input until the connection ends or is out of form; returns which.
pub async fn carry(service: Endpoint, sink: Sink) -> Result<Infallible, RelayError> {
    let mut inputs = Inputs {
        frames: Frames { head: [0; HEAD], have: 0, need: frame::HEADER, left: 0, ended: false },
        ring: Ring::new(QUEUE),
        sink,
        last: b'\n',
        eof_given: false,
    };
    loop {
        // Both directions may be ready for ever: the outputs must have their turn.
        tokio::task::coop::consume_budget().await;
        inputs.step(&service).await?;
    }
}

struct Inputs {
    frames: Frames,
    ring: Ring,
    sink: Sink,
    /// The last byte that a terminal got.
    last: u8,
    eof_given: bool,
}

impl Inputs {
    async fn step(&mut self, service: &Endpoint) -> Result<(), RelayError> {
        if self.frames.ended && self.ring.is_empty() && !self.eof_given {
            self.eof_given = true;
            self.give_eof();
        }
        let wants = self.frames.left == 0 || self.ring.room() > 0;
        let sink = self.sink.endpoint().filter(|_| !self.ring.is_empty()).cloned();
        let writable = async {
            match &sink {
                Some(fd) => fd.writable().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = service.readable(), if wants => {
                let mut ready = ready.map_err(service_gone)?;
                if let Ok(read) = ready.try_io(|fd| self.frames.read(fd, &mut self.ring)) {
                    if read.map_err(service_gone)? == 0 {
                        return Err(RelayError::ServiceGone);
                    }
                    self.frames.understand(&self.sink)?;
                }
            }
            ready = writable => {
                let mut ready = ready.map_err(|source| RelayError::Io { what: "wait for the command", source })?;
                let queued = self.ring.queued();
                if let Ok(written) = ready.try_io(|fd| Ok(retry_on_intr(|| rustix::io::writev(fd, &queued))?)) {
                    self.written(written)?;
                }
            }
        }
        if matches!(self.sink, Sink::Closed) {
            self.ring.consumed(self.ring.len());
        }
        Ok(())
    }

    fn written(&mut self, written: io::Result<usize>) -> Result<(), RelayError> {
        match written {
            Ok(count) => self.last = self.ring.consumed(count).unwrap_or(self.last),
            // Nobody reads any more; what else comes is thrown away.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PIPE) => self.sink = Sink::Closed,
            // A terminal that nobody has open. A size can still be set.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => {
                self.ring.consumed(self.ring.len());
            }
            Err(source) => return Err(RelayError::Io { what: "write the command's input", source }),
        }
        Ok(())
    }

    /// The client's input has ended and all of it is written. A pipe is closed. On a terminal the end is what
    /// a person would type: the terminal's own end-of-file character; twice within a line, where the first
    /// only hands over what was typed.
    fn give_eof(&mut self) {
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

impl Frames {
    /// Reads what is there: the rest of the input straight into `ring`, and what comes behind it, up to the
    /// end of a head.
    fn read(&mut self, fd: &impl std::os::fd::AsFd, ring: &mut Ring) -> io::Result<usize> {
        let input = self.left.min(ring.room());
        let head = if input == self.left { &mut self.head[self.have..self.need] } else { &mut [] };
        let [a, b] = ring.spare(input);
        let mut slices = [a, b, IoSliceMut::new(head)];
        let count = retry_on_intr(|| rustix::io::readv(fd, &mut slices))?;
        let into_ring = count.min(input);
        ring.filled(into_ring);
        self.left -= into_ring;
        self.have += count - into_ring;
        Ok(count)
    }

    /// Acts on a head that is complete.
    fn understand(&mut self, sink: &Sink) -> Result<(), RelayError> {
        let [k, a, b, c, size @ ..] = self.head;
        let header = [k, a, b, c];
        if self.have < self.need {
            return Ok(());
        }
        match frame::parse(header) {
            Some((frame::RESIZE, len)) if self.need == frame::HEADER => {
                self.need += len;
                return Ok(());
            }
            Some((frame::RESIZE, _)) => sink.resize(size),
            Some((frame::STDIN, len)) if !self.ended => self.left = len,
            Some((frame::STDIN_EOF, _)) if !self.ended => self.ended = true,
            _ => return Err(RelayError::Malformed(header)),
        }
        (self.have, self.need) = (0, frame::HEADER);
        Ok(())
    }
}
