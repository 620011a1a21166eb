//! HTTP/2 without TLS: each request of a connection is judged by the host that it names. One that is refused has its
//! answer, and is the connection's last: to take a part of the others' heads out, all would have to be written anew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_protocols::http::Refused;
use agentd_protocols::http2::{Connection as Requests, Step};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::close::CloseReason;
use super::copy::{self, Direction};
use super::judge::{Refusal, RejectWith};
use super::requests;
use super::tcp::Connection;
use crate::Endpoint;

/// How long a server may take to show that it speaks HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a frame of the server's may take to which a refusal has to wait.
const FRAME_TIMEOUT: Duration = Duration::from_secs(2);

/// What both directions know.
struct Carried<'a> {
    connection: &'a Connection,
    requests: Mutex<Requests>,
    /// Notified at each read from the server.
    server_spoke: Notify,
    /// Something is on its way to the client.
    delivering: AtomicBool,
    /// The server's side stops at the end of its frame: a refusal goes to the client there.
    stopping: AtomicBool,
}

/// Carries a connection that begins with the preface, `held`.
pub async fn carry(connection: &Connection, server: &Endpoint, held: Vec<u8>) -> Result<(), CloseReason> {
    let carried = Carried {
        connection,
        requests: Mutex::default(),
        server_spoke: Notify::new(),
        delivering: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
    };
    let (mut up, mut down) = connection.directions(server);
    tokio::try_join!(carried.requests(&mut up, held), carried.responses(&mut down))?;
    Ok(())
}

impl Carried<'_> {
    /// Sends on what is judged.
    async fn requests(&self, way: &mut Direction<'_>, mut held: Vec<u8>) -> Result<(), CloseReason> {
        let mut judged = 0;
        loop {
            let next = match self.next(&held[judged..]) {
                Ok(Step::Goes(length)) => {
                    judged += length;
                    continue;
                }
                Ok(Step::Head(head)) => {
                    judged += head.len;
                    continue;
                }
                Ok(next) => next,
                Err(refusal) => {
                    way.write(&held[..judged]).await?;
                    return Err(self.between_frames(refusal).await.into());
                }
            };
            way.write(&held[..judged]).await?;
            held.drain(..judged);
            judged = 0;
            let certain = self.lock().certain();
            if next == Step::Held {
                let begun = timeout(PREFACE_TIMEOUT, self.server_spoke.notified()).await;
                begun.map_err(|_| malformed(&Refused::Server))?;
            } else if !requests::more(self.connection, way, &mut held, certain, |count| {
                self.lock().skipped(count)
            })
            .await?
            {
                return Ok(());
            }
        }
    }

    async fn responses(&self, way: &mut Direction<'_>) -> Result<(), CloseReason> {
        loop {
            let left = self.lock().server_left();
            let stops = self.stopping.load(Ordering::Relaxed);
            if stops && left == 0 {
                return std::future::pending().await;
            }
            let most = if stops { left.min(copy::CHUNK) } else { copy::CHUNK };
            let see = |bytes: &[u8]| {
                self.delivering.store(true, Ordering::Relaxed);
                self.lock().server(bytes);
            };
            let count = way.step(most, see).await?;
            self.delivering.store(false, Ordering::Relaxed);
            self.server_spoke.notify_one();
            if count == 0 {
                return Ok(way.end()?);
            }
        }
    }

    /// What the first bytes of `input` are. A head is judged.
    fn next(&self, input: &[u8]) -> Result<Step, Refusal> {
        let step = self.lock().client(input).map_err(|refused| malformed(&refused))?;
        if let Step::Head(head) = &step {
            let judged =
                requests::judged(self.connection, &head.method, &head.authority, self.connection.place());
            let reject_with = RejectWith::Http2(head.stream, head.grpc);
            judged.map_err(|refusal| Refusal { reject_with, ..refusal })?;
        }
        Ok(step)
    }

    /// `refusal`, once the server's frame is whole; by a reset, if that takes longer than [`FRAME_TIMEOUT`].
    async fn between_frames(&self, refusal: Refusal) -> Refusal {
        self.stopping.store(true, Ordering::Relaxed);
        let between = async {
            while self.delivering.load(Ordering::Relaxed) || self.lock().server_left() > 0 {
                self.server_spoke.notified().await;
            }
        };
        match timeout(FRAME_TIMEOUT, between).await {
            Ok(()) => refusal,
            Err(_) => Refusal { reject_with: RejectWith::Plain, ..refusal },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that cannot be read in one way only.
fn malformed(refused: &Refused) -> Refusal {
    Refusal { reject_with: RejectWith::Http2(0, false), ..requests::malformed(refused) }
}
