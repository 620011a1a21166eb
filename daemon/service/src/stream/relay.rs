//! The stream to a command's relay: one task takes what comes, keeps it and hands it to the [hub](Hub), another
//! sends what goes there.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agentd_policy::wire::frame;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::metrics::metrics;
use crate::store::output::OutputLog;
use crate::stream::hub::{Control, Hub, Inward, Queues, Stage};

/// What is read from the relay at once, in bytes.
const READ: usize = 4 * (frame::MAX + frame::HEADER);
/// A piece that is shorter is copied, so that it does not hold what was read with it.
const SHORT: usize = 4 << 10;
/// What may wait for the disk.
const UNWRITTEN: u64 = 1 << 20;

/// A frame from the relay.
#[derive(Debug, PartialEq)]
enum Got {
    Output(u8, Bytes),
    Screen(Bytes),
    Taken(u64),
    Drained,
}

/// Carries until the output has ended or the relay is gone. With `resume` it is not the stream that the command was
/// started with: the relay receives what has come before.
pub async fn carry(
    hub: Arc<Hub>,
    stream: UnixStream,
    resume: Option<u64>,
    disk: Arc<Semaphore>,
) -> Result<(), [u8; frame::HEADER]> {
    let Some(queues) = hub.queues() else { return Ok(()) };
    let (mut read, write) = stream.into_split();
    let acks = watch::Sender::new(resume.unwrap_or(0));
    let sending = tokio::spawn(send(write, resume, queues, acks.subscribe(), hub.taken.subscribe()));
    if resume.is_none() {
        hub.set_stage(Stage::Live);
    }
    let written = hub.end();
    let buffer = BytesMut::new();
    let mut reader = Reader { hub: hub.clone(), acks, writing: None, written, buffer, disk };
    let result = reader.run(&mut read).await;
    let drained = result == Ok(true);
    hub.set_stage(if drained { Stage::Drained } else { Stage::Lost });
    reader.finish(drained).await;
    if drained {
        reader.linger(&mut read).await;
    }
    // Its acknowledgements are sent; the relay waits for the last one.
    drop(reader);
    sending.await.ok();
    result.map(|_| ())
}

/// A stream that was received as a descriptor.
pub fn from_fd(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

struct Reader {
    hub: Arc<Hub>,
    acks: watch::Sender<u64>,
    /// A write to disk, and up to where it goes.
    writing: Option<(JoinHandle<()>, u64)>,
    written: u64,
    buffer: BytesMut,
    disk: Arc<Semaphore>,
}

impl Reader {
    /// Until there is nothing more; then whether that was all.
    async fn run(&mut self, stream: &mut OwnedReadHalf) -> Result<bool, [u8; frame::HEADER]> {
        let hub = self.hub.clone();
        let exited = hub.exited.clone();
        loop {
            self.keep(false);
            let room = hub.has_room() && hub.end() - self.written < UNWRITTEN;
            let due = hub.pace.due(Instant::now());
            let deadline = if room { None } else { hub.stuck_deadline() };
            tokio::select! {
                ready = stream.readable(), if room && due.is_none() => {
                    if ready.is_err() || !self.fill(stream) {
                        return Ok(false);
                    }
                }
                () = at(due), if room => {}
                () = hub.room.notified(), if !room => {}
                () = at(deadline) => hub.cut_stuck(Instant::now()),
                () = exited.cancelled(), if !room && !exited.is_cancelled() => {}
                () = written(&mut self.writing) => self.acknowledge(),
            }
            while let Some(got) = split(&mut self.buffer)? {
                match got {
                    Got::Output(kind, bytes) => {
                        metrics().relayed_out(bytes.len());
                        hub.push(kind, bytes);
                    }
                    Got::Screen(bytes) => hub.snapshot(&bytes),
                    Got::Taken(taken) if hub.stage() == Stage::Waiting => {
                        hub.begin_input(taken);
                        hub.set_stage(Stage::Live);
                    }
                    Got::Taken(taken) => drop(hub.taken.send_replace(taken)),
                    Got::Drained => return Ok(true),
                }
            }
        }
    }

    /// Reads what is there; whether there may be more. While nothing comes there is no buffer.
    fn fill(&mut self, stream: &OwnedReadHalf) -> bool {
        if self.buffer.capacity() - self.buffer.len() < frame::MAX / 4 {
            self.buffer.reserve(READ);
        }
        match stream.try_read_buf(&mut self.buffer) {
            Ok(read) => {
                self.hub.pace.took(read, Instant::now());
                read > 0
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Begins to write what has come.
    fn keep(&mut self, drained: bool) {
        let end = self.hub.end();
        if self.writing.is_some() || (end == self.written && !drained) {
            return;
        }
        if self.hub.log.is_none() {
            self.written = end;
            self.acks.send_replace(end);
            return;
        }
        let (hub, disk, frames) = (self.hub.clone(), self.disk.clone(), self.hub.unwritten(self.written));
        let session = hub.log.as_ref().and_then(OutputLog::session).map(str::to_owned);
        let task = tokio::spawn(async move {
            // It is never closed.
            let turn = disk.acquire_owned().await;
            let kept = tokio::task::spawn_blocking(move || {
                if let Some(log) = &hub.log {
                    log.append(&frames, drained);
                }
                drop(turn);
            });
            if let Err(error) = kept.await {
                tracing::error!(session, %error, "output is not kept");
            }
        });
        self.writing = Some((task, end));
    }

    fn acknowledge(&mut self) {
        if let Some((_, end)) = self.writing.take() {
            self.written = end;
            self.hub.kept(end);
            self.acks.send_replace(end);
        }
    }

    /// Writes the rest.
    async fn finish(&mut self, drained: bool) {
        for last in [false, true] {
            if last {
                self.keep(drained);
            }
            if self.writing.is_some() {
                written(&mut self.writing).await;
                self.acknowledge();
            }
        }
        if drained && self.hub.end() > 0 {
            // The relay waits for this one even if it has received that place before.
            self.acks.send_modify(|_| {});
        }
    }

    /// The command may have closed its output and still read its input.
    async fn linger(&mut self, stream: &mut OwnedReadHalf) {
        let exited = self.hub.exited.clone();
        loop {
            self.buffer.reserve(frame::HEADER + 8);
            tokio::select! {
                () = exited.cancelled() => break,
                read = stream.read_buf(&mut self.buffer) => if matches!(read, Ok(0) | Err(_)) { break },
            }
            loop {
                match split(&mut self.buffer) {
                    Ok(Some(Got::Taken(taken))) => drop(self.hub.taken.send_replace(taken)),
                    // A snapshot that was requested before.
                    Ok(Some(Got::Screen(bytes))) => self.hub.snapshot(&bytes),
                    Ok(None) => break,
                    // After its last word.
                    Ok(Some(Got::Output(..) | Got::Drained)) | Err(_) => return,
                }
            }
        }
        if self.hub.end() == 0 {
            // Nothing on disk shows that this was all: only the session's end does.
            self.acks.send_modify(|_| {});
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn written(writing: &mut Option<(JoinHandle<()>, u64)>) {
    match writing {
        // It has logged what went wrong.
        Some((task, _)) => drop(task.await),
        None => std::future::pending().await,
    }
}

/// The first frame of `buffer`, taken out of it; `None` if it is not whole yet.
fn split(buffer: &mut BytesMut) -> Result<Option<Got>, [u8; frame::HEADER]> {
    let Some(header) = buffer.first_chunk::<{ frame::HEADER }>().copied() else { return Ok(None) };
    let (kind, len) = frame::parse(header).ok_or(header)?;
    if buffer.len() < frame::HEADER + len {
        return Ok(None);
    }
    buffer.advance(frame::HEADER);
    let payload = if len < SHORT {
        let copy = Bytes::copy_from_slice(&buffer[..len]);
        buffer.advance(len);
        copy
    } else {
        buffer.split_to(len).freeze()
    };
    match kind {
        frame::STDOUT | frame::STDERR => Ok(Some(Got::Output(kind, payload))),
        frame::SCREEN => Ok(Some(Got::Screen(payload))),
        frame::DRAINED => Ok(Some(Got::Drained)),
        frame::INPUT => {
            let taken = payload.first_chunk::<8>().ok_or(header)?;
            Ok(Some(Got::Taken(u64::from_le_bytes(*taken))))
        }
        _ => Err(header),
    }
}

/// Sends acknowledgements before all else, then sizes and requests, and input as far as the command takes it.
async fn send(
    mut relay: OwnedWriteHalf,
    resume: Option<u64>,
    mut queues: Queues,
    mut acks: watch::Receiver<u64>,
    mut taken: watch::Receiver<u64>,
) -> io::Result<()> {
    if let Some(place) = resume {
        write(&mut relay, frame::RESUME, Bytes::copy_from_slice(&place.to_le_bytes())).await?;
    }
    let (mut sent, mut waiting): (Option<u64>, Option<Bytes>) = (None, None);
    loop {
        let begun = *taken.borrow();
        let wanted = sent.unwrap_or(0).saturating_add(waiting.as_ref().map_or(0, |bytes| bytes.len() as u64));
        tokio::select! {
            biased;
            changed = acks.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let place = *acks.borrow_and_update();
                write(&mut relay, frame::ACK, Bytes::copy_from_slice(&place.to_le_bytes())).await?;
            }
            Some(control) = queues.controls.recv() => match control {
                Control::Resize(size) => {
                    write(&mut relay, frame::RESIZE, Bytes::copy_from_slice(&size)).await?;
                }
                Control::Screen => write(&mut relay, frame::SCREEN, Bytes::new()).await?,
            },
            () = credit(&mut taken, wanted), if waiting.is_some() => {
                if let Some(bytes) = waiting.take() {
                    sent = Some(wanted);
                    metrics().relayed_in(bytes.len());
                    write(&mut relay, frame::STDIN, bytes).await?;
                }
            }
            Some(inward) = queues.input.recv(), if waiting.is_none() => match inward {
                Inward::Stdin(bytes) => {
                    sent.get_or_insert(begun);
                    waiting = Some(bytes);
                }
                Inward::Eof => write(&mut relay, frame::STDIN_EOF, Bytes::new()).await?,
            },
        }
    }
}

/// Waits until the command has taken so much that input up to `wanted` may be sent.
async fn credit(taken: &mut watch::Receiver<u64>, wanted: u64) {
    // The hub has the sender, and lives as long as the stream.
    taken.wait_for(|taken| taken.saturating_add(frame::INPUT_WINDOW) >= wanted).await.ok();
}

async fn write(relay: &mut OwnedWriteHalf, kind: u8, payload: Bytes) -> io::Result<()> {
    let header = frame::header(kind, payload.len()).ok_or(io::ErrorKind::InvalidInput)?;
    relay.write_all_buf(&mut Buf::chain(header.as_slice(), payload)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_out_whole() {
        let mut buffer = BytesMut::new();
        let put = |bytes: &[u8], buffer: &mut BytesMut| buffer.extend_from_slice(bytes);
        put(&frame::header(frame::STDOUT, 3).unwrap(), &mut buffer);
        put(b"ab", &mut buffer);
        assert_eq!(split(&mut buffer), Ok(None));
        put(b"c", &mut buffer);
        put(&frame::header(frame::INPUT, 8).unwrap(), &mut buffer);
        put(&7u64.to_le_bytes(), &mut buffer);
        put(&frame::header(frame::DRAINED, 0).unwrap(), &mut buffer);
        assert_eq!(split(&mut buffer), Ok(Some(Got::Output(frame::STDOUT, "abc".into()))));
        assert_eq!(split(&mut buffer), Ok(Some(Got::Taken(7))));
        assert_eq!(split(&mut buffer), Ok(Some(Got::Drained)));
        put(&frame::header(frame::STDIN, 0).unwrap(), &mut buffer);
        assert!(split(&mut buffer).is_err());
    }
}
