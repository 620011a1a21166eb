//! A client's time at a command: what goes to it, what comes from it, and how that ends.

use std::time::Duration;

use agentd_policy::Refusal;
use agentd_policy::exit_reason::ExitReason;
use agentd_policy::plan::WindowSize;
use agentd_policy::rule::Rule;
use agentd_policy::wire::frame;
use agentd_proto::v1::attach_input::Kind as In;
use agentd_proto::v1::attach_output::Kind as Out;
use agentd_proto::v1::{AttachInput, AttachOutput, Attached, Exit};
use bytes::Bytes;
use tonic::{Status, Streaming};

use super::{Output, SNAPSHOT_TIMEOUT, Visit};
use agentd_request::malformed;

use crate::audit::note::Note;
use crate::error::refused;
use crate::session::SessionRequest;
use crate::session::commands::end_input;
use crate::session::state::failed;
use crate::store::output::Frame;
use crate::stream::hub::{Control, Hub, Next};
use crate::stream::replay::Replay;

/// How long the processes that an ended command left behind may write nothing before that was all.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// How a client's time at a command ended.
enum End {
    /// The command wrote nothing more; whether all of it came.
    Done { whole: bool },
    /// It went on purpose.
    Detached,
    /// It is gone.
    Gone,
    /// It was sent away.
    Refused(Status),
}

/// Carries until the command has ended or the client is gone; whether it received the exit.
pub(super) async fn carry(
    visit: &Visit,
    exit: impl Future<Output = Exit>,
    input: Streaming<AttachInput>,
    to: &Output,
) -> bool {
    let mut giving = std::pin::pin!(inwards(visit, input));
    let end = tokio::select! {
        end = outwards(visit, to) => end,
        end = &mut giving => end,
        () = to.closed() => End::Gone,
    };
    let last = match end {
        // A command that has closed its output may still read its input.
        End::Done { whole } => tokio::select! {
            biased;
            exit = exit => Ok(output(Out::Exit(complete(whole, exit)))),
            () = to.closed() => return false,
            end = giving => match end {
                End::Refused(status) => Err(status),
                _ => return false,
            },
        },
        End::Refused(status) => Err(status),
        End::Detached | End::Gone => return false,
    };
    let exit = last.is_ok();
    // It may be gone by now.
    to.send(last).await.is_ok() && exit
}

/// `exit`, unless it would report success without all of the output.
fn complete(whole: bool, exit: Exit) -> Exit {
    let ended = ExitReason::parse(&exit.reason);
    if !whole && ended.is_some_and(ExitReason::is_of_command) {
        return failed("the last of its output was lost");
    }
    exit
}

fn output(kind: Out) -> AttachOutput {
    AttachOutput { kind: Some(kind) }
}

fn piece(frame: Frame) -> AttachOutput {
    output(if frame.kind == frame::STDERR { Out::Stderr(frame.bytes) } else { Out::Stdout(frame.bytes) })
}

/// What the command writes, to the client.
async fn outwards(visit: &Visit, to: &Output) -> End {
    match deliver(visit, to).await {
        Ok(end) | Err(end) => end,
    }
}

async fn deliver(visit: &Visit, to: &Output) -> Result<End, End> {
    let send = async |message: AttachOutput| to.send(Ok(message)).await.map_err(|_| End::Gone);
    let subscription = &visit.subscription;
    let mut place = subscription.start;
    let mut snapshot = None;
    if visit.snapshot {
        match tokio::time::timeout(SNAPSHOT_TIMEOUT, subscription.next()).await {
            Ok(Next::Snapshot(at, bytes)) => (place, snapshot) = (at, Some(bytes)),
            Ok(Next::Done { whole }) => return Ok(End::Done { whole }),
            Ok(Next::Frame(_) | Next::Cut) | Err(_) => place = subscription.without_snapshot(),
        }
    }
    let attached = Attached {
        id: visit.session.id.to_string(),
        terminal: visit.terminal,
        output: place,
        input: visit.hub.accepted(),
    };
    send(output(Out::Attached(attached))).await?;
    if let Some(bytes) = snapshot {
        send(output(Out::Screen(bytes))).await?;
    }
    if subscription.start < subscription.replay {
        let mut kept = Replay::new(&visit.hub, subscription.start, subscription.replay);
        let refuse = |refusal: Refusal| End::Refused(refused(&refusal));
        while let Some(frames) = kept.next(&visit.host.readers).await.map_err(refuse)? {
            for frame in frames {
                send(piece(frame)).await?;
                subscription.moves();
            }
        }
    }
    loop {
        match next(visit).await {
            Next::Frame(frame) => send(piece(frame)).await?,
            Next::Snapshot(_, bytes) => send(output(Out::Screen(bytes))).await?,
            Next::Done { whole } => return Ok(End::Done { whole }),
            Next::Cut => return Err(End::Refused(refused(&slow()))),
        }
    }
}

/// What comes next. A further command that has ended may have left processes behind that hold its output open, for
/// as long as the session lives: when they are silent, that was all.
async fn next(visit: &Visit) -> Next {
    if visit.command == 0 {
        return visit.subscription.next().await;
    }
    let drained = async {
        visit.hub.exited.cancelled().await;
        tokio::time::sleep(DRAIN_IDLE).await;
    };
    tokio::select! {
        next = visit.subscription.next() => next,
        () = drained => Next::Done { whole: true },
    }
}

/// The client takes too little.
pub fn slow() -> Refusal {
    Refusal::new(
        "a client that takes no output, or only watches and is more than 4 MiB behind",
        Rule::AttachSlow,
        "attach again, and take the output faster",
    )
}

pub(super) fn resize(hub: &Hub, size: WindowSize) {
    let [a, b] = size.rows.to_le_bytes();
    let [c, d] = size.cols.to_le_bytes();
    // A flood of sizes: one of the next will do.
    hub.controls.try_send(Control::Resize([a, b, c, d])).ok();
}

/// From the client to the command, for as long as the client is there.
async fn inwards(visit: &Visit, mut input: Streaming<AttachInput>) -> End {
    let mut open = true;
    loop {
        match input.message().await {
            Ok(Some(message)) => match message.kind {
                Some(In::Detach(true)) if visit.command == 0 => {
                    if !visit.watch {
                        visit.session.change(|status| status.detached = true);
                    }
                    let note = SessionRequest::Note(Note::Detached { user: visit.who.clone() });
                    visit.session.request(note).await;
                    return End::Detached;
                }
                Some(In::Open(_) | In::Exec(_)) => {
                    return End::Refused(refused(&malformed("a second first message", Rule::RequestAttach)));
                }
                _ if visit.watch => {}
                Some(In::Stdin(bytes)) if open => stdin(&visit.hub, bytes).await,
                Some(In::StdinEof(true)) if open => {
                    open = false;
                    end_input(&visit.hub).await;
                }
                Some(In::Resize(size)) => match agentd_request::window(size) {
                    Ok(size) => resize(&visit.hub, size),
                    Err(refusal) => return End::Refused(refused(&refusal)),
                },
                Some(In::Signal(signal)) => match visit.session.signal(visit.command, signal) {
                    Err(refusal) if refusal.rule == Rule::RequestSignal => {
                        return End::Refused(refused(&refusal));
                    }
                    // It is ending, or flooded: a signal that is lost.
                    Ok(()) | Err(_) => {}
                },
                Some(In::Stdin(_) | In::StdinEof(_) | In::Detach(_)) | None => {}
            },
            // It will send nothing more, and goes on listening.
            Ok(None) => {
                if open && !visit.watch {
                    end_input(&visit.hub).await;
                }
                std::future::pending().await
            }
            Err(_) => return End::Gone,
        }
    }
}

async fn stdin(hub: &Hub, mut bytes: Bytes) {
    while !bytes.is_empty() {
        hub.give(bytes.split_to(bytes.len().min(frame::MAX))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_all_of_the_output_is_no_success() {
        let exited = Exit { reason: "exited".into(), code: Some(0), ..Exit::default() };
        assert_eq!(complete(true, exited.clone()), exited);
        assert_eq!(complete(false, exited).reason, "failed");
        let timeout = Exit { reason: "timeout".into(), ..Exit::default() };
        assert_eq!(complete(false, timeout).reason, "timeout");
    }
}
