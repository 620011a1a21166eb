//! What a session's command has written, for those who come to read it and not to take part.

use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::wire::frame;
use agentd_proto::v1::LogChunk;
use agentd_proto::v1::log_chunk::Kind;
use tokio::sync::mpsc;
use tonic::Status;

use crate::api::attach::{ready, slow};
use crate::error::refused;
use crate::host::Host;
use crate::session::Session;
use crate::store::output::Frame;
use crate::stream::hub::{From, Hub, Next, Subscription};
use crate::stream::replay::Replay;

/// Where the answers go.
pub type To = mpsc::Sender<Result<LogChunk, Status>>;

/// A reader of a session's output.
pub struct Reading {
    host: Arc<Host>,
    hub: Arc<Hub>,
    subscription: Subscription,
    follow: bool,
    /// Where it was to end when it began.
    end: u64,
    tail: Option<u64>,
}

impl Reading {
    /// Of the whole that is kept, or its last lines.
    pub async fn begin(
        host: &Arc<Host>,
        session: &Arc<Session>,
        follow: bool,
        tail: Option<u64>,
    ) -> Result<Self, Refusal> {
        let hub = session.hub.clone();
        ready(&hub).await?;
        let subscription = hub.join(true, From::Kept)?;
        let end = hub.end().max(subscription.start);
        Ok(Self { host: host.clone(), hub, subscription, follow, end, tail })
    }

    /// Sends it, until the client is gone.
    pub async fn send(self, to: To) {
        if let Err(Some(refusal)) = self.sent(&to).await {
            to.send(Err(refused(&refusal))).await.ok();
        }
    }

    /// # Errors
    /// A refusal; none if the client is gone.
    async fn sent(&self, to: &To) -> Result<(), Option<Refusal>> {
        let send = async |kind: Kind| to.send(Ok(LogChunk { kind: Some(kind) })).await.map_err(|_| None);
        let mut skip = match self.tail {
            Some(lines) => self.lines().await?.saturating_sub(lines),
            None => 0,
        };
        if self.subscription.start > 0 && self.tail.is_none() {
            send(Kind::Skipped(self.subscription.start)).await?;
        }
        let mut kept = Replay::new(&self.hub, self.subscription.start, self.subscription.replay);
        while let Some(frames) = kept.next(&self.host.readers).await? {
            for frame in frames {
                if let Some(frame) = after_lines(frame, &mut skip) {
                    send(chunk(frame)).await?;
                }
            }
        }
        loop {
            let next = match (self.subscription.now(), self.follow) {
                (Some(next), _) => next,
                (None, false) => return Ok(()),
                (None, true) => tokio::select! {
                    next = self.subscription.next() => next,
                    () = to.closed() => return Err(None),
                },
            };
            match next {
                Next::Frame(frame) if self.follow || frame.at < self.end => {
                    if let Some(frame) = after_lines(frame, &mut skip) {
                        send(chunk(frame)).await?;
                    }
                }
                Next::Frame(_) | Next::Done { .. } => return Ok(()),
                Next::Snapshot(..) => {}
                Next::Cut => return Err(Some(slow())),
            }
        }
    }

    /// How many lines there are; the last need not have an end.
    async fn lines(&self) -> Result<u64, Refusal> {
        let (mut lines, mut open) = (0, false);
        let mut count = |frame: &Frame| {
            lines += frame.bytes.iter().filter(|b| **b == b'\n').count() as u64;
            open = frame.bytes.last().map_or(open, |b| *b != b'\n');
        };
        let mut kept = Replay::new(&self.hub, self.subscription.start, self.subscription.replay);
        while let Some(frames) = kept.next(&self.host.readers).await? {
            frames.iter().for_each(&mut count);
        }
        self.subscription.waiting().iter().filter(|f| f.at < self.end).for_each(&mut count);
        Ok(lines + u64::from(open))
    }
}

fn chunk(frame: Frame) -> Kind {
    if frame.kind == frame::STDERR { Kind::Stderr(frame.bytes) } else { Kind::Stdout(frame.bytes) }
}

/// What of `frame` is behind the next `skip` lines.
fn after_lines(mut frame: Frame, skip: &mut u64) -> Option<Frame> {
    while *skip > 0 {
        let line = frame.bytes.iter().position(|b| *b == b'\n')?;
        *skip -= 1;
        let place = frame.at + line as u64 + 1;
        frame = frame.from(place)?;
    }
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_skipped_across_pieces() {
        let mut skip = 3;
        let mut left = Vec::new();
        let mut at = 0;
        for piece in ["a\nb", "b\n", "c", "\nd\ne"] {
            let frame = Frame { at, kind: frame::STDOUT, bytes: piece.into() };
            at = frame.end();
            left.extend(after_lines(frame, &mut skip));
        }
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].at, left[0].bytes.as_ref()), (7, &b"d\ne"[..]));
    }
}
