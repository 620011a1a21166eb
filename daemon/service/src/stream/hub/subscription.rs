//! A client's place at a [`Hub`], and what waits there for it.

use std::collections::VecDeque;
use std::sync::Arc;

use agentd_policy::Refusal;
use agentd_policy::rule::Rule;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{CLIENT_BUFFER, Control, FRAME_COST, Hub, STUCK_TIMEOUT, Stage};
use crate::store::output::Frame;
use crate::sync::lock;

/// A client, as its hub sees it.
pub(super) struct Client {
    pub(super) watch: bool,
    pub(super) queue: VecDeque<Frame>,
    /// What the queue comes to, in bytes.
    held: usize,
    /// When it took something last, or had to begin to.
    since: Instant,
    /// What lies before it is not wanted.
    pub(super) from: u64,
    /// Nothing is wanted before the snapshot is there.
    pub(super) waits: bool,
    snapshot: Option<(u64, Bytes)>,
    cut: bool,
    pub(super) wake: Arc<Notify>,
}

/// A client's place.
pub struct Subscription {
    pub(super) hub: Arc<Hub>,
    pub(super) number: u64,
    pub(super) wake: Arc<Notify>,
    /// The place of the first byte that it gets.
    pub start: u64,
    /// Up to where that has to be read from disk.
    pub replay: u64,
}

/// From where a client wants to have the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// What is kept.
    Kept,
    Place(u64),
    /// The present screen of its terminal.
    Screen,
}

/// What a client is to get.
#[derive(Debug, PartialEq)]
pub enum Next {
    Frame(Frame),
    /// The screen as it is at this place of the output.
    Snapshot(u64, Bytes),
    /// There is no more; whether that was all.
    Done {
        whole: bool,
    },
    /// It took too little for too long.
    Cut,
}

impl Client {
    pub(super) fn new(watch: bool, from: u64, waits: bool) -> Self {
        Self {
            watch,
            queue: VecDeque::new(),
            held: 0,
            since: Instant::now(),
            from,
            waits,
            snapshot: None,
            cut: false,
            wake: Arc::default(),
        }
    }

    /// Whether the command waits for it if it is full.
    pub(super) fn is_interactive(&self) -> bool {
        !self.watch && !self.cut
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_interactive() && self.held >= CLIENT_BUFFER
    }

    /// When it will have taken nothing for too long.
    pub(super) fn stuck_at(&self) -> Instant {
        self.since + STUCK_TIMEOUT
    }

    pub(super) fn push(&mut self, piece: &Frame, most: usize) {
        if self.waits || self.cut {
            return;
        }
        let Some(piece) = piece.clone().from(self.from) else { return };
        if self.queue.is_empty() {
            self.since = Instant::now();
        }
        self.held += piece.bytes.len() + FRAME_COST;
        self.queue.push_back(piece);
        if self.held > most {
            self.cut();
        }
        self.wake.notify_one();
    }

    /// It gets nothing more.
    pub(super) fn cut(&mut self) {
        (self.cut, self.held, self.queue) = (true, 0, VecDeque::new());
        self.wake.notify_one();
    }

    /// A snapshot has come. One that comes late shows what its client was sent meanwhile only if it has that.
    pub(super) fn show(&mut self, at: u64, snapshot: Bytes) {
        if !self.waits && !self.queue.is_empty() {
            return;
        }
        (self.waits, self.from, self.snapshot) = (false, at, Some((at, snapshot)));
        self.wake.notify_one();
    }

    fn take(&mut self) -> Option<Next> {
        if self.cut {
            return Some(Next::Cut);
        }
        if let Some((at, snapshot)) = self.snapshot.take() {
            return Some(Next::Snapshot(at, snapshot));
        }
        let piece = self.queue.pop_front()?;
        self.held -= piece.bytes.len() + FRAME_COST;
        self.since = Instant::now();
        Some(Next::Frame(piece))
    }
}

impl Hub {
    /// A place for a client. Of the output that it wants, what is not in memory is to be read from disk.
    pub fn join(self: &Arc<Self>, watch: bool, from: From) -> Result<Subscription, Refusal> {
        let mut inner = lock(&self.inner);
        let memory = inner.recent.front().map_or(inner.end, |piece| piece.at);
        let first = match &self.log {
            Some(log) if log.range().0 < log.range().1 => memory.min(log.range().0),
            _ => memory,
        };
        let screen = from == From::Screen && self.stage() == Stage::Live;
        let start = match from {
            From::Place(place) if place < first => {
                return Err(Refusal::new(
                    format!("output from byte {place} on"),
                    Rule::AttachGone,
                    format!("what is kept begins at byte {first}: attach anew"),
                ));
            }
            From::Place(place) => place,
            From::Screen if screen => inner.end,
            From::Kept | From::Screen => first,
        };
        let mut client = Client::new(watch, start, screen);
        if !screen {
            for piece in &inner.recent {
                client.push(piece, usize::MAX);
            }
        }
        let (number, wake) = (inner.next, client.wake.clone());
        inner.next += 1;
        if screen {
            if self.controls.try_send(Control::Screen).is_err() {
                return Err(Refusal::new(
                    "one client more that asks for the screen",
                    Rule::ServiceCrowded,
                    "too many ask for it at this moment; try again",
                ));
            }
            inner.asked.push_back(number);
        }
        inner.clients.insert(number, client);
        let replay = if screen { start } else { memory.max(start) };
        Ok(Subscription { hub: self.clone(), number, wake, start, replay })
    }
}

impl Subscription {
    /// What comes next for this client. Cancelling it loses nothing.
    pub async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.now() {
                return next;
            }
            self.wake.notified().await;
        }
    }

    /// The same, if there is something already.
    pub fn now(&self) -> Option<Next> {
        let mut inner = lock(&self.hub.inner);
        let client = inner.clients.get_mut(&self.number)?;
        if let Some(next) = client.take() {
            if !client.watch {
                self.hub.room.notify_one();
            }
            return Some(next);
        }
        match self.hub.stage() {
            Stage::Drained => Some(Next::Done { whole: true }),
            Stage::Lost => Some(Next::Done { whole: false }),
            Stage::Waiting | Stage::Live => None,
        }
    }

    /// What waits for it, and stays.
    pub fn waiting(&self) -> Vec<Frame> {
        let inner = lock(&self.hub.inner);
        inner
            .clients
            .get(&self.number)
            .map(|client| client.queue.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// It takes what it has from elsewhere: from disk.
    pub fn moves(&self) {
        if let Some(client) = lock(&self.hub.inner).clients.get_mut(&self.number) {
            client.since = Instant::now();
        }
    }

    /// No snapshot comes: from here on, then. The place where that is.
    pub fn without_snapshot(&self) -> u64 {
        let mut inner = lock(&self.hub.inner);
        let end = inner.end;
        if let Some(client) = inner.clients.get_mut(&self.number) {
            (client.waits, client.from) = (false, end);
        }
        end
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.hub.inner).clients.remove(&self.number);
        self.hub.room.notify_one();
    }
}
