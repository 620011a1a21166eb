//! HTTP/1 as the client speaks it: where each request begins and ends, and which host it is for (RFC 9112).
//!
//! [`Connection::client`] is asked what the next bytes are: a head to be judged, a body that goes where its head went,
//! or nothing that can be told yet. The caller sends on precisely the bytes that it says, and nothing that was not
//! judged. [`Connection::server`] sees what comes back, because whether an upgrade happened, and with it whether the
//! next bytes are a request, is the server's to say.
//!
//! Every request is framed in one way only: bare CR and LF, folded lines, repeated or odd Content-Length and
//! Transfer-Encoding, both at once, HTTP/0.9, h2c and whatever else servers and proxies were seen to disagree on
//! (RFC 9112 §11.2) is refused.

mod body;
mod head;
mod response;
mod sniff;

use std::collections::VecDeque;
use std::ops::Range;

pub(crate) use body::is_token;
pub(crate) use head::{content_length, is_bodiless, is_judged};
pub use sniff::{Sniff, Watch, looks_cut, sniff};

use crate::proxy::{Authority, AuthorityError};
use body::Body;
use response::{Observed, Responses};

/// The longest head of a request, and of a response that is looked at.
pub const MAX_HEAD: usize = 32 << 10;
/// The most fields of a head.
pub const MAX_FIELDS: usize = 128;
/// The most requests that wait for their response; more are held.
pub const MAX_PIPELINED: usize = 64;

/// Why a connection goes no further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Of a head, of trailers, of a chunk's extension.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// A part that is not as the grammar has it, or not as all servers read it.
    #[error("{0} is malformed")]
    Form(&'static str),
    /// A field that has to be there once.
    #[error("{0} is there more than once")]
    Repeated(&'static str),
    /// Every request names its host.
    #[error("Host is missing")]
    NoHost,
    /// Host, or the target.
    #[error("the host: {0}")]
    Host(#[from] AuthorityError),
    /// An absolute target names another host than Host does (RFC 9112 §3.2.2).
    #[error("the target and Host name different hosts")]
    Mismatch,
    /// CONNECT to what is no proxy of ours.
    #[error("CONNECT through a connection that is none to a proxy")]
    Connect,
    /// HTTP/2 without TLS: names inside cannot be judged.
    #[error("HTTP/2 without TLS")]
    Http2,
    /// The server took up another protocol than a WebSocket, or cannot be understood while it has to say.
    #[error("an upgrade to something else than a WebSocket")]
    Upgrade,
    /// Servers that expect none do not read it, and take it for the next request (RFC 9110 §9.3.1).
    #[error("a body of a method that defines none")]
    Body,
    /// Nothing shows that it reads what was judged.
    #[error("the server does not answer by HTTP/2")]
    Server,
    /// Asked again after a refusal.
    #[error("the connection was refused before")]
    Before,
}

/// Who the client believes to speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The server itself, or a proxy that it does not see: CONNECT asks that for a tunnel.
    Origin,
    /// A proxy, here: targets are absolute, and CONNECT begins a tunnel.
    Proxy,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A path and query.
    Path(&'a str),
    /// `http://authority` and a path and query, which may be empty.
    Absolute {
        /// Where scheme and authority are in the head: without them the target is a path, if the path is not empty.
        prefix: Range<usize>,
        /// Path and query.
        path: &'a str,
    },
    /// The target of CONNECT, whose port is there.
    Connect,
    /// `OPTIONS *`.
    Asterisk,
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a str,
    /// The target.
    pub target: Target<'a>,
    /// The host, by Host, and by the target if that is absolute or CONNECT's.
    pub authority: Authority,
    /// How many bytes of the input it is: these, if it is allowed, are sent on, and the next question begins behind
    /// them.
    pub len: usize,
}

/// What the first bytes of the input are.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Not known: to be asked again with the same bytes and more.
    NeedMore,
    /// A request's head.
    Head(Head<'a>),
    /// That many bytes of the body of the request before. More of it can follow.
    Body(usize),
    /// Nothing before the server has answered: to be asked again after [`Connection::server`].
    Held,
    /// Nothing more: the server has answered without the body that the client asked about. Where the next request
    /// would begin, servers disagree.
    Over,
    /// A WebSocket, or what this end's own tunnel leads to: this and all that follows, both ways.
    Opaque,
    /// The server has opened the tunnel that it was asked for: this and all that follows is for somebody else.
    Tunnel,
}

/// What a request asks the server to change to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    None,
    /// What the server has to say to the key of the request (RFC 6455 §4.2.2).
    WebSocket(Accept),
    /// Fine as long as the server says no, as nearly all do to h2c.
    Other,
    /// A tunnel, by CONNECT.
    Tunnel,
}

/// A key's digest in base64.
type Accept = [u8; 28];

/// What the response to a request depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    head_only: bool,
    upgrade: Upgrade,
}

#[derive(Debug)]
enum State {
    Head {
        scanned: usize,
    },
    /// The body waits until the server wants it.
    Expecting(Body),
    Body(Body),
    Upgrading,
    Opaque,
    Tunnel,
    Refused,
}

/// One connection, from the client's first byte.
#[derive(Debug)]
pub struct Connection {
    mode: Mode,
    state: State,
    /// What the last request asked for.
    upgrade: Upgrade,
    pending: VecDeque<Pending>,
    responses: Responses,
}

impl Connection {
    /// A connection to `mode`.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            state: State::Head { scanned: 0 },
            upgrade: Upgrade::None,
            pending: VecDeque::new(),
            responses: Responses::default(),
        }
    }

    /// Says what the first bytes of `input` are. `input` begins where the answer before ended.
    ///
    /// # Errors
    /// [`Refused`]: the connection is to be closed, and nothing of `input` to be sent on.
    pub fn client<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Refused> {
        let step = self.step(input);
        if step.is_err() {
            self.state = State::Refused;
        }
        step
    }

    /// How many bytes of a body follow for certain: these may go on without being asked about, and then be told to
    /// [`Connection::skipped`].
    pub fn certain(&self) -> u64 {
        match &self.state {
            State::Body(body) => body.certain(),
            _ => 0,
        }
    }

    /// Takes note that `count` bytes of [`Connection::certain`] went by.
    pub fn skipped(&mut self, count: u64) {
        if let State::Body(body) = &mut self.state {
            body.skip(count);
        }
    }

    /// The server has said nothing about a body for long: it may be one that knows of no such question (RFC 9110
    /// §10.1.1), and the body goes on.
    pub fn go_on(&mut self) {
        if let State::Expecting(body) = &self.state {
            self.state = State::Body(body.clone());
        }
    }

    /// Whether the server owes nothing but a word about such a body: only then its silence says something.
    pub fn is_awaited(&self) -> bool {
        matches!(self.state, State::Expecting(_)) && self.pending.len() == 1 && self.responses.is_between()
    }

    /// Sees what the server sent. All of it may go to the client.
    pub fn server(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::Opaque | State::Tunnel | State::Refused) {
            return;
        }
        self.responses.observe(bytes, &mut self.pending);
        if matches!(self.responses.observed(), Observed::Lost | Observed::Unasked) {
            self.pending.clear();
        }
    }

    /// How many bytes of the server's follow that say nothing: these may go to the client without being shown to
    /// [`Connection::server`], and then be told to [`Connection::server_skipped`].
    pub fn server_certain(&self) -> u64 {
        match self.state {
            State::Opaque | State::Tunnel => u64::MAX,
            _ => self.responses.certain(),
        }
    }

    /// Takes note that `count` bytes of [`Connection::server_certain`] went by.
    pub fn server_skipped(&mut self, count: u64) {
        self.responses.skip(count);
    }

    /// Whether all requests but the last `but` were answered in full.
    pub fn is_answered(&self, but: usize) -> bool {
        self.pending.len() <= but && self.responses.is_between()
    }

    /// Whether the server has opened the tunnel that it was asked for.
    pub fn is_tunnel(&self) -> bool {
        self.upgrade == Upgrade::Tunnel && self.responses.observed() == Observed::Switched
    }

    /// Whether the server has changed the protocol unasked: nothing can be said to the client any more.
    pub fn is_unasked(&self) -> bool {
        self.responses.observed() == Observed::Unasked
    }

    fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Refused> {
        loop {
            match &mut self.state {
                State::Refused => return Err(Refused::Before),
                State::Opaque => return Ok(Step::Opaque),
                State::Tunnel => return Ok(Step::Tunnel),
                State::Upgrading => match self.responses.observed() {
                    Observed::Switched if self.upgrade == Upgrade::Tunnel => self.state = State::Tunnel,
                    Observed::Switched => self.state = State::Opaque,
                    Observed::Lost | Observed::Unasked => return Err(Refused::Upgrade),
                    Observed::Framed if self.pending.is_empty() => self.state = State::Head { scanned: 0 },
                    Observed::Framed => return Ok(Step::Held),
                },
                State::Expecting(body) => match self.responses.observed() {
                    Observed::Framed if !self.pending.is_empty() => {
                        if !self.responses.continued() {
                            return Ok(Step::Held);
                        }
                        self.state = State::Body(body.clone());
                    }
                    Observed::Unasked => return Err(Refused::Upgrade),
                    Observed::Framed | Observed::Switched | Observed::Lost => return Ok(Step::Over),
                },
                State::Body(body) => {
                    let taken = body.take(input)?;
                    if body.is_done() {
                        self.state = self.after_body();
                    }
                    if taken > 0 {
                        return Ok(Step::Body(taken));
                    }
                    if input.is_empty() && matches!(self.state, State::Body(_)) {
                        return Ok(Step::NeedMore);
                    }
                }
                State::Head { .. } if self.responses.observed() == Observed::Unasked => {
                    return Err(Refused::Upgrade);
                }
                State::Head { .. } if self.pending.len() >= MAX_PIPELINED => return Ok(Step::Held),
                State::Head { scanned } => {
                    let Some(len) = head::end(input, scanned)? else { return Ok(Step::NeedMore) };
                    return self.head(&input[..len]).map(Step::Head);
                }
            }
        }
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<Head<'a>, Refused> {
        let parsed = head::parse(bytes, self.mode)?;
        if parsed.head.target == Target::Connect && self.mode == Mode::Proxy {
            self.state = State::Opaque;
            return Ok(parsed.head);
        }
        self.upgrade = parsed.upgrade;
        if self.responses.observed() == Observed::Framed {
            let head_only = parsed.head.method == "HEAD";
            self.pending.push_back(Pending { head_only, upgrade: parsed.upgrade });
        }
        self.state = if parsed.body.is_done() {
            self.after_body()
        } else if parsed.expects && self.mode == Mode::Origin {
            self.responses.expect();
            State::Expecting(parsed.body)
        } else {
            State::Body(parsed.body)
        };
        Ok(parsed.head)
    }

    fn after_body(&self) -> State {
        match self.upgrade {
            Upgrade::WebSocket(_) | Upgrade::Other | Upgrade::Tunnel => State::Upgrading,
            Upgrade::None => State::Head { scanned: 0 },
        }
    }
}

#[cfg(test)]
mod tests;
