//! What is the same for every session of one user: namespaces, an init whose network refuses everything,
//! and a root with the system in it. A builder does this before anybody asks, and then waits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use agentd_kernel::mount::{self, Attributes, Tree};
use agentd_kernel::packets::Packets;
use agentd_kernel::process::{self, Child, CloneArgs};
use agentd_kernel::{creds, idmap, procfs};
use agentd_policy::step::Step;
use agentd_policy::wire::{MAX_KEEPER_PACKET, decode_with};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};

use super::etc::Etc;
use super::fault::{At, Fault};
use super::relay::Started;
use super::root::Root;
use super::steps::Steps;
use super::sysfs::Sysfs;
use super::system::System;
use super::{Builder, etc, proc, receive, streams};
use crate::command::Stdio;
use crate::init::Access;
use crate::init::{FromInit, Init, Network};

/// A session without anything of its request. The builder is in its mount namespace.
pub struct Prepared {
    /// The root, still open to additions.
    pub root: Root,
    /// The mount namespace that the root is in.
    pub session_root: OwnedFd,
    /// The host's mount namespace.
    pub host_root: OwnedFd,
    /// pid 1, waiting.
    pub init: Child,
    pub to_init: Packets,
    /// The session's user namespace, which is the id map of what is only read, too.
    pub users: OwnedFd,
    /// The id map of what can be written through.
    pub writable: OwnedFd,
    /// Its /etc, before anything is known of the session.
    pub etc: Etc,
    /// The session's own devpts.
    pub terminals: Tree,
    /// Sockets of the session's network.
    pub network: Network,
    /// Three pipes for the command.
    pub inside: Stdio,
    /// What has their other ends.
    pub relay: Started,
}

/// What is around init.
struct PopulatedRoot {
    root: Root,
    users: OwnedFd,
    writable: OwnedFd,
    etc: Etc,
    terminals: Tree,
    network: Network,
}

impl Prepared {
    /// Second handles of the processes that were started.
    pub fn children(&self) -> std::io::Result<[Child; 2]> {
        let again = |child: &Child| -> std::io::Result<Child> {
            Ok(Child { pid: child.pid, pidfd: child.pidfd.try_clone()? })
        };
        Ok([again(&self.init)?, again(&self.relay.child)?])
    }
}

impl Builder<'_> {
    /// Makes all of it.
    pub fn prepare(&self) -> Result<Prepared, Fault> {
        let mut steps = Steps::since(Instant::now(), Step::PREPARE);
        process::set_title(c"agentd-keeper").at(Step::Keeper, "title")?;
        ends_with_launcher()?;
        let proc = self.host.proc.as_fd();
        // Where the agent's rights count in the build, those of its groups do. What is started here leaves them.
        let groups: Vec<u32> =
            self.lease.groups(&self.owner.groups).iter().map(|(_, leased)| leased.get()).collect();
        creds::supplementary(&groups).at(Step::Keeper, "groups")?;
        // What it cannot have is reported by `doctor`; the cgroups keep helpers out of an agents' OOM as well.
        procfs::spare_from_oom(proc).at(Step::Keeper, "oom_score_adj")?;
        // Slow after idle time on hybrid hosts, and the reason to do all this beforehand.
        self.helpers.adopt_v1(rustix::process::getpid()).at(Step::Cgroup, self.helpers.path())?;
        steps.done(Step::PrepareCgroup)?;
        let host_root = open_ns(proc, "mnt")?;
        let own_pids = open_ns(proc, "pid")?;
        let system = System::take(proc)?;
        let sysfs = Sysfs::take(self.agents, self.host.cpus)?;
        let streams = streams::pipes(self.lease.agent.get())?;
        steps.done(Step::PrepareStreams)?;
        let relay = self.start_relay(&streams.outside)?;
        steps.done(Step::PrepareRelay)?;
        mount::enter_namespace(self.host.empty_root.as_fd()).at(Step::Root, "empty namespace")?;
        mount::new_namespace().at(Step::Root, "mount namespace")?;
        let session_root = open_ns(proc, "mnt")?;
        steps.done(Step::PrepareNamespace)?;
        let (to_init, init_end) = crate::init::pair().at(Step::Init, "socket")?;
        let init = self.spawn_init(init_end)?;
        steps.done(Step::PrepareInit)?;
        // What init could not do is why the rest failed.
        self.populate(&mut steps, (system, sysfs), &init, own_pids.as_fd(), &to_init)
            .map_err(|fault| told_by(&to_init).unwrap_or(fault))
            .map(|PopulatedRoot { root, users, writable, etc, terminals, network }| Prepared {
                root,
                session_root,
                host_root,
                init,
                to_init,
                users,
                writable,
                etc,
                terminals,
                network,
                inside: streams.inside,
                relay,
            })
    }

    /// The root around init: system directories, /etc, /dev and /proc.
    fn populate(
        &self,
        steps: &mut Steps,
        (system, sysfs): (System, Sysfs<'_>),
        init: &Child,
        own_pids: BorrowedFd<'_>,
        to_init: &Packets,
    ) -> Result<PopulatedRoot, Fault> {
        let users = self.user_namespace(init)?;
        steps.done(Step::PrepareUserNamespace)?;
        // Its parent is kept from the OOM killer: the agent shall not be.
        match procfs::set_oom_score_adj(self.host.proc.as_fd(), Some(init.pid), 0) {
            // It cannot be lowered: nothing is spared here.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            set => set.at(Step::Init, "oom_score_adj")?,
        }
        self.agents.adopt_v1(init.pid).at(Step::Cgroup, self.agents.path())?;
        let proc = self.host.proc.as_fd();
        self.agents.adopt_cpuset(init.pid).at(Step::Cgroup, self.agents.path())?;
        let writable = self.writable_map()?;
        steps.done(Step::PrepareIdmap)?;
        let owner = self.pool.system().get();
        let mut root = Root::new(self.lease.agent.get(), owner)?;
        let helper = proc::start(self.token, init.pidfd.as_fd(), own_pids)?;
        system.place(&mut root, self.host.system.as_fd())?;
        steps.done(Step::PrepareSystem)?;
        sysfs.place(&mut root)?;
        steps.done(Step::PrepareSys)?;
        let etc = Etc::place(&root, owner, self.host.etc.copy())?;
        root.access.push((etc::PATH.to_owned(), Access::Read));
        steps.done(Step::PrepareEtc)?;
        let terminals = streams::terminals(self.lease.agent.get(), self.terminals)?;
        root.place_devices(&terminals)?;
        root.place_run(self.owner.uid)?;
        steps.done(Step::PrepareDevices)?;
        proc::finish(&helper)?;
        steps.done(Step::PrepareProc)?;
        root.access.push(("/proc".into(), Access::Write));
        let network = match receive(to_init)? {
            (FromInit::NetworkReady, mut attached) => {
                let sockets = attached.array().at(Step::Network, "init")?;
                Network::take(sockets).at(Step::Network, "init")?
            }
            _ => return Err(Fault::unfit(Step::Network, "init", "an unexpected answer")),
        };
        root.place_queues(&queues(proc, init)?)?;
        steps.done(Step::PrepareNetwork)?;
        Ok(PopulatedRoot { root, users, writable, etc, terminals, network })
    }

    /// Makes init: pid 1 of a new pid namespace, in a user namespace that the keeper's uid owns.
    fn spawn_init(&self, socket: Packets) -> Result<Child, Fault> {
        let birth = CloneArgs {
            cgroup: Some(self.agents.directory()),
            new_user_and_pid: true,
            ..CloneArgs::default()
        };
        creds::effective_uid(self.lease.keeper.get()).at(Step::Init, "keeper's uid")?;
        let (owner, proc, filters) = (self.owner, self.host.proc.as_fd(), &self.host.agent_filters);
        let init = Init { owner, turn: self.lease.number, proc, filters, socket, token: self.token };
        let born = process::spawn(self.token, birth, || init.run());
        creds::effective_uid(0).at(Step::Init, "root's uid")?;
        ends_with_launcher()?;
        born.at(Step::Init, "clone3")
    }

    /// Maps the ids of init's user namespace, and opens it.
    fn user_namespace(&self, init: &Child) -> Result<OwnedFd, Fault> {
        let proc = self.host.proc.as_fd();
        let uids = idmap::session(self.owner.uid, &self.lease, &self.pool);
        let gids = idmap::session_groups(self.owner.gid, &self.owner.groups, &self.lease, &self.pool);
        idmap::write(proc, init.pid, &uids, &gids).at(Step::Init, "id maps")?;
        let path = format!("{}/ns/user", init.pid.as_raw_nonzero());
        rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .at(Step::Init, "user namespace")
    }

    fn writable_map(&self) -> Result<OwnedFd, Fault> {
        let uids = idmap::writable(self.owner.uid, &self.lease, &self.pool);
        let gids = idmap::writable_groups(self.owner.gid, &self.owner.groups, &self.lease, &self.pool);
        idmap::namespace(self.token, self.host.proc.as_fd(), &uids, &gids).at(Step::Idmap, "user namespace")
    }
}

/// The message queues of init's IPC namespace. Only from within can they be mounted.
fn queues(proc: BorrowedFd<'_>, init: &Child) -> Result<Tree, Fault> {
    let own = open_ns(proc, "ipc")?;
    setns(&init.pidfd, CloneFlags::CLONE_NEWIPC).at(Step::Queues, "IPC namespace")?;
    let tree = Tree::new("mqueue", &[], Attributes::WRITABLE).at(Step::Queues, "/dev/mqueue");
    setns(&own, CloneFlags::CLONE_NEWIPC).at(Step::Queues, "own IPC namespace")?;
    tree
}

/// Until its rights go, a builder is the launcher's: it ends with it, wherever it hangs. Each change of ids takes that
/// back.
pub(super) fn ends_with_launcher() -> Result<(), Fault> {
    creds::parent_death_signal().at(Step::Keeper, "parent-death signal")
}

fn open_ns(proc: BorrowedFd<'_>, kind: &str) -> Result<OwnedFd, Fault> {
    let path = format!("self/ns/{kind}");
    rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at(Step::Namespace, kind)
}

/// What init says of its own failure, if it has.
fn told_by(socket: &Packets) -> Option<Fault> {
    socket.set_nonblocking(true).ok()?;
    while let Ok(Some(packet)) = socket.receive(MAX_KEEPER_PACKET, Network::DESCRIPTORS) {
        if let Ok((FromInit::Failed { step, why }, _)) = decode_with(&packet.bytes, packet.descriptors) {
            return Some(Fault::Init { step, why });
        }
    }
    None
}
