//! pid 1 of a session. It makes the namespaces that need no right on the host, waits for its root, takes
//! every right from itself, and then forks the session's command and reaps.
//!
//! Born in the session's user namespace, it has never had a capability over the host.

mod access;
mod commands;
pub mod egress_state;
mod inward;

use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use agentd_kernel::descriptor::{Ip, Kind, WrongKind};
use agentd_kernel::packets::{MAX_DESCRIPTORS, PacketError, Packets};
use agentd_kernel::process::{self, SingleThreaded};
use agentd_kernel::{
    affinity, creds, landlock, loopback, nflog, nft, procfs, resets, rlimits, seccomp, sock_diag,
};
use agentd_policy::event::ExitStatus;
use agentd_policy::plan::{Permitted, Plan};
use agentd_policy::step::Step;
use agentd_policy::wire::{
    Command, CommandNumber, MAX_KEEPER_PACKET, MAX_PACKET, Message, decode_with, encode,
};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use crate::command::{Invocation, NotRun, Starting, Stdio};
use crate::error::HostError;
use crate::host::AgentFilters;
use crate::order::Owner;
pub use access::Access;
use commands::{Commands, News};

/// Builder or keeper to init.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToInit {
    /// The root is complete. Descriptors: the command's standard streams.
    Go {
        /// What to run, and within which limits.
        plan: Box<Permitted>,
        /// What may be done where, for Landlock.
        access: Vec<(String, Access)>,
    },
    /// Send a signal to a command's process group.
    Signal {
        command: CommandNumber,
        // `signal(7)`.
        signal: i32,
    },
    /// Run one more command. Answered by [`FromInit::Carry`] or [`FromInit::CommandNotRun`].
    Run {
        /// Its number, which no other has.
        number: CommandNumber,
        command: Box<Command>,
    },
    /// Kill a further command, and what it started as far as that is in its session (`setsid(2)`).
    End { command: CommandNumber },
    /// Connect to a port of the session's loopback. Answered by [`FromInit::Entered`].
    Enter {
        /// For the answer.
        number: u32,
        port: u16,
        six: bool,
    },
}

impl Message for ToInit {
    fn descriptors(&self) -> RangeInclusive<usize> {
        let count = match self {
            Self::Go { plan, .. } => streams(plan.terminal.is_some()),
            Self::Signal { .. } | Self::Run { .. } | Self::End { .. } | Self::Enter { .. } => 0,
        };
        count..=count
    }
}

/// Init to builder or keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// The network namespace refuses everything but itself. Descriptors: those of [`Network`], in its order.
    NetworkReady,
    /// The session's egress, if it has one; it comes before [`FromInit::Confined`]. Descriptors: as in
    /// [`ToRelay::Network`](agentd_policy::wire::ToRelay::Network).
    Sockets,
    /// Every layer is applied and was verified. Descriptor: the listener for calls that are refused.
    Confined {
        /// The Landlock ABI in force.
        landlock_abi: u32,
    },
    /// A step failed; init ends.
    Failed { step: Step, why: String },
    /// The command runs.
    Running,
    /// The command could not be run.
    NotRun(NotRun),
    /// The command ended.
    Exited(ExitStatus),
    /// A further command runs. Descriptors: the outer ends of its streams, as in
    /// [`ToRelay::Carry`](agentd_policy::wire::ToRelay::Carry).
    Carry {
        command: CommandNumber,
        /// One terminal, not three pipes.
        terminal: bool,
    },
    /// A further command could not be run.
    CommandNotRun { command: CommandNumber, not_run: NotRun },
    /// A further command ended.
    CommandExited { command: CommandNumber, status: ExitStatus },
    /// Answers [`ToInit::Enter`]. Descriptor: a socket that connects, without blocking; none if there is an error.
    Entered {
        number: u32,
        /// What the kernel said.
        errno: Option<i32>,
    },
}

impl Message for FromInit {
    fn descriptors(&self) -> RangeInclusive<usize> {
        let count = match self {
            Self::NetworkReady => Network::DESCRIPTORS,
            // As many as the plan says, which the receiver knows.
            Self::Sockets => return 0..=MAX_DESCRIPTORS,
            Self::Confined { .. } => 1,
            Self::Carry { terminal, .. } => streams(*terminal),
            Self::Entered { errno, .. } => usize::from(errno.is_none()),
            Self::Failed { .. }
            | Self::Running
            | Self::NotRun(_)
            | Self::Exited(_)
            | Self::CommandNotRun { .. }
            | Self::CommandExited { .. } => 0,
        };
        count..=count
    }
}

/// How many descriptors a command's streams are.
fn streams(terminal: bool) -> usize {
    if terminal { 1 } else { 3 }
}

/// What init is born with.
pub struct Init<'a> {
    /// Whose numbers the session sees.
    pub owner: Owner,
    /// Which CPUs are its share: sessions take turns.
    pub turn: u32,
    /// The host's /proc, for its first act.
    pub proc: BorrowedFd<'a>,
    /// The filters of everything that runs in a session.
    pub filters: &'a AgentFilters,
    /// To the builder, later the keeper. Its end is ours.
    pub socket: Packets,
    /// That fork is sound.
    pub token: SingleThreaded,
}

/// A step that failed.
struct Failure {
    step: Step,
    why: String,
}

trait InStep<T> {
    fn step(self, step: Step) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> InStep<T> for Result<T, E> {
    fn step(self, step: Step) -> Result<T, Failure> {
        self.map_err(|e| Failure { step, why: e.to_string() })
    }
}

impl Init<'_> {
    /// Runs until the keeper is gone. The whole session ends with this process.
    pub fn run(self) -> i32 {
        match self.steps() {
            Ok(()) => 0,
            Err(failure) => {
                let message = FromInit::Failed { step: failure.step, why: failure.why };
                // If the keeper is gone too there is nobody to report to.
                self.send(&message, &[]).ok();
                1
            }
        }
    }

    fn steps(&self) -> Result<(), Failure> {
        creds::not_dumpable().step(Step::Dumpable)?;
        process::set_title(c"agentd-init").step(Step::Title)?;
        // Whatever becomes of filter and keeper: in a user namespace of its own the agent would have every capability.
        procfs::no_user_namespaces(self.proc).step(Step::UserNamespaces)?;
        process::close_all_but(&[self.socket.as_fd()]).step(Step::Descriptors)?;
        let prepared = self.network()?;
        // What takes time and needs no plan is done before there is one.
        creds::drop_bounding().step(Step::Capabilities)?;
        let Some((ToInit::Go { plan, access }, streams)) = self.receive(MAX_PACKET).step(Step::Message)?
        else {
            return Ok(());
        };
        let stdio = Stdio::new(streams).step(Step::Streams)?;
        // By now the builder has moved this process to where it belongs: that is the namespace's root.
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).step(Step::CgroupNamespace)?;
        nix::unistd::sethostname(plan.session.as_str()).step(Step::Hostname)?;
        match &plan.egress {
            Some(egress) => {
                let sockets = prepared.open(egress)?;
                let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
                self.send(&FromInit::Sockets, &sockets).step(Step::Message)?;
            }
            None => prepared.close()?,
        }
        // Kept open here as well: whatever becomes of the keeper, these calls wait for it or end with us.
        let (landlock_abi, refused) = self.confine(&plan, &access)?;
        let signals = child_signals().step(Step::Signals)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(plan.umask & 0o777));
        self.send(&FromInit::Confined { landlock_abi }, &[refused.as_fd()]).step(Step::Message)?;
        let first = Invocation::first(&plan);
        let main = match Starting::fork(self.token, &first, &stdio).and_then(Starting::outcome) {
            Ok(main) => {
                self.send(&FromInit::Running, &[]).step(Step::Message)?;
                main
            }
            Err(not_run) => return self.send(&FromInit::NotRun(not_run), &[]).step(Step::Message),
        };
        // The streams stay open here: their end is the session's end, not the command's.
        self.serve(Commands::new(self.token, &plan, main), &signals)
    }

    /// Namespaces that belong to the session's user namespace, and its network.
    fn network(&self) -> Result<egress_state::Prepared, Failure> {
        let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        nix::sched::unshare(namespaces).step(Step::Namespaces)?;
        loopback::bring_up().step(Step::Loopback)?;
        let prepared = egress_state::Prepared::new()?;
        let log = nflog::Nflog::open(nft::LOG_GROUP).step(Step::Nflog)?;
        let sockets = sock_diag::SockDiag::open().step(Step::SockDiag)?;
        let resets = resets::Resets::open().step(Step::RawSockets)?;
        let [four, six] = resets.descriptors();
        let descriptors = [prepared.table(), log.as_fd(), sockets.as_fd(), four, six];
        self.send(&FromInit::NetworkReady, &descriptors).step(Step::Message)?;
        Ok(prepared)
    }

    /// Takes everything away, in the order in which each step still can be done, and verifies each.
    fn confine(&self, plan: &Plan, access: &[(String, Access)]) -> Result<(u32, OwnedFd), Failure> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float that is out of range becomes the nearest integer"
        )]
        let cpus = plan.limits.cpus.ceil() as usize;
        affinity::narrow(cpus, self.turn).step(Step::Affinity)?;
        rlimits::Limits { open_files: plan.limits.open_files }.apply().map(drop).step(Step::Rlimits)?;
        let groups: Vec<u32> = self.owner.groups.iter().collect();
        creds::become_member(self.owner.uid, self.owner.gid, &groups).step(Step::Ids)?;
        creds::not_dumpable().step(Step::Dumpable)?;
        creds::drop_all_capabilities().step(Step::Capabilities)?;
        creds::no_new_privs().step(Step::NoNewPrivs)?;
        let mut rules = landlock::FileRules::new();
        for (path, access) in access {
            let place = agentd_kernel::mount::place(path).step(Step::Landlock)?;
            rules.add(place, access.class());
        }
        let enforced = landlock::enforce(rules, plan.landlock_abi).step(Step::Landlock)?;
        let (_, refused) = seccomp::install_told(&self.filters.of(plan, &self.owner)).step(Step::Seccomp)?;
        creds::parent_death_signal().step(Step::ParentDeath)?;
        Ok((enforced.abi, refused))
    }

    /// Does what the keeper asks for and reaps, until the first command ends or the keeper does.
    fn serve(&self, mut commands: Commands<'_>, signals: &SignalFd) -> Result<(), Failure> {
        let mut more = false;
        loop {
            for news in commands.expire(Instant::now()) {
                self.tell_news(news)?;
            }
            let wait = match commands.next_deadline() {
                _ if more => Some(Duration::ZERO),
                due => due.map(|due| due.saturating_duration_since(Instant::now())),
            };
            let wait = wait.map(Timespec::try_from).transpose().step(Step::Poll)?;
            let starting: Vec<_> = commands.starting().map(|(number, _)| number).collect();
            let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            fds.extend(
                commands.starting().map(|(_, report)| PollFd::from_borrowed_fd(report, PollFlags::IN)),
            );
            match rustix::event::poll(&mut fds, wait.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno).step(Step::Poll),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            let (first, reports) = ready.split_at(2);
            for (number, _) in starting.into_iter().zip(reports).filter(|(_, ready)| **ready) {
                if let Some(news) = commands.started(number) {
                    self.tell_news(news)?;
                }
            }
            if first[1] || more {
                while let Ok(Some(_)) = signals.read_signal() {}
                let news;
                (news, more) = commands.reap();
                for news in news {
                    self.tell_news(news)?;
                }
            }
            if first[0] {
                match self.receive(MAX_KEEPER_PACKET).step(Step::Message)? {
                    Some((message, _)) => self.handle(message, &mut commands)?,
                    None => return Ok(()),
                }
            }
        }
    }

    fn handle(&self, message: ToInit, commands: &mut Commands<'_>) -> Result<(), Failure> {
        match message {
            ToInit::Signal { command, signal } => commands.signal(command, signal),
            ToInit::End { command } => commands.end(command),
            ToInit::Run { number, command } => {
                if let Err(not_run) = commands.run(number, &command) {
                    self.tell_news(News::NotRun(number, not_run))?;
                }
            }
            ToInit::Enter { number, port, six } => {
                let (errno, socket) = match inward::connect(port, six) {
                    Ok(socket) => (None, Some(socket)),
                    Err(errno) => (Some(errno.raw_os_error()), None),
                };
                let socket: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
                self.send(&FromInit::Entered { number, errno }, &socket).step(Step::Message)?;
            }
            ToInit::Go { .. } => {}
        }
        Ok(())
    }

    fn tell_news(&self, news: News) -> Result<(), Failure> {
        let sent = match news {
            News::Runs(command, outside) => {
                let (_, descriptors) = outside.parts();
                self.send(&FromInit::Carry { command, terminal: outside.is_terminal() }, &descriptors)
            }
            News::NotRun(command, not_run) => self.send(&FromInit::CommandNotRun { command, not_run }, &[]),
            News::Ended(0, status) => self.send(&FromInit::Exited(status), &[]),
            News::Ended(command, status) => self.send(&FromInit::CommandExited { command, status }, &[]),
        };
        sent.step(Step::Message)
    }

    fn send(&self, message: &FromInit, descriptors: &[BorrowedFd<'_>]) -> Result<(), HostError> {
        let packet = encode(message)?;
        Ok(self.socket.send(&packet, descriptors)?)
    }

    fn receive(&self, most: usize) -> Result<Option<(ToInit, Vec<OwnedFd>)>, HostError> {
        let Some(packet) = self.socket.receive(most, 3)? else { return Ok(None) };
        let (message, attached) = decode_with(&packet.bytes, packet.descriptors)?;
        Ok(Some((message, attached.rest())))
    }
}

/// SIGCHLD by descriptor; blocked, so that none is lost. Non-blocking.
fn child_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The socket, for a builder that gives it to init.
pub fn pair() -> Result<(Packets, Packets), PacketError> {
    Packets::pair()
}

/// The descriptors that come with [`FromInit::NetworkReady`].
pub struct Network {
    /// A netlink socket in the session's network namespace, for its nftables.
    pub nft: OwnedFd,
    /// The socket on which denied packets arrive.
    pub log: OwnedFd,
    /// What shows whose a socket is.
    pub sockets: OwnedFd,
    /// Raw sockets for resets, of IPv4 and IPv6.
    pub resets: [OwnedFd; 2],
}

impl Network {
    /// How many descriptors those are.
    pub const DESCRIPTORS: usize = 5;

    /// Takes the five sockets, each of the kind that its place asks for.
    ///
    /// # Errors
    /// The first that is another kind of socket.
    pub fn take([nft, log, sockets, four, six]: [OwnedFd; Self::DESCRIPTORS]) -> Result<Self, WrongKind> {
        Ok(Self {
            nft: Kind::Netfilter.take(nft)?,
            log: Kind::Netfilter.take(log)?,
            sockets: Kind::SockDiag.take(sockets)?,
            resets: [Kind::Raw(Ip::V4).take(four)?, Kind::Raw(Ip::V6).take(six)?],
        })
    }
}
