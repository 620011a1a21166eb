//! From the command to the service: its standard output and error, or its terminal, as frames.
//!
//! Nothing is read that the service has no room for, so a slow client slows the command down and costs no
//! memory. Each output has its turn.

use std::io::{self, IoSlice};
use std::time::Duration;

use agentd_policy::wire::frame;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::time::Timespec;
use tokio::io::Interest;
use tokio::time::timeout;

use crate::{Endpoint, RelayError};

/// How long the service may take nothing once the command's outputs have ended.
const STALL: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// One output of the command.
pub struct Source {
    kind: u8,
    fd: Option<Endpoint>,
    buffer: Vec<u8>,
    filled: usize,
}

impl Source {
    /// What is read from `fd` goes out as frames of `kind`; without `fd`, nothing does.
    pub fn new(kind: u8, fd: Option<Endpoint>) -> Self {
        let buffer = vec![0; if fd.is_some() { frame::MAX } else { 0 }];
        Self { kind, fd, buffer, filled: 0 }
    }

    /// Waits for bytes, or for the end: then it is closed and nothing is in the buffer. May be cancelled.
    async fn fill(&mut self) -> Result<(), RelayError> {
        self.filled = 0;
        let Some(fd) = &self.fd else { return Ok(()) };
        let buffer = &mut self.buffer;
        let read = fd.async_io(Interest::READABLE, |fd| {
            match retry_on_intr(|| rustix::io::read(fd, &mut buffer[..])) {
                // A terminal that no process has open any more.
                Err(Errno::IO) => Ok(0),
                other => Ok(other?),
            }
        });
        self.filled =
            read.await.map_err(|source| RelayError::Io { what: "read the command's output", source })?;
        if self.filled == 0 {
            self.fd = None;
        }
        Ok(())
    }

    /// Whether no process of the command holds the other end, though bytes may be left.
    fn hung_up(&self) -> bool {
        let Some(fd) = &self.fd else { return true };
        let mut poll = [PollFd::new(&**fd, PollFlags::empty())];
        rustix::event::poll(&mut poll, Some(&Timespec::default())).is_ok()
            && poll[0].revents().contains(PollFlags::HUP)
    }
}

/// Carries both outputs until they end, then says so and shuts the connection's writing side.
pub async fn carry(service: Endpoint, mut out: Source, mut err: Source) -> Result<(), RelayError> {
    loop {
        let source = tokio::select! {
            got = out.fill(), if out.fd.is_some() => got.map(|()| &out)?,
            got = err.fill(), if err.fd.is_some() => got.map(|()| &err)?,
            else => break,
        };
        if source.filled > 0 {
            let ended = || out.hung_up() && err.hung_up();
            send(&service, source.kind, &source.buffer[..source.filled], ended).await?;
        }
    }
    send(&service, frame::DRAINED, &[], || true).await?;
    rustix::net::shutdown(&*service, rustix::net::Shutdown::Write).map_err(|_| RelayError::ServiceGone)
}

/// Sends one frame. Waits for room for as long as it takes, but for [`STALL`] once the command has `ended`.
async fn send(
    service: &Endpoint,
    kind: u8,
    payload: &[u8],
    ended: impl Fn() -> bool,
) -> Result<(), RelayError> {
    let Some(header) = frame::header(kind, payload.len()) else {
        return Err(RelayError::Malformed([kind, 0xff, 0xff, 0xff]));
    };
    let mut slices = [IoSlice::new(&header), IoSlice::new(payload)];
    let mut rest = &mut slices[..];
    let mut idle = Duration::ZERO;
    while !rest.is_empty() {
        let write =
            service.async_io(Interest::WRITABLE, |fd| Ok(retry_on_intr(|| rustix::io::writev(fd, rest))?));
        match timeout(LOOK, write).await {
            Ok(written) => {
                IoSlice::advance_slices(&mut rest, written.map_err(service_gone)?);
                idle = Duration::ZERO;
            }
            Err(_) if !ended() => idle = Duration::ZERO,
            Err(_) => idle += LOOK,
        }
        if idle >= STALL {
            return Err(RelayError::Stalled);
        }
    }
    Ok(())
}

/// What a failed read or write of the service's connection means.
pub fn service_gone(source: io::Error) -> RelayError {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => RelayError::ServiceGone,
        _ => RelayError::Io { what: "use the service's connection", source },
    }
}
