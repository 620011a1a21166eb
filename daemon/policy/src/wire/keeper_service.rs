//! Messages between a session's keeper and the service.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::egress::Egress;
use crate::event::{ExitStatus, SourceEvent};
use crate::names::{AbsPath, SessionId};
use crate::plan::WindowSize;
use crate::step::CommandStep;
use crate::wire::Message;

/// A command of a session: 0 is its first, with which it ends; others come by [`ToKeeper::Run`].
pub type CommandNumber = u32;

/// The most commands of one session at a time, besides its first.
pub const MAX_COMMANDS: usize = 16;

/// One more command for a session. What it does not say is as for the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// Besides the session's environment, and before it.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where it starts.
    pub cwd: Option<AbsPath>,
    /// A terminal of this size, or pipes.
    pub terminal: Option<WindowSize>,
}

/// Service to keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// Send a signal to a command's process group.
    Signal {
        /// The command's number in its session.
        command: CommandNumber,
        /// A number of signal(7).
        signal: i32,
    },
    /// End the session.
    Kill,
    /// Events up to this number are on disk.
    Ack(u64),
    /// Run one more command. Answered by [`FromKeeper::Running`] or [`FromKeeper::NotRun`].
    Run {
        /// The service's choice, not 0, never used twice in a session.
        number: CommandNumber,
        /// The program, and how it starts.
        command: Box<Command>,
    },
    /// Make a new stream to the relay for a command, in the place of one that was lost. Answered by
    /// [`FromKeeper::Stream`]; not at all if the command is not known any more.
    Connect {
        /// The command's number in its session.
        command: CommandNumber,
    },
    /// End a further command: nobody takes its output. Not for the first.
    End {
        /// The command's number in its session.
        command: CommandNumber,
    },
}

/// Keeper to service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// The first message on a connection that the service made by the keeper's name.
    Hello {
        /// Which session it keeps.
        session: SessionId,
        /// Whose it is.
        uid: u32,
        /// Events up to this number were acknowledged and will not come again.
        acknowledged: u64,
        /// Whether the first command was started.
        started: bool,
        /// Further commands that run.
        commands: Vec<CommandNumber>,
    },
    /// Something happened. The last one is [`Ended`](crate::event::EventBody::Ended).
    Event(SourceEvent),
    /// A stream to the relay. Descriptor: the service's end.
    Stream {
        /// For this command.
        command: CommandNumber,
    },
    /// A further command runs. Descriptor: the service's end of its stream to the relay.
    Running {
        /// The command's number in its session.
        command: CommandNumber,
    },
    /// A further command could not be run.
    NotRun {
        /// The command's number in its session.
        command: CommandNumber,
        /// Where its start failed.
        step: CommandStep,
        /// The error number.
        errno: i32,
    },
    /// What the session may reach: behind [`FromKeeper::Hello`], and again with each change.
    Egress(Box<Egress>),
    /// A further command ended.
    Exited {
        /// The command's number in its session.
        command: CommandNumber,
        /// By a code or a signal.
        status: ExitStatus,
    },
}

impl Message for FromKeeper {
    fn descriptors(&self) -> RangeInclusive<usize> {
        match self {
            Self::Stream { .. } | Self::Running { .. } => 1..=1,
            Self::Hello { .. }
            | Self::Event(_)
            | Self::NotRun { .. }
            | Self::Egress(_)
            | Self::Exited { .. } => 0..=0,
        }
    }
}
