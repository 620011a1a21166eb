//! Calls that the session's filter refuses: each is answered at once, with the refusal, and recorded.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::seccomp::{AGENT, Call, Listener, Options, Received, SeccompError};
use agentd_policy::event::{Actor, EventBody};

use super::processes::Processes;

/// How long the same calls of the same program are counted before that is an event.
const WAIT: Duration = Duration::from_secs(1);
/// The most that are counted apart; what else there is meanwhile is on record as lost events.
const KINDS: usize = 64;
/// And of one process.
const OF_ONE: usize = 8;
/// The most calls that are answered in one turn.
const TURN: usize = 64;

/// The filter's own allow more, and change no refusal that is notified of.
const OPTIONS: Options = Options { memfd_create: false, set_gid: false };

/// Who was refused what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    program: (u32, Option<String>),
    call: String,
    argument: Option<String>,
}

/// What came after the first.
#[derive(Debug)]
struct Counted {
    actor: Actor,
    more: u64,
    due: Instant,
}

/// What is refused, and being counted.
#[derive(Debug)]
pub struct Refused {
    listener: Listener,
    counted: BTreeMap<Kind, Counted>,
}

impl Refused {
    /// What init's filter notifies of.
    ///
    /// # Errors
    /// If `listener` is something else.
    pub fn new(listener: OwnedFd) -> Result<Self, SeccompError> {
        Ok(Self { listener: Listener::adopt(listener, AGENT, OPTIONS)?, counted: BTreeMap::new() })
    }

    /// Answers what waits, one turn of it: each call fails, whatever could be read of its caller.
    ///
    /// # Errors
    /// If nothing can be received or answered any more.
    pub fn receive(&mut self, processes: &Processes, now: Instant) -> io::Result<Turn> {
        let mut turn = Turn::default();
        for _ in 0..TURN {
            let asked = match self.listener.next()? {
                Received::Call(asked) => asked,
                Received::Less => continue,
                Received::Nothing => break,
                Received::End => {
                    turn.last = true;
                    break;
                }
            };
            turn.lost += asked.missed;
            let actor = processes.caller(asked.thread);
            // Otherwise the number may be another's by now.
            let actor = actor.filter(|_| self.listener.is_waiting(&asked));
            self.listener.refuse(&asked)?;
            match self.count(actor.unwrap_or(NOBODY), &asked.call, now) {
                Ok(event) => turn.events.extend(event),
                Err(NoPlace) => turn.lost += 1,
            }
        }
        Ok(turn)
    }

    /// The event of a call, unless it is one more of the same.
    fn count(&mut self, actor: Actor, call: &Call, now: Instant) -> Result<Option<EventBody>, NoPlace> {
        let program = (actor.pid, actor.exe.clone());
        let kind = Kind { program, call: call.name(), argument: call.argument() };
        if let Some(counted) = self.counted.get_mut(&kind) {
            counted.more += 1;
            return Ok(None);
        }
        let own = self.counted.keys().filter(|other| other.program.0 == actor.pid).count();
        if self.counted.len() >= KINDS || own >= OF_ONE {
            return Err(NoPlace);
        }
        let event = denied(&kind, &actor, 1);
        self.counted.insert(kind, Counted { actor, more: 0, due: now + WAIT });
        Ok(Some(event))
    }

    /// What was counted for long enough.
    pub fn flush_older(&mut self, now: Instant) -> Vec<EventBody> {
        let mut events = Vec::new();
        self.counted.retain(|kind, counted| {
            if counted.due > now {
                return true;
            }
            let more = std::mem::take(&mut counted.more);
            events.extend((more > 0).then(|| denied(kind, &counted.actor, more)));
            counted.due = now + WAIT;
            more > 0
        });
        events
    }

    /// When that is.
    pub fn due(&self) -> Option<Instant> {
        self.counted.values().map(|counted| counted.due).min()
    }

    /// All that was counted: no process is left.
    pub fn flush(self) -> Vec<EventBody> {
        let more = self.counted.into_iter().filter(|(_, counted)| counted.more > 0);
        more.map(|(kind, counted)| denied(&kind, &counted.actor, counted.more)).collect()
    }
}

impl AsFd for Refused {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// What came of one turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// What is an event now.
    pub events: Vec<EventBody>,
    /// How many calls found no place.
    pub lost: u64,
    /// No more will come.
    pub last: bool,
}

/// Too many kinds of calls are counted.
struct NoPlace;

/// A caller that was killed while it waited.
const NOBODY: Actor = Actor { pid: 0, ppid: None, exe: None };

fn denied(kind: &Kind, actor: &Actor, count: u64) -> EventBody {
    let (call, argument) = (kind.call.clone(), kind.argument.clone());
    EventBody::CallRefused { actor: actor.clone(), call, argument, count }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Refused {
        let null = std::fs::File::open("/dev/null").unwrap().into();
        Refused { listener: Listener::new(null, AGENT, OPTIONS), counted: BTreeMap::new() }
    }

    fn actor(pid: u32) -> Actor {
        Actor { pid, ppid: None, exe: Some("/usr/bin/x".into()) }
    }

    fn call(number: u32) -> Call {
        Call { arch: 0xc000_003e, number, arguments: [0; 6] }
    }

    fn counts(events: Vec<EventBody>) -> Vec<(u32, String, u64)> {
        let count = |event| match event {
            EventBody::CallRefused { actor, call, count, .. } => (actor.pid, call, count),
            other => panic!("{other:?}"),
        };
        events.into_iter().map(count).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_with_a_count() {
        let (mut refused, now) = (refused(), Instant::now());
        let mut events = Vec::new();
        for (pid, number) in [(1, 165), (1, 165), (2, 165), (1, 165), (1, 272)] {
            events.extend(refused.count(actor(pid), &call(number), now).ok().flatten());
        }
        let of = |pid, call: &str, count| (pid, call.to_owned(), count);
        assert_eq!(counts(events), [of(1, "mount", 1), of(2, "mount", 1), of(1, "unshare", 1)]);
        assert!(refused.flush_older(now).is_empty());
        assert_eq!(counts(refused.flush_older(now + WAIT)), [of(1, "mount", 2)]);
        // What went on is counted further, the rest begins anew.
        assert!(refused.count(actor(1), &call(165), now).is_ok_and(|event| event.is_none()));
        assert!(refused.count(actor(2), &call(165), now).is_ok_and(|event| event.is_some()));
        assert_eq!(counts(refused.flush()), [of(1, "mount", 1)]);
    }

    #[test]
    fn kinds_are_bounded() {
        let (mut refused, now) = (refused(), Instant::now());
        let many = 0..2 * u32::try_from(KINDS).unwrap();
        let events = many.filter(|pid| refused.count(actor(*pid), &call(165), now).is_ok()).count();
        assert_eq!((events, refused.counted.len()), (KINDS, KINDS));
        assert!(refused.flush_older(now + WAIT).is_empty() && refused.due().is_none());
        assert!(refused.count(actor(9999), &call(165), now).is_ok());
        // One process leaves room for others.
        let own = (0..64).filter(|number| refused.count(actor(7), &call(*number), now).is_ok()).count();
        assert_eq!(own, OF_ONE);
        assert!(refused.count(actor(8), &call(165), now).is_ok());
    }
}
