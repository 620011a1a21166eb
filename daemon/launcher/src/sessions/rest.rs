//! Leases at rest: no process has their ids any more, but a descriptor that left through a socket may keep what the
//! kernel counts for them. None is given on before nothing is left.
//!
//! The session's user namespace shows it all, where the kernel has handles of it (see [`agentd_kernel::nsfs`]).
//! Elsewhere a child tries the counters.

use std::collections::BTreeMap;
use std::io::{PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use agentd_kernel::nsfs::Handle;
use agentd_kernel::process::{self, Child, CloneArgs, SingleThreaded};
use agentd_kernel::uids::{self, Counter};
use agentd_policy::event::ExitStatus;
use agentd_policy::lease::Lease;

use super::Sessions;
use crate::context::Context;

/// The first pause between two looks at a lease; the kernel takes a moment to let go of what has ended.
const FIRST: Duration = Duration::from_millis(20);
/// The longest pause between two looks.
const LONGEST: Duration = Duration::from_secs(300);
/// From when on it is logged that a lease is not given on.
const LOG_AFTER: Duration = Duration::from_secs(5);
/// How many leases one child tries.
const BATCH: usize = 16;
/// How long a child may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// While so few leases are left the counters are tried at once, not several leases at a time.
const FEW: u32 = 64;
/// How long counters may wait to be tried.
const WAIT: Duration = Duration::from_secs(1);

/// What a child says of a lease: nothing is left. Other bytes say what is.
const CLEAN: u8 = b'.';
const UNKNOWN: u8 = b'?';

/// A lease at rest.
#[derive(Clone, Copy, Debug)]
struct Rest {
    users: Option<Handle>,
    since: Instant,
    next: Instant,
    pause: Duration,
    logged: bool,
}

/// A child that tries counters.
struct Trial {
    child: Child,
    numbers: Vec<u32>,
    answer: PipeReader,
    until: Instant,
}

/// All leases at rest.
#[derive(Default)]
pub struct Resting {
    all: BTreeMap<u32, Rest>,
    trial: Option<Trial>,
}

impl Resting {
    /// Whether lease `number` is at rest.
    pub fn has(&self, number: u32) -> bool {
        self.all.contains_key(&number)
    }

    /// Those that are.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.all.keys().copied()
    }

    /// Whether nothing but time is waited for.
    pub fn is_idle(&self) -> bool {
        self.trial.is_none()
    }

    /// When something of it is due.
    pub fn next(&self) -> Option<Instant> {
        match &self.trial {
            Some(trial) => Some(trial.until),
            None => self.all.values().map(|rest| rest.next).min(),
        }
    }

    /// Lays lease `number` to rest, for `wait` at least.
    fn begin(&mut self, number: u32, users: Option<Handle>, wait: Duration) {
        let now = Instant::now();
        self.all.insert(number, Rest { users, since: now, next: now + wait, pause: FIRST, logged: false });
    }

    fn again(&mut self, number: u32, now: Instant, why: &str) {
        let Some(rest) = self.all.get_mut(&number) else { return };
        (rest.next, rest.pause) = (now + rest.pause, (rest.pause * 2).min(LONGEST));
        if !rest.logged && now.saturating_duration_since(rest.since) >= LOG_AFTER {
            rest.logged = true;
            tracing::warn!(lease = number, why, "a lease is not given on: something of its session is left");
        }
    }
}

impl Sessions {
    /// Lease `number` belongs to no session any more. `users` is the user namespace of the one that it had.
    pub(super) fn rest(&mut self, cx: &Context, number: u32, users: Option<Handle>) {
        let taken = self.all.len() + self.resting.all.len();
        let left =
            cx.settings.config.pool.uids.leases().saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
        let wait = if users.is_some() || left < FEW { FIRST } else { WAIT };
        self.resting.begin(number, users, wait);
    }

    /// Looks at what is due.
    pub(super) fn tick_resting(&mut self, cx: &Context, now: Instant) {
        if let Some(trial) = self.resting.trial.take() {
            self.resting.trial = self.take_answer(cx, trial, now);
        }
        let due: Vec<(u32, Rest)> =
            self.resting.all.iter().filter(|(_, rest)| rest.next <= now).map(|(n, r)| (*n, *r)).collect();
        let mut unknown = Vec::new();
        for (number, rest) in due {
            match rest.users.map(|users| users.is_alive(cx.host.empty_net.as_fd())) {
                Some(Ok(false)) => self.is_clean(cx, number),
                Some(Ok(true)) => self.resting.again(number, now, "a descriptor, wherever it is"),
                // Where the kernel has no handle of it, the counters show it.
                Some(Err(_)) | None => unknown.push(number),
            }
        }
        unknown.truncate(BATCH);
        if self.resting.trial.is_none() && !unknown.is_empty() {
            match self.try_counters(cx, unknown.clone(), now) {
                Ok(trial) => self.resting.trial = Some(trial),
                Err(error) => {
                    let why = error.to_string();
                    unknown.iter().for_each(|number| self.resting.again(*number, now, &why));
                }
            }
        }
    }

    fn is_clean(&mut self, cx: &Context, number: u32) {
        self.resting.all.remove(&number);
        self.give_back(cx, number);
    }

    fn try_counters(&self, cx: &Context, numbers: Vec<u32>, now: Instant) -> std::io::Result<Trial> {
        let pool = cx.settings.config.pool.uids;
        let leases: Vec<Lease> = numbers.iter().filter_map(|number| pool.lease(*number)).collect();
        let (answer, writer) = std::io::pipe()?;
        let token = cx.token;
        let child = process::spawn(token, CloneArgs::default(), || {
            let said: Vec<u8> = match process::close_all_but(&[writer.as_fd()]) {
                Ok(()) => leases.iter().map(|lease| left_of(token, lease)).collect(),
                Err(_) => return 1,
            };
            i32::from((&writer).write_all(&said).is_err())
        });
        Ok(Trial { child: child?, numbers, answer, until: now + DEADLINE })
    }

    /// What a child says once it has ended; the child while it has not.
    fn take_answer(&mut self, cx: &Context, mut trial: Trial, now: Instant) -> Option<Trial> {
        let mut said = Vec::new();
        match trial.child.try_wait() {
            Ok(None) => {
                if trial.until <= now {
                    trial.until = now + DEADLINE;
                    if let Err(error) = trial.child.kill() {
                        tracing::error!(%error, "what tries counters cannot be ended");
                    }
                }
                return Some(trial);
            }
            // It has ended, and with it every writer: nothing is waited for.
            Ok(Some(ExitStatus::Code(0))) => {
                if let Err(error) = trial.answer.take(BATCH as u64).read_to_end(&mut said) {
                    tracing::error!(%error, "counters of leases");
                }
            }
            ended => tracing::error!(?ended, "counters of leases could not be tried"),
        }
        for (place, number) in trial.numbers.iter().enumerate() {
            match said.get(place) {
                Some(&CLEAN) => self.is_clean(cx, *number),
                byte => self.resting.again(*number, now, name(byte.copied().unwrap_or(UNKNOWN))),
            }
        }
        None
    }
}

/// What is left of a lease. Each uid is tried by a child that has become it.
fn left_of(token: SingleThreaded, lease: &Lease) -> u8 {
    let [owner, relay, agent] = [lease.keeper, lease.relay, lease.agent].map(|id| id.get());
    match uids::keys(&[owner, relay, agent]) {
        Ok(None) => {}
        Ok(Some(counter)) => return byte(counter),
        Err(_) => return UNKNOWN,
    }
    let tried = |uid: u32, of: fn(u32) -> std::io::Result<Option<Counter>>| {
        let child = process::spawn(token, CloneArgs::default(), || match of(uid) {
            Ok(counter) => i32::from(counter.map_or(CLEAN, byte)),
            Err(_) => i32::from(UNKNOWN),
        });
        match child.and_then(|child| child.wait()) {
            Ok(ExitStatus::Code(code)) => u8::try_from(code).unwrap_or(UNKNOWN),
            _ => UNKNOWN,
        }
    };
    match tried(owner, uids::of_owner) {
        CLEAN => tried(agent, uids::of_user),
        left => left,
    }
}

fn byte(counter: Counter) -> u8 {
    match counter {
        Counter::Inotify => b'i',
        Counter::Queues => b'q',
        Counter::Pipes => b'p',
        Counter::InFlight => b'f',
        Counter::Keys => b'k',
    }
}

fn name(byte: u8) -> &'static str {
    match byte {
        b'i' => "inotify instances",
        b'q' => "message queues",
        b'p' => "pipes",
        b'f' => "descriptors in flight",
        b'k' => "keys",
        _ => "its counters could not be tried",
    }
}
