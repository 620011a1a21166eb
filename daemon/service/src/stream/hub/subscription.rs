//! A client's place at a [`Hub`], and what waits there for it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{HELD, Hub, PIECE, STUCK, Stage};
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
    /// Nothing is wanted before the picture is there.
    pub(super) waits: bool,
    picture: Option<(u64, Bytes)>,
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

/// What a client is to get.
#[derive(Debug, PartialEq)]
pub enum Next {
    Frame(Frame),
    /// The screen as it is at this place of the output.
    Picture(u64, Bytes),
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
            picture: None,
            cut: false,
            wake: Arc::default(),
        }
    }

    /// Whether the command waits for it if it is full.
    pub(super) fn is_strict(&self) -> bool {
        !self.watch && !self.cut
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_strict() && self.held >= HELD
    }

    /// When it will have taken nothing for too long.
    pub(super) fn stuck_at(&self) -> Instant {
        self.since + STUCK
    }

    pub(super) fn push(&mut self, piece: &Frame, most: usize) {
        if self.waits || self.cut {
            return;
        }
        let Some(piece) = piece.clone().from(self.from) else { return };
        if self.queue.is_empty() {
            self.since = Instant::now();
        }
        self.held += piece.bytes.len() + PIECE;
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

    /// A picture has come. One that comes late shows what its client was sent meanwhile only if it has that.
    pub(super) fn show(&mut self, at: u64, picture: Bytes) {
        if !self.waits && !self.queue.is_empty() {
            return;
        }
        (self.waits, self.from, self.picture) = (false, at, Some((at, picture)));
        self.wake.notify_one();
    }

    fn take(&mut self) -> Option<Next> {
        if self.cut {
            return Some(Next::Cut);
        }
        if let Some((at, picture)) = self.picture.take() {
            return Some(Next::Picture(at, picture));
        }
        let piece = self.queue.pop_front()?;
        self.held -= piece.bytes.len() + PIECE;
        self.since = Instant::now();
        Some(Next::Frame(piece))
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

    /// No picture comes: from here on, then. The place where that is.
    pub fn without_picture(&self) -> u64 {
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
