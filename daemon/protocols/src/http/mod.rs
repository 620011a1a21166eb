//! HTTP/1 as the client speaks it: where each request begins and ends, and which host it is for (RFC 9112).
//!
//! [`Connection::client`] returns what the next bytes are: a head to be judged, a body that goes where its head went,
//! or nothing that is known yet. The caller sends on precisely these bytes, and nothing that was not
//! judged. [`Connection::server`] sees what comes back, because whether an upgrade happened, and with it whether the
//! next bytes are a request, is the server's decision.
//!
//! Every request is framed in one way only: bare CR and LF, folded lines, repeated or odd Content-Length and
//! Transfer-Encoding, both at once, HTTP/0.9, h2c and whatever else servers and proxies were seen to disagree on
//! (RFC 9112 §11.2) is refused.

mod body;
mod connection;
mod head;
mod response;
mod sniff;

use std::ops::Range;

pub(crate) use body::is_token;
pub use connection::Connection;
pub(crate) use head::{content_length, is_bodiless, is_judged};
pub use sniff::{Sniff, Watch, looks_cut, sniff};

use crate::authority::{Authority, AuthorityError};

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
    /// The server took up another protocol than a WebSocket, or its answer cannot be read.
    #[error("an upgrade to something else than a WebSocket")]
    Upgrade,
    /// Servers that expect none do not read it, and take it for the next request (RFC 9110 §9.3.1).
    #[error("a body of a method that defines none")]
    Body,
    /// Nothing shows that it reads what was judged.
    #[error("the server does not answer by HTTP/2")]
    Server,
    /// Used again after a refusal.
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
    /// The target of `OPTIONS *`.
    Asterisk,
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// As it came, a token.
    pub method: &'a str,
    /// As it came, parsed.
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
    /// Not known: call again with the same bytes and more.
    NeedMore,
    /// A request's head.
    Head(Head<'a>),
    /// That many bytes of the body of the request before. More of it can follow.
    Body(usize),
    /// Nothing before the server has answered: call again after [`Connection::server`].
    Held,
    /// Nothing more: the server has answered without the body that the client asked about. Where the next request
    /// would begin, servers disagree.
    Over,
    /// A WebSocket, or what this end's own tunnel leads to: this and all that follows, both ways.
    Opaque,
    /// The server has opened the tunnel that it was asked for: this and all that follows is for its far end.
    Tunnel,
}

/// What a request asks the server to change to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    None,
    /// What the server has to answer to the key of the request (RFC 6455 §4.2.2).
    WebSocket(Accept),
    /// Fine as long as the server declines, as nearly all do to h2c.
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

#[cfg(test)]
mod tests;
