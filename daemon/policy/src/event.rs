//! What happened in a session, as its keeper saw it. The service gives each its place in the session's
//! stream and writes it down.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::connection_end::ConnectionEnd;
use crate::limit_kind::LimitKind;
use crate::publish::Publish;
use crate::step::CommandStep;

/// One thing that happened, numbered by who saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEvent {
    /// Place in the source's own stream, from 1, without gaps: doubles are dropped by it.
    pub number: u64,
    /// Microseconds since 1970, by the host's clock.
    pub time_us: u64,
    /// What happened, with its particulars.
    pub body: EventBody,
}

/// A process of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// In the session's pid namespace; 0 if it was gone before it could be asked.
    pub pid: u32,
    /// Its parent there, if known.
    pub ppid: Option<u32>,
    /// The program that it ran at that time.
    pub exe: Option<String>,
}

/// What happened in a session, by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventBody {
    /// The command runs.
    Started,
    /// A process asked the kernel to run a program, and was let.
    Exec {
        /// The process that did it.
        actor: Actor,
        /// The file that was opened for it.
        path: String,
        /// What the same call certainly opened after it: a script's interpreter, the ELF loader.
        interpreters: Vec<String>,
        /// What the process then said its arguments are; `None` if it did not run or was gone too soon.
        argv: Option<Vec<String>>,
        /// What became of it.
        result: ExecResult,
        /// What the process runs since, if the kernel names it otherwise: a script's interpreter, a file that was
        /// renamed.
        image: Option<String>,
        /// How many calls that failed, of the same file by the same process, one after the other.
        count: u64,
    },
    /// An exec that was refused because it could not be recorded in full.
    ExecRefused {
        /// The process that did it.
        actor: Actor,
        /// The path of the file.
        path: String,
        /// By which rule: `"audit.room"`, or `"audit.unnameable"` for a file or process without a name.
        rule: String,
    },
    /// The session's filter refused a call.
    CallRefused {
        /// Who made it.
        actor: Actor,
        /// Its name, or its number.
        call: String,
        /// What of its arguments it was refused for.
        argument: Option<String>,
        /// How many, of the same call with the same argument by the same program.
        count: u64,
    },
    /// A process that had been seen to exec ended.
    Exit {
        /// The process that did it.
        actor: Actor,
        /// How, where the kernel reports it (6.15 and later, or a child of init).
        status: Option<ExitStatus>,
    },
    /// The kernel refused packets.
    NetDenied {
        /// `"tcp"`, `"udp"`, `"icmp"`, or the protocol's number.
        protocol: String,
        /// Where they were to go.
        address: IpAddr,
        /// The port, where the protocol has one.
        port: Option<u16>,
        /// The name that had led to the address, if one did lately.
        name: Option<String>,
        /// `"default"`; `"pin.expired"` if the name is allowed and did not answer with this address any more.
        rule: String,
        /// Whose it was, if that could be seen.
        actor: Option<Actor>,
        /// How many, of the same program to the same address and port, one after the other.
        count: u64,
    },
    /// Something about the session's egress.
    Net(NetEvent),
    /// What the session may reach was changed.
    Policy {
        /// The rules that were added, as one text.
        change: String,
        /// Who asked for it.
        uid: u32,
    },
    /// A limit was reached.
    Limit {
        /// Which limit it was.
        kind: LimitKind,
        /// Its value: bytes, milliseconds or a count.
        limit: u64,
    },
    /// Something in a workspace that its owner should know of.
    File {
        /// The path of the file.
        path: String,
        /// What about it.
        finding: Finding,
        /// How many more there are that are not named.
        more: u64,
    },
    /// What changed in a copy of the session's own, and ended with it.
    Aside {
        /// The file that it is a copy of; it stays as it was.
        path: String,
        /// What is different in the copy.
        change: Aside,
        /// How many more there are that are not named.
        more: u64,
    },
    /// Events that found no room.
    Dropped {
        /// How many events are missing.
        count: u64,
    },
    /// The session is over.
    Ended(End),
}

/// What became of an attempt to run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecResult {
    /// The process's image was read after the change: it is this program's.
    Ran,
    /// The call is over and the image is another.
    Failed,
    /// The process was gone before it could be read, or what it ran is ambiguous.
    Unknown,
}

/// What there is to know about a file in a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Finding {
    /// A repository that is new, or leads elsewhere than before.
    Repository,
    /// A file that git follows, new or changed.
    Git,
    /// A program among git's hooks, new or changed.
    Hook,
    /// An index entry that makes git look into another repository.
    Gitlink,
    /// An index entry under a name that is covered.
    Index,
    /// A commit or stash with a name that is covered.
    Commit,
    /// A rebase that was begun: going on with it runs commands.
    Rebase,
    /// A file that other programs run or follow, new or changed.
    RunsLater,
    /// It could not be searched.
    Unsearched,
    /// A masked or protected file has this many names that were not found.
    Links(u64),
}

/// A change that is not in the file that it was made to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aside {
    /// A variable of git's configuration has a new value.
    Set {
        /// Its name, as git-config(1) takes it.
        name: String,
        /// The value; cut if it is very long.
        value: String,
        /// Whether it is a branch's upstream or a remote's place, which makes git run nothing.
        upstream: bool,
    },
    /// A variable of git's configuration is gone.
    Unset {
        /// The variable's name, as git-config(1) takes it.
        name: String,
    },
    /// A hook that is new, changed or gone.
    Hook,
    /// The copy is no configuration any more.
    Unreadable,
}

impl Finding {
    /// In a few words.
    pub fn as_text(self) -> String {
        match self {
            Self::Repository => "a new repository".into(),
            Self::Git => "followed by git".into(),
            Self::Hook => "a git hook".into(),
            Self::Gitlink => "leads git into another repository".into(),
            Self::Index => "a covered name in git's index".into(),
            Self::Commit => "a covered name in a commit or stash".into(),
            Self::Rebase => "an unfinished rebase".into(),
            Self::RunsLater => "run by other programs".into(),
            Self::Unsearched => "could not be searched".into(),
            Self::Links(count) => format!("has {count} more names that were not found"),
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Its command ended.
    Command(ExitStatus),
    /// Its command could not be run: the errno of `execve(2)` or of what came before.
    NotRun {
        /// Where its start failed.
        step: CommandStep,
        /// The error number.
        errno: i32,
    },
    /// Its time was over.
    Timeout,
    /// Nothing went in or out and no program was started for as long as it may be idle.
    Idle,
    /// It was out of memory and the kernel killed its command.
    OutOfMemory,
    /// It was asked to end.
    Killed,
    /// A part of it that it cannot live without failed.
    Failed {
        /// What, in one line.
        what: String,
    },
}

/// What a session did with its egress, or was not let.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetEvent {
    /// A name was asked for.
    Dns {
        /// The name; escaped if it is not one.
        name: String,
        /// `"A"`, `"AAAA"`, or another type by its name or number.
        question: String,
        /// The rule that refused it; `None` if it was answered.
        denied: Option<String>,
        /// The rule that allows it.
        allowed: Option<String>,
        /// The addresses of the answer.
        addresses: Vec<IpAddr>,
        /// Who asked, if that could be seen: the keeper's to say.
        actor: Option<Actor>,
        /// How many, of the same program for the same name and type, one after the other.
        count: u64,
    },
    /// A connection began or was refused by the relay or the keeper. (What the kernel refuses is
    /// [`EventBody::NetDenied`].)
    Connect {
        /// Where to, and by which name.
        peer: NetPeer,
        /// The rule that refused it; `None` if it was dialled.
        denied: Option<String>,
        /// Whose it is, if it was refused and that could be seen: the keeper's to say.
        actor: Option<Actor>,
        /// How many that were refused, to the same address by the same rule, one after the other.
        count: u64,
    },
    /// A connection ended.
    Closed {
        /// Where to, and by which name.
        peer: NetPeer,
        /// The names that it was used for, if there were several: at most [`MAX_NAMES`].
        names: Vec<String>,
        /// How many more there were.
        more_names: u32,
        /// Bytes from the session.
        sent: u64,
        /// Bytes to it.
        received: u64,
        /// Milliseconds from the dial to the end.
        duration_ms: u64,
        /// Why it ended.
        reason: ConnectionEnd,
    },
    /// A request of HTTP was refused.
    Http {
        /// Where to, and by which name.
        peer: NetPeer,
        /// The method, if it could be read.
        method: String,
        /// The host that it names, escaped.
        host: String,
        /// The rule that refused it.
        denied: String,
        /// Whose it is, if that could be seen: the keeper's to say.
        actor: Option<Actor>,
        /// How many, one after the other.
        count: u64,
    },
    /// Somebody on the host connected to a published port, or was refused.
    Entered {
        /// Who: an address and port of the host's, as the relay says.
        from: SocketAddr,
        /// The port, in the session and on the host.
        publish: Publish,
        /// The rule that refused it.
        denied: Option<String>,
    },
    /// A connection to a published port ended.
    Left {
        /// Who had made it.
        from: SocketAddr,
        /// The port, in the session and on the host.
        publish: Publish,
        /// Bytes from the session.
        sent: u64,
        /// Bytes to it.
        received: u64,
        /// Milliseconds from the dial to the end.
        duration_ms: u64,
        /// Why it ended.
        reason: ConnectionEnd,
    },
}

/// The most names that an event has of one connection.
pub const MAX_NAMES: usize = 16;

/// The far end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetPeer {
    /// `"tcp"` or `"udp"`.
    pub protocol: String,
    /// The address at the far end.
    pub address: IpAddr,
    /// The port at the far end.
    pub port: u16,
    /// The name by which it is allowed.
    pub name: Option<String>,
    /// The rule that allows it.
    pub rule: Option<String>,
}
