//! A client's connection, as the launcher accepted and attested it.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agentd_policy::wire::{CallerNumber, Peer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::host::Host;
use crate::slots::Slot;

/// Connections that wait for the server to take them.
pub const BACKLOG: usize = 1024;
/// How long a client may say nothing at first.
const SILENCE: Duration = Duration::from_secs(10);

/// Who is at the other end; every request has it among its extensions.
#[derive(Clone)]
pub struct Caller {
    pub peer: Peer,
    /// Of the groups that have bounds of their own, those that it is in, as the launcher says.
    pub groups: Arc<[String]>,
    /// Cancelled when the connection is gone.
    pub gone: CancellationToken,
    /// What the launcher knows it by.
    pub line: Arc<Line>,
}

/// A connection's number, for as long as anybody may still name it to the launcher.
pub struct Line {
    number: CallerNumber,
    /// Of the launcher that accepted it, by the service's count.
    launcher: u64,
    host: Arc<Host>,
}

impl Line {
    pub fn number(&self) -> CallerNumber {
        self.number
    }

    pub fn launcher(&self) -> u64 {
        self.launcher
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.host.launcher.forget(self);
    }
}

/// A client's connection.
pub struct Connection {
    stream: UnixStream,
    caller: Caller,
    _slot: Slot,
    /// Runs until the first byte.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub fn new(
        host: &Arc<Host>,
        socket: OwnedFd,
        number: CallerNumber,
        launcher: u64,
        (peer, groups): (Peer, Vec<String>),
    ) -> io::Result<Self> {
        let line = Arc::new(Line { number, launcher, host: host.clone() });
        let slot = host.connections.take(peer.uid).ok_or_else(|| {
            io::Error::other(format!("uid {} has {} already", peer.uid, host.connections.each()))
        })?;
        let stream = nonblocking(socket)?;
        let caller = Caller { peer, groups: groups.into(), gone: CancellationToken::new(), line };
        Ok(Self { stream, caller, _slot: slot, silence: Some(Box::pin(sleep(SILENCE))) })
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
            self.silence = None;
        } else if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
