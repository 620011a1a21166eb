//! Events on their way to the service: numbered, bounded, kept until they are acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentd_kernel::packets::{PacketError, Packets};
use agentd_policy::event::{EventBody, SourceEvent};
use agentd_policy::wire::{FromKeeper, encode};

use super::outbox::SendError;

/// The most events that wait.
const CAPACITY: usize = 4096;
/// The most bytes that they may have, as far as the agent decides on their length.
const MAX_BYTES: usize = 16 << 20;
/// Of them, those that only a session's life, its policy and its losses may use.
const RESERVED: usize = 64;
/// How long events of connections and names wait for more of them: each that is sent wakes the service.
const PAUSE: Duration = Duration::from_millis(5);
/// And how many wait at most.
const TOGETHER: usize = 64;

#[derive(Debug, Default)]
pub struct Spool {
    waiting: VecDeque<SourceEvent>,
    /// Of those, what the agent decides on.
    bytes: usize,
    /// How many at the front have been sent and wait for their acknowledgement.
    sent: usize,
    last: u64,
    dropped: u64,
    /// When those that were not sent are to be.
    due: Option<Instant>,
    /// The socket had no room for them.
    full: bool,
    /// Events of processes from before the session's first one.
    held: Vec<EventBody>,
    /// Whether the session's first event is recorded.
    released: bool,
}

impl Spool {
    /// Events up to this number were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.last - self.waiting.len() as u64
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Another service: what the one before did not acknowledge is sent again.
    pub fn start_over(&mut self) {
        self.sent = 0;
        self.due = Some(Instant::now());
        self.full = false;
    }

    /// When something is to be sent, if not once there is room.
    pub fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.sent < self.waiting.len() && !self.full)
    }

    /// Whether an ordinary event finds room. An act whose event does not is refused.
    pub fn has_room(&self) -> bool {
        self.has_room_for(1)
    }

    /// Whether so many ordinary events do.
    pub fn has_room_for(&self, events: usize) -> bool {
        self.waiting.len() + events <= CAPACITY - RESERVED && self.bytes < MAX_BYTES
    }

    /// Whether everything was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes an event; one that finds no room is counted.
    pub fn push(&mut self, body: EventBody) {
        if !body.kind().is_reserved() && !self.has_room() {
            self.dropped += 1;
            return;
        }
        if self.dropped > 0 && self.waiting.len() < CAPACITY - 2 {
            let count = std::mem::take(&mut self.dropped);
            self.append(EventBody::Dropped { count });
        }
        self.append(body);
    }

    /// Takes an event of a process. The command's own exec is seen before init knows that it succeeded: such an event
    /// waits until the session's first one is recorded.
    pub fn push_of_process(&mut self, body: EventBody) {
        match self.released {
            true => self.push(body),
            false => self.held.push(body),
        }
    }

    /// The session's first event is recorded, or never will be.
    pub fn release(&mut self) {
        self.released = true;
        for body in std::mem::take(&mut self.held) {
            self.push(body);
        }
    }

    /// Whether the session has started.
    pub fn is_released(&self) -> bool {
        self.released
    }

    /// Counts events that were lost before they got here.
    pub fn lost(&mut self, count: u64) {
        self.dropped += count;
    }

    fn append(&mut self, body: EventBody) {
        let now = Instant::now();
        let unsent = self.waiting.len() - self.sent;
        let patient = matches!(body, EventBody::Net(_)) && unsent + 1 < TOGETHER;
        let due = if patient { now + PAUSE } else { now };
        self.due = Some(self.due().map_or(due, |before| before.min(due)));
        self.last += 1;
        self.bytes += body.agent_bytes();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
        let time_us = u64::try_from(since).unwrap_or(u64::MAX);
        self.waiting.push_back(SourceEvent { number: self.last, time_us, body });
    }

    /// Sends what has not been sent, once that is due; whether something is left because the socket is full.
    pub fn send(&mut self, socket: &Packets) -> Result<bool, SendError> {
        if !self.full && self.due().is_none_or(|due| due > Instant::now()) {
            return Ok(false);
        }
        self.full = false;
        while let Some(event) = self.waiting.get(self.sent) {
            let packet = encode(&FromKeeper::Event(event.clone()))?;
            match socket.send(&packet, &[]) {
                Ok(()) => self.sent += 1,
                Err(PacketError::WouldBlock) => {
                    self.full = true;
                    return Ok(true);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Forgets what is on disk.
    pub fn acknowledge(&mut self, number: u64) {
        while self.waiting.front().is_some_and(|e| e.number <= number) && self.sent > 0 {
            let taken = self.waiting.pop_front();
            self.bytes = self.bytes.saturating_sub(taken.map_or(0, |event| event.body.agent_bytes()));
            self.sent -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_policy::event::NetEvent;

    fn limit() -> EventBody {
        EventBody::Limit { kind: agentd_policy::limit_kind::LimitKind::Pids, limit: 1 }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_end_always_finds_some() {
        let mut spool = Spool::default();
        for _ in 0..CAPACITY + 10 {
            spool.push(limit());
        }
        assert_eq!(spool.waiting.len(), CAPACITY - RESERVED);
        spool.push(EventBody::Started);
        let bodies: Vec<_> = spool.waiting.iter().rev().take(2).map(|e| e.body.clone()).collect();
        assert_eq!(bodies, [EventBody::Started, EventBody::Dropped { count: RESERVED as u64 + 10 }]);
        let numbers: Vec<_> = spool.waiting.iter().map(|e| e.number).collect();
        assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1));
    }

    #[test]
    fn connections_are_told_together_and_all_else_at_once() {
        let net = || {
            let (name, question) = ("a.example".into(), "A".into());
            EventBody::Net(NetEvent::Dns {
                name,
                question,
                denied: None,
                allowed: None,
                addresses: vec![],
                actor: None,
                count: 1,
            })
        };
        let (ours, theirs) = Packets::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let received = || std::iter::from_fn(|| theirs.receive(1 << 16, 0).ok().flatten()).count();
        let mut spool = Spool::default();
        spool.push(net());
        spool.push(limit());
        assert!(spool.due().unwrap() <= Instant::now());
        assert!(!spool.send(&ours).unwrap());
        assert_eq!((received(), spool.due()), (2, None));
        for _ in 0..TOGETHER {
            spool.push(net());
        }
        assert!(!spool.send(&ours).unwrap());
        assert_eq!(received(), TOGETHER);
        // What is to wait for room is not due.
        ours.set_nonblocking(true).unwrap();
        while !spool.send(&ours).unwrap() {
            spool.push(limit());
        }
        assert!(spool.due().is_none() && received() > 0 && !spool.send(&ours).unwrap());
    }

    #[test]
    fn long_events_find_less_room_and_give_it_back() {
        let actor = agentd_policy::event::Actor { pid: 1, ppid: None, exe: None };
        let long = EventBody::Exec {
            actor,
            path: "/".repeat(4096),
            interpreters: vec!["/".repeat(4096); 8],
            argv: Some(vec!["x".into(); 16 << 10]),
            result: agentd_policy::event::ExecResult::Ran,
            image: None,
            count: 1,
        };
        let mut spool = Spool::default();
        while spool.has_room() {
            spool.push(long.clone());
        }
        assert!(spool.bytes < MAX_BYTES + (1 << 20) && spool.waiting.len() < 100, "{}", spool.waiting.len());
        spool.push(EventBody::Ended(agentd_policy::event::End::Killed));
        let all = spool.last;
        spool.sent = spool.waiting.len();
        spool.acknowledge(all);
        assert!(spool.is_empty() && spool.bytes == 0);
    }

    #[test]
    fn acknowledged_events_are_forgotten_and_only_those() {
        let (ours, theirs) = Packets::pair().unwrap();
        let mut spool = Spool::default();
        for _ in 0..3 {
            spool.push(limit());
        }
        assert!(!spool.send(&ours).unwrap());
        assert!(theirs.receive(1 << 16, 0).unwrap().is_some());
        spool.acknowledge(2);
        assert_eq!((spool.waiting.len(), spool.acknowledged()), (1, 2));
        // Another service gets what is left, once.
        let (ours, theirs) = Packets::pair().unwrap();
        spool.start_over();
        assert!(!spool.send(&ours).unwrap() && !spool.send(&ours).unwrap());
        let packet = theirs.receive(1 << 16, 0).unwrap().unwrap();
        let FromKeeper::Event(event) = agentd_policy::wire::decode(&packet.bytes).unwrap() else {
            panic!("no event")
        };
        assert_eq!(event.number, 3);
        theirs.set_nonblocking(true).unwrap();
        assert!(matches!(theirs.receive(1 << 16, 0), Err(PacketError::WouldBlock)));
        spool.acknowledge(99);
        assert!(spool.is_empty());
    }
}
