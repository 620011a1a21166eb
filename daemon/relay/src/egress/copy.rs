//! Bytes from one socket to another, as they are. Small ones by way of a buffer that all connections share, much of
//! them by a pipe, without being copied. Nothing is read before what was read has been written: who does not read slows
//! down who writes.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, Shutdown};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::buffers::BufferTier;
use super::caps::Budget;
use crate::Endpoint;
use crate::control::Control;

/// The most bytes that are read at once.
pub const CHUNK: usize = 64 << 10;
/// After so many bytes one way, much at once goes by a pipe.
const SPLICE_AFTER: u64 = 256 << 10;
/// Much at once.
const BULK: usize = 16 << 10;
/// How much a pipe holds, if the kernel allows: as much as it gives to an unprivileged process.
const PIPE: usize = 1 << 20;

thread_local! {
    /// In use only between a read and the write that follows it.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    fn new() -> Option<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Beyond the user's share of pipes it stays as small as it is.
        rustix::pipe::fcntl_setpipe_size(&writer, PIPE).ok();
        Some(Self { reader, writer })
    }
}

/// One direction of a connection.
pub struct Direction<'a> {
    from: &'a Endpoint,
    to: &'a Endpoint,
    count: &'a AtomicU64,
    control: &'a Control,
    pipe: Option<Pipe>,
    /// Whether the last read took much at once.
    bulk: bool,
    splices: bool,
    budget: Option<&'a Budget>,
    /// The most bytes that are read at once.
    chunk: usize,
}

impl<'a> Direction<'a> {
    /// From `from` to `to`, counted in `count`.
    pub fn new(from: &'a Endpoint, to: &'a Endpoint, count: &'a AtomicU64, control: &'a Control) -> Self {
        Self { from, to, count, control, pipe: None, bulk: false, splices: true, budget: None, chunk: CHUNK }
    }

    /// Not beyond what `budget` leaves.
    pub fn within(self, budget: &'a Budget) -> Self {
        Self { budget: Some(budget), ..self }
    }

    /// With the buffers of `tier`.
    pub fn with(self, tier: BufferTier) -> Self {
        Self { splices: tier.splices(), chunk: tier.chunk(), ..self }
    }

    /// Writes what was read before.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.budget.map_or(u64::MAX, Budget::left);
        let part = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.charge(part.len());
        write(self.to, part).await?;
        self.went(part.len());
        match self.budget {
            Some(budget) if part.len() < bytes.len() => Err(budget.error()),
            _ => Ok(()),
        }
    }

    /// One read of at most `most` bytes, shown to `see`, and its write. 0: the end.
    pub async fn step(&mut self, most: usize, mut see: impl FnMut(&[u8])) -> io::Result<usize> {
        let most = most.min(self.chunk);
        // A connection may be ready for ever: the others must have their turn.
        tokio::task::coop::consume_budget().await;
        let (count, rest) = loop {
            let mut ready = self.from.readable().await?;
            let Some(most) = self.bound(most)? else {
                ready.clear_ready();
                continue;
            };
            let once = BUFFER.with_borrow_mut(|buffer| {
                let most = most.min(buffer.len());
                let count = retry_on_intr(|| rustix::io::read(self.from.get_ref(), &mut buffer[..most]))?;
                self.charge(count);
                // All that was there: what comes later wakes again.
                if (1..most).contains(&count) {
                    ready.clear_ready();
                }
                see(&buffer[..count]);
                let written = match retry_on_intr(|| rustix::io::write(self.to.get_ref(), &buffer[..count])) {
                    Err(Errno::AGAIN) => 0,
                    other => other?,
                };
                Ok((count, buffer[written..count].to_vec()))
            });
            match once {
                Ok(both) => break both,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        };
        write(self.to, &rest).await?;
        self.bulk = count >= BULK;
        self.went(count);
        Ok(count)
    }

    /// Up to `most` bytes: how many it were. Fewer: that was the end.
    pub async fn pump(&mut self, most: u64) -> io::Result<u64> {
        let mut done = 0;
        while done < most {
            let once = usize::try_from(most - done).unwrap_or(usize::MAX);
            let count = match self.pipe() {
                Some(pipe) => {
                    let count = self.splice(&pipe, once.min(PIPE)).await;
                    self.pipe = Some(pipe);
                    count?
                }
                None => Some(self.step(once, |_| {}).await?),
            };
            match count {
                Some(0) => break,
                Some(count) => done += count as u64,
                None => self.splices = false,
            }
        }
        Ok(done)
    }

    /// All that comes, and then the end of it.
    pub async fn drain(&mut self) -> io::Result<()> {
        self.pump(u64::MAX).await?;
        self.end()
    }

    /// Ends the direction: the receiver sees the end.
    pub fn end(&self) -> io::Result<()> {
        match rustix::net::shutdown(self.to.get_ref(), Shutdown::Write) {
            // The other side is gone altogether.
            Err(Errno::NOTCONN) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The pipe, if this is the time for one.
    fn pipe(&mut self) -> Option<Pipe> {
        let much = self.splices && self.bulk && self.count.load(Ordering::Relaxed) >= SPLICE_AFTER;
        if much { self.pipe.take().or_else(Pipe::new) } else { None }
    }

    /// One read into the pipe and all out of it; `None` if that is not for these sockets.
    async fn splice(&mut self, pipe: &Pipe, most: usize) -> io::Result<Option<usize>> {
        const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);
        tokio::task::coop::consume_budget().await;
        let count = loop {
            let mut ready = self.from.readable().await?;
            let Some(most) = self.bound(most)? else {
                ready.clear_ready();
                continue;
            };
            let (from, to) = (self.from.get_ref(), &pipe.writer);
            match retry_on_intr(|| rustix::pipe::splice(from, None, to, None, most, FLAGS)) {
                Ok(count) => break count,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };
        self.charge(count);
        let mut left = count;
        while left > 0 {
            let (from, to) = (&pipe.reader, self.to.get_ref());
            left -= writable(self.to, || rustix::pipe::splice(from, None, to, None, left, FLAGS)).await?;
        }
        self.bulk = count >= BULK;
        self.went(count);
        Ok(Some(count))
    }

    /// How much of `most` may be read now, to be charged before anything is awaited. If nothing is left, the end may
    /// still come: `None` until something does.
    fn bound(&self, most: usize) -> io::Result<Option<usize>> {
        let Some(budget) = self.budget else { return Ok(Some(most)) };
        match usize::try_from(budget.left()) {
            Ok(0) => {}
            left => return Ok(Some(most.min(left.unwrap_or(usize::MAX)))),
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match retry_on_intr(|| rustix::net::recv(self.from.get_ref(), &mut [0_u8; 1][..], flags)) {
            Ok((0, _)) => Ok(Some(1)),
            Ok(_) => Err(budget.error()),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn charge(&self, count: usize) {
        if let Some(budget) = self.budget {
            budget.count(count);
        }
    }

    fn went(&self, count: usize) {
        if count > 0 {
            self.count.fetch_add(count as u64, Ordering::Relaxed);
            self.control.active();
        }
    }
}

/// Reads what is there behind what is in `held`: at most `most` bytes. 0: the end.
pub async fn read(from: &Endpoint, held: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    loop {
        let mut ready = from.readable().await?;
        let once = BUFFER.with_borrow_mut(|buffer| {
            let most = most.min(buffer.len());
            let count = retry_on_intr(|| rustix::io::read(from.get_ref(), &mut buffer[..most]))?;
            held.extend_from_slice(&buffer[..count]);
            Ok(count)
        });
        match once {
            Ok(count) => return Ok(count),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(errno) => return Err(io::Error::from(errno)),
        }
    }
}

/// Writes all of it.
pub async fn write(to: &Endpoint, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = writable(to, || rustix::io::write(to.get_ref(), bytes)).await?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Has an answer read before the connection goes: closing over unread bytes would reset it.
pub async fn linger(client: &Endpoint, answer: &[u8]) {
    const LINGER: Duration = Duration::from_secs(1);
    const MOST: usize = 1 << 20;
    let last = async {
        write(client, answer).await?;
        rustix::net::shutdown(client.get_ref(), Shutdown::Write)?;
        discard(client, MOST).await
    };
    // Who does not read it does without.
    tokio::time::timeout(LINGER, last).await.ok();
}

/// Reads to the end, or so many bytes and a little more, and drops them.
pub async fn discard(from: &Endpoint, most: usize) -> io::Result<()> {
    let (mut dropped, mut total) = (Vec::new(), 0);
    while total < most {
        dropped.clear();
        match read(from, &mut dropped, CHUNK).await? {
            0 => break,
            count => total += count,
        }
    }
    Ok(())
}

/// The next close is a reset.
pub fn reset(socket: &Endpoint) {
    // It fails only on what is no connection any more.
    rustix::net::sockopt::set_socket_linger(socket.get_ref(), Some(Duration::ZERO)).ok();
}

/// Tries, and again whenever there is room.
async fn writable<T>(to: &Endpoint, mut act: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    match retry_on_intr(&mut act) {
        Err(Errno::AGAIN) => {}
        other => return Ok(other?),
    }
    loop {
        let mut ready = to.writable().await?;
        match retry_on_intr(&mut act) {
            Err(Errno::AGAIN) => ready.clear_ready(),
            other => return Ok(other?),
        }
    }
}
