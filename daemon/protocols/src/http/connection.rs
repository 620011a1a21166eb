//! One connection: the client's requests in order, and what the server's responses decide.

use std::collections::VecDeque;

use super::body::Body;
use super::head;
use super::response::{Observed, Responses};
use super::{Head, MAX_PIPELINED, Mode, Pending, Refused, Step, Target, Upgrade};

#[derive(Debug)]
enum State {
    Head {
        scanned: usize,
    },
    /// The body waits for 100 Continue.
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

    /// What the first bytes of `input` are. `input` begins where the answer before ended.
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

    /// How many bytes of a body follow for certain: these may go on unseen, and then be counted by
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

    /// The server has not answered `Expect` for long: it may be one that does not know it (RFC 9110
    /// §10.1.1), and the body goes on.
    pub fn go_on(&mut self) {
        if let State::Expecting(body) = &self.state {
            self.state = State::Body(body.clone());
        }
    }

    /// Whether the server owes nothing but the answer to `Expect`: only then its silence has a meaning.
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

    /// How many bytes of a response's body follow: these may go to the client without being shown to
    /// [`Connection::server`], and then be counted by [`Connection::server_skipped`].
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

    /// Whether the server has changed the protocol unasked: no response can be sent to the client any more.
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
