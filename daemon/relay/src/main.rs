//! `agentd-relay`: carries a session's bytes between its command and the service. One for each session,
//! under a leased uid, without capabilities, in a network namespace with nothing in it, and with a filter
//! that lets it make no socket: it works on the descriptors that it is started with, and on nothing else.
//!
//! Usage: `agentd-relay pipes|terminal`, with these descriptors:
//!
//! | number | |
//! |---|---|
//! | 3 | the first stream to the service; [frames](agentd_policy::wire::frame) both ways |
//! | 4 | control socket, `SOCK_SEQPACKET`: [`ToRelay`] comes, [`FromRelay`] goes; its other end is the keeper's |
//! | 5, 6, 7 | `pipes`: the first command's standard input (to write), output and error (to read) |
//! | 5 | `terminal`: the master of its terminal. The starter keeps a slave open until the command has it |
//!
//! Every command is a channel of its own: its streams, what of its output the service has not acknowledged (at
//! most 1 MiB; then the command waits), and the present stream to the service. That may be lost: the command goes on
//! until its window is full, and on the next stream the service sends where to go on. A malformed frame loses the
//! stream that it came by, and costs a line on standard error. Further commands come by the control socket, with
//! their streams; a channel ends once the service has acknowledged all of its output, the first one's not before
//! the session is over.
//!
//! A session that may reach something has its sockets' descriptors come by the control socket as well, with the plan:
//! names are answered, connections judged and carried as `egress` has it. The relay itself connects nowhere: the keeper
//! does, which judges again, and passes the descriptor. Ports that the session publishes come as listeners on the
//! host's loopback; the other end of each connection is the session's own loopback, and comes from the keeper too.
//!
//! The relay ends with status 0 once the session is over and all channels have ended; with status 1 and a line on
//! standard error if anything else ends it: the keeper is gone (what can be read by then is still sent, for a
//! second), or a command's streams fail.
//!
//! [`ToRelay`]: agentd_policy::wire::ToRelay
//! [`FromRelay`]: agentd_policy::wire::FromRelay

mod backlog;
mod channel;
mod control;
mod egress;
mod inputs;
mod outputs;
mod ring;
mod session;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;

use agentd_kernel::inherited::{self, InheritedError};
use agentd_policy::blocklist::TableError;
use agentd_policy::wire::{CommandStreams, WireError, frame};
use rustix::io::ioctl_fionbio;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinError;

/// A non-blocking descriptor.
type Endpoint = Arc<AsyncFd<OwnedFd>>;

/// What ends a relay before its time.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("usage: agentd-relay pipes|terminal, started by the builder with descriptors from 3 on")]
    Usage,
    #[error("cannot confine itself: {0}")]
    Lockdown(String),
    #[error("cannot take a descriptor: {0}")]
    Descriptor(#[from] InheritedError),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("frame malformed from the service, header {0:02x?}")]
    Malformed([u8; frame::HEADER]),
    #[error("a stream to the service was lost")]
    ServiceGone,
    #[error("message malformed from the keeper: {0}")]
    Wire(#[from] WireError),
    #[error("message out of place from the keeper: {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Blocklists(#[from] TableError),
    #[error("the keeper is gone")]
    KeeperGone,
    #[error("a task failed: {0}")]
    Task(#[from] JoinError),
}

/// What the relay was started with.
struct Descriptors {
    service: OwnedFd,
    control: OwnedFd,
    streams: CommandStreams<OwnedFd>,
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agentd-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), RelayError> {
    // Before the filter: where another program of the same build has tokio's signal driver compiled in, the
    // runtime makes a socket pair. Nothing has been read from anywhere yet.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|source| RelayError::Io { what: "start the runtime", source })?;
    let _enforced =
        agentd_kernel::lockdown::relay().map_err(|error| RelayError::Lockdown(error.to_string()))?;
    let descriptors = Descriptors::inherited()?;
    agentd_protocols::terminal::screen::quiet_panics();
    // In a task: what wakes the future that a runtime blocks on wakes the runtime as well, by a write to itself.
    runtime.block_on(runtime.spawn(session::relay(descriptors)))?
}

impl Descriptors {
    fn inherited() -> Result<Self, RelayError> {
        let mut arguments = std::env::args_os().skip(1);
        let mode = arguments.next().filter(|_| arguments.len() == 0).ok_or(RelayError::Usage)?;
        let streams = match mode.to_str() {
            Some("pipes") => {
                CommandStreams::Pipes([inherited::take(5)?, inherited::take(6)?, inherited::take(7)?])
            }
            Some("terminal") => CommandStreams::Terminal(inherited::take(5)?),
            _ => return Err(RelayError::Usage),
        };
        Ok(Self { service: inherited::take(3)?, control: inherited::take(4)?, streams })
    }
}

// Its successor is `unsafe`, for types whose descriptor may change or close under way. An `OwnedFd` that is
// never lent mutably cannot.
#[expect(deprecated)]
fn endpoint(fd: OwnedFd) -> Result<Endpoint, RelayError> {
    let registered = ioctl_fionbio(&fd, true).map_err(io::Error::from).and_then(|()| AsyncFd::new(fd));
    Ok(Arc::new(registered.map_err(|source| RelayError::Io { what: "register a descriptor", source })?))
}
