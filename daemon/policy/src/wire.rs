//! The messages between agentd's processes. Each travels as one packet of a `SOCK_SEQPACKET` socket
//! (descriptors beside it), begins with [`VERSION`], and is bounded by [`MAX_PACKET`]. The receiver trusts
//! no sender: a packet of another version, with bytes left over, or malformed is an error, never a guess.
//!
//! What carries a session's bytes is simpler, because there may be gigabytes of it: [`frame`].

use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::egress::{Egress, Purpose};
use crate::event::{ExitStatus, NetEvent, SourceEvent};
use crate::hosts::HostName;
use crate::names::{AbsPath, SessionId};
use crate::network::Change;
use crate::plan::{DiskForm, Plan, WindowSize};
use crate::protocol::Protocol;
use crate::publish::Publish;

/// The format of all messages here, and of what the launcher keeps of a lease; the first two bytes of each packet.
pub const VERSION: u16 = 5;
/// The longest packet, in bytes: a plan with its longest command line.
pub const MAX_PACKET: usize = 192 << 10;
/// The longest packet that a keeper and a service exchange.
pub const MAX_KEEPER_PACKET: usize = 64 << 10;

/// A packet that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Another program, or another version of it.
    #[error("message of version {0}, not {VERSION}")]
    Version(u16),
    /// Too long to send or to take.
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
    /// Not a message at all.
    #[error("message malformed")]
    Form(#[source] postcard::Error),
    /// More than a message.
    #[error("{0} bytes after the message")]
    Trailing(usize),
}

/// `message` as a packet.
///
/// # Errors
/// If it would be longer than [`MAX_PACKET`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let packet = postcard::to_extend(message, VERSION.to_le_bytes().to_vec()).map_err(WireError::Form)?;
    if packet.len() > MAX_PACKET {
        return Err(WireError::TooLong(packet.len()));
    }
    Ok(packet)
}

/// The message in `packet`.
///
/// # Errors
/// If it is of another version, malformed, or followed by anything.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, WireError> {
    if packet.len() > MAX_PACKET {
        return Err(WireError::TooLong(packet.len()));
    }
    let Some((version, body)) = packet.split_first_chunk::<2>() else {
        return Err(WireError::Version(0));
    };
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let (message, rest) = postcard::take_from_bytes(body).map_err(WireError::Form)?;
    if !rest.is_empty() {
        return Err(WireError::Trailing(rest.len()));
    }
    Ok(message)
}

/// The first of what a packet of any version holds, whatever follows it.
///
/// # Errors
/// If that is malformed.
pub fn prefix<T: DeserializeOwned>(packet: &[u8]) -> Result<T, WireError> {
    let body = packet.get(2..).ok_or(WireError::Version(0))?;
    postcard::take_from_bytes(body).map(|(first, _)| first).map_err(WireError::Form)
}

/// A connection that the launcher accepted. Never used twice in a launcher's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallerNumber(pub u64);

/// Names one request of the service, so that its answer finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestNumber(pub u64);

/// The launcher's answer to offered descriptors: random, for one use, for the process that made the offer.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket(pub [u8; 32]);

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// Who is at the other end of a connection: what the kernel says of it (`SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The effective uid when it connected.
    pub uid: u32,
    /// The effective gid.
    pub gid: u32,
    /// The process.
    pub pid: i32,
    /// Whether it belongs to the admin group.
    pub admin: bool,
}

/// Launcher to service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromLauncher {
    /// A client connected. Descriptor: the connection.
    Caller {
        /// Its number, which plans name.
        number: CallerNumber,
        /// Who it is.
        peer: Peer,
        /// The uid of the account that it counts for: of a subordinate uid, whose that is.
        account: u32,
        /// Of the groups that have bounds of their own, those that it is in.
        groups: Vec<String>,
    },
    /// A session runs. Descriptors: the keeper's socket (packets), the relay's (frames).
    Built {
        /// The request that this answers.
        request: RequestNumber,
        /// How long each step took, from the moment that the launcher read the request.
        timings: Vec<Timing>,
    },
    /// A session was not built, and nothing of it is left.
    Refused {
        /// The request that this answers.
        request: RequestNumber,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing of a session is left but its overlay.
    Gone {
        /// Which.
        session: SessionId,
        /// What went wrong on the way; empty if nothing.
        errors: Vec<String>,
    },
    /// A session's overlay is deleted, or could not be.
    Removed {
        /// The request that this answers.
        request: RequestNumber,
        /// Why not.
        refusal: Option<Refusal>,
    },
    /// The first thing that a service hears: sessions that live, in one or several parts. What is in none of
    /// them is gone.
    Live {
        /// What enforces the limits of overlays here.
        disk: DiskForm,
        /// How many open files a process of a session has at most, whatever its plan says: what the launcher may have.
        open_files: u64,
        /// Which.
        sessions: Vec<SessionId>,
        /// Whether this is the last part.
        last: bool,
    },
    /// What the host offers, and what was left behind.
    Examined {
        /// The request that this answers.
        request: RequestNumber,
        /// Each facility.
        checks: Vec<Check>,
        /// Each trace, if they were asked for.
        leaks: Vec<Leak>,
    },
    /// Answer who asks for numbers. Descriptor: a socket that listens.
    Metrics,
}

/// The most that [`FromLauncher::Live`] names at once.
pub const MAX_LIVE: usize = 2048;

/// How much of a facility a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// All that sessions use.
    Ok,
    /// Sessions run, with less.
    Reduced,
    /// No session runs without it.
    Missing,
}

/// A facility of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Such as `"landlock"`, `"cgroup.memory"`, `"idmap.ext4"`.
    pub name: String,
    /// Whether it is there.
    pub status: Status,
    /// What there is.
    pub found: String,
    /// What its lack costs; empty if nothing.
    pub impact: String,
    /// What to do about it; empty if nothing.
    pub fix: String,
}

/// Something of a session that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// `"cgroup"`, `"lease"`, `"socket"`, `"overlay"`, `"process"`.
    pub kind: String,
    /// Which.
    pub what: String,
    /// Whether it has been taken away.
    pub cleaned: bool,
}

/// Service to launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromService {
    /// A connection ended.
    Forget {
        /// Which.
        caller: CallerNumber,
    },
    /// Build this.
    Build {
        /// For the answer.
        request: RequestNumber,
        /// For whom.
        caller: CallerNumber,
        /// What it offered, and agreed to.
        ticket: Ticket,
        /// What.
        plan: Box<Plan>,
    },
    /// End a session whose keeper does not.
    End {
        /// Which.
        session: SessionId,
    },
    /// Delete the overlay of an ended session.
    Remove {
        /// For the answer.
        request: RequestNumber,
        /// On whose word.
        caller: CallerNumber,
        /// The uid that it belongs to.
        owner: u32,
        /// Which.
        session: SessionId,
    },
    /// Look at what the host offers.
    Examine {
        /// For the answer.
        request: RequestNumber,
        /// On whose word.
        caller: CallerNumber,
        /// Look for what was left behind, too.
        leaks: bool,
        /// And take it away.
        clean: bool,
    },
}

/// How long a step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// What.
    pub step: String,
    /// Microseconds.
    pub start_us: u64,
    /// Microseconds.
    pub end_us: u64,
}

/// A command of a session: 0 is its first, with which it ends; others come by [`ToKeeper::Run`].
pub type CommandNumber = u32;

/// The most commands of one session at a time, besides its first.
pub const MAX_COMMANDS: usize = 16;

/// One more command for a session. What it does not say is as for the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// argv.
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
        /// Which.
        command: CommandNumber,
        /// `signal(7)`.
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
        /// What.
        command: Box<Command>,
    },
    /// Make a new stream to the relay for a command, in the place of one that was lost. Answered by
    /// [`FromKeeper::Stream`]; not at all if the command is not known any more.
    Connect {
        /// Which.
        command: CommandNumber,
    },
    /// End a further command: nobody takes its output. Not for the first.
    End {
        /// Which.
        command: CommandNumber,
    },
}

/// Launcher to keeper, on a connection of its own, which has one question. Whoever makes it has uid 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRoot {
    /// The session may reach more or less from now on: the word of a caller that the launcher attested and that may
    /// steer it. Answered by [`ToRoot::Changed`].
    Change {
        /// What is allowed and denied.
        change: Box<Change>,
        /// The caller's uid.
        uid: u32,
    },
}

/// Keeper to launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRoot {
    /// The change is in force, or why not.
    Changed(Result<(), Refusal>),
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
        /// Which.
        command: CommandNumber,
    },
    /// A further command could not be run.
    NotRun {
        /// Which.
        command: CommandNumber,
        /// Where it failed: `"exec"`, `"cwd"`, `"terminal"`, `"fork"`, `"bounds"` (too many), `"ending"`.
        step: String,
        /// The error number.
        errno: i32,
    },
    /// What the session may reach: behind [`FromKeeper::Hello`], and again with each change.
    Egress(Box<Egress>),
    /// A further command ended.
    Exited {
        /// Which.
        command: CommandNumber,
        /// How.
        status: ExitStatus,
    },
}

/// Keeper to relay, on the relay's control socket. The socket's end is the relay's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRelay {
    /// Carry a further command's streams. Descriptors: a stream to the service, then the master of its terminal,
    /// or three pipes (input, output, error).
    Carry {
        /// Which.
        command: CommandNumber,
        /// One terminal, not three pipes.
        terminal: bool,
    },
    /// The service has a new stream for a command. Descriptor: it. It begins with [`frame::RESUME`].
    Connect {
        /// Which.
        command: CommandNumber,
    },
    /// Close a further command's streams: nobody takes its output.
    Close {
        /// Which.
        command: CommandNumber,
    },
    /// No command runs any more and none will: end once all output is delivered.
    Over,
    /// What the session may reach, if it is only to be told that it may not. Descriptors, all of them in the session's
    /// network namespace ([`Egress::sockets`]), in this order: transparent listeners for TCP, IPv4 and IPv6; sockets for
    /// DNS over UDP, likewise; listeners of the explicit proxy, likewise, if [`Egress::has_proxy`]; two sockets for each of
    /// [`Egress::udp_ports`]; two listeners for each of [`Egress::local`]. Then the table of the site's blocklists, if
    /// it has any. Then, if [`Egress::asks_over_tls`], a file of the host's: certificates of authorities, as PEM.
    Network {
        /// What it may reach.
        egress: Box<Egress>,
        /// Whether there is a table.
        blocklist: bool,
    },
    /// What it may reach is something else now: what is open is judged again.
    Policy {
        /// From now on.
        egress: Box<Egress>,
    },
    /// Answers [`FromRelay::Dial`]. Descriptor: a socket that connects, without blocking; none if there is an error.
    Dialled {
        /// The dial.
        number: u32,
        /// What the kernel or the keeper said: `EACCES` for what the plan does not allow, `EAGAIN` if there is no room
        /// for its event or for one more dial.
        errno: Option<i32>,
    },
    /// Answers [`FromRelay::Pin`].
    Pinned {
        /// The pin.
        number: u32,
        /// The addresses that can be reached now, of those that were asked for.
        addresses: Vec<IpAddr>,
    },
    /// Answers [`FromRelay::Told`].
    Recorded {
        /// Its number.
        number: u32,
    },
    /// Ask for a name anew, past what is known of it: something is to be connected to an address that it had. Answered by
    /// [`FromRelay::Renewed`].
    Renew {
        /// The name.
        name: HostName,
        /// The type of the question: for addresses of IPv4 or IPv6.
        question: u16,
    },
    /// A port is published; it comes right after [`ToRelay::Network`]. Descriptors: one or two listeners on the host's
    /// loopback, for IPv4 and IPv6.
    Publish {
        /// Which.
        publish: Publish,
    },
}

/// Relay to keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromRelay {
    /// Bytes went through one of the session's streams since this was last said; at most once a second.
    Active,
    /// A further command's output was delivered, or nobody took it: the relay has forgotten the command.
    Closed {
        /// Which.
        command: CommandNumber,
    },
    /// Connect to an address. Answered by [`ToRelay::Dialled`]; what comes of it is an event, but for resolvers.
    Dial {
        /// The relay's choice; it has at most [`MAX_DIALS`] without an answer.
        number: u32,
        /// By what right.
        purpose: Purpose,
        /// Where to.
        to: SocketAddr,
        /// How.
        protocol: Protocol,
        /// Who in the session asked, or who on the host for [`Purpose::Publish`]: a claim, of which nothing is judged.
        from: SocketAddr,
    },
    /// A name was asked for and resolved: its addresses are to be reachable. Answered by [`ToRelay::Pinned`]. The
    /// question is an event.
    Pin {
        /// The relay's choice; it has at most [`MAX_DIALS`] without an answer.
        number: u32,
        /// The name that was asked for, which is what is judged.
        name: HostName,
        /// The type of the question (RFC 1035 §3.2.2).
        question: u16,
        /// What was answered; at most [`MAX_ADDRESSES`](crate::egress::MAX_ADDRESSES).
        addresses: Vec<IpAddr>,
        /// For how long, in seconds.
        ttl: u32,
        /// Who asked; `None` if it was the keeper, by [`ToRelay::Renew`].
        client: Option<Client>,
    },
    /// Something happened. A keeper without room counts it as dropped.
    Told {
        /// What.
        event: NetEvent,
        /// Whose connection or question it is about.
        client: Option<Client>,
        /// Answered by [`ToRelay::Recorded`], if it is a number: until then the client has not been answered, and can be
        /// seen. The relay has at most [`MAX_DIALS`] without an answer. Without a number it is about what a client did
        /// again that was told of before.
        number: Option<u32>,
    },
    /// [`ToRelay::Renew`] is done, whatever came of it: what did has been asked for by [`FromRelay::Pin`] before.
    Renewed {
        /// The name.
        name: HostName,
        /// The type of the question.
        question: u16,
    },
    /// After [`ToRelay::Over`], of a session egress: everything that happened there has been told.
    Silent,
}

/// A program's socket in the session, as whoever it is connected to sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Client {
    /// By which protocol.
    pub protocol: Protocol,
    /// Its own end: a claim, which finds the socket or nothing.
    pub from: SocketAddr,
    /// The end that it talks to.
    pub to: SocketAddr,
}

/// Dials, pins and events of a relay that wait for an answer.
pub const MAX_DIALS: usize = 256;
/// Of dials, those to published ports: each is a question to the session's pid 1, which the agent can slow down.
pub const MAX_INWARD: usize = 32;

/// What travels between relay and service: frames on a stream, `kind` (1 byte), length (3 bytes, little
/// endian), payload.
pub mod frame {
    /// Towards the command: bytes for its standard input.
    pub const STDIN: u8 = 0;
    /// Towards the command: no more of them. No payload.
    pub const STDIN_EOF: u8 = 1;
    /// Towards the command: rows and columns, 2 bytes each, little endian.
    pub const RESIZE: u8 = 2;
    /// From the command: its standard output, or its terminal.
    pub const STDOUT: u8 = 3;
    /// From the command: its standard error.
    pub const STDERR: u8 = 4;
    /// From the command: nothing more will come. No payload.
    pub const DRAINED: u8 = 5;
    /// From the service, first on every stream but the one that the session was born with: how many bytes of
    /// output it has (both streams' payloads together; 8 bytes, little endian). What follows these comes (again).
    pub const RESUME: u8 = 6;
    /// From the service: it has so many bytes of output for good (8 bytes, little endian); or, after
    /// [`DRAINED`], all of it. The relay keeps what was not acknowledged, and reads on only as far as it has room.
    pub const ACK: u8 = 7;
    /// From the service, without payload: show me the terminal's screen. To it: a piece of the answer, at its
    /// place in the output but not part of it; an empty one is its end. Without a terminal only that comes.
    pub const SCREEN: u8 = 8;
    /// To the service, first after [`RESUME`], and again as the command takes its input (at the latest when half
    /// of [`INPUT_WINDOW`] was taken since): how many bytes of input were taken (8 bytes, little endian). The
    /// service sends at most [`INPUT_WINDOW`] beyond it, so that an [`ACK`] never waits behind input that the
    /// command does not read.
    pub const INPUT: u8 = 9;
    /// The most bytes of input that wait for a command.
    pub const INPUT_WINDOW: u64 = 256 << 10;

    /// The longest payload, in bytes.
    pub const MAX: usize = 64 << 10;
    /// Bytes before the payload.
    pub const HEADER: usize = 4;

    /// The header of a frame; `None` if `len` is beyond [`MAX`].
    pub fn header(kind: u8, len: usize) -> Option<[u8; HEADER]> {
        let [a, b, c, ..] = u32::try_from(len).ok()?.to_le_bytes();
        (len <= MAX).then_some([kind, a, b, c])
    }

    /// Kind and length of the payload that follows `header`; `None` if it is none of ours.
    pub fn parse(header: [u8; HEADER]) -> Option<(u8, usize)> {
        let [kind, a, b, c] = header;
        let len = u32::from_le_bytes([a, b, c, 0]) as usize;
        let right = match kind {
            STDIN | STDOUT | STDERR | SCREEN => len <= MAX,
            STDIN_EOF | DRAINED => len == 0,
            RESIZE => len == 4,
            RESUME | ACK | INPUT => len == 8,
            _ => false,
        };
        right.then_some((kind, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plan_comes_back_as_it_went() {
        let message = FromService::Build {
            request: RequestNumber(1),
            caller: CallerNumber(2),
            ticket: Ticket([7; 32]),
            plan: Box::new(crate::plan::tests::plan()),
        };
        let packet = encode(&message).unwrap();
        assert_eq!(decode::<FromService>(&packet).unwrap(), message);
    }

    #[test]
    fn other_versions_and_leftovers_are_refused() {
        let mut packet = encode(&ToKeeper::Kill).unwrap();
        packet.push(0);
        assert!(matches!(decode::<ToKeeper>(&packet), Err(WireError::Trailing(1))));
        packet.pop();
        packet[0] ^= 1;
        assert!(matches!(decode::<ToKeeper>(&packet), Err(WireError::Version(_))));
        assert!(matches!(decode::<ToKeeper>(&[1]), Err(WireError::Version(0))));
    }

    #[test]
    fn names_inside_messages_are_checked() {
        let good = encode(&FromService::End { session: SessionId::parse("0123456789ab").unwrap() }).unwrap();
        let bad: Vec<u8> = good.iter().map(|b| if *b == b'a' { b'/' } else { *b }).collect();
        assert!(decode::<FromService>(&bad).is_err());
    }

    proptest! {
        #[test]
        fn hostile_packets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut packet = VERSION.to_le_bytes().to_vec();
            packet.extend(bytes);
            let _ = decode::<FromService>(&packet);
            let _ = decode::<FromLauncher>(&packet);
            let _ = decode::<FromKeeper>(&packet);
        }

        #[test]
        fn frames_are_ours_or_nothing(header in any::<[u8; 4]>()) {
            if let Some((kind, len)) = frame::parse(header) {
                prop_assert!(len <= frame::MAX);
                prop_assert_eq!(frame::header(kind, len), Some(header));
            }
        }
    }
}
