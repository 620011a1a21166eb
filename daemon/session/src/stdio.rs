//! A session's standard input, output and error: three pipes, or a terminal of its own devpts.

use std::os::fd::{AsFd, OwnedFd};

use agentd_policy::plan::WindowSize;
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::command::Stdio;

/// Both sides of a session's standard streams.
#[derive(Debug)]
pub struct Streams {
    /// The command's side.
    pub inside: Stdio,
    /// The relay's side.
    pub outside: Outside,
}

/// What the relay holds.
#[derive(Debug)]
pub enum Outside {
    /// The pty's master.
    Terminal(OwnedFd),
    /// The writing end for input, the reading ends of output and error.
    Pipes([OwnedFd; 3]),
}

/// Both sides of the terminal that `master` has made.
pub fn of_terminal(master: OwnedFd, window: WindowSize) -> rustix::io::Result<Streams> {
    rustix::pty::unlockpt(&master)?;
    let size = Winsize { ws_row: window.rows, ws_col: window.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let tty = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok(Streams { inside: Stdio::Terminal(tty), outside: Outside::Terminal(master) })
}

/// Three pipes that belong to `owner`, or to who makes them.
pub fn of_pipes(owner: Option<u32>) -> rustix::io::Result<Streams> {
    let pair = || {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // Programs open /dev/stdout again, which asks the pipe's owner.
        if let Some(owner) = owner {
            rustix::fs::fchown(&reader, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
        }
        Ok((reader, writer))
    };
    let (stdin, to_stdin) = pair()?;
    let (from_stdout, stdout) = pair()?;
    let (from_stderr, stderr) = pair()?;
    Ok(Streams {
        inside: Stdio::Pipes([stdin, stdout, stderr]),
        outside: Outside::Pipes([to_stdin, from_stdout, from_stderr]),
    })
}

impl Outside {
    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The relay's word for it, and its descriptors in order.
    pub fn parts(&self) -> (&'static std::ffi::CStr, Vec<std::os::fd::BorrowedFd<'_>>) {
        match self {
            Self::Terminal(master) => (c"terminal", vec![master.as_fd()]),
            Self::Pipes(pipes) => (c"pipes", pipes.iter().map(AsFd::as_fd).collect()),
        }
    }
}
