//! The further commands of a session, from the keeper's place: init runs them, the relay carries them, the service
//! asks for them.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;

use agentd_kernel::descriptor::Kind;
use agentd_policy::event::{End, ExitStatus};
use agentd_policy::step::CommandStep;
use agentd_policy::wire::{
    Attached, CarryDescriptors, Command, CommandNumber, CommandStreams, FromKeeper, MAX_COMMANDS, ToRelay,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::Keeper;
use crate::command::NotRun;
use crate::error::{HostError, On as _};
use crate::init::ToInit;

/// How many ends of commands are sent again to a new service, once all of their output was delivered.
const MAX_PAST: usize = MAX_COMMANDS;

/// One that was asked for and is not forgotten.
#[derive(Debug, Default)]
struct Known {
    /// Init has started it.
    started: bool,
    /// The relay has its streams.
    carried: bool,
    /// Nobody takes its output.
    unwanted: bool,
    exited: Option<ExitStatus>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Commands {
    known: BTreeMap<CommandNumber, Known>,
    past: VecDeque<(CommandNumber, ExitStatus)>,
}

impl Commands {
    /// Those that run.
    pub fn running(&self) -> Vec<CommandNumber> {
        let running = self.known.iter().filter(|(_, known)| known.started && known.exited.is_none());
        running.map(|(number, _)| *number).collect()
    }

    /// Those that have ended, as far as it is remembered.
    pub fn ended(&self) -> Vec<(CommandNumber, ExitStatus)> {
        let known = self.known.iter().filter_map(|(number, known)| Some((*number, known.exited?)));
        self.past.iter().copied().chain(known).collect()
    }

    /// Takes a number, unless it is taken or there are too many.
    fn admit(&mut self, number: CommandNumber) -> Result<(), Errno> {
        let past = self.past.iter().any(|(past, _)| *past == number);
        if number == 0 || past || self.known.contains_key(&number) {
            return Err(Errno::EXIST);
        }
        if self.known.len() >= MAX_COMMANDS {
            return Err(Errno::AGAIN);
        }
        self.known.insert(number, Known::default());
        Ok(())
    }

    /// The relay has delivered all output of one, or dropped it.
    pub fn delivered(&mut self, number: CommandNumber) {
        if let Some(known) = self.known.get_mut(&number) {
            known.carried = false;
        }
        self.forget_if_done(number);
    }

    /// Forgets one that has ended and whose output was delivered.
    fn forget_if_done(&mut self, number: CommandNumber) {
        let done = self.known.get(&number).filter(|known| !known.carried).and_then(|known| known.exited);
        if let Some(status) = done {
            self.known.remove(&number);
            self.past.truncate(MAX_PAST - 1);
            self.past.push_front((number, status));
        }
    }
}

impl Keeper {
    /// The service wants one more.
    pub(super) fn run_command(&mut self, number: CommandNumber, command: Box<Command>) {
        let not_run = if !self.phase.is_running() || self.init.child.is_none() || self.relay.child.is_none() {
            Some(NotRun::new(CommandStep::Ending, Errno::CANCELED.raw_os_error()))
        } else {
            self.commands
                .admit(number)
                .err()
                .map(|errno| NotRun::new(CommandStep::Bounds, errno.raw_os_error()))
        };
        match not_run {
            Some(not_run) => self.tell_not_run(number, not_run),
            None => self.ask_init(&ToInit::Run { number, command }),
        }
    }

    fn tell_not_run(&mut self, command: CommandNumber, not_run: NotRun) {
        let NotRun { step, errno } = not_run;
        self.send_service(&FromKeeper::NotRun { command, step, errno }, vec![]);
    }

    /// Nobody takes the output of one any more.
    pub(super) fn end_command(&mut self, command: CommandNumber) {
        let Some(known) = self.commands.known.get_mut(&command) else { return };
        known.unwanted = true;
        let (carried, runs) = (known.carried, known.exited.is_none());
        if runs {
            self.ask_init(&ToInit::End { command });
        }
        if carried {
            self.ask_relay(&ToRelay::Close { command }, vec![]);
        }
    }

    /// Passes a signal on to a command that may run.
    pub(super) fn signal_command(&mut self, command: CommandNumber, signal: i32) {
        if command == 0 || self.commands.known.contains_key(&command) {
            self.ask_init(&ToInit::Signal { command, signal });
        }
    }

    /// The service lost a stream.
    pub(super) fn connect_command(&mut self, command: CommandNumber) -> Result<(), HostError> {
        let known = self.commands.known.get(&command).is_some_and(|known| known.carried && !known.unwanted);
        if self.relay.child.is_none() || (command != 0 && !known) {
            return Ok(());
        }
        let (ours, theirs) = stream()?;
        self.ask_relay(&ToRelay::Connect { command }, vec![theirs]);
        self.send_service(&FromKeeper::Stream { command }, vec![ours]);
        Ok(())
    }

    /// Init has started one, and hands its streams up: unread to the relay.
    pub(super) fn command_started(
        &mut self,
        command: CommandNumber,
        terminal: bool,
        streams: Attached<OwnedFd>,
    ) -> Result<(), HostError> {
        let Some(known) = self.commands.known.get_mut(&command).filter(|known| !known.started) else {
            self.finish(End::Failed { what: "init: a command that nobody asked for".into() });
            return Ok(());
        };
        let streams = match streams_of(terminal, streams) {
            Ok(streams) => streams,
            Err(error) => {
                self.finish(End::Failed { what: format!("init: a command's streams: {error}") });
                return Ok(());
            }
        };
        known.started = true;
        if known.unwanted {
            return Ok(());
        }
        known.carried = true;
        let (ours, theirs) = stream()?;
        let descriptors = CarryDescriptors { service: theirs, streams };
        self.ask_relay(&ToRelay::Carry { command, terminal }, descriptors.into_vec());
        self.send_service(&FromKeeper::Running { command }, vec![ours]);
        Ok(())
    }

    /// Init could not start one.
    pub(super) fn command_not_run(&mut self, command: CommandNumber, not_run: NotRun) {
        if self.commands.known.get(&command).is_some_and(|known| !known.started) {
            self.commands.known.remove(&command);
            self.tell_not_run(command, not_run);
        }
    }

    /// One has ended.
    pub(super) fn command_exited(&mut self, command: CommandNumber, status: ExitStatus) {
        let known = self.commands.known.get_mut(&command);
        if let Some(known) = known.filter(|known| known.started && known.exited.is_none()) {
            known.exited = Some(status);
            if status == ExitStatus::Signal(9) {
                // What explains it is sent first. What cannot be asked has not changed; what cannot be sent waits.
                self.memory_limit().and_then(|_| self.flush()).ok();
            }
            self.commands.forget_if_done(command);
            self.send_service(&FromKeeper::Exited { command, status }, vec![]);
        }
    }

    /// With the session all have ended.
    pub(super) fn commands_are_over(&mut self) {
        let numbers: Vec<CommandNumber> = self.commands.known.keys().copied().collect();
        for number in numbers {
            let cancelled = Errno::CANCELED.raw_os_error();
            self.command_not_run(number, NotRun::new(CommandStep::Ending, cancelled));
            self.command_exited(number, ExitStatus::Signal(9));
        }
        self.ask_relay(&ToRelay::Over, vec![]);
    }
}

/// The outer ends of a command's streams.
///
/// # Errors
/// If they are not what the message says: what init and the agent are is one uid.
fn streams_of(terminal: bool, attached: Attached<OwnedFd>) -> Result<CommandStreams<OwnedFd>, HostError> {
    let streams = CommandStreams::take(terminal, attached)?;
    match &streams {
        CommandStreams::Terminal(master) => Kind::TerminalMaster.check(master)?,
        CommandStreams::Pipes([stdin, outputs @ ..]) => {
            Kind::PipeWriter.check(stdin)?;
            outputs.iter().try_for_each(|output| Kind::PipeReader.check(output))?;
        }
    }
    Ok(streams)
}

/// The service's and the relay's end of a stream.
fn stream() -> Result<(OwnedFd, OwnedFd), HostError> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).on("socketpair")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_another_kind_are_refused() {
        let pipe = || rustix::pipe::pipe().unwrap();
        let master = || rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        let ((stdin, to_stdin), (from_stdout, _), (from_stderr, _)) = (pipe(), pipe(), pipe());
        let pipes = |first: &OwnedFd| {
            let ends = [first, &from_stdout, &from_stderr].map(|end| end.try_clone().unwrap());
            streams_of(false, Attached::new(ends.into()))
        };
        assert!(pipes(&to_stdin).is_ok());
        let wrong = [(pipes(&stdin), "a pipe to write to"), (pipes(&master()), "a pipe to write to")];
        let none = streams_of(true, Attached::new(vec![to_stdin]));
        for (result, kind) in wrong.into_iter().chain([(none, "the master of a terminal")]) {
            assert_eq!(result.unwrap_err().to_string(), format!("a descriptor that is not {kind}"));
        }
        assert!(streams_of(true, Attached::new(vec![master()])).is_ok());
        assert!(streams_of(true, Attached::new(vec![])).is_err());
    }

    #[test]
    fn numbers_are_used_once_and_commands_are_bounded() {
        let mut commands = Commands::default();
        assert_eq!(commands.admit(0), Err(Errno::EXIST));
        for number in 1..=16 {
            commands.admit(number).unwrap();
            let known = commands.known.get_mut(&number).unwrap();
            (known.started, known.carried) = (true, true);
        }
        assert_eq!(commands.admit(16), Err(Errno::EXIST));
        assert_eq!(commands.admit(17), Err(Errno::AGAIN));
        assert_eq!(commands.running().len(), 16);
        // One that has ended keeps its place until its output is delivered.
        commands.known.get_mut(&3).unwrap().exited = Some(ExitStatus::Code(1));
        commands.forget_if_done(3);
        assert_eq!(commands.admit(17), Err(Errno::AGAIN));
        commands.known.get_mut(&3).unwrap().carried = false;
        commands.forget_if_done(3);
        assert_eq!(commands.admit(3), Err(Errno::EXIST));
        assert_eq!(commands.admit(17), Ok(()));
        assert_eq!(commands.ended(), [(3, ExitStatus::Code(1))]);
        for number in 100..200 {
            let known = Known { exited: Some(ExitStatus::Code(0)), ..Known::default() };
            commands.known.insert(number, known);
            commands.forget_if_done(number);
        }
        assert_eq!(commands.past.len(), MAX_PAST);
    }
}
