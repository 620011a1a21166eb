//! Resolvers over TLS (RFC 7858): a connection to each is kept for a while, and questions follow each other on it
//! without waiting for answers (RFC 7766 §6.2.1.1). What breaks it breaks what waits for it, and the next query begins
//! another.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use agentd_policy::egress::Purpose;
use agentd_policy::hosts::HostName;
use agentd_policy::protocol::Protocol;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::keeper::{DialError, Keeper};
use super::tls_stream::{Stream, TlsError};
use super::trust_anchors::{TrustAnchors, TrustError};

/// The most questions of a connection that have no answer.
const MAX_PIPELINED: usize = 256;
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a server may send nothing while a query waits.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions that wait for being written.
const QUEUE: usize = 16;

/// Why a resolver gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum DotError {
    /// There are no trust anchors.
    #[error("{0}")]
    TrustAnchors(Arc<TrustError>),
    /// It could not be reached.
    #[error("cannot ask it: {0}")]
    Dial(#[from] DialError),
    /// It is not who it should be, or speaks no TLS.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// It ended the connection, or was silent for [`REPLY_TIMEOUT`].
    #[error("it closed the connection, or sent nothing")]
    Closed,
}

/// A question on its way.
struct Ask {
    message: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

type Connection = mpsc::Sender<Ask>;

/// The connections of a session, at most one to each resolver.
pub struct DotResolvers {
    connections: Vec<Mutex<Option<Connection>>>,
    trust: TrustAnchors,
}

/// Whom to ask.
pub struct Server<'a> {
    /// Its place among the plan's resolvers.
    pub number: usize,
    /// Where it is.
    pub address: SocketAddr,
    /// The name that its certificate must have.
    pub name: &'a HostName,
}

impl DotResolvers {
    /// For so many resolvers, whose certificates are checked by the CA bundle in `trust`.
    pub fn new(resolvers: usize, trust: Option<OwnedFd>) -> Self {
        let connections = (0..resolvers).map(|_| Mutex::default()).collect();
        Self { connections, trust: TrustAnchors::new(trust) }
    }

    /// The reply to `message`, with the same number. A connection that turns out to be closed is not the last: servers
    /// end those that are idle.
    pub async fn ask(
        &self,
        keeper: &Keeper,
        server: Server<'_>,
        message: &[u8],
        from: SocketAddr,
    ) -> Result<Vec<u8>, DotError> {
        loop {
            let (connection, kept) = self.connection(keeper, &server, from).await?;
            let (answer, answered) = oneshot::channel();
            let sent = connection.send(Ask { message: message.to_vec(), answer }).await;
            match (sent.is_ok(), answered.await) {
                (true, Ok(reply)) => return Ok(reply),
                _ if kept => {}
                _ => return Err(DotError::Closed),
            }
        }
    }

    /// The connection that there is, or a new one; whether it was there.
    async fn connection(
        &self,
        keeper: &Keeper,
        server: &Server<'_>,
        from: SocketAddr,
    ) -> Result<(Connection, bool), DotError> {
        let slot = self.connections.get(server.number).ok_or(DotError::Closed)?;
        // Those that wait here have a time limit, and so has the one that connects.
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok((connection.clone(), true));
        }
        *slot = None;
        let config = self.trust.config().map_err(DotError::TrustAnchors)?;
        let socket = keeper.dial(Purpose::Resolver, server.address, Protocol::Tcp, from).await?;
        let stream = Stream::connect(socket, config, server.name).await?;
        let (connection, asked) = mpsc::channel(QUEUE);
        tokio::spawn(carry(stream, asked));
        *slot = Some(connection.clone());
        Ok((connection, false))
    }
}

/// Carries questions and answers until it is unused for [`IDLE_TIMEOUT`], or it breaks.
async fn carry(mut stream: Stream, mut asked: mpsc::Receiver<Ask>) {
    let mut waiting = Waiting::default();
    let mut since = Instant::now();
    loop {
        let limit = if waiting.asked.is_empty() { IDLE_TIMEOUT } else { REPLY_TIMEOUT };
        let done = tokio::select! {
            ask = asked.recv(), if waiting.asked.len() < MAX_PIPELINED => match ask {
                None => break,
                Some(ask) => {
                    if waiting.asked.is_empty() {
                        since = Instant::now();
                    }
                    let framed = waiting.enter(ask);
                    // A server that does not read is none.
                    timeout(REPLY_TIMEOUT, stream.write(&framed)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
                }
            },
            reply = stream.message() => match reply {
                Ok(Some(reply)) => {
                    since = Instant::now();
                    waiting.answer(reply);
                    Ok(())
                }
                Ok(None) => break,
                Err(error) => Err(error),
            },
            () = sleep_until(since + limit) => break,
        };
        if done.is_err() {
            break;
        }
    }
    stream.close();
}

/// Questions without an answer, by the numbers that they have on the connection: different ones may have come with the
/// same. A query that has timed out keeps its number until it is answered.
#[derive(Default)]
struct Waiting {
    asked: HashMap<u16, ([u8; 2], oneshot::Sender<Vec<u8>>)>,
    last: u16,
}

impl Waiting {
    /// The question with a number of its own, and its length in front.
    fn enter(&mut self, ask: Ask) -> Vec<u8> {
        let Ask { message, answer } = ask;
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.asked.contains_key(&self.last) {
                break;
            }
        }
        // Short by far: a name, a few numbers, and some padding. Of a longer one the resolver would wait for the rest.
        let mut framed = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        framed.extend(&message);
        let mut own = [0; 2];
        if let Some(number) = framed.get_mut(2..4) {
            own.copy_from_slice(number);
            number.copy_from_slice(&self.last.to_be_bytes());
        }
        self.asked.insert(self.last, (own, answer));
        framed
    }

    /// Sends a reply to its query.
    fn answer(&mut self, mut reply: Vec<u8>) {
        let Some(number) = reply.first_chunk_mut::<2>() else { return };
        if let Some((own, answer)) = self.asked.remove(&u16::from_be_bytes(*number)) {
            *number = own;
            // A query that has timed out needs no reply.
            answer.send(reply).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(message: &[u8]) -> (Ask, oneshot::Receiver<Vec<u8>>) {
        let (answer, answered) = oneshot::channel();
        (Ask { message: message.to_vec(), answer }, answered)
    }

    #[test]
    fn answers_find_their_questions_whatever_their_order() {
        let mut waiting = Waiting { last: u16::MAX - 1, ..Waiting::default() };
        let (first, mut of_first) = ask(b"\x07\x07first");
        let (second, mut of_second) = ask(b"\x07\x07second");
        let first = waiting.enter(first);
        let second = waiting.enter(second);
        assert_eq!((&first[..4], &second[..4]), (&[0, 7, 255, 255][..], &[0, 8, 0, 0][..]));
        waiting.answer(b"\x00\x01to nobody".to_vec());
        waiting.answer(b"\x00\x00to second".to_vec());
        waiting.answer(b"\x00\x00again".to_vec());
        waiting.answer(b"\xff\xffto first".to_vec());
        waiting.answer(b"\xff".to_vec());
        assert_eq!(of_first.try_recv().unwrap(), b"\x07\x07to first");
        assert_eq!(of_second.try_recv().unwrap(), b"\x07\x07to second");
        assert!(waiting.asked.is_empty());
    }

    #[test]
    fn a_number_is_not_used_twice_at_a_time() {
        let mut waiting = Waiting::default();
        let mut receivers = Vec::new();
        for _ in 0..=MAX_PIPELINED {
            let (ask, answered) = ask(b"\x07\x07x");
            waiting.enter(ask);
            receivers.push(answered);
        }
        waiting.last = 0;
        let (ask, _answered) = ask(b"\x07\x07x");
        assert_eq!(waiting.enter(ask)[2..4], (u16::try_from(MAX_PIPELINED).unwrap() + 2).to_be_bytes());
    }
}
