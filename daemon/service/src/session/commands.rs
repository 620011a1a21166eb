//! Further commands of sessions: from a client's request to the keeper, and its answers back.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use agentd_policy::Refusal;
use agentd_policy::event::{End, ExitStatus};
use agentd_policy::exit_reason::ExitReason;
use agentd_policy::names::{AbsPath, SessionId};
use agentd_policy::plan::{MAX_ARGC, MAX_ARGS};
use agentd_policy::rule::Rule;
use agentd_policy::step::CommandStep;
use agentd_policy::text;
use agentd_policy::wire::{self, Command, CommandNumber, MAX_COMMANDS, MAX_KEEPER_PACKET, ToKeeper};
use agentd_proto::v1::{ExecOpen, Exit};
use tokio::sync::{Semaphore, oneshot};

use crate::audit::exit::exit as exit_of;
use crate::audit::reached::ReachedLimits;
use crate::stream::hub::{Hub, Inward, Stage};
use crate::stream::relay;
use crate::text::arguments;

/// Numbers for each second of a session's life: none is used twice, whichever service chose it.
const A_SECOND: u64 = 1000;

/// A command that is to run.
pub struct Start {
    /// The login name of the caller.
    pub who: String,
    /// argv, as events show it.
    pub shown: Vec<String>,
    pub command: Command,
    pub hub: Arc<Hub>,
    pub answer: oneshot::Sender<Result<CommandNumber, Refusal>>,
    pub exit: oneshot::Sender<Exit>,
}

/// The command that a client asks for.
pub fn parse(open: ExecOpen) -> Result<Command, Refusal> {
    let argv: Vec<Vec<u8>> = open.command.into_iter().map(Vec::from).collect();
    let env: Vec<(Vec<u8>, Vec<u8>)> =
        open.env.into_iter().map(|var| (var.key.into(), var.value.into())).collect();
    let size = argv.iter().map(|word| word.len() + 1).sum::<usize>()
        + env.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>();
    if argv.first().is_none_or(Vec::is_empty) {
        return Err(Refusal::new("an empty command", Rule::CommandEmpty, "name a program to run"));
    }
    if argv.len() + env.len() > MAX_ARGC || size > MAX_ARGS.min(MAX_KEEPER_PACKET / 2) {
        return Err(too_long(size));
    }
    if argv.iter().chain(env.iter().map(|(_, value)| value)).any(|word| word.contains(&0)) {
        return Err(Refusal::new("an argument with a NUL byte", Rule::CommandNul, "leave it out"));
    }
    if let Some((key, _)) =
        env.iter().find(|(key, _)| key.is_empty() || key.iter().any(|b| b"=\0".contains(b)))
    {
        return Err(Refusal::new(
            format!("environment variable {:?}", String::from_utf8_lossy(key)),
            Rule::EnvironmentName,
            "a name is not empty and holds neither `=` nor NUL",
        ));
    }
    let cwd = match open.cwd.as_str() {
        "" => None,
        text => Some(AbsPath::parse(text).map_err(|error| {
            Refusal::new(
                format!("current directory: {error}"),
                Rule::RequestPath,
                "give an absolute path without `.`, `..` and `//`",
            )
        })?),
    };
    Ok(Command { argv, env, cwd, terminal: agentd_request::terminal(open.terminal, open.window)? })
}

fn too_long(size: usize) -> Refusal {
    Refusal::new(
        format!("a command line of {size} bytes"),
        Rule::CommandSize,
        format!("stay below {} bytes; pass long input through stdin", MAX_KEEPER_PACKET / 2),
    )
}

/// argv of `command` as events show it.
pub fn shown(command: &Command) -> Vec<String> {
    arguments(&command.argv.iter().map(|word| text::from_bytes(word)).collect::<Vec<_>>())
}

struct Entry {
    program: String,
    hub: Arc<Hub>,
    answer: Option<oneshot::Sender<Result<CommandNumber, Refusal>>>,
    exit: Option<oneshot::Sender<Exit>>,
}

/// The further commands of one session.
pub struct Commands {
    session: SessionId,
    next: CommandNumber,
    entries: HashMap<CommandNumber, Entry>,
}

impl Commands {
    /// Of a session that was made then: at its start, or found by a later service.
    pub fn new(session: SessionId, created: SystemTime) -> Self {
        let age = created.elapsed().unwrap_or_default().as_secs();
        // 0 is the first command.
        let next = u32::try_from(age.wrapping_mul(A_SECOND) % u64::from(u32::MAX)).unwrap_or(0) + 1;
        Self { session, next, entries: HashMap::new() }
    }

    /// How many run.
    pub fn count(&self) -> u32 {
        let running = self.entries.values().filter(|entry| entry.exit.is_some()).count();
        u32::try_from(running).unwrap_or(u32::MAX)
    }

    /// The message that has it run, unless there are too many.
    pub fn start(&mut self, start: Start) -> Option<Vec<u8>> {
        let Start { shown, command, hub, answer, exit, .. } = start;
        if self.entries.len() >= MAX_COMMANDS {
            drop(answer.send(Err(too_many())));
            return None;
        }
        let (number, run_in_terminal) = (self.next, command.terminal.is_some());
        let message = ToKeeper::Run { number, command: Box::new(command) };
        let packet = wire::encode(&message).ok().filter(|packet| packet.len() <= MAX_KEEPER_PACKET);
        let Some(packet) = packet else {
            drop(answer.send(Err(too_long(MAX_KEEPER_PACKET))));
            return None;
        };
        tracing::debug!(session = %self.session, number, run_in_terminal, "a further command");
        self.next = self.next.wrapping_add(1).max(1);
        let program = shown.into_iter().next().unwrap_or_default();
        self.entries.insert(number, Entry { program, hub, answer: Some(answer), exit: Some(exit) });
        Some(packet)
    }

    /// Whether a client waits for it; else its stream is closed.
    pub fn running(&mut self, number: CommandNumber, stream: OwnedFd) -> bool {
        let Some(entry) = self.entries.get_mut(&number) else { return false };
        if let Some(answer) = entry.answer.take()
            && answer.send(Ok(number)).is_err()
        {
            self.entries.remove(&number);
            return false;
        }
        match relay::from_fd(stream) {
            Ok(stream) => {
                let (hub, nothing) = (entry.hub.clone(), Arc::new(Semaphore::new(1)));
                let session = self.session.clone();
                tokio::spawn(async move {
                    if let Err(header) = relay::carry(hub, stream, None, nothing).await {
                        tracing::error!(%session, number, error = ?header, "a relay sent what is no frame");
                    }
                });
            }
            Err(error) => {
                tracing::error!(session = %self.session, %error, "the stream to the relay cannot be used");
                entry.hub.set_stage(Stage::Lost);
            }
        }
        true
    }

    pub fn not_run(&mut self, number: CommandNumber, step: CommandStep, errno: i32) {
        let Some(mut entry) = self.entries.remove(&number) else { return };
        let refusal = match step {
            CommandStep::Bounds => Some(too_many()),
            CommandStep::Ending => Some(ended()),
            _ => None,
        };
        entry.hub.exited.cancel();
        if let Some(exit) = entry.exit.take() {
            drop(exit.send(exit_of(&End::NotRun { step, errno }, &entry.program, &ReachedLimits::default())));
        }
        // With a stream the rest of its output still comes.
        if let Some(answer) = entry.answer.take() {
            entry.hub.set_stage(Stage::Drained);
            drop(answer.send(refusal.map_or(Ok(number), Err)));
        }
    }

    /// Whether the command is known.
    pub fn exited(&mut self, number: CommandNumber, status: ExitStatus, reached: &ReachedLimits) -> bool {
        let Some(entry) = self.entries.get_mut(&number) else { return false };
        entry.hub.exited.cancel();
        entry.hub.room.notify_one();
        if let Some(exit) = entry.exit.take() {
            let ended = exit_of(&End::Command(status), &entry.program, reached);
            let killed = matches!(status, ExitStatus::Signal(9) | ExitStatus::Code(137));
            drop(exit.send(if killed { reached.noted(ended) } else { ended }));
        }
        true
    }

    /// Its client is done with it; whether there is something of it left.
    pub fn forget(&mut self, number: CommandNumber) -> bool {
        let entry = self.entries.remove(&number);
        entry.is_some_and(|entry| entry.exit.is_some() || entry.hub.stage() != Stage::Drained)
    }

    /// The session has ended, and they with it.
    pub fn close(&mut self) {
        for (_, mut entry) in self.entries.drain() {
            entry.hub.exited.cancel();
            entry.hub.room.notify_one();
            entry.hub.give_up_waiting();
            if let Some(exit) = entry.exit.take() {
                let message = "its session has ended".to_owned();
                let reason = ExitReason::Killed.as_str().to_owned();
                drop(exit.send(Exit { reason, message, ..Exit::default() }));
            }
            if let Some(answer) = entry.answer.take() {
                drop(answer.send(Err(ended())));
            }
        }
    }
}

fn too_many() -> Refusal {
    Refusal::new(
        format!("more than {MAX_COMMANDS} further commands at a time"),
        Rule::SessionCommands,
        "let some of them end, and try again",
    )
}

/// Its keeper reads too slowly.
pub fn keeper_busy() -> Refusal {
    Refusal::new("one message more for the session", Rule::ServiceCrowded, "too many wait already; try again")
}

/// There is no session to run it in.
pub fn ended() -> Refusal {
    Refusal::new("a command in a session that does not run", Rule::SessionEnded, "start a new session for it")
}

/// Tells a command that no input will come.
pub async fn end_input(hub: &Hub) {
    // It reads no more: then it knows.
    hub.input.send(Inward::Eof).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_proto::v1::EnvVar;

    #[test]
    fn commands_out_of_form_are_refused() {
        let open = || ExecOpen { command: vec!["a".into()], ..ExecOpen::default() };
        let rule = |open: ExecOpen| parse(open).unwrap_err().rule.name();
        assert_eq!(rule(ExecOpen { command: vec![], ..open() }), "command.empty");
        assert_eq!(rule(ExecOpen { command: vec!["a\0".into()], ..open() }), "command.nul");
        assert_eq!(rule(ExecOpen { command: vec!["a".repeat(40_000).into()], ..open() }), "command.size");
        let env = vec![EnvVar { key: "A=".into(), value: "".into() }];
        assert_eq!(rule(ExecOpen { env, ..open() }), "environment.name");
        assert_eq!(rule(ExecOpen { cwd: "x".into(), ..open() }), "request.path");
        assert!(parse(open()).unwrap().cwd.is_none());
    }
}
