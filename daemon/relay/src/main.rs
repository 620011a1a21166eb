//! `agentd-relay`: carries a session's bytes between its command and the service. One for each session,
//! under a leased uid, without capabilities, in a network namespace with nothing in it, and with a filter
//! that lets it make no socket: it works on the descriptors that it is started with, and on nothing else.
//!
//! Usage: `agentd-relay pipes|terminal`, with these descriptors:
//!
//! | number | |
//! |---|---|
//! | 3 | stream socket to the service; [frames](agentd_policy::wire::frame) both ways |
//! | 4 | lifeline: the other end is the keeper's; what comes is ignored, its end is the relay's |
//! | 5, 6, 7 | `pipes`: the command's standard input (to write), output and error (to read) |
//! | 5 | `terminal`: the master of its terminal. The starter keeps a slave open until the command has it |
//!
//! It ends with status 0 once the outputs have ended, all is sent, and the service has closed or had two
//! seconds to; with status 1 and a line on standard error if anything else ends it: the keeper (what can
//! be read by then is still sent, for a second), the service, a frame out of form.

mod inputs;
mod outputs;
mod ring;

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agentd_kernel::inherited::{self, InheritedError};
use agentd_policy::wire::frame;
use rustix::io::{ioctl_fionbio, retry_on_intr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinError;
use tokio::time::timeout;

use inputs::Sink;
use outputs::Source;

/// For what is left to send once the keeper is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// For the service to close once all is sent.
const FAREWELL: Duration = Duration::from_secs(2);

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
    #[error("frame out of form from the service, header {0:02x?}")]
    Malformed([u8; frame::HEADER]),
    #[error("the service closed the connection before the command's output ended")]
    ServiceGone,
    #[error("the service takes no output, and the command has ended")]
    Stalled,
    #[error("the keeper is gone")]
    KeeperGone,
    #[error("a task failed: {0}")]
    Task(#[from] JoinError),
}

/// What the relay was started with.
struct Descriptors {
    service: OwnedFd,
    lifeline: OwnedFd,
    command: Command,
}

enum Command {
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    Terminal { master: OwnedFd },
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
    runtime.block_on(relay(descriptors))
}

impl Descriptors {
    fn inherited() -> Result<Self, RelayError> {
        let mut arguments = std::env::args_os().skip(1);
        let mode = arguments.next().filter(|_| arguments.len() == 0).ok_or(RelayError::Usage)?;
        let command = match mode.to_str() {
            Some("pipes") => Command::Pipes {
                stdin: inherited::take(5)?,
                stdout: inherited::take(6)?,
                stderr: inherited::take(7)?,
            },
            Some("terminal") => Command::Terminal { master: inherited::take(5)? },
            _ => return Err(RelayError::Usage),
        };
        Ok(Self { service: inherited::take(3)?, lifeline: inherited::take(4)?, command })
    }
}

async fn relay(descriptors: Descriptors) -> Result<(), RelayError> {
    let service = endpoint(descriptors.service)?;
    let lifeline = endpoint(descriptors.lifeline)?;
    let (sink, stdout, stderr) = match descriptors.command {
        Command::Pipes { stdin, stdout, stderr } => {
            (Sink::Pipe(endpoint(stdin)?), endpoint(stdout)?, Some(endpoint(stderr)?))
        }
        Command::Terminal { master } => {
            let master = endpoint(master)?;
            (Sink::Terminal(master.clone()), master, None)
        }
    };
    let (stdout, stderr) = (Source::new(frame::STDOUT, Some(stdout)), Source::new(frame::STDERR, stderr));
    let mut outputs = tokio::spawn(outputs::carry(service.clone(), stdout, stderr));
    let mut inputs = tokio::spawn(inputs::carry(service, sink));
    tokio::select! {
        biased;
        drained = &mut outputs => {
            drained??;
            // Input is still taken: to close with some of it unread would be a reset for the service.
            let _ = timeout(FAREWELL, inputs).await;
            Ok(())
        }
        ended = &mut inputs => ended?.map(|never: Infallible| match never {}),
        ended = end_of(&lifeline) => {
            ended?;
            timeout(LAST_WORDS, outputs).await.map_err(|_| RelayError::KeeperGone)??
        }
    }
}

/// Returns once the keeper's end of the lifeline is closed.
async fn end_of(lifeline: &Endpoint) -> Result<(), RelayError> {
    let mut ignored = [0; 512];
    loop {
        let read = lifeline
            .async_io(Interest::READABLE, |fd| Ok(retry_on_intr(|| rustix::io::read(fd, &mut ignored))?))
            .await;
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(source) => return Err(RelayError::Io { what: "watch the lifeline", source }),
        }
    }
}

// Its successor is `unsafe`, for types whose descriptor may change or close under way. An `OwnedFd` that is
// never lent mutably cannot.
#[expect(deprecated)]
fn endpoint(fd: OwnedFd) -> Result<Endpoint, RelayError> {
    let registered = ioctl_fionbio(&fd, true).map_err(io::Error::from).and_then(|()| AsyncFd::new(fd));
    Ok(Arc::new(registered.map_err(|source| RelayError::Io { what: "register a descriptor", source })?))
}
