//! A client's connection, as the launcher accepted and attested it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use agentd_policy::config::Bounds;
use agentd_policy::wire::{CallerNumber, Peer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::host::{Host, lock};

/// Connections that wait for the server to take them.
pub const BACKLOG: usize = 1024;
/// How long a client may say nothing at first.
const SILENCE: Duration = Duration::from_secs(10);
/// Connections of one user besides those of its sessions.
const SPARE: u32 = 32;

/// Who is at the other end; every request has it among its extensions.
#[derive(Clone)]
pub struct Caller {
    pub peer: Peer,
    /// Cancelled when the connection is gone.
    pub gone: CancellationToken,
    /// What the launcher knows it by.
    pub line: Arc<Line>,
}

/// A connection's number, for as long as anybody may still name it to the launcher.
pub struct Line {
    number: CallerNumber,
    host: Arc<Host>,
}

impl Line {
    pub fn number(&self) -> CallerNumber {
        self.number
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.host.launcher.forget(self.number);
    }
}

/// A client's connection.
pub struct Connection {
    stream: UnixStream,
    caller: Caller,
    /// Runs until the first byte.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub fn new(host: &Arc<Host>, socket: OwnedFd, number: CallerNumber, peer: Peer) -> io::Result<Self> {
        let line = Arc::new(Line { number, host: host.clone() });
        host.slots.take(peer.uid)?;
        let stream = nonblocking(socket).inspect_err(|_| host.slots.give_back(peer.uid))?;
        let caller = Caller { peer, gone: CancellationToken::new(), line };
        Ok(Self { stream, caller, silence: Some(Box::pin(sleep(SILENCE))) })
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
        self.caller.line.host.slots.give_back(self.caller.peer.uid);
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

/// How many connections each user has.
pub struct Slots {
    each: u32,
    taken: Mutex<HashMap<u32, u32>>,
}

impl Slots {
    pub fn new(bounds: &Bounds) -> Self {
        Self { each: bounds.max_sessions_per_user.saturating_add(SPARE), taken: Mutex::default() }
    }

    fn take(&self, uid: u32) -> io::Result<()> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(uid).or_insert(0);
        if *count >= self.each {
            return Err(io::Error::other(format!("uid {uid} has {count} connections already")));
        }
        *count += 1;
        Ok(())
    }

    fn give_back(&self, uid: u32) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_all_connections() {
        let slots = Slots::new(&Bounds { max_sessions_per_user: 1, ..Bounds::default() });
        for _ in 0..=SPARE {
            slots.take(1).unwrap();
        }
        assert!(slots.take(1).is_err());
        slots.take(2).unwrap();
        slots.give_back(1);
        slots.take(1).unwrap();
        slots.give_back(2);
        assert!(!lock(&slots.taken).contains_key(&2));
    }
}
