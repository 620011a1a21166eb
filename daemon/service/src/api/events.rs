//! Reading the event store: what is there, in the order of time, and then what comes. A follower reads the files
//! themselves, each up to what is on disk, and is only woken: there is no gap and no double. Who does not follow, or
//! follows what has ended, waits a while for what is written and not on disk yet, and gets a refusal if it does not
//! come.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take};
use std::sync::Arc;
use std::time::Duration;

use agentd_policy::Refusal;
use agentd_policy::names::SessionId;
use agentd_policy::rule::Rule;
use agentd_policy::wire::Peer;
use agentd_proto::v1::{Event, EventsRequest};
use tokio::sync::mpsc;
use tonic::Status;

use crate::clock::rfc3339;
use agentd_request::malformed;

use crate::error::refused;
use crate::host::Host;
use crate::session::{Phase, Session};
use crate::store::Log;

/// Between two looks of who was woken and found nothing.
const PAUSE: Duration = Duration::from_millis(5);
/// Events that are read at once.
const CHUNK: usize = 256;

/// The sessions whose events are sent.
pub enum Scope {
    One(Arc<Session>),
    /// All that this peer may see.
    All(Peer),
}

/// The events that are sent of these.
#[derive(Default)]
pub struct Filter {
    kinds: Vec<String>,
    decision: String,
    since: String,
}

impl Filter {
    pub fn parse(request: &EventsRequest) -> Result<Self, Refusal> {
        if request.kinds.len() > 64 {
            return Err(malformed("more than 64 kinds", Rule::RequestKinds));
        }
        if !matches!(request.decision.as_str(), "" | "allow" | "deny") {
            return Err(malformed(format!("decision {:?}", request.decision), Rule::RequestDecision));
        }
        let since = match request.since.as_str() {
            "" => String::new(),
            text => humantime::parse_rfc3339_weak(text).map(rfc3339).map_err(|_| {
                malformed(format!("since {text:?}, which is not RFC 3339 in UTC"), Rule::RequestSince)
            })?,
        };
        Ok(Self { kinds: request.kinds.clone(), decision: request.decision.clone(), since })
    }

    fn passes(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.decision.is_empty() || event.decision.as_ref() == Some(&self.decision))
            && event.time >= self.since
    }
}

/// Sends what `scope` has, and with `follow` what it will have, until the client is gone.
pub async fn send(
    host: Arc<Host>,
    scope: Scope,
    filter: Filter,
    follow: bool,
    to: mpsc::Sender<Result<Event, Status>>,
) {
    let mut grown = host.store.grown();
    let mut read: HashMap<SessionId, u64> = HashMap::new();
    let filter = Arc::new(filter);
    loop {
        grown.mark_unchanged();
        let (sessions, last) = match &scope {
            Scope::One(session) => (vec![session.clone()], session.phase() >= Phase::Ended),
            Scope::All(peer) => (host.registry.visible(peer), false),
        };
        let whole = match follow && !last {
            true => Ok(()),
            false => host.store.settle(sessions.iter().map(|session| &session.log)).await,
        };
        // What is forgotten is not remembered here for ever.
        if read.len() > 2 * sessions.len() + CHUNK {
            let there: HashSet<_> = sessions.iter().map(|session| &session.id).collect();
            read.retain(|id, _| there.contains(id));
        }
        let mut pieces = VecDeque::new();
        for session in sessions {
            let end = session.log.committed();
            let start = read.insert(session.id.clone(), end).unwrap_or(0);
            if start < end {
                let begins = if start == 0 { rfc3339(session.created_at) } else { String::new() };
                pieces.push_back(Piece { log: session.log.clone(), start, end, begins });
            }
        }
        let in_vain = pieces.is_empty();
        if !in_vain && !send_merged(&host, Merge::new(pieces), &filter, &to).await {
            return;
        }
        if !follow || last {
            if let Err(refusal) = whole {
                to.send(Err(refused(&refusal))).await.ok();
            }
            return;
        }
        tokio::select! {
            changed = grown.changed() => if changed.is_err() { return },
            () = to.closed() => return,
        }
        // What others write wakes it as well: not for each line of that.
        if in_vain {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether the client is still there.
async fn send_merged(
    host: &Host,
    mut merge: Merge,
    filter: &Arc<Filter>,
    to: &mpsc::Sender<Result<Event, Status>>,
) -> bool {
    loop {
        let filter = filter.clone();
        let Ok(turn) = host.readers.acquire().await else { return false };
        let read = tokio::task::spawn_blocking(move || {
            let chunk = merge.chunk(&filter);
            (merge, chunk)
        });
        let Ok((rest, chunk)) = read.await else { return false };
        drop(turn);
        merge = rest;
        let Some(chunk) = chunk else { return true };
        for event in chunk {
            if to.send(Ok(event)).await.is_err() {
                return false;
            }
        }
    }
}

/// A part of one session's file.
struct Piece {
    log: Arc<Log>,
    start: u64,
    end: u64,
    /// No event in it is older.
    begins: String,
}

/// Pieces of several files, read in the order of their events' times.
struct Merge {
    /// Not opened yet, the oldest first.
    waiting: VecDeque<Piece>,
    /// Open files, by their next event's time.
    open: BinaryHeap<Reverse<Open>>,
}

struct Open {
    next: Event,
    lines: BufReader<Take<File>>,
}

impl Open {
    fn key(&self) -> (&str, &str, u64) {
        (&self.next.time, &self.next.session, self.next.seq)
    }
}

impl PartialEq for Open {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Open {}

impl PartialOrd for Open {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Open {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Merge {
    fn new(waiting: VecDeque<Piece>) -> Self {
        Self { waiting, open: BinaryHeap::new() }
    }

    /// The next events that pass; `None` at the end. A chunk may be empty.
    fn chunk(&mut self, filter: &Filter) -> Option<Vec<Event>> {
        let mut events = Vec::new();
        for _ in 0..CHUNK {
            match self.next() {
                Some(event) if filter.passes(&event) => events.push(event),
                Some(_) => {}
                None if events.is_empty() => return None,
                None => break,
            }
        }
        Some(events)
    }

    fn next(&mut self) -> Option<Event> {
        while let Some(piece) = self.waiting.front() {
            if self.open.peek().is_some_and(|Reverse(open)| open.next.time < piece.begins) {
                break;
            }
            let piece = self.waiting.pop_front()?;
            match piece.open() {
                Ok(lines) => self.advance(piece.log.session().as_str(), lines),
                // It was kept long enough.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let (session, path) = (piece.log.session(), piece.log.path().display());
                    tracing::warn!(%session, %path, %error, "an event file cannot be read");
                }
            }
        }
        let Reverse(Open { next, lines }) = self.open.pop()?;
        self.advance(&next.session, lines);
        Some(next)
    }

    fn advance(&mut self, session: &str, mut lines: BufReader<Take<File>>) {
        let mut line = String::new();
        match lines.read_line(&mut line) {
            Ok(0) => {}
            Ok(_) => match serde_json::from_str(&line) {
                Ok(next) => self.open.push(Reverse(Open { next, lines })),
                Err(error) => tracing::error!(session, %error, "an event file has a line that is no event"),
            },
            Err(error) => tracing::error!(session, %error, "an event file cannot be read"),
        }
    }
}

impl Piece {
    fn open(&self) -> io::Result<BufReader<Take<File>>> {
        let mut file = File::open(self.log.path())?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(BufReader::new(file.take(self.end - self.start)))
    }
}
