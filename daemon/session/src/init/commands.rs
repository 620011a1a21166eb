//! The commands of a session: its first, and those that come later. All are forked by init, and so are confined as
//! it is.
//!
//! Between its fork and its program a command is a process of the agent's uid, which the agent can stop: init never
//! waits for one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use agentd_kernel::process::SingleThreaded;
use agentd_policy::event::ExitStatus;
use agentd_policy::plan::Plan;
use agentd_policy::step::CommandStep;
use agentd_policy::wire::{Command, CommandNumber, MAX_COMMANDS};
use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, WaitOptions};

use crate::command::{Invocation, NotRun, Starting};
use crate::stdio::{self, Outside, Streams};

/// How long a command may take from its fork to its program. The agent can stop it on the way.
const START: Duration = Duration::from_secs(10);
/// How long a further command may be stopped by SIGSTOP, in all: who asked for it would wait for ever.
const STOPPED: Duration = Duration::from_secs(10);
/// How often the processes of a command are looked for, which may be forking meanwhile.
const ROUNDS: usize = 8;

/// The most processes that are reaped in one turn: they can end as fast as that.
const REAPED: usize = 256;

/// What became of a further command.
pub enum News {
    /// It runs; the outer ends of its streams.
    Runs(CommandNumber, Outside),
    /// It could not be run.
    NotRun(CommandNumber, NotRun),
    /// One has ended, or the first.
    Ended(CommandNumber, ExitStatus),
}

/// Those that run, and those that will.
pub struct Commands<'a> {
    token: SingleThreaded,
    plan: &'a Plan,
    main: Pid,
    further: BTreeMap<CommandNumber, Pid>,
    starting: BTreeMap<CommandNumber, OnItsWay>,
    stopped: BTreeMap<CommandNumber, Stops>,
}

/// How long a further command has been stopped.
#[derive(Clone, Copy, Default)]
struct Stops {
    since: Option<Instant>,
    before: Duration,
}

impl Stops {
    fn stop(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    fn go_on(&mut self, now: Instant) {
        let since = self.since.take();
        self.before += since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    }

    fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + STOPPED.saturating_sub(self.before))
    }
}

/// One that was forked.
struct OnItsWay {
    starting: Starting,
    outside: Outside,
    until: Instant,
}

impl<'a> Commands<'a> {
    /// The first one runs.
    pub fn new(token: SingleThreaded, plan: &'a Plan, main: Pid) -> Self {
        Self {
            token,
            plan,
            main,
            further: BTreeMap::new(),
            starting: BTreeMap::new(),
            stopped: BTreeMap::new(),
        }
    }

    /// Starts one more. What becomes of it is reported by [`Commands::started`]. The inner ends of its streams are its
    /// own alone.
    pub fn run(&mut self, number: CommandNumber, command: &Command) -> Result<(), NotRun> {
        let known = self.further.contains_key(&number) || self.starting.contains_key(&number);
        if number == 0 || known || self.further.len() + self.starting.len() >= MAX_COMMANDS {
            return Err(NotRun::new(CommandStep::Bounds, rustix::io::Errno::AGAIN.raw_os_error()));
        }
        let streams = match command.terminal {
            Some(window) => {
                let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::fs::open("/dev/ptmx", flags, Mode::empty())
                    .and_then(|master| stdio::of_terminal(master, window))
            }
            None => stdio::of_pipes(None),
        };
        let Streams { inside, outside } =
            streams.map_err(|errno| NotRun::new(CommandStep::Terminal, errno.raw_os_error()))?;
        let starting = Starting::fork(self.token, &Invocation::further(self.plan, command), &inside)?;
        self.starting.insert(number, OnItsWay { starting, outside, until: Instant::now() + START });
        Ok(())
    }

    /// Those that are on their way, each with what becomes readable once it is known whether it runs.
    pub fn starting(&self) -> impl Iterator<Item = (CommandNumber, BorrowedFd<'_>)> {
        self.starting.iter().map(|(number, way)| (*number, way.starting.as_fd()))
    }

    /// One whose descriptor is readable.
    pub fn started(&mut self, number: CommandNumber) -> Option<News> {
        let OnItsWay { starting, outside, .. } = self.starting.remove(&number)?;
        Some(match starting.outcome() {
            Ok(pid) => {
                self.further.insert(number, pid);
                News::Runs(number, outside)
            }
            Err(not_run) => News::NotRun(number, not_run),
        })
    }

    /// When the next one has been on its way for too long.
    pub fn next_deadline(&self) -> Option<Instant> {
        let stopped = self.stopped.values().filter_map(Stops::deadline);
        self.starting.values().map(|way| way.until).chain(stopped).min()
    }

    /// Kills those that have been on their way for too long, or stopped: the agent stopped them.
    pub fn expire(&mut self, now: Instant) -> Vec<News> {
        let stopped = self.stopped.iter().filter(|(_, stops)| stops.deadline().is_some_and(|due| due <= now));
        for number in stopped.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.stopped.remove(&number);
            if self.further.contains_key(&number) {
                self.end(number);
            }
        }
        let late = self.starting.iter().filter(|(_, way)| way.until <= now).map(|(number, _)| *number);
        let late: Vec<CommandNumber> = late.collect();
        late.into_iter()
            .filter_map(|number| Some((number, self.starting.remove(&number)?)))
            .map(|(number, way)| {
                // A child that was not reaped keeps its number.
                rustix::process::kill_process(way.starting.pid, rustix::process::Signal::KILL).ok();
                News::NotRun(
                    number,
                    NotRun::new(CommandStep::Stopped, rustix::io::Errno::TIMEDOUT.raw_os_error()),
                )
            })
            .collect()
    }

    /// A child was stopped by `signal`, or goes on. What a shell stops by its terminal is its own affair.
    fn stops(&mut self, pid: Pid, signal: Option<i32>, now: Instant) {
        let further = self.further.iter().find(|(_, known)| **known == pid).map(|(number, _)| *number);
        let starting =
            || self.starting.iter().find(|(_, way)| way.starting.pid == pid).map(|(number, _)| *number);
        let Some(number) = further.or_else(starting) else { return };
        match signal {
            Some(signal) if signal == Signal::SIGSTOP as i32 => {
                self.stopped.entry(number).or_default().stop(now);
            }
            _ => {
                if let Some(stops) = self.stopped.get_mut(&number) {
                    stops.go_on(now);
                }
            }
        }
    }

    /// Sends a signal to a command's process group. One that has just ended cannot be signalled; its end is reported
    /// elsewhere.
    pub fn signal(&self, command: CommandNumber, signal: i32) {
        if let (Some(pid), Ok(signal)) = (self.pid(command), Signal::try_from(signal)) {
            let group = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
            nix::sys::signal::killpg(group, signal).ok();
            // What is stopped would not meet its end before somebody lets it go on.
            if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT) {
                nix::sys::signal::killpg(group, Signal::SIGCONT).ok();
            }
        }
    }

    /// Kills a further command: its process group, and every process of its session.
    pub fn end(&self, command: CommandNumber) {
        let Some(pid) = self.pid(command).filter(|_| command != 0) else { return };
        self.signal(command, Signal::SIGKILL as i32);
        // It may not lead a group yet; a child that was not reaped keeps its number.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        for _ in 0..ROUNDS {
            if !kill_session(pid) {
                break;
            }
        }
    }

    fn pid(&self, command: CommandNumber) -> Option<Pid> {
        if command == 0 {
            return Some(self.main);
        }
        let starting = self.starting.get(&command).map(|way| way.starting.pid);
        starting.or_else(|| self.further.get(&command).copied())
    }

    /// Reaps what has ended; what is to be reported of it, and whether there may be more.
    pub fn reap(&mut self) -> (Vec<News>, bool) {
        let mut news = Vec::new();
        for _ in 0..REAPED {
            let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
            let Ok(Some((pid, status))) = rustix::process::wait(options) else {
                return (news, false);
            };
            if status.stopped() || status.continued() {
                self.stops(pid, status.stopping_signal(), Instant::now());
                continue;
            }
            // It is known only by what it left whether one that was on its way ever ran.
            let on_its_way = self.starting.iter().find(|(_, way)| way.starting.pid == pid);
            if let Some(number) = on_its_way.map(|(number, _)| *number) {
                news.extend(self.started(number));
            }
            let further = self.further.iter().find(|(_, known)| **known == pid).map(|(number, _)| *number);
            let Some(number) = further.or((pid == self.main).then_some(0)) else { continue };
            self.further.remove(&number);
            self.stopped.remove(&number);
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, signal) => ExitStatus::Signal(signal.unwrap_or(9)),
            };
            news.push(News::Ended(number, status));
        }
        (news, true)
    }
}

/// Kills the processes whose session is `leader`'s; whether there were any.
fn kill_session(leader: Pid) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found = false;
    for pid in numbers.filter(|pid| *pid > 1).filter_map(Pid::from_raw) {
        // Held before it is asked: a later process with that number is not meant.
        let Ok(held) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        if stat.ok().and_then(|stat| session(&stat)) == Some(leader.as_raw_nonzero().get()) {
            found |= rustix::process::pidfd_send_signal(&held, rustix::process::Signal::KILL).is_ok();
        }
    }
    found
}

/// The session that a line of `/proc/PID/stat` names, of a process that has not ended.
fn session(stat: &str) -> Option<i32> {
    // The name may hold anything; behind it come state, parent, group and session.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then_some(())?;
    fields.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stops_and_lets_go_on_gains_no_time() {
        let begin = Instant::now();
        let mut stops = Stops::default();
        assert_eq!(stops.deadline(), None);
        stops.stop(begin);
        stops.stop(begin + STOPPED / 2);
        assert_eq!(stops.deadline(), Some(begin + STOPPED));
        stops.go_on(begin + STOPPED / 2);
        assert_eq!(stops.deadline(), None);
        stops.stop(begin + STOPPED);
        assert_eq!(stops.deadline(), Some(begin + STOPPED + STOPPED / 2));
    }

    #[test]
    fn the_session_is_read_past_any_name() {
        assert_eq!(session("12 (a) b (c)) S 1 12 7 0 -1"), Some(7));
        assert_eq!(session("12 (sh) Z 1 12 7 0 -1"), None);
        assert_eq!(session("nonsense"), None);
    }
}
