//! Detects a connection's protocol by its first bytes, and which side sends them.

use std::io;
use std::time::Duration;

use agentd_policy::rule::Rule;
use agentd_protocols::hello::{self, ClientHello, Progress};
use agentd_protocols::http::{Sniff, Watch, looks_cut, sniff};
use agentd_protocols::http2;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::time::{sleep, sleep_until, timeout};

use super::close::CloseReason;
use super::judge::{Refusal, RejectWith};
use super::tcp::Connection;
use super::{copy, ssh};
use crate::Endpoint;

/// How long a client may take from its first byte until its protocol is known.
const DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client is silent that waits for the server to speak, or for its answer.
const IDLE_CLIENT: Duration = Duration::from_millis(300);
/// Where the client speaks first: nothing is dialled before.
const WEB: [u16; 6] = [80, 443, 3000, 8000, 8080, 8443];

impl Connection {
    /// `refusal` in the client's protocol, if its first bytes show that within [`IDLE_CLIENT`].
    pub(super) async fn with_protocol(&self, refusal: Refusal) -> Refusal {
        let (mut detector, mut held) = (ProtocolDetector::default(), Vec::new());
        let shown = async {
            loop {
                if held.starts_with(ssh::BANNER) {
                    return RejectWith::Ssh;
                }
                match detector.detect(&held) {
                    Ok(None) => {}
                    Ok(Some(Detected::Tls(..))) => return RejectWith::Tls,
                    Ok(Some(Detected::Http)) => return RejectWith::Http,
                    Ok(Some(_)) | Err(_) => return RejectWith::Plain,
                }
                if !matches!(copy::read(&self.client, &mut held, copy::CHUNK).await, Ok(1..)) {
                    return RejectWith::Plain;
                }
            }
        };
        let reject_with = timeout(IDLE_CLIENT, shown).await.unwrap_or(RejectWith::Plain);
        Refusal { reject_with, ..refusal }
    }

    /// Reads into `held` until the protocol is known. Connects where the client waits for the server to begin; the
    /// server, if it is connected.
    pub(super) async fn detect_protocol(
        &self,
        held: &mut Vec<u8>,
        mut server: Option<Endpoint>,
    ) -> Result<(Detected, Option<Endpoint>), CloseReason> {
        let mut detector = ProtocolDetector::default();
        // Through a proxy the client may not have had its turn yet.
        let mut turn = server.is_some() && held.is_empty();
        let mut end: Option<tokio::time::Instant> = None;
        loop {
            if !held.is_empty() {
                end.get_or_insert_with(|| tokio::time::Instant::now() + DETECT_TIMEOUT);
            }
            if let Some(first) = detector.detect(held)? {
                return Ok((first, server));
            }
            if held.is_empty() && server.is_none() && !WEB.contains(&self.to().port()) {
                match timeout(IDLE_CLIENT, copy::read(&self.client, held, copy::CHUNK)).await {
                    Ok(Ok(0)) => return Ok((Detected::Other(None), server)),
                    Ok(read) => drop(read?),
                    Err(_) => server = Some(self.dial_unnamed().await?),
                }
                continue;
            }
            let spoken = async {
                match &server {
                    Some(server) if held.is_empty() => first_byte(server).await.map(|()| server.clone()),
                    _ => std::future::pending().await,
                }
            };
            let late = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let waits = async {
                match detector.is_other(held) && !held.is_empty() {
                    true => sleep(IDLE_CLIENT).await,
                    false => std::future::pending().await,
                }
            };
            let mut more = Vec::new();
            let read = tokio::select! {
                biased;
                () = late => {
                    let why = "the beginning of the connection does not come";
                    return Err(Refusal::new(RejectWith::Plain, Rule::TcpSlow, why).into());
                }
                read = copy::read(&self.client, &mut more, copy::CHUNK) => read?,
                spoken = spoken => {
                    let spoken = spoken?;
                    let read = copy::read(&self.client, &mut more, copy::CHUNK);
                    match std::mem::take(&mut turn) {
                        true => match timeout(IDLE_CLIENT, read).await {
                            Ok(read) if !more.is_empty() => read?,
                            Ok(_) | Err(_) => return Ok((Detected::ServerFirst(spoken), None)),
                        },
                        false => return Ok((Detected::ServerFirst(spoken), None)),
                    }
                }
                () = waits => return Ok((Detected::ClientWaits, server)),
            };
            held.append(&mut more);
            match read {
                // Nothing will ever be sent: there is nothing to inspect.
                0 if held.is_empty() => return Ok((Detected::Other(None), server)),
                0 => {
                    let why = "the connection ends in its beginning";
                    return Err(Refusal::new(RejectWith::Plain, Rule::TcpShort, why).into());
                }
                _ => {}
            }
        }
    }
}

/// Waits for the server's first byte, which stays unread.
async fn first_byte(server: &Endpoint) -> io::Result<()> {
    loop {
        let mut ready = server.readable().await?;
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(server.get_ref(), &mut [0_u8; 1][..], flags) {
            Ok(_) => return Ok(()),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether a server that speaks no TLS could find the host of a request in `hello`: some take any bytes before it for
/// a method.
fn holds_request(hello: &[u8]) -> bool {
    let is = |part: Option<&[u8]>, text: &[u8]| part.is_some_and(|part| part.eq_ignore_ascii_case(text));
    hello.iter().enumerate().any(|(at, byte)| match byte {
        b'\n' => is(hello.get(at + 1..at + 6), b"host:"),
        b':' => is(at.checked_sub(4).and_then(|begin| hello.get(begin..at + 3)), b"http://"),
        _ => false,
    })
}

/// What a connection's first bytes are.
#[derive(Debug)]
pub enum Detected {
    /// A ClientHello, and how long it is.
    Tls(ClientHello, usize),
    /// A request of HTTP/1.
    Http,
    /// HTTP/2, without TLS.
    Http2,
    /// Something else; a first line that has no end yet is to be watched.
    Other(Option<Watch>),
    /// Nothing before the first byte of this server.
    ServerFirst(Endpoint),
    /// A line that has no end yet, of no protocol that is judged: its client waits for an answer.
    ClientWaits,
}

/// Detects the protocol as the first bytes come.
pub struct ProtocolDetector {
    hello: Option<hello::Reader>,
    fed: usize,
}

impl Default for ProtocolDetector {
    fn default() -> Self {
        Self { hello: Some(hello::Reader::new()), fed: 0 }
    }
}

impl ProtocolDetector {
    /// Whether a client that waits behind `held`, of which [`ProtocolDetector::detect`] knows too little, is of another
    /// protocol than those that are judged.
    pub fn is_other(&self, held: &[u8]) -> bool {
        self.hello.is_none() && !looks_cut(held)
    }

    /// Reads all bytes that came so far; `None` while they are too few. A caller that stops waiting then must refuse.
    pub fn detect(&mut self, held: &[u8]) -> Result<Option<Detected>, Refusal> {
        if let Some(reader) = &mut self.hello {
            let progress = reader.feed(&held[self.fed..]);
            self.fed = held.len();
            match progress {
                Progress::NeedMore => return Ok(None),
                Progress::Hello(hello, length) => {
                    if holds_request(&held[..length]) {
                        let why = "a request of HTTP inside the ClientHello";
                        return Err(Refusal::new(RejectWith::Tls, Rule::TlsMalformed, why));
                    }
                    return Ok(Some(Detected::Tls(hello, length)));
                }
                Progress::Malformed(why) => {
                    return Err(Refusal::new(RejectWith::Tls, Rule::TlsMalformed, why.to_string()));
                }
                Progress::NotTls => self.hello = None,
            }
        }
        if held.starts_with(http2::PREFACE) {
            return Ok(Some(Detected::Http2));
        }
        if http2::PREFACE.starts_with(held) {
            return Ok(None);
        }
        match sniff(held) {
            Sniff::NeedMore => Ok(None),
            Sniff::Http => Ok(Some(Detected::Http)),
            Sniff::Other => Ok(Some(Detected::Other(None))),
            Sniff::Binary => Ok(Some(Detected::Other(Some(Watch::after(held))))),
            Sniff::Proxied => {
                let why = "a header of the PROXY protocol hides the names behind it";
                Err(Refusal::new(RejectWith::Plain, Rule::TcpProxied, why))
            }
            Sniff::TooLong => {
                Err(Refusal::new(RejectWith::Plain, Rule::HttpMalformed, "a first line without an end"))
            }
        }
    }
}
