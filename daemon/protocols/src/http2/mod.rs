//! HTTP/2 without TLS as the client speaks it (RFC 9113 §3.3): where each request begins, and which host it is for.
//!
//! As with [`http`](crate::http): [`Connection::client`] returns what the next bytes are, and the caller sends on
//! precisely these bytes. The frames go as they are. [`Connection::server`] sees what comes back: nothing but
//! the preface and a client's settings goes before a server has shown by settings of its own that it reads what is
//! judged here, for to any other these bytes may be requests of HTTP/1.
//!
//! What servers were seen to disagree on when they hand a request on as HTTP/1 is refused: fields of a connection,
//! Transfer-Encoding, a Content-Length that is not the body's, line ends in values, blanks in the path, Host beside
//! another `:authority` (RFC 9113 §8.2, §8.3, §10.3).

mod fields;
mod frame;
mod hpack;
mod huffman;
mod refusal;
mod server;

use std::collections::BTreeMap;

use crate::authority::Authority;
use crate::http::Refused;
use fields::Fields;
use frame::{Frame, kind};
use hpack::Decoder;
pub use refusal::refusal;
use server::Server;

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest compressed head, with all of its frames.
const MAX_HEAD: usize = 64 << 10;
/// The largest frame that is neither a head's nor a body's, and that somebody keeps: settings, a ping, a farewell.
const MAX_FRAME: usize = 16 << 10;
/// The most requests at a time whose body has no end yet.
const MAX_STREAMS: usize = 1024;

/// What the first bytes of the input are.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not known: call again with the same bytes and more.
    NeedMore,
    /// So many bytes that begin nothing.
    Goes(usize),
    /// Nothing before the server has sent its preface: call again after [`Connection::server`].
    Held,
    /// A request's head.
    Head(Head),
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of its stream.
    pub stream: u32,
    /// As it came, a token.
    pub method: String,
    /// The host, by `:authority`, Host, or both.
    pub authority: Authority,
    /// Whether it is one of gRPC, whose clients want refusals in its own form.
    pub grpc: bool,
    /// How many bytes of the input it is, with all of its frames.
    pub len: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Preface,
    Settings,
    Frames,
    /// So many bytes of a frame that begins nothing.
    Payload(usize),
    Refused,
}

/// A request whose body has no end yet.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// What of Content-Length is to come, if it was there.
    left: Option<u64>,
    /// The server reads no more of it: its client may never send anything.
    over: bool,
}

/// One connection, from the client's first byte.
#[derive(Debug)]
pub struct Connection {
    state: State,
    decoder: Decoder,
    server: Server,
    last: u32,
    streams: BTreeMap<u32, Stream>,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            state: State::Preface,
            decoder: Decoder::default(),
            server: Server::default(),
            last: 0,
            streams: BTreeMap::new(),
        }
    }
}

impl Connection {
    /// What the first bytes of `input` are. `input` begins where the answer before ended; at first, with
    /// [`PREFACE`].
    ///
    /// # Errors
    /// [`Refused`]: the connection is to be closed, and nothing of `input` to be sent on.
    pub fn client(&mut self, input: &[u8]) -> Result<Step, Refused> {
        let step = self.step(input);
        if step.is_err() {
            self.state = State::Refused;
        }
        step
    }

    /// How many bytes follow that begin nothing: these may go on unseen, and then be counted by
    /// [`Connection::skipped`].
    pub fn certain(&self) -> u64 {
        match self.state {
            State::Payload(left) => left as u64,
            _ => 0,
        }
    }

    /// Takes note that `count` bytes of [`Connection::certain`] went by.
    pub fn skipped(&mut self, count: u64) {
        if let State::Payload(left) = self.state {
            self.state = payload(left.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX)));
        }
    }

    /// Sees what the server sent. All of it may go to the client.
    pub fn server(&mut self, bytes: &[u8]) {
        let (decoder, streams) = (&mut self.decoder, &mut self.streams);
        self.server.observe(bytes, |frame| match frame {
            server::ServerFrame::Table(size) => decoder.allow(size),
            server::ServerFrame::Reset(stream) => {
                if let Some(stream) = streams.get_mut(&stream) {
                    stream.over = true;
                }
            }
        });
    }

    /// How many bytes of the server's follow until the end of what it is saying: 0 between two frames, where something
    /// else may be sent to the client.
    pub fn server_left(&self) -> usize {
        self.server.left()
    }

    fn step(&mut self, input: &[u8]) -> Result<Step, Refused> {
        match self.state {
            State::Refused => Err(Refused::Before),
            State::Preface if input.len() < PREFACE.len() => Ok(Step::NeedMore),
            State::Preface if !input.starts_with(PREFACE) => Err(Refused::Form("the preface")),
            State::Preface => {
                self.state = State::Settings;
                Ok(Step::Goes(PREFACE.len()))
            }
            State::Settings => self.settings(input),
            State::Payload(left) => match input.len().min(left) {
                0 => Ok(Step::NeedMore),
                taken => {
                    self.state = payload(left - taken);
                    Ok(Step::Goes(taken))
                }
            },
            State::Frames => match self.server.is_one() {
                None => Ok(Step::Held),
                Some(false) => Err(Refused::Server),
                Some(true) => self.frame(input),
            },
        }
    }

    /// The client's first frame. What is in it cannot be read as anything else: each number has a zero before it.
    fn settings(&mut self, input: &[u8]) -> Result<Step, Refused> {
        let Some(frame) = Frame::parse(input) else { return Ok(Step::NeedMore) };
        let plain = frame.kind == kind::SETTINGS && frame.flags == 0 && frame.stream == 0;
        if !plain || frame.length > MAX_FRAME || !frame.length.is_multiple_of(frame::SETTING) {
            return Err(Refused::Form("the first frame"));
        }
        let Some(settings) = input.get(frame::HEADER..frame::HEADER + frame.length) else {
            return Ok(Step::NeedMore);
        };
        if frame::settings(settings).any(|(number, _)| !frame::KNOWN_SETTINGS.contains(&number))
            && self.server.is_one() != Some(true)
        {
            return if self.server.is_one().is_none() { Ok(Step::Held) } else { Err(Refused::Server) };
        }
        self.state = State::Frames;
        Ok(Step::Goes(frame::HEADER + frame.length))
    }

    fn frame(&mut self, input: &[u8]) -> Result<Step, Refused> {
        let Some(frame) = Frame::parse(input) else { return Ok(Step::NeedMore) };
        match frame.kind {
            kind::DATA => return self.data(frame, input),
            kind::HEADERS => return self.headers(frame, input),
            kind::PUSH_PROMISE => return Err(Refused::Form("a promise of a client's")),
            kind::CONTINUATION => return Err(Refused::Form("a continuation of nothing")),
            kind::RST_STREAM => {
                self.streams.remove(&frame.stream);
            }
            _ => {}
        }
        if frame.length > MAX_FRAME {
            return Err(Refused::TooLong("a frame"));
        }
        self.state = payload(frame.length);
        Ok(Step::Goes(frame::HEADER))
    }

    fn data(&mut self, frame: Frame, input: &[u8]) -> Result<Step, Refused> {
        if frame.stream == 0 || frame.stream > self.last {
            return Err(Refused::Form("a body without a head"));
        }
        // With padding, its length is the first byte.
        let padding = match (frame.has(frame::PADDED), input.get(frame::HEADER)) {
            (false, _) => 0,
            (true, Some(padding)) => 1 + usize::from(*padding),
            (true, None) if frame.length == 0 => return Err(Refused::Form("padding")),
            (true, None) => return Ok(Step::NeedMore),
        };
        let bytes = frame.length.checked_sub(padding).ok_or(Refused::Form("padding"))?;
        let ends = frame.has(frame::END_STREAM);
        if let Some(stream) = self.streams.get_mut(&frame.stream) {
            if let Some(left) = &mut stream.left {
                *left = left.checked_sub(bytes as u64).ok_or(Refused::Body)?;
                if ends && *left > 0 {
                    return Err(Refused::Form("Content-Length"));
                }
            }
            if ends {
                self.streams.remove(&frame.stream);
            }
        }
        self.state = payload(frame.length);
        Ok(Step::Goes(frame::HEADER))
    }

    fn headers(&mut self, frame: Frame, input: &[u8]) -> Result<Step, Refused> {
        let Some((block, len)) = frame::block(frame, input, MAX_HEAD)? else { return Ok(Step::NeedMore) };
        let mut fields = Fields::default();
        self.decoder.decode(&block, |name, value| fields.read(name, value))?;
        let ends = frame.has(frame::END_STREAM);
        if frame.stream <= self.last {
            // Trailers, also of a stream that is gone.
            fields.trailers()?;
            if !ends {
                return Err(Refused::Form("a second head"));
            }
            let stream = self.streams.remove(&frame.stream);
            return match stream.and_then(|stream| stream.left) {
                Some(1..) => Err(Refused::Form("Content-Length")),
                _ => Ok(Step::Goes(len)),
            };
        }
        if frame.stream.is_multiple_of(2) {
            return Err(Refused::Form("a stream"));
        }
        let request = fields.request()?;
        self.last = frame.stream;
        if ends {
            if request.length.is_some_and(|length| length > 0) {
                return Err(Refused::Form("Content-Length"));
            }
        } else {
            self.open(frame.stream, request.length)?;
        }
        let (method, authority, grpc) = (request.method, request.authority, request.grpc);
        Ok(Step::Head(Head { stream: frame.stream, method, authority, grpc, len }))
    }

    fn open(&mut self, stream: u32, left: Option<u64>) -> Result<(), Refused> {
        if self.streams.len() >= MAX_STREAMS {
            self.streams.retain(|_, stream| !stream.over);
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(Refused::TooLong("the list of open streams"));
        }
        self.streams.insert(stream, Stream { left, over: false });
        Ok(())
    }
}

fn payload(left: usize) -> State {
    if left == 0 { State::Frames } else { State::Payload(left) }
}

#[cfg(test)]
mod tests;
