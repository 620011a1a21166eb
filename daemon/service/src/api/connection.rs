//! A client's connection, as the launcher accepted and attested it.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use agentd_policy::wire::Peer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::launcher::CallerHandle;
use crate::quota::slots::{Activity, Slot, Slots};

/// Connections that clients made, as the launcher hands them over.
pub type Incoming = ReceiverStream<io::Result<Connection>>;

/// Connections that wait for the server to take them.
pub const BACKLOG: usize = 1024;
/// How long a client may send nothing at first.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// How long it may take to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// How long a connection is kept on which nothing is sent and no stream is open: longer than any request takes.
const IDLE: Duration = Duration::from_secs(900);

/// Who is at the other end; every request has it among its extensions.
#[derive(Clone)]
pub struct Caller {
    pub peer: Peer,
    /// The account that it counts for.
    pub account: u32,
    /// Of what the connection does; gone with it.
    pub activity: Weak<Activity>,
    /// Of the groups that have bounds of their own, those that it is in, as the launcher attested.
    pub groups: Arc<[String]>,
    /// Cancelled when the connection is gone.
    pub gone: CancellationToken,
    /// What the launcher knows it by.
    pub handle: Arc<CallerHandle>,
}

/// A client's connection.
pub struct Connection {
    stream: UnixStream,
    caller: Caller,
    _slot: Slot,
    activity: Arc<Activity>,
    times: Times,
    /// When it is looked at whether the connection is of any use.
    due: Pin<Box<Sleep>>,
}

/// When a connection began, and when something was sent on it.
#[derive(Clone, Copy)]
struct Times {
    began: Instant,
    /// `None` before the client's first byte.
    last: Option<Instant>,
}

impl Times {
    /// When the connection has been of no use for too long, if nothing happens any more; `None` while a stream is open.
    fn deadline(self, requested: bool, streams: bool) -> Option<Instant> {
        match self.last {
            _ if streams => None,
            None => Some(self.began + FIRST_BYTE),
            Some(_) if !requested => Some(self.began + FIRST_REQUEST),
            Some(last) => Some(last + IDLE),
        }
    }
}

impl Connection {
    pub fn new(
        socket: OwnedFd,
        handle: CallerHandle,
        connections: &Arc<Slots>,
        (peer, account, groups): (Peer, u32, Vec<String>),
    ) -> io::Result<Self> {
        let handle = Arc::new(handle);
        let slot = connections.take(account).ok_or_else(|| {
            io::Error::other(format!("account {account} has {} already", connections.each()))
        })?;
        let stream = nonblocking(socket)?;
        let activity = Arc::new(Activity::default());
        let gone = CancellationToken::new();
        let groups = groups.into();
        let caller = Caller { peer, account, groups, activity: Arc::downgrade(&activity), gone, handle };
        let times = Times { began: Instant::now(), last: None };
        Ok(Self { stream, caller, _slot: slot, activity, times, due: Box::pin(sleep(FIRST_BYTE)) })
    }

    /// Whether it has been of no use for too long. Wakes the task when it may have.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        while self.due.as_mut().poll(cx).is_ready() {
            let requested = self.activity.is_requested();
            let streams = Arc::strong_count(&self.activity) > 1;
            let now = Instant::now();
            let deadline = self.times.deadline(requested, streams).unwrap_or(now + IDLE);
            if deadline <= now {
                return true;
            }
            self.due.as_mut().reset(deadline);
        }
        false
    }
}

fn nonblocking(socket: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.caller.gone.cancel();
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.times.last = Some(Instant::now());
        } else if self.is_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.times.last = self.times.last.map(|_| Instant::now());
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.times.last = self.times.last.map(|_| Instant::now());
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_no_use_ends_and_what_streams_does_not() {
        let began = Instant::now();
        let silent = Times { began, last: None };
        assert_eq!(silent.deadline(false, false), Some(began + FIRST_BYTE));
        let last = began + FIRST_REQUEST * 5;
        let spoke = Times { began, last: Some(last) };
        assert_eq!(spoke.deadline(false, false), Some(began + FIRST_REQUEST));
        assert_eq!(spoke.deadline(true, false), Some(last + IDLE));
        assert_eq!(spoke.deadline(true, true), None);
    }
}
