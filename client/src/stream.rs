//! One stream to the daemon that carries a session's command: attached to, or started by it.

use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::{AttachInput, AttachOpen, AttachOutput, Attached, ExecOpen, attach_input};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connect::Client;
use crate::failure::Failure;
use crate::terminal::{Streams, window};

/// Messages that wait for the daemon: with 64 KiB each, a pipe's worth and some.
const WAITING: usize = 4;

/// What to attach to.
#[derive(Clone, Debug)]
pub enum Target {
    Session {
        /// An id, a unique prefix of one, or a name.
        id: String,
        /// Only to look.
        watch: bool,
        /// From its first byte on; else from the screen as it is.
        whole: bool,
    },
    /// A further command of a session, which this starts.
    Command(ExecOpen),
}

/// One connection: what goes to the daemon and what comes from it.
#[derive(Debug)]
pub struct AttachStream {
    pub input: mpsc::Sender<AttachInput>,
    pub inbound: Streaming<AttachOutput>,
}

/// Opens a stream; `had` is how much output came by an earlier one.
///
/// # Errors
/// The daemon's refusal, or that it is not reachable.
pub async fn open(
    client: &Client,
    target: &Target,
    had: Option<u64>,
) -> Result<(AttachStream, Attached), Failure> {
    let (input, queue) = mpsc::channel(WAITING);
    let queue = ReceiverStream::new(queue);
    let mut client = client.clone();
    let first = |kind| AttachInput { kind: Some(kind) };
    let failed = |_| Failure::failed("the request could not be sent");
    let mut inbound = match target {
        Target::Session { id, watch, whole } => {
            let streams = Streams::look();
            let open = AttachOpen {
                id: id.clone(),
                watch: *watch,
                window: (!watch && streams.stdin && streams.stdout).then(window),
                resume: had.or(whole.then_some(0)),
            };
            input.try_send(first(attach_input::Kind::Open(open))).map_err(failed)?;
            client.attach(queue).await?.into_inner()
        }
        Target::Command(open) => {
            input.try_send(first(attach_input::Kind::Exec(open.clone()))).map_err(failed)?;
            client.exec(queue).await?.into_inner()
        }
    };
    match inbound.message().await?.and_then(|message| message.kind) {
        Some(Out::Attached(attached)) => Ok((AttachStream { input, inbound }, attached)),
        Some(_) => Err(Failure::failed("agentd did not say what it attached to")),
        None => Err(Failure::unreachable("agentd ended the stream before it began")),
    }
}
