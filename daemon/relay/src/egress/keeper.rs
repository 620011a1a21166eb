//! Requests to the keeper, which alone can connect, pin an address and record an event.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentd_policy::egress::Purpose;
use agentd_policy::event::NetEvent;
use agentd_policy::hosts::HostName;
use agentd_policy::protocol::Protocol;
use agentd_policy::wire::{Client, FromRelay, MAX_DIALS, MAX_INWARD};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::control::Control;
use crate::{Endpoint, endpoint};

/// How long a server may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection waits for its turn at most, and how often it is asked for.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);
const RETRY_DELAY: Duration = Duration::from_millis(2);
/// How long a client waits at most until an event about it is recorded.
const RECORD_TIMEOUT: Duration = Duration::from_millis(200);
const NO_TURN: &str = "the session begins too many connections, and this one's turn did not come";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The keeper did not try, and has recorded why.
    #[error("{0}")]
    Refused(Errno),
    /// The keeper tried, and it failed.
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl DialError {
    /// The error number; `EIO` if it has none.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused(errno) => *errno,
            Self::Failed(error) => Errno::from_io_error(error).unwrap_or(Errno::IO),
        }
    }
}

/// One that waits for an answer, with its place among those that may.
type Waiting<T> = BTreeMap<u32, (oneshot::Sender<T>, OwnedSemaphorePermit)>;
pub type Dialled = Result<OwnedFd, Errno>;

#[derive(Default)]
struct Pending {
    last: u32,
    dials: Waiting<Dialled>,
    pins: Waiting<Vec<IpAddr>>,
    events: Waiting<()>,
}

pub struct Keeper {
    control: Arc<Control>,
    asked: Mutex<Pending>,
    dials: DialQueue,
    inward: DialQueue,
    pins: Arc<Semaphore>,
    events: Arc<Semaphore>,
}

/// Those that want a connection.
struct DialQueue {
    /// For those whose answer is on its way.
    room: Arc<Semaphore>,
    /// Whose turn it is, once the keeper did not begin one.
    turn: Semaphore,
}

impl DialQueue {
    fn new(most: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(most)), turn: Semaphore::new(1) }
    }
}

/// A connection that is wanted.
#[derive(Clone)]
struct Wanted {
    purpose: Purpose,
    to: SocketAddr,
    protocol: Protocol,
    from: SocketAddr,
}

impl Keeper {
    /// Who is at the other end of `control`.
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            asked: Mutex::default(),
            dials: DialQueue::new(MAX_DIALS),
            inward: DialQueue::new(MAX_INWARD),
            pins: Arc::new(Semaphore::new(MAX_DIALS)),
            events: Arc::new(Semaphore::new(MAX_DIALS)),
        }
    }

    /// For what counts as activity.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Connects to `to`, for `from`. The keeper begins so many a second: what comes beyond that waits for its turn.
    pub async fn dial(
        &self,
        purpose: Purpose,
        to: SocketAddr,
        protocol: Protocol,
        from: SocketAddr,
    ) -> Result<Endpoint, DialError> {
        let wanted = Wanted { purpose, to, protocol, from };
        let begun = timeout(TURN_TIMEOUT, self.begun(wanted)).await;
        let fd = begun.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, NO_TURN))??;
        let socket = endpoint(fd).map_err(io::Error::other)?;
        connected(&socket, CONNECT_TIMEOUT).await?;
        if protocol == Protocol::Tcp {
            // Where it fails, small messages are slower.
            rustix::net::sockopt::set_tcp_nodelay(socket.get_ref(), true).ok();
        }
        Ok(socket)
    }

    /// A socket that connects, once the keeper may begin it.
    async fn begun(&self, wanted: Wanted) -> Result<OwnedFd, DialError> {
        // People on the host and the session do not wait for each other.
        let line = match wanted.purpose {
            Purpose::Publish(_) => &self.inward,
            _ => &self.dials,
        };
        // New ones do not pass those that wait.
        if line.turn.available_permits() > 0 {
            match self.begin(line, wanted.clone()).await {
                Err(DialError::Refused(Errno::AGAIN)) => {}
                other => return other,
            }
        }
        let _turn = line.turn.acquire().await.map_err(io::Error::other)?;
        loop {
            match self.begin(line, wanted.clone()).await {
                Err(DialError::Refused(Errno::AGAIN)) => sleep(RETRY_DELAY).await,
                other => return other,
            }
        }
    }

    async fn begin(&self, line: &DialQueue, wanted: Wanted) -> Result<OwnedFd, DialError> {
        let Wanted { purpose, to, protocol, from } = wanted;
        let (sender, answer) = oneshot::channel();
        let number = self.ask(&line.room, |asked, number, place| {
            asked.dials.insert(number, (sender, place));
            number
        });
        let number = number.await?;
        self.send(number, &FromRelay::Dial { number, purpose, to, protocol, from }).await?;
        answer.await.map_err(io::Error::other)?.map_err(DialError::Refused)
    }

    /// Lets `addresses` through for `name`: those that can be reached now.
    pub async fn pin(
        &self,
        name: HostName,
        question: u16,
        addresses: Vec<IpAddr>,
        ttl: u32,
        client: Option<Client>,
    ) -> io::Result<Vec<IpAddr>> {
        let (sender, answer) = oneshot::channel();
        let number = self.ask(&self.pins, |asked, number, place| {
            asked.pins.insert(number, (sender, place));
            number
        });
        let number = number.await?;
        self.send(number, &FromRelay::Pin { number, name, question, addresses, ttl, client }).await?;
        answer.await.map_err(io::Error::other)
    }

    /// Sends an event to be recorded.
    pub async fn record(&self, event: NetEvent) {
        self.record_repeat(event, None).await;
    }

    /// Sends a further event of a kind that `client` caused before, and that was recorded then.
    pub async fn record_repeat(&self, event: NetEvent, client: Option<Client>) {
        // It fails once the keeper is gone, and the session with it.
        self.control.send(&FromRelay::Event { event, client, number: None }).await.ok();
    }

    /// Sends an event about `client`, and waits until it is recorded, at most [`RECORD_TIMEOUT`]: until it is answered,
    /// its process can be found.
    pub async fn record_and_wait(&self, event: NetEvent, client: Client) {
        let (sender, answer) = oneshot::channel();
        let number = self.ask(&self.events, |asked, number, place| {
            asked.events.insert(number, (sender, place));
            number
        });
        let Ok(number) = number.await else { return };
        let message = FromRelay::Event { event, client: Some(client), number: Some(number) };
        if self.send(number, &message).await.is_ok() {
            // An answer that comes later makes room all the same.
            timeout(RECORD_TIMEOUT, answer).await.ok();
        }
    }

    /// An answer to [`Keeper::record_and_wait`].
    pub fn recorded(&self, number: u32) {
        if let Some((sender, _place)) = self.asked().events.remove(&number) {
            sender.send(()).ok();
        }
    }

    /// A name was asked for anew, as the keeper wanted.
    pub async fn renewed(&self, name: HostName, question: u16) {
        self.control.send(&FromRelay::Renewed { name, question }).await.ok();
    }

    /// An answer to [`Keeper::dial`]. A socket that comes too late is closed.
    pub fn dialled(&self, number: u32, dialled: Dialled) {
        let waiting = self.asked().dials.remove(&number);
        if let Some((sender, _place)) = waiting {
            sender.send(dialled).ok();
        }
    }

    /// An answer to [`Keeper::pin`].
    pub fn pinned(&self, number: u32, addresses: Vec<IpAddr>) {
        if let Some((sender, _place)) = self.asked().pins.remove(&number) {
            sender.send(addresses).ok();
        }
    }

    /// Waits for room among those without an answer.
    async fn ask(
        &self,
        room: &Arc<Semaphore>,
        enter: impl FnOnce(&mut Pending, u32, OwnedSemaphorePermit) -> u32,
    ) -> io::Result<u32> {
        let place = room.clone().acquire_owned().await.map_err(io::Error::other)?;
        let mut asked = self.asked();
        asked.last = asked.last.wrapping_add(1);
        let number = asked.last;
        Ok(enter(&mut asked, number, place))
    }

    /// What is not sent, because its caller is gone, has no answer and needs no place.
    async fn send(&self, number: u32, message: &FromRelay) -> io::Result<()> {
        let unsent = Unsent { keeper: self, number };
        self.control.send(message).await?;
        std::mem::forget(unsent);
        Ok(())
    }

    fn asked(&self) -> MutexGuard<'_, Pending> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something to be asked, until it is on its way.
struct Unsent<'a> {
    keeper: &'a Keeper,
    number: u32,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        let mut asked = self.keeper.asked();
        asked.dials.remove(&self.number);
        asked.pins.remove(&self.number);
        asked.events.remove(&self.number);
    }
}

/// Waits until `socket` has connected, or cannot, or does not within `most`.
async fn connected(socket: &Endpoint, most: Duration) -> io::Result<()> {
    // Kept: a socket that has connected is writable.
    let _ready = timeout(most, socket.writable()).await.map_err(|_| Errno::TIMEDOUT)??;
    Ok(rustix::net::sockopt::socket_error(socket.get_ref())??)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, listen, socket_with};

    use super::*;

    /// A connection to `to` that has begun.
    fn begun(to: SocketAddr) -> Endpoint {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        assert_eq!(connect(&socket, &to), Err(Errno::INPROGRESS));
        endpoint(socket).unwrap()
    }

    #[tokio::test]
    async fn a_server_accepts_or_refuses_or_is_given_up() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listen(&server, 0).unwrap();
        let to = server.local_addr().unwrap();
        let accepted = begun(to);
        connected(&accepted, CONNECT_TIMEOUT).await.unwrap();
        // Its queue is full: what comes now is dropped.
        let errno = |error: io::Error| error.raw_os_error();
        let late = connected(&begun(to), Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(errno(late), Some(Errno::TIMEDOUT.raw_os_error()));
        drop(server);
        let refused = connected(&begun(to), CONNECT_TIMEOUT).await.unwrap_err();
        assert_eq!(errno(refused), Some(Errno::CONNREFUSED.raw_os_error()));
    }
}
