//! A client at a session's terminal or pipes: bytes from the relay to it and back. A client that takes
//! nothing holds up the relay, and with it the command's output, and nothing else.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use agentd_policy::Refusal;
use agentd_policy::wire::frame;
use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::{AttachInput, AttachOutput, Exit};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::connection::Caller;
use crate::error::{malformed, refused};
use crate::host::{Host, lock};
use crate::registry::Wish;
use crate::request;
use crate::session::Session;
use crate::state::failed;

/// How long a client may take to say which session it means.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages to the client that wait.
const QUEUE: usize = 8;
/// What is read from the relay at once, in bytes.
const READ: usize = 4 * (frame::MAX + frame::HEADER);

/// What is taken from the relay for a client that is slow, once the command has ended: more than its pipes
/// and all between can hold.
const LEFT: usize = 8 << 20;

/// What goes to the client.
pub type Output = mpsc::Sender<Result<AttachOutput, Status>>;

/// Attaches the client to the session that its first message names.
pub async fn attach(
    host: &Arc<Host>,
    caller: &Caller,
    mut input: Streaming<AttachInput>,
) -> Result<ReceiverStream<Result<AttachOutput, Status>>, Status> {
    let first = tokio::time::timeout(PATIENCE, input.message()).await;
    let open = match first {
        Ok(message) => match message?.and_then(|m| m.kind) {
            Some(In::Open(open)) => open,
            _ => {
                return Err(refused(&malformed(
                    "an attach that does not begin with `open`",
                    "request.attach",
                )));
            }
        },
        Err(_) => return Err(Status::deadline_exceeded("attach: no `open` came")),
    };
    let session = host.registry.find(&open.id, &caller.peer, Wish::Steer).map_err(|r| refused(&r))?;
    let relay = lock(&session.relay).take();
    let Some(relay) = relay else {
        let refusal = Refusal::new(
            format!("attach to session {}", session.id),
            "session.attached",
            "somebody is attached to it, or it has ended",
        );
        return Err(refused(&refusal));
    };
    let (to, stream) = mpsc::channel(QUEUE);
    tokio::spawn(carry(session, relay, input, to));
    Ok(ReceiverStream::new(stream))
}

/// Carries until the session has ended or the client is gone, which ends the session.
async fn carry(session: Arc<Session>, relay: UnixStream, input: Streaming<AttachInput>, to: Output) {
    let (read, write) = relay.into_split();
    let result = tokio::select! {
        result = outwards(&session, read, &to) => result,
        status = inwards(&session, write, input) => Err(status),
        () = to.closed() => Err(None),
    };
    session.drained.cancel();
    let last = match result {
        Ok(whole) => Ok(Out::Exit(whole.exit(session.exit().await))),
        Err(status) => {
            session.kill.cancel();
            match status {
                Some(status) => Err(status),
                None => return,
            }
        }
    };
    // If it is gone by now, there is nobody to tell.
    let _ = to.send(last.map(output)).await;
}

fn output(kind: Out) -> AttachOutput {
    AttachOutput { kind: Some(kind) }
}

/// From the relay to the client, until there is nothing more: then whether it was all. `Err` if the client
/// is gone.
async fn outwards(session: &Session, mut relay: OwnedReadHalf, to: &Output) -> Result<Whole, Option<Status>> {
    let mut buffer = BytesMut::new();
    let mut waiting = VecDeque::from([Out::Attached(true)]);
    let (mut held, mut over, mut end) = (0, false, None);
    loop {
        // What is left once the command has ended is bounded, and must not wait in the relay, whose time is.
        let room = if over { LEFT } else { 1 };
        if buffer.capacity() - buffer.len() < frame::MAX / 4 {
            buffer.reserve(READ);
        }
        tokio::select! {
            permit = to.reserve(), if !waiting.is_empty() => {
                let permit = permit.map_err(|_| None)?;
                if let Some(kind) = waiting.pop_front() {
                    held -= size(&kind);
                    permit.send(Ok(output(kind)));
                }
            }
            read = relay.read_buf(&mut buffer), if end.is_none() && held < room => {
                if matches!(read, Ok(0) | Err(_)) {
                    end = Some(Whole(false));
                }
                while let Some(frame) = split(&mut buffer).transpose() {
                    match frame {
                        Ok(Some(kind)) => {
                            held += size(&kind);
                            waiting.push_back(kind);
                        }
                        Ok(None) => end = Some(Whole(true)),
                        Err(header) => {
                            tracing::error!(session = %session.id, ?header, "from the relay: not a frame");
                            session.kill.cancel();
                            return Ok(Whole(false));
                        }
                    }
                }
            }
            () = session.over.cancelled(), if !over => over = true,
        }
        if waiting.is_empty()
            && let Some(end) = end
        {
            return Ok(end);
        }
    }
}

fn size(kind: &Out) -> usize {
    match kind {
        Out::Stdout(bytes) | Out::Stderr(bytes) => bytes.len(),
        Out::Exit(_) | Out::Attached(_) => 0,
    }
}

/// Whether all output of the command was handed on.
struct Whole(bool);

impl Whole {
    /// `exit`, unless it would say that all is well and it is not.
    fn exit(self, exit: Exit) -> Exit {
        match (self.0, exit.reason.as_str()) {
            (false, "exited" | "signaled") => failed("the last of its output was lost"),
            _ => exit,
        }
    }
}

/// The first frame of `buffer`, taken out of it without a copy: `Some(None)` is the end of the output, and
/// `None` a frame that is not whole yet.
fn split(buffer: &mut BytesMut) -> Result<Option<Option<Out>>, [u8; frame::HEADER]> {
    let Some(header) = buffer.first_chunk::<{ frame::HEADER }>().copied() else { return Ok(None) };
    let (kind, len) = frame::parse(header).ok_or(header)?;
    if buffer.len() < frame::HEADER + len {
        return Ok(None);
    }
    buffer.advance(frame::HEADER);
    let payload = buffer.split_to(len).freeze();
    match kind {
        frame::STDOUT => Ok(Some(Some(Out::Stdout(payload)))),
        frame::STDERR => Ok(Some(Some(Out::Stderr(payload)))),
        frame::DRAINED => Ok(Some(None)),
        _ => Err(header),
    }
}

/// From the client to the relay, for as long as the client is there. What it gives back is told to it.
async fn inwards(
    session: &Session,
    mut relay: OwnedWriteHalf,
    mut input: Streaming<AttachInput>,
) -> Option<Status> {
    let mut open = true;
    loop {
        let written = match input.message().await {
            Ok(Some(message)) => match message.kind {
                Some(In::Stdin(bytes)) if open => stdin(&mut relay, bytes).await,
                Some(In::StdinEof(true)) if open => {
                    open = false;
                    write(&mut relay, frame::STDIN_EOF, Bytes::new()).await
                }
                Some(In::Resize(size)) => match request::window(size) {
                    Ok(size) => {
                        let [a, b] = size.rows.to_le_bytes();
                        let [c, d] = size.cols.to_le_bytes();
                        write(&mut relay, frame::RESIZE, Bytes::copy_from_slice(&[a, b, c, d])).await
                    }
                    Err(refusal) => return Some(refused(&refusal)),
                },
                Some(In::Signal(signal)) => match session.signal(signal) {
                    Ok(()) => Ok(()),
                    Err(refusal) if refusal.rule == "request.signal" => return Some(refused(&refusal)),
                    // It is ending, or flooded: a signal that is lost.
                    Err(_) => Ok(()),
                },
                Some(In::Open(_)) => {
                    return Some(refused(&malformed("a second `open`", "request.attach")));
                }
                Some(In::Stdin(_) | In::StdinEof(_)) | None => Ok(()),
            },
            // It will send nothing more, and goes on listening.
            Ok(None) => {
                if open {
                    let _ = write(&mut relay, frame::STDIN_EOF, Bytes::new()).await;
                }
                std::future::pending().await
            }
            Err(status) => return Some(status),
        };
        // The relay reads no more: the command has ended, and what it said is on its way.
        open &= written.is_ok();
    }
}

async fn stdin(relay: &mut OwnedWriteHalf, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        let chunk = bytes.split_to(bytes.len().min(frame::MAX));
        write(relay, frame::STDIN, chunk).await?;
    }
    Ok(())
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
        assert!(matches!(split(&mut buffer), Ok(None)));
        put(b"c", &mut buffer);
        put(&frame::header(frame::DRAINED, 0).unwrap(), &mut buffer);
        assert!(matches!(split(&mut buffer), Ok(Some(Some(Out::Stdout(b)))) if b == "abc"));
        assert!(matches!(split(&mut buffer), Ok(Some(None))));
        put(&frame::header(frame::STDIN, 0).unwrap(), &mut buffer);
        assert!(split(&mut buffer).is_err());
    }

    #[test]
    fn an_end_without_all_of_the_output_is_no_success() {
        let exited = Exit { reason: "exited".into(), code: Some(0), ..Exit::default() };
        assert_eq!(Whole(true).exit(exited.clone()), exited);
        assert_eq!(Whole(false).exit(exited).reason, "failed");
        let timeout = Exit { reason: "timeout".into(), ..Exit::default() };
        assert_eq!(Whole(false).exit(timeout).reason, "timeout");
    }
}
