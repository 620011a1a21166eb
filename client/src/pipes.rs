//! Standard input, output and error, each blocking call on a thread of its own.
//!
//! The descriptors are shared with other processes, so they are never made non-blocking; but they may be
//! found so.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use prost::bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::{stderr, stdin, stdout};
use tokio::sync::{mpsc, oneshot};

/// The most that one message carries.
const CHUNK: usize = 64 << 10;
/// People type slowly.
const TYPED: usize = 4 << 10;
/// How often a job in the background looks whether it still is.
const BACKGROUND: Duration = Duration::from_millis(100);
/// Messages that wait for standard output.
const WAITING: usize = 16;

/// Where output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// Where it is written to.
    pub fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Stdout => stdout(),
            Self::Stderr => stderr(),
        }
    }
}

/// What becomes of the output: all written, or which stream failed.
pub type Written = Result<(), (Stream, io::Error)>;

/// Sends standard input into `to` until its end, and then `None`. No room: the reading waits.
///
/// # Errors
/// If no thread can be started.
pub fn read_stdin(to: mpsc::Sender<Option<Bytes>>, terminal: bool) -> io::Result<()> {
    let size = if terminal { TYPED } else { CHUNK };
    let work = move || {
        while let Some(bytes) = {
            if terminal {
                wait_for_foreground();
                // What is typed now answers a question of agentctl's own.
                if to.is_closed() {
                    return;
                }
            }
            read(stdin(), size)
        } {
            if to.blocking_send(Some(bytes)).is_err() {
                return;
            }
        }
        to.blocking_send(None).ok();
    };
    std::thread::Builder::new().name("stdin".into()).spawn(work).map(drop)
}

/// Waits until somebody types and it is meant for us. To read a terminal from the background would stop all
/// of agentctl, also where the command wants no input.
fn wait_for_foreground() {
    while wait(stdin(), PollFlags::IN).is_ok()
        && rustix::termios::tcgetpgrp(stdin()).is_ok_and(|group| group != rustix::process::getpgrp())
    {
        std::thread::sleep(BACKGROUND);
    }
}

/// The next bytes; `None` at the end. A failing read is an end: there will be no more.
fn read(fd: BorrowedFd<'_>, size: usize) -> Option<Bytes> {
    let mut buffer = Vec::with_capacity(size);
    loop {
        match rustix::io::read(fd, rustix::buffer::spare_capacity(&mut buffer)) {
            Ok(0) => return None,
            Ok(_) => return Some(buffer.into()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, PollFlags::IN).ok()?,
            Err(_) => return None,
        }
    }
}

/// Takes the output, and returns the result of writing it.
pub type Writer = (mpsc::Sender<(Stream, Bytes)>, oneshot::Receiver<Written>);

/// A thread that writes what it is sent, in order, and sends the result when it ends.
///
/// # Errors
/// If no thread can be started.
pub fn writer() -> io::Result<Writer> {
    let (sender, mut output) = mpsc::channel::<(Stream, Bytes)>(WAITING);
    let (done, written) = oneshot::channel();
    let work = move || {
        let mut result = Ok(());
        while let Some((stream, bytes)) = output.blocking_recv() {
            if let Err(error) = write(stream.fd(), &bytes) {
                result = Err((stream, error));
                break;
            }
        }
        done.send(result).ok();
    };
    std::thread::Builder::new().name("output".into()).spawn(work)?;
    Ok((sender, written))
}

/// Writes all of `bytes`, whether or not `fd` is non-blocking.
///
/// # Errors
/// As `write(2)`.
pub fn write(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, PollFlags::OUT)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn reads_to_the_end_in_chunks() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&[7; 5000]).unwrap();
        drop(writer);
        assert_eq!(read(reader.as_fd(), TYPED).unwrap().len(), TYPED);
        assert_eq!(read(reader.as_fd(), TYPED).unwrap().len(), 5000 - TYPED);
        assert!(read(reader.as_fd(), TYPED).is_none());
    }

    #[test]
    fn a_non_blocking_pipe_takes_all() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let all = vec![5; 1 << 20];
        let expected = all.clone();
        let thread = std::thread::spawn(move || write(writer.as_fd(), &all));
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap().unwrap();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_closed_pipe_is_told() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = write(writer.as_fd(), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
