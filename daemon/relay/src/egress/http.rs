//! HTTP/1: each request of a connection is judged by the host that it names.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_policy::egress::Purpose;
use agentd_protocols::authority::Authority;
use agentd_protocols::http::{Connection as Requests, Head, Mode, Refused, Step, Target};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::close::CloseReason;
use super::copy::{self, Direction};
use super::judge::{Place, Refusal, RejectWith, Subject};
use super::requests::{PUMP_MIN, is_at, judged, malformed, more, refused};
use super::tcp::Connection;
use crate::Endpoint;

/// How long a response may take to which a refusal has to wait.
const PENDING_RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a body waits for a server that does not answer `Expect`; curl waits for a second.
const EXPECT_TIMEOUT: Duration = Duration::from_secs(3);
/// What of a body that the server did not want is taken from the client, so that it reads the answer.
const MAX_DISCARDED: usize = 1 << 20;

/// The port of a request to a proxy that names none.
const HTTP: u16 = 80;

/// What both directions know of the requests.
struct Carried<'a> {
    connection: &'a Connection,
    requests: Mutex<Requests>,
    /// What the last tunnel was asked for to: one that was refused before opens no tunnel.
    target: Mutex<Option<Authority>>,
    /// Notified at each read from the server.
    server_spoke: Notify,
    /// Something is on its way to the client.
    delivering: AtomicBool,
}

/// What comes next of the client's bytes.
enum Next {
    /// So many bytes to send on; of a head, by what purpose it was judged.
    Forward(usize, Option<Purpose>),
    /// Not known without more bytes.
    More,
    /// Not known before the server answers.
    Held,
    /// Nothing goes on any more.
    Over,
    /// All that follows.
    All,
    /// All that follows, for somebody else.
    Tunnel,
}

/// Carries a connection that begins with a request, `held`; it is dialled once that is judged.
pub async fn carry(
    connection: &Connection,
    server: Option<Endpoint>,
    mut held: Vec<u8>,
) -> Result<(), CloseReason> {
    let carried = Carried {
        connection,
        target: Mutex::default(),
        requests: Mutex::new(Requests::new(Mode::Origin)),
        server_spoke: Notify::new(),
        delivering: AtomicBool::new(false),
    };
    let (length, purpose) = carried.first(&mut held).await?;
    let server = connection.dialled(purpose, server).await?;
    let (mut up, mut down) = connection.directions(&server);
    let requests = carried.requests(&mut up, held, length);
    let (tunnelled, ()) = tokio::try_join!(requests, carried.responses(&mut down))?;
    match (tunnelled, carried.target.into_inner().unwrap_or_else(PoisonError::into_inner)) {
        (Some(held), Some(target)) => connection.tunnel(target, server.clone(), held).await,
        _ => Ok(()),
    }
}

impl Carried<'_> {
    /// The head of the first request: its length, and the purpose by which it goes on.
    async fn first(&self, held: &mut Vec<u8>) -> Result<(usize, Purpose), CloseReason> {
        loop {
            match self.next(held)? {
                Next::Forward(length, Some(purpose)) => return Ok((length, purpose)),
                Next::More => match copy::read(&self.connection.client, held, copy::CHUNK).await? {
                    0 => return Err(CloseReason::Reset),
                    _ => continue,
                },
                // Nothing else is first.
                Next::Forward(_, None) | Next::Held | Next::Over | Next::All | Next::Tunnel => {
                    return Err(CloseReason::Reset);
                }
            }
        }
    }

    /// Sends on what is judged, of which `judged` bytes are in `held` already. What follows in a tunnel, if one is
    /// opened.
    async fn requests(
        &self,
        way: &mut Direction<'_>,
        mut held: Vec<u8>,
        mut judged: usize,
    ) -> Result<Option<Vec<u8>>, CloseReason> {
        loop {
            let next = match self.next(&held[judged..]) {
                Ok(Next::Forward(length, _)) => {
                    judged += length;
                    continue;
                }
                Ok(next) => next,
                Err(refusal) => {
                    way.write(&held[..judged]).await?;
                    self.wait_for_responses(&refusal).await?;
                    return Err(refusal.into());
                }
            };
            way.write(if matches!(next, Next::All) { &held } else { &held[..judged] }).await?;
            held.drain(..judged);
            judged = 0;
            match next {
                Next::All => {
                    way.drain().await?;
                    return Ok(None);
                }
                Next::Tunnel => return Ok(Some(held)),
                Next::Held => {
                    let awaited = self.lock().is_awaited();
                    let server_spoke = self.server_spoke.notified();
                    if !awaited {
                        server_spoke.await;
                    } else if timeout(EXPECT_TIMEOUT, server_spoke).await.is_err() {
                        self.lock().go_on();
                    }
                }
                Next::Over => {
                    way.end()?;
                    copy::discard(&self.connection.client, MAX_DISCARDED).await?;
                    return Ok(None);
                }
                _ => {
                    let certain = self.lock().certain();
                    let skipped = |count| self.lock().skipped(count);
                    if !more(self.connection, way, &mut held, certain, skipped).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn responses(&self, way: &mut Direction<'_>) -> Result<(), CloseReason> {
        loop {
            let certain = self.lock().server_certain();
            let whole = if certain >= PUMP_MIN {
                self.delivering.store(true, Ordering::Relaxed);
                let count = way.pump(certain).await?;
                self.lock().server_skipped(count);
                count == certain
            } else {
                let see = |bytes: &[u8]| {
                    self.delivering.store(true, Ordering::Relaxed);
                    self.lock().server(bytes);
                };
                way.step(copy::CHUNK, see).await? > 0
            };
            self.delivering.store(false, Ordering::Relaxed);
            self.server_spoke.notify_one();
            // What is on its way to the server already may mean something else to it now.
            if self.lock().is_unasked() {
                return Err(Refusal { reject_with: RejectWith::Plain, ..malformed(&Refused::Upgrade) }.into());
            }
            if self.lock().is_tunnel() {
                return Ok(());
            }
            if !whole {
                return Ok(way.end()?);
            }
        }
    }

    /// What the first bytes of `input` are. A head is judged.
    fn next(&self, input: &[u8]) -> Result<Next, Refusal> {
        let mut requests = self.lock();
        match requests.client(input) {
            Ok(Step::NeedMore) => Ok(Next::More),
            Ok(Step::Held) => Ok(Next::Held),
            Ok(Step::Over) => Ok(Next::Over),
            Ok(Step::Opaque) => Ok(Next::All),
            Ok(Step::Tunnel) => Ok(Next::Tunnel),
            Ok(Step::Body(length)) => Ok(Next::Forward(length, None)),
            Ok(Step::Head(head)) => {
                let purpose = self.judge(&head)?;
                Ok(Next::Forward(head.len, Some(purpose)))
            }
            Err(refused) => Err(malformed(&refused)),
        }
    }

    /// The purpose by which a request goes on. One for a proxy names the host that the proxy is to reach.
    fn judge(&self, head: &Head<'_>) -> Result<Purpose, Refusal> {
        let (connection, method, authority) = (self.connection, head.method, &head.authority);
        let behind = match (&head.target, authority.port) {
            (Target::Connect, _) if connection.is_tunnel() => return Err(malformed(&Refused::Connect)),
            (Target::Connect, Some(port)) => Some(port),
            (Target::Absolute { .. }, port) if !connection.is_tunnel() => Some(port.unwrap_or(HTTP)),
            _ => None,
        };
        let direct = match (&head.target, behind) {
            (Target::Connect, _) => None,
            // What a proxy would fetch from elsewhere is not this connection's far end.
            (Target::Absolute { .. }, Some(port)) if !is_at(authority, port, connection.to()) => None,
            _ => Some(judged(connection, method, authority, connection.place())),
        };
        match (direct, behind) {
            (Some(Ok(purpose)), _) => return Ok(purpose),
            (Some(Err(refusal)), None) => return Err(refusal),
            (_, Some(port)) => {
                judged(connection, method, authority, Place::behind(connection.to(), port))?;
            }
            (None, None) => return Err(malformed(&Refused::Connect)),
        }
        if head.target == Target::Connect {
            *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority.clone());
        }
        connection.by_address().map_err(|refusal| refused(method, authority, refusal.denial))
    }

    /// Waits until the client has the answers to what it asked before. Without them it could not read the refusal.
    async fn wait_for_responses(&self, refusal: &Refusal) -> Result<(), CloseReason> {
        // A request that is refused by its host waits for an answer itself.
        let but = usize::from(matches!(refusal.subject, Subject::Request { .. }));
        let all = async {
            while self.delivering.load(Ordering::Relaxed) || !self.lock().is_answered(but) {
                self.server_spoke.notified().await;
            }
        };
        let answered = !self.lock().is_unasked() && timeout(PENDING_RESPONSE_TIMEOUT, all).await.is_ok();
        if answered {
            Ok(())
        } else {
            Err(Refusal { reject_with: RejectWith::Plain, ..refusal.clone() }.into())
        }
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
