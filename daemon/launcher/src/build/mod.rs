//! Building one session, top to bottom. The builder is root, has a deadline, and alone touches callers'
//! files; at the end it gives everything up and becomes the session's keeper.

pub mod access;
pub mod etc;
mod fault;
mod fs_ids;
mod paths;
mod proc;
mod relay;
mod root;
mod stdio;
mod steps;
mod watch;
mod workspace;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use agentd_kernel::cgroup::Group;
use agentd_kernel::mount;
use agentd_kernel::offer::Grant;
use agentd_kernel::packets::Packets;
use agentd_kernel::process::{self, Birth, Child, SingleThreaded};
use agentd_kernel::{creds, idmap};
use agentd_policy::lease::{Lease, Pool};
use agentd_policy::plan::{Mode as WorkspaceMode, Plan};
use agentd_policy::wire::{MAX_KEEPER_PACKET, Peer, Timing, decode, encode};
use agentd_policy::Refusal;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub use fault::{At, Fault};

use crate::host::Host;
use crate::init::{FromInit, Init, Network, ToInit};
use crate::keeper::Keeper;
use workspace::Placer;

impl Ready {
    /// Gives up every right and tells the launcher.
    fn hand_over(self, reply: &Packets, host: &Host) -> Result<Keeper, Fault> {
        let also = [reply.as_fd(), self.service.as_fd(), self.relay.as_fd()];
        self.keeper.give_up(host.empty_root.as_fd(), &also).at("keeper", "rights")?;
        reply.send(&self.built, &[self.service.as_fd(), self.relay.as_fd()]).at("keeper", "answer")?;
        Ok(self.keeper)
    }
}

/// Everything that one session is built from.
pub struct Job<'a> {
    /// What it will be.
    pub plan: Plan,
    /// For whom.
    pub caller: Peer,
    /// Its throwaway ids.
    pub lease: Lease,
    /// The range that they come from.
    pub pool: Pool,
    /// The lock that says the lease is taken; the keeper holds it as long as it lives.
    pub lock: OwnedFd,
    /// What the caller offered.
    pub offered: Vec<(Grant, OwnedFd)>,
    /// Where its processes live.
    pub agents: &'a Group,
    /// Where keeper and relay live.
    pub helpers: &'a Group,
    /// Its directory for uppers, if the plan has overlays.
    pub uppers: Option<OwnedFd>,
    /// What the launcher prepared.
    pub host: &'a Host,
    /// To the launcher.
    pub reply: Packets,
    /// When the launcher read the request.
    pub began: Instant,
    /// That fork is sound.
    pub token: SingleThreaded,
}

/// Builder to launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The session is confined and its command starts. Descriptors: the service's ends of the keeper's and
    /// of the relay's socket.
    Built {
        /// How long each step took.
        timings: Vec<Timing>,
        /// What was made in the caller's directories, by descriptor.
        placeholders: Vec<(u16, String)>,
    },
    /// It was not built.
    Refused(Refusal),
}

/// What the builder took along when it left the host's mount namespace.
struct Ground {
    sources: paths::Sources,
    system: Vec<root::System>,
    terminals: mount::Tree,
    /// The session's user namespace.
    users: OwnedFd,
    /// The builder's own pid namespace.
    own_pids: OwnedFd,
    /// The host's mount namespace.
    host_root: OwnedFd,
}

/// A session in which only the command is missing.
struct Furnished {
    relay: Child,
    lifeline: OwnedFd,
    relay_socket: OwnedFd,
    execs: agentd_kernel::exec_watch::ExecWatch,
    network: Network,
    placeholders: Vec<(u16, String)>,
}

/// A session that is built, before its builder gives its rights up.
struct Ready {
    keeper: Keeper,
    /// The answer to the launcher.
    built: Vec<u8>,
    /// The service's ends of the keeper's and of the relay's socket.
    service: Packets,
    relay: OwnedFd,
}

impl<'a> Job<'a> {
    /// Builds, and then keeps the session until it ends. The process's exit code.
    pub fn run(mut self) -> i32 {
        let built = self.build();
        // Whatever else the builder owned is closed from here on.
        let (reply, host) = self.into_launcher();
        match built.and_then(|ready| ready.hand_over(&reply, host)) {
            Ok(keeper) => {
                drop(reply);
                keeper.run()
            }
            Err(Fault(refusal)) => {
                // A launcher that is gone needs no answer.
                let _ = encode(&Reply::Refused(refusal)).map(|p| reply.send(&p, &[]));
                1
            }
        }
    }

    fn into_launcher(self) -> (Packets, &'a Host) {
        (self.reply, self.host)
    }

    fn build(&mut self) -> Result<Ready, Fault> {
        let mut steps = steps::Steps::since(self.began);
        process::set_title(c"agentd-keeper").at("keeper", "title")?;
        steps.done("launch");
        let proc = self.host.proc.as_fd();
        let agent = self.lease.agent.get();
        self.helpers.adopt_v1(rustix::process::getpid()).at("cgroup", self.helpers.path())?;
        let host_root = open_ns(proc, "mnt")?;
        let own_pids = open_ns(proc, "pid")?;
        let sources = paths::take(
            &self.plan,
            std::mem::take(&mut self.offered),
            self.uppers.as_ref(),
            proc,
            &self.mountinfo()?,
        )?;
        let system = root::system()?;
        steps.done("paths");

        mount::enter_namespace(self.host.empty_root.as_fd()).at("root", "empty namespace")?;
        mount::new_namespace().at("root", "mount namespace")?;
        let terminals = stdio::terminals(agent)?;
        let streams = stdio::open(&terminals, self.plan.terminal, agent)?;
        let (to_init, init_end) = crate::init::pair().at("init", "socket")?;
        let init = self.bear(streams.inside, init_end)?;
        let users = self.user_namespace(&init)?;
        steps.done("init");
        let ground = Ground { sources, system, terminals, users, own_pids, host_root };
        let done = match self.furnish(ground, &init, &to_init, streams.outside, &mut steps) {
            Ok(done) => done,
            // What init could not do is why the rest failed.
            Err(fault) => return Err(told_by(&to_init).unwrap_or(fault)),
        };
        let (service, keeper_end) = Packets::pair().at("keeper", "socket")?;
        let built = Reply::Built { timings: steps.finish(), placeholders: done.placeholders };
        let built = encode(&built).at("keeper", "answer")?;
        let keeper = Keeper::new(crate::keeper::Parts {
            plan: &self.plan,
            lease: self.lease,
            lock: self.lock.try_clone().at("keeper", "lease")?,
            proc: self.host.proc.try_clone().at("keeper", "/proc")?,
            watch: self.agents.watch().at("keeper", "cgroup")?,
            service: keeper_end,
            init,
            to_init,
            relay: done.relay,
            lifeline: done.lifeline,
            execs: done.execs,
            network: done.network,
        })
        .at("keeper", "set-up")?;
        Ok(Ready { keeper, built, service, relay: done.relay_socket })
    }

    /// Builds the root around init, starts the relay, and has init confine itself.
    fn furnish(
        &self,
        ground: Ground,
        init: &Child,
        to_init: &Packets,
        outside: stdio::Outside,
        steps: &mut steps::Steps,
    ) -> Result<Furnished, Fault> {
        let proc = self.host.proc.as_fd();
        let agent = self.lease.agent.get();
        self.agents.adopt_v1(init.pid).at("cgroup", self.agents.path())?;
        steps.done("cgroup-v1");

        let writable = self.writable_map()?;
        steps.done("idmap");
        let mut root = root::Root::new()?;
        root.place_system(ground.system, ground.users.as_fd())?;
        self.host.etc.write(root.directory("/etc")?.as_fd(), &self.plan, &self.caller)?;
        let helper = proc::start(self.token, init.pidfd.as_fd(), ground.own_pids.as_fd())?;
        root.place_devices(&ground.terminals, agent, self.plan.limits.memory / 2)?;
        steps.done("system");
        let placeholders = self.place_paths(&mut root, &ground.sources, writable.as_fd(), ground.users.as_fd())?;
        root.access.push(("/proc".into(), access::Access::Write));
        steps.done("workspace");
        proc::finish(&helper)?;
        root.seal()?;
        steps.done("proc");
        let execs = watch::every_mount(proc)?;
        steps.done("exec-watch");

        let network = self.network(to_init)?;
        steps.done("network");
        tell(to_init, &ToInit::Go { access: root.access, memfd_noexec: self.host.memfd_noexec })?;
        mount::enter_namespace(ground.host_root.as_fd()).at("relay", "host namespace")?;
        let (relay, lifeline, relay_socket) = self.relay(&outside)?;
        steps.done("relay");
        let FromInit::Confined { landlock_abi } = hear(to_init)?.0 else {
            return Err(Fault::host("confine", "init", "an unexpected answer"));
        };
        tracing::debug!(landlock_abi, session = %self.plan.session, "confined");
        steps.done("confine");

        Ok(Furnished { relay, lifeline, relay_socket, execs, network, placeholders })
    }

    /// The host's mounts, for finding those below a path; empty if no path needs it.
    fn mountinfo(&self) -> Result<String, Fault> {
        let needed =
            !self.plan.inputs.is_empty() || self.plan.workspaces.iter().any(|w| w.mode != WorkspaceMode::Direct);
        match needed {
            true => std::fs::read_to_string("/proc/self/mountinfo").at("paths", "mountinfo"),
            false => Ok(String::new()),
        }
    }

    /// Makes init: pid 1 of a new pid namespace, in a user namespace that the keeper's uid owns.
    fn bear(&self, stdio: crate::command::Stdio, socket: Packets) -> Result<Child, Fault> {
        let keeper = self.lease.keeper.get();
        let birth =
            Birth { cgroup: Some(self.agents.directory()), new_user_and_pid: true, ..Birth::default() };
        creds::effective_uid(keeper).at("init", "keeper's uid")?;
        let init = Init { plan: self.plan.clone(), caller: self.caller, stdio, socket, token: self.token };
        let born = process::spawn(self.token, birth, || init.run());
        creds::effective_uid(0).at("init", "root's uid")?;
        born.at("init", "clone3")
    }

    /// Maps the ids of init's user namespace, and opens it.
    fn user_namespace(&self, init: &Child) -> Result<OwnedFd, Fault> {
        let proc = self.host.proc.as_fd();
        let uids = idmap::session(self.caller.uid, &self.lease);
        let gids = idmap::session(self.caller.gid, &self.lease);
        idmap::write(proc, init.pid, &uids, &gids).at("init", "id maps")?;
        let path = format!("{}/ns/user", init.pid.as_raw_nonzero());
        rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("init", "user namespace")
    }

    fn writable_map(&self) -> Result<OwnedFd, Fault> {
        let uids = idmap::writable(self.caller.uid, &self.lease, &self.pool);
        let gids = idmap::writable(self.caller.gid, &self.lease, &self.pool);
        idmap::namespace(self.token, self.host.proc.as_fd(), &uids, &gids).at("idmap", "user namespace")
    }

    /// Home, scratch, inputs and workspaces, from the outermost path inwards.
    fn place_paths(
        &self,
        root: &mut root::Root,
        sources: &paths::Sources,
        writable: BorrowedFd<'_>,
        owners: BorrowedFd<'_>,
    ) -> Result<Vec<(u16, String)>, Fault> {
        enum Item<'a> {
            Scratch(u64, bool),
            Workspace(&'a agentd_policy::plan::Workspace, &'a paths::Source),
            Input(&'a paths::Source),
        }
        let mut items = vec![(&self.plan.home, Item::Scratch(self.plan.home_size, true))];
        items.extend(self.plan.scratch.iter().map(|s| (&s.path, Item::Scratch(s.size, s.exec))));
        items.extend(sources.workspaces.iter().map(|(w, s)| (&w.path, Item::Workspace(w, s))));
        items.extend(sources.inputs.iter().map(|s| (&s.path, Item::Input(s))));
        items.sort_by_key(|(path, _)| path.components().count());
        let mut placer = Placer {
            root,
            writable,
            owners,
            lease: &self.lease,
            placeholders: Vec::new(),
        };
        for (path, item) in items {
            match item {
                Item::Scratch(size, exec) => {
                    placer.root.place_scratch(path, size, exec, self.lease.agent.get())?;
                }
                Item::Workspace(workspace, source) => placer.workspace(workspace, source)?,
                Item::Input(source) => placer.input(source)?,
            }
        }
        Ok(placer.placeholders)
    }

    /// Waits until init's network refuses everything.
    fn network(&self, to_init: &Packets) -> Result<Network, Fault> {
        let (message, descriptors) = hear(to_init)?;
        match (message, <[OwnedFd; 2]>::try_from(descriptors)) {
            (FromInit::NetworkReady, Ok([nft, log])) => Ok(Network { nft, log }),
            _ => Err(Fault::host("network", "init", "an unexpected answer")),
        }
    }

    /// Starts the relay: its process, our end of its lifeline, the service's end of its stream.
    fn relay(&self, outside: &stdio::Outside) -> Result<(Child, OwnedFd, OwnedFd), Fault> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (service, relay_end) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).at("relay", "socket")?;
        let (lifeline, ours) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("relay", "lifeline")?;
        let relay = relay::Relay {
            program: self.host.relay.as_fd(),
            network: self.host.empty_net.as_fd(),
            cgroup: self.helpers.directory(),
            lease: &self.lease,
            outside,
            service: relay_end,
            lifeline,
            token: self.token,
        };
        Ok((relay.start()?, ours, service))
    }
}

fn open_ns(proc: BorrowedFd<'_>, kind: &str) -> Result<OwnedFd, Fault> {
    let path = format!("self/ns/{kind}");
    rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("namespace", kind)
}

fn tell(socket: &Packets, message: &ToInit) -> Result<(), Fault> {
    let packet = encode(message).at("init", "message")?;
    socket.send(&packet, &[]).at("init", "message")
}

/// What init says of its own failure, if it has.
fn told_by(socket: &Packets) -> Option<Fault> {
    socket.set_nonblocking(true).ok()?;
    loop {
        match hear(socket) {
            Ok(_) => {}
            Err(fault) if fault.0.what.starts_with("init: ") && !fault.0.rule.ends_with(".init") => return Some(fault),
            Err(_) => return None,
        }
    }
}

/// The next message of init; what it could not do becomes our fault.
fn hear(socket: &Packets) -> Result<(FromInit, Vec<OwnedFd>), Fault> {
    let packet = socket.receive(MAX_KEEPER_PACKET, 2).at("init", "message")?;
    let packet = packet.ok_or_else(|| Fault::host("init", "init", "it ended before the session was built"))?;
    match decode(&packet.bytes).at("init", "message")? {
        FromInit::Failed { step, why } => Err(Fault::host(&step, "init", why)),
        message => Ok((message, packet.descriptors)),
    }
}
