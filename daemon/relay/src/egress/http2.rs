//! HTTP/2 without TLS: each request of a connection is judged by the host that it names. One that is refused has its
//! answer, and is the connection's last: whoever took part of the others' heads out would have to write all anew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_relay::http::Refused;
use agentd_relay::http2::{Connection as Requests, Step};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::copy::{self, Way};
use super::end::End;
use super::http;
use super::judge::{Refusal, RejectWith};
use super::tcp::Connection;
use crate::Endpoint;

/// How long a server may take to show that it speaks HTTP/2.
const GREETS: Duration = Duration::from_secs(10);
/// How long a frame of the server's may take to which a refusal has to wait.
const BETWEEN: Duration = Duration::from_secs(2);

/// What both directions know.
struct Carried<'a> {
    connection: &'a Connection,
    requests: Mutex<Requests>,
    /// The server said something.
    heard: Notify,
    /// Something is on its way to the client.
    delivering: AtomicBool,
    /// The client is to be told something between two frames.
    stopping: AtomicBool,
}

/// Carries a connection that begins with the preface, `held`.
pub async fn carry(connection: &Connection, server: &Endpoint, held: Vec<u8>) -> Result<(), End> {
    let carried = Carried {
        connection,
        requests: Mutex::default(),
        heard: Notify::new(),
        delivering: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
    };
    let (mut up, mut down) = connection.ways(server);
    tokio::try_join!(carried.requests(&mut up, held), carried.responses(&mut down))?;
    Ok(())
}

impl Carried<'_> {
    /// Sends on what is judged.
    async fn requests(&self, way: &mut Way<'_>, mut held: Vec<u8>) -> Result<(), End> {
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
                let greets = timeout(GREETS, self.heard.notified()).await;
                greets.map_err(|_| malformed(&Refused::Server))?;
            } else if !http::more(self.connection, way, &mut held, certain, |count| {
                self.lock().skipped(count)
            })
            .await?
            {
                return Ok(());
            }
        }
    }

    async fn responses(&self, way: &mut Way<'_>) -> Result<(), End> {
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
            self.heard.notify_one();
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
                http::judged(self.connection, &head.method, &head.authority, self.connection.place());
            let reject_with = RejectWith::Http2(head.stream, head.grpc);
            judged.map_err(|refusal| Refusal { reject_with, ..refusal })?;
        }
        Ok(step)
    }

    /// `refusal`, once it can be said to the client; without words, if the server does not end what it is saying.
    async fn between_frames(&self, refusal: Refusal) -> Refusal {
        self.stopping.store(true, Ordering::Relaxed);
        let between = async {
            while self.delivering.load(Ordering::Relaxed) || self.lock().server_left() > 0 {
                self.heard.notified().await;
            }
        };
        match timeout(BETWEEN, between).await {
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
    Refusal { reject_with: RejectWith::Http2(0, false), ..http::malformed(refused) }
}
