//! What a command writes, on its way to the clients that are attached to it. The command waits for its clients; one
//! that takes nothing for long while others wait with it is cut off. Who only watches never holds up anything,
//! and is cut off once it is too far behind.

mod subscription;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::subscription::Client;
pub use self::subscription::{From, Next, Subscription};
use crate::store::output::{Frame, OutputLog};
use crate::stream::pace::Pace;
use crate::sync::lock;

/// What may wait for a client before its command waits as well, in bytes.
const CLIENT_BUFFER: usize = 128 << 10;
/// How long a client may take nothing while others wait with it.
const STUCK_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 1500 } else { 30_000 });
/// How far a client may be behind that only watches, in bytes.
const WATCHER_BUFFER: usize = 4 << 20;
/// How far any client may be behind once the command has ended: more than its relay can hold.
const FINAL_BUFFER: usize = 8 << 20;
/// What is kept in memory for those who come a moment later.
const RECENT: usize = 32 << 10;
/// A piece that is longer holds all that was read with it: it is not kept longer than it has to be.
const LONG: usize = 4 << 10;
/// What a piece costs besides its bytes, in bytes.
const FRAME_COST: usize = 64;
/// The longest snapshot of a screen, in bytes.
const MAX_SNAPSHOT: usize = 2 << 20;
/// Input that waits to be sent, in messages.
const INPUT_QUEUE: usize = 4;
/// Requests for a size or a snapshot that wait to be sent.
const CONTROL_QUEUE: usize = 16;
/// How long a stream to the relay may take to be there after a start.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a command's streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is no stream to its relay yet.
    Waiting,
    /// Bytes come and go.
    Live,
    /// All of its output has come.
    Drained,
    /// No more will come, and whether that was all is not known.
    Lost,
}

/// Towards the command, in order.
pub enum Inward {
    Stdin(Bytes),
    Eof,
}

/// Towards the command, ahead of its input.
pub enum Control {
    Resize([u8; 4]),
    Screen,
}

/// The streams of one command.
pub struct Hub {
    /// Where its output is kept; that of further commands is not.
    pub log: Option<OutputLog>,
    /// How fast output is taken, of all commands of its session.
    pub pace: Arc<Pace>,
    inner: Mutex<Inner>,
    stage: watch::Sender<Stage>,
    /// A client took something, came or went.
    pub(crate) room: Notify,
    /// Bytes of input that the command took.
    pub(crate) taken: watch::Sender<u64>,
    /// The command has ended.
    pub exited: CancellationToken,
    pub input: mpsc::Sender<Inward>,
    pub controls: mpsc::Sender<Control>,
    queues: Mutex<Option<Queues>>,
}

/// The other ends of what goes to the command.
pub struct Queues {
    pub input: mpsc::Receiver<Inward>,
    pub controls: mpsc::Receiver<Control>,
}

#[derive(Default)]
struct Inner {
    /// The place behind the last byte that has come.
    end: u64,
    /// The place behind the last byte that is kept on disk.
    kept: u64,
    /// Bytes of input that were accepted.
    input: u64,
    recent: VecDeque<Frame>,
    recent_size: usize,
    clients: BTreeMap<u64, Client>,
    next: u64,
    /// Clients that asked for a snapshot, in the order of their asking.
    asked: VecDeque<u64>,
    snapshot: BytesMut,
}

impl Hub {
    pub fn new(log: Option<OutputLog>, stage: Stage, pace: Arc<Pace>) -> Arc<Self> {
        let (input, inputs) = mpsc::channel(INPUT_QUEUE);
        let (controls, control) = mpsc::channel(CONTROL_QUEUE);
        Arc::new(Self {
            log,
            pace,
            inner: Mutex::default(),
            stage: watch::Sender::new(stage),
            room: Notify::new(),
            taken: watch::Sender::new(0),
            exited: CancellationToken::new(),
            input,
            controls,
            queues: Mutex::new(Some(Queues { input: inputs, controls: control })),
        })
    }

    /// The other ends of what goes to the command; once.
    pub fn queues(&self) -> Option<Queues> {
        lock(&self.queues).take()
    }

    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Bytes that have come.
    pub fn end(&self) -> u64 {
        lock(&self.inner).end
    }

    /// Looks at what an earlier service kept. Blocks.
    pub fn open(&self) {
        let Some(log) = &self.log else { return };
        log.open();
        let mut inner = lock(&self.inner);
        if inner.end == 0 {
            (inner.end, inner.kept) = (log.range().1, log.range().1);
        }
    }

    /// Takes the relay's count of the input that an earlier service sent.
    pub fn begin_input(&self, taken: u64) {
        lock(&self.inner).input = taken;
        self.taken.send_replace(taken);
    }

    /// Bytes of input that were accepted.
    pub fn accepted(&self) -> u64 {
        lock(&self.inner).input
    }

    /// Accepts input, once there is room for it. Cancelled, it was accepted or not.
    pub async fn give(&self, bytes: Bytes) {
        // Without a receiver the command reads no more, and its last count is on its way.
        let Ok(permit) = self.input.reserve().await else { return };
        let mut inner = lock(&self.inner);
        inner.input = inner.input.saturating_add(bytes.len() as u64);
        drop(inner);
        permit.send(Inward::Stdin(bytes));
    }

    /// Goes to another stage, of which only the last two are final.
    pub fn set_stage(&self, stage: Stage) {
        let changed = self.stage.send_if_modified(|now| {
            let change = !matches!(now, Stage::Drained | Stage::Lost) && *now != stage;
            if change {
                *now = stage;
            }
            change
        });
        if changed && stage >= Stage::Drained {
            lock(&self.queues).take();
            lock(&self.inner).clients.values().for_each(|client| client.wake.notify_one());
        }
    }

    /// A stream to its relay will come, whatever an earlier service made of the last. Called before a client attaches.
    pub fn reopen(&self) {
        self.stage.send_replace(Stage::Waiting);
    }

    /// No stream will come any more if there is none. What an earlier service knew to be all is all.
    pub fn give_up_waiting(&self) {
        if self.stage() == Stage::Waiting {
            let whole = self.log.as_ref().is_some_and(|log| log.is_drained());
            self.set_stage(if whole { Stage::Drained } else { Stage::Lost });
        }
    }

    /// Waits until there is a stream, or is known that there will be none.
    pub async fn settled(&self) -> bool {
        let mut stage = self.stage.subscribe();
        let settled = stage.wait_for(|stage| *stage != Stage::Waiting);
        tokio::time::timeout(STREAM_TIMEOUT, settled).await.is_ok_and(|settled| settled.is_ok())
    }

    /// Waits until nothing more will come; then whether all has.
    pub async fn ended(&self) -> bool {
        let mut stage = self.stage.subscribe();
        let ended = stage.wait_for(|stage| *stage >= Stage::Drained).await;
        ended.is_ok_and(|stage| *stage == Stage::Drained)
    }

    /// Whether more may be read from the command.
    pub fn has_room(&self) -> bool {
        if self.exited.is_cancelled() {
            return true;
        }
        !lock(&self.inner).clients.values().any(Client::is_full)
    }

    /// Until when the command waits for clients that take nothing: for ever, if no other client waits with it.
    pub fn stuck_deadline(&self) -> Option<Instant> {
        let inner = lock(&self.inner);
        inner
            .others_wait()
            .then(|| inner.clients.values().filter(|c| c.is_full()).map(Client::stuck_at).min())?
    }

    /// Cuts off those that have taken nothing for too long.
    pub fn cut_stuck(&self, now: Instant) {
        let mut inner = lock(&self.inner);
        if inner.others_wait() {
            let stuck = |client: &&mut Client| client.is_full() && client.stuck_at() <= now;
            inner.clients.values_mut().filter(stuck).for_each(Client::cut);
        }
    }

    /// Output has come.
    pub fn push(&self, kind: u8, bytes: Bytes) {
        let mut inner = lock(&self.inner);
        let piece = Frame { at: inner.end, kind, bytes };
        inner.end = piece.end();
        let exited = self.exited.is_cancelled();
        for client in inner.clients.values_mut() {
            let most = match (exited, !client.watch) {
                (true, _) => FINAL_BUFFER,
                (false, true) => usize::MAX,
                (false, false) => WATCHER_BUFFER,
            };
            client.push(&piece, most);
        }
        inner.recent_size += piece.bytes.len() + FRAME_COST;
        inner.recent.push_back(piece);
        if self.log.is_none() {
            inner.kept = inner.end;
        }
        inner.trim();
    }

    /// What came and is not on disk, from `place` on.
    pub fn unwritten(&self, place: u64) -> Vec<Frame> {
        let inner = lock(&self.inner);
        let new = inner.recent.iter().rev().take_while(|piece| piece.at >= place).cloned();
        let mut new: Vec<_> = new.collect();
        new.reverse();
        new
    }

    /// What came is on disk, up to `place`.
    pub fn kept(&self, place: u64) {
        let mut inner = lock(&self.inner);
        inner.kept = place;
        inner.trim();
    }

    /// A piece of a snapshot has come; an empty one is its end.
    pub fn snapshot(&self, bytes: &[u8]) {
        let mut inner = lock(&self.inner);
        if !bytes.is_empty() {
            if inner.snapshot.len() + bytes.len() <= MAX_SNAPSHOT {
                inner.snapshot.extend_from_slice(bytes);
            }
            return;
        }
        let snapshot = std::mem::take(&mut inner.snapshot).freeze();
        let end = inner.end;
        let Some(number) = inner.asked.pop_front() else { return };
        if let Some(client) = inner.clients.get_mut(&number) {
            client.show(end, snapshot);
        }
    }

    /// Forgets what need not be in memory any more.
    pub fn rest(&self) {
        let mut inner = lock(&self.inner);
        if inner.kept == inner.end {
            (inner.recent, inner.recent_size) = (VecDeque::new(), 0);
        }
    }
}

impl PartialOrd for Stage {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some((*self as u8).cmp(&(*other as u8)))
    }
}

impl Inner {
    /// Whether a client could take more.
    fn others_wait(&self) -> bool {
        self.clients.values().any(|client| client.is_interactive() && !client.is_full())
    }

    fn trim(&mut self) {
        while let Some(first) = self.recent.front()
            && first.end() <= self.kept
            && (self.recent_size > RECENT || first.bytes.len() >= LONG)
        {
            self.recent_size -= first.bytes.len() + FRAME_COST;
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
