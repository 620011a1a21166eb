//! What a server answers, as far as it shows which request the answer is to and whether an upgrade happened
//! (RFC 9112 §6.3). Nothing here decides what the client gets.

use std::collections::VecDeque;

use super::body::Body;
use super::head::content_length;
use super::{Accept, MAX_FIELDS, MAX_HEAD, Pending, Upgrade};

/// What is known of the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// Where each response ended so far.
    Framed,
    /// It changed the protocol, to the WebSocket or the tunnel that the request asked for.
    Switched,
    /// It changed the protocol, without a request for that.
    Unasked,
    /// Where the next response begins is not known any more: the last ends with the connection, or was odd.
    Lost,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Body(Body),
    Ended(Observed),
}

/// The responses of a connection.
#[derive(Debug)]
pub(super) struct Responses {
    state: State,
    /// One had no body by its request or its status alone. A server that sends one all the same has its bytes read as
    /// answers: no change of protocol is believed any more.
    doubtful: bool,
    /// The server accepts the body of the only request that waits (RFC 9110 §10.1.1).
    continued: bool,
}

impl Default for Responses {
    fn default() -> Self {
        Self { state: State::Head(Vec::new()), doubtful: false, continued: false }
    }
}

impl Responses {
    pub(super) fn observed(&self) -> Observed {
        match self.state {
            State::Ended(observed) => observed,
            _ => Observed::Framed,
        }
    }

    /// A request goes whose body waits for the server.
    pub(super) fn expect(&mut self) {
        self.continued = false;
    }

    /// Whether the server accepts it.
    pub(super) fn continued(&self) -> bool {
        self.continued
    }

    /// How many bytes of a body come next.
    pub(super) fn certain(&self) -> u64 {
        match &self.state {
            State::Head(_) => 0,
            State::Body(body) => body.certain(),
            State::Ended(_) => u64::MAX,
        }
    }

    /// Takes note that as many of them went by.
    pub(super) fn skip(&mut self, count: u64) {
        if let State::Body(body) = &mut self.state {
            body.skip(count);
            if body.is_done() {
                self.state = State::Head(Vec::new());
            }
        }
    }

    /// Whether the last response is whole, and no other has begun.
    pub(super) fn is_between(&self) -> bool {
        matches!(&self.state, State::Head(head) if head.is_empty())
    }

    /// Sees the next bytes; the requests that were answered leave `pending`.
    pub(super) fn observe(&mut self, mut bytes: &[u8], pending: &mut VecDeque<Pending>) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Ended(_) => return,
                State::Body(body) => match body.take(bytes) {
                    Ok(taken) => {
                        bytes = &bytes[taken..];
                        if body.is_done() {
                            self.state = State::Head(Vec::new());
                        }
                    }
                    Err(_) => self.state = State::Ended(Observed::Lost),
                },
                State::Head(head) => {
                    let Some(len) = end(head, bytes) else {
                        if head.len() >= MAX_HEAD {
                            self.state = State::Ended(Observed::Lost);
                        }
                        return;
                    };
                    bytes = &bytes[len..];
                    let head = std::mem::take(head);
                    self.state = self.after(&head, pending);
                }
            }
        }
    }

    /// What follows a head.
    fn after(&mut self, head: &[u8], pending: &mut VecDeque<Pending>) -> State {
        const LOST: State = State::Ended(Observed::Lost);
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let whole = matches!(response.parse(head), Ok(httparse::Status::Complete(len)) if len == head.len());
        let Some(status) = response.code.filter(|_| whole) else { return LOST };
        if status == 101 {
            return match pending.pop_front() {
                Some(Pending { upgrade: Upgrade::WebSocket(accept), .. })
                    if !self.doubtful && is_websocket(response.headers, accept) =>
                {
                    State::Ended(Observed::Switched)
                }
                _ => State::Ended(Observed::Unasked),
            };
        }
        if (100..200).contains(&status) {
            self.continued |= status == 100 && pending.len() == 1;
            return State::Head(Vec::new());
        }
        let Some(request) = pending.pop_front() else { return LOST };
        if request.upgrade == Upgrade::Tunnel && (200..300).contains(&status) {
            return State::Ended(if self.doubtful { Observed::Unasked } else { Observed::Switched });
        }
        if request.head_only || matches!(status, 204 | 304) {
            self.doubtful = true;
            return State::Head(Vec::new());
        }
        match body(response.headers) {
            Some(body) if body.is_done() => State::Head(Vec::new()),
            Some(body) => State::Body(body),
            None => LOST,
        }
    }
}

/// Moves bytes to `head` until it has its end: how many, or `None` if it has none.
fn end(head: &mut Vec<u8>, bytes: &[u8]) -> Option<usize> {
    for (place, byte) in bytes.iter().enumerate() {
        if head.len() >= MAX_HEAD {
            return None;
        }
        head.push(*byte);
        // Servers may write bare line feeds.
        if *byte == b'\n' && (head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")) {
            return Some(place + 1);
        }
    }
    None
}

/// Whether the server has taken up a WebSocket, and the key with it: a status alone is what some servers let their
/// clients choose.
fn is_websocket(fields: &[httparse::Header<'_>], accept: Accept) -> bool {
    only(fields, "upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
        && only(fields, "sec-websocket-accept").is_some_and(|value| *value == accept)
}

/// The value of a field that is there once.
fn only<'a>(fields: &'a [httparse::Header<'_>], name: &str) -> Option<&'a [u8]> {
    let mut values = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    let value = values.next()?.value.trim_ascii();
    if values.next().is_none() { Some(value) } else { None }
}

/// The body of a response; `None` if it ends with the connection, or is not known.
fn body(fields: &[httparse::Header<'_>]) -> Option<Body> {
    let mut values = [None, None];
    for field in fields {
        let names = ["content-length", "transfer-encoding"];
        let Some(place) = names.iter().position(|name| field.name.eq_ignore_ascii_case(name)) else {
            continue;
        };
        if values[place].replace(field.value.trim_ascii()).is_some() {
            return None;
        }
    }
    match values {
        [None, Some(coding)] if coding.eq_ignore_ascii_case(b"chunked") => Some(Body::chunked()),
        [Some(length), None] => content_length(length).ok().map(Body::Length),
        _ => None,
    }
}
